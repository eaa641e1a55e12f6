//! One segment of the log as the queue sees it: what rests in it, and what of that is shed.

use super::super::disk::{Kind, Record, Segment, Stored};
use crate::event::Class;

/// One segment of the log, and what rests in it.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) segment: Segment,
    pub(super) last: u64,
    /// Events that rest in it alone, by class.
    pub(super) events: [u64; 3],
    /// Bytes of their JSON.
    pub(super) bytes: [u64; 3],
    /// Gaps and alerts.
    pub(super) notices: u64,
    pub(super) shed: Vec<Shed>,
    /// What its file is still to shrink by. An estimate, but never more than there is.
    pub(super) shrinks: u64,
}

/// Events of this class are shed from and to these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sink) struct Shed {
    pub(super) class: Class,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Shed {
    pub(super) fn takes(&self, record: &Record) -> bool {
        record.kind == Kind::Event
            && record.class == self.class
            && (self.from..=self.to).contains(&record.number)
    }
}

impl Part {
    pub(super) fn new(segment: Segment) -> Part {
        Part::stored(&Stored { segment, last: segment.first, ..Stored::default() })
    }

    /// One that an earlier process left.
    pub(super) fn stored(stored: &Stored) -> Part {
        let Stored { segment, last, events, bytes, notices, .. } = *stored;
        Part { segment, last, events, bytes, notices, shed: Vec::new(), shrinks: 0 }
    }

    pub(super) fn resting(&self) -> u64 {
        self.events.iter().sum::<u64>() + self.notices
    }

    pub(super) fn rest(&mut self, kind: Kind, class: Class, bytes: usize) {
        if kind != Kind::Event {
            self.notices += 1;
        } else if let (Some(events), Some(all)) =
            (self.events.get_mut(class as usize), self.bytes.get_mut(class as usize))
        {
            *events += 1;
            *all += bytes as u64;
        }
    }

    /// How many events of a class rest in it, and their bytes.
    pub(super) fn of(&self, class: Class) -> (u64, u64) {
        let at = |numbers: &[u64; 3]| numbers.get(class as usize).copied().unwrap_or(0);
        (at(&self.events), at(&self.bytes))
    }

    /// Like [`of`](Self::of); they rest no more.
    pub(super) fn take(&mut self, class: Class) -> (u64, u64) {
        let taken = self.of(class);
        if let (Some(events), Some(bytes)) =
            (self.events.get_mut(class as usize), self.bytes.get_mut(class as usize))
        {
            (*events, *bytes) = (0, 0);
        }
        taken
    }

    /// Notes what is shed; returns by how much more the file is to shrink.
    pub(super) fn shed(&mut self, shed: Shed, size: u64) -> u64 {
        let before = self.shrinks;
        self.shed.push(shed);
        self.shrinks = (self.shrinks + size).min(self.segment.size);
        self.shrinks - before
    }
}
