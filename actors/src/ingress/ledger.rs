//! The numbers of a whole graph, kept under one lock so that they balance at every moment.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::Tally;

/// What became of everything that came into a graph, as of one moment:
/// `received + created = rejected + shed + filtered + merged + failed + unrouted + routed`.
///
/// An event is entered when its fate is known, so what is on its way stands in no number. Gap markers and alerts stand
/// in none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct GraphBalance {
    /// Came in.
    pub received: u64,
    /// Made by processors.
    pub created: u64,
    /// Was no event, or too large.
    pub rejected: u64,
    /// Found the way in full.
    pub shed: u64,
    /// Taken out by processors.
    pub filtered: u64,
    /// Left inside another event.
    pub merged: u64,
    /// Lost to a processor's panic (and dead-lettered), or to an actor's.
    pub failed: u64,
    /// Wanted by no sink.
    pub unrouted: u64,
    /// Given to at least one sink.
    pub routed: u64,
}

impl GraphBalance {
    /// Whether the numbers balance.
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
    /// Below zero while processors hold events that others made.
    received: i64,
    balance: GraphBalance,
}

impl Ledger {
    /// Enters what became of some events.
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

    /// The numbers as of now.
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
