//! For which sinks others wait: one rule for senders, one for whoever flushes, one for the end.

use std::time::Duration;

use tokio::time::Instant;

use super::buffer::Buffer;
use super::policy::{OnOpen, WhenFull};
use crate::ingress::Patience;

/// How long a flush waits for sinks that are set to drop. A buffer that drops is no backlog that anybody counts on.
pub(crate) const FLUSH: Duration = Duration::from_secs(1);
/// How long the end waits for a sink that is set to drop and delivers nothing. Connecting to a broker may take a while.
pub(crate) const STILL: Duration = Duration::from_secs(5);

impl Buffer {
    /// Whether a sender waits before it hands in so much more: where it would go is over three quarters full, is to be
    /// emptied by a sink that is worth the sender's patience, and is not set to drop instead.
    pub(crate) fn holds_up(&self, patience: Patience, more_events: usize, more_bytes: usize) -> bool {
        match (self.is_open(), self.on_open()) {
            (true, OnOpen::Drop) => false,
            (true, OnOpen::Fallback(_)) if let Some(target) = self.fallback() => {
                // What is diverted is held there, also while that sink is open itself.
                let drops = target.is_open() && *target.on_open() == OnOpen::Drop;
                !drops && target.is_full_for(patience, more_events, more_bytes)
            }
            _ => self.is_full_for(patience, more_events, more_bytes),
        }
    }

    fn is_full_for(&self, patience: Patience, more_events: usize, more_bytes: usize) -> bool {
        !self.drops_when_full()
            && !self.is_failed()
            && (patience == Patience::Open || !self.is_open())
            && self.is_pressed(more_events, more_bytes)
    }

    /// Whether what finds it full is dropped, whatever it is.
    pub(crate) fn drops_when_full(&self) -> bool {
        self.policy().when_full == WhenFull::DropNewest
    }

    /// Whether its sink is set to drop rather than to make others wait, be it full or open.
    pub(crate) fn is_set_to_drop(&self) -> bool {
        self.drops_when_full() || *self.on_open() == OnOpen::Drop
    }
}

/// Since when a buffer has stood still.
#[derive(Debug)]
pub(crate) struct Pace {
    left: u64,
    since: Instant,
}

impl Pace {
    pub(crate) fn of(buffer: &Buffer, now: Instant) -> Pace {
        Pace { left: buffer.head(), since: now }
    }

    /// The moment at which the end waits for it no longer; `None`: its deadline alone counts.
    pub(crate) fn until(&mut self, buffer: &Buffer, now: Instant) -> Option<Instant> {
        let left = buffer.head();
        if left != self.left {
            *self = Pace { left, since: now };
        }
        buffer.drops_when_full().then(|| self.since + STILL)
    }
}
