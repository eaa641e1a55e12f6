//! What is read next, what was read and is not taken yet, and the place of a reader without a group.

use std::collections::VecDeque;

use crate::consume::entry::{Entry, Ticket};

/// An entry that was delivered so often and is still in hand may have ended the process that had it. Each of them is tried
/// by itself.
pub(super) const SUSPECT: u64 = 2;

/// What is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Entries after this one that the consumer had in hand before.
    Pending(Ticket),
    /// New entries that are there already.
    New,
    /// There was nothing new: wait for more.
    Wait,
}

/// How far reading is.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) phase: Phase,
    /// Entries that were read and are not taken yet.
    pub(super) ready: VecDeque<Vec<Entry>>,
    /// Of the entries that this consumer had in hand before: how often the one was delivered that was delivered most often.
    pub(super) most_deliveries: u64,
}

impl Reading {
    pub(super) fn new() -> Reading {
        Reading { phase: Phase::Wait, ready: VecDeque::new(), most_deliveries: 0 }
    }

    /// How many entries are ready.
    pub(super) fn ready_len(&self) -> usize {
        self.ready.iter().map(Vec::len).sum()
    }

    pub(super) fn push(&mut self, entries: Vec<Entry>) {
        if !entries.is_empty() {
            self.ready.push_back(entries);
        }
    }

    /// Whether the next entry may be what has ended this process before. Such an entry is tried by itself.
    pub(super) fn is_suspicious(&self) -> bool {
        matches!(self.phase, Phase::Pending(_)) && self.most_deliveries >= SUSPECT
    }
}

/// The place of a reader without a group.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The last entry that was read.
    pub(super) at: Option<Ticket>,
    /// How many of the entries that the stream ever had are before the next one, if that is known.
    pub(super) read: Option<u64>,
    /// The last entry that is to be read.
    pub(super) until: Option<Ticket>,
}

impl Cursor {
    pub(super) fn new(until: Option<Ticket>) -> Cursor {
        Cursor { at: None, read: None, until }
    }

    /// These entries were read.
    pub(super) fn advance(&mut self, entries: &[Entry]) {
        self.at = entries.last().map(|last| last.ticket).or(self.at);
        self.read = self.read.map(|read| read + entries.len() as u64);
    }

    /// Whether the end that was asked for is reached.
    pub(super) fn has_reached_end(&self, phase: Phase) -> bool {
        self.until.is_some_and(|until| phase == Phase::Wait || self.at.is_some_and(|at| at >= until))
    }
}
