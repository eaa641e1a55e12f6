//! The numbers of a whole graph, kept under one lock so that they balance at every moment.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::Tally;

/// The outcome of every event that came into a graph, at one moment: `received + created = rejected + shed + filtered +
/// merged + failed + unrouted + routed`.
///
/// An event is counted when its outcome is known. So an event on its way is in no number. Gap markers and alerts are in
/// no number, either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct GraphBalance {
    /// Events that came in.
    pub received: u64,
    /// Events that processors made.
    pub created: u64,
    /// Inputs that were not an event, or too large.
    pub rejected: u64,
    /// Events that were dropped because the ingress was full.
    pub shed: u64,
    /// Events that processors dropped.
    pub filtered: u64,
    /// Events that were merged into another event.
    pub merged: u64,
    /// Events that were lost to a panic: of a processor (and dead-lettered), or of an actor.
    pub failed: u64,
    /// Events that no sink wanted.
    pub unrouted: u64,
    /// Events that at least one sink was given.
    pub routed: u64,
}

impl GraphBalance {
    /// Returns whether the numbers balance.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.received + self.created
            == self.rejected
                + self.shed
                + self.filtered
                + self.merged
                + self.failed
                + self.unrouted
                + self.routed
    }
}

/// Keeps a [`GraphBalance`].
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    /// Negative while processors hold events that other processors made.
    received: i64,
    balance: GraphBalance,
}

impl Ledger {
    /// Adds the outcome of some events.
    pub(crate) fn add(&self, tally: &Tally) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sums.received += tally.received;
        let sum = &mut sums.balance;
        sum.created += tally.created;
        sum.rejected += tally.rejected;
        sum.shed += tally.shed;
        sum.filtered += tally.filtered;
        sum.merged += tally.merged;
        sum.failed += tally.failed;
        sum.unrouted += tally.unrouted;
        sum.routed += tally.routed;
    }

    /// Returns the numbers of this moment.
    #[must_use]
    pub fn balance(&self) -> GraphBalance {
        let sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = u64::try_from(-sums.received).unwrap_or(0);
        GraphBalance {
            received: u64::try_from(sums.received).unwrap_or(0),
            created: sums.balance.created.saturating_sub(held),
            ..sums.balance
        }
    }
}
