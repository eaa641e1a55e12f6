//! Taking over what other consumers of the group left in hand: when it is time, and which entries are tried by themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::consume::entry::{Entry, Ticket};

/// How far taking over is.
#[derive(Debug)]
pub(super) struct Takeover {
    claiming: Claiming,
    /// When the consumer last began to look for such entries.
    begun_at: Option<Instant>,
    /// Entries that were taken over and may have ended the consumers that had them. Each is tried by itself.
    pub(super) suspects: BTreeMap<Ticket, Entry>,
    /// Whether no handler is at work, so that one entry can be tried by itself.
    pub(super) is_idle: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claiming {
    /// It is not time yet.
    Waiting,
    UnderWay,
    /// The consumer takes nothing new any more.
    Stopped,
}

impl Takeover {
    pub(super) fn new() -> Takeover {
        Takeover { claiming: Claiming::Waiting, begun_at: None, suspects: BTreeMap::new(), is_idle: true }
    }

    /// After a new connection: the suspects are among what this consumer has in hand at its server.
    pub(super) fn reset(&mut self) {
        self.suspects.clear();
        self.pause();
    }

    /// Begins to take over, if the last time is long enough ago.
    pub(super) fn begin_if_due(&mut self, now: Instant, every: Duration) {
        let is_due = self.begun_at.is_none_or(|at| now.duration_since(at) >= every);
        if is_due && self.claiming != Claiming::Stopped {
            self.begun_at = Some(now);
            self.claiming = Claiming::UnderWay;
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.claiming == Claiming::UnderWay
    }

    /// Everything was taken over that there was.
    pub(super) fn pause(&mut self) {
        if self.claiming == Claiming::UnderWay {
            self.claiming = Claiming::Waiting;
        }
    }

    /// Takes over nothing any more.
    pub(super) fn stop(&mut self) {
        self.claiming = Claiming::Stopped;
    }

    /// The next suspect, if it can be tried by itself now.
    pub(super) fn next_suspect(&self) -> Option<&Entry> {
        self.suspects.first_key_value().map(|(_, suspect)| suspect).filter(|_| self.is_idle)
    }
}
