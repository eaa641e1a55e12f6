//! What the disk behind a buffer is to do next.

use std::ops::RangeInclusive;

use tokio::time::Instant;

use super::super::store::Store as _;
use super::part::Shed;
use super::state::{Backlog, unwritten_max};
use super::unwritten::Unwritten;

/// What the disk is to do next.
#[derive(Debug, Default)]
pub(in crate::sink) struct Work {
    /// To be written, in order.
    pub(in crate::sink) write: Vec<Unwritten>,
    /// Not before that moment: the last write has failed.
    pub(in crate::sink) retry: Option<Instant>,
    /// A segment to read, because the window has room, from and to these numbers.
    pub(in crate::sink) load: Option<(u64, RangeInclusive<u64>)>,
    /// A segment to rewrite without what was shed from it.
    pub(in crate::sink) compact: Option<(u64, Vec<Shed>)>,
    /// Segments whose records are all done, and the first that is left behind them.
    pub(in crate::sink) remove: Vec<u64>,
    pub(in crate::sink) front: Option<u64>,
    /// Everything before this number is done.
    pub(in crate::sink) done: u64,
    /// So many events behind it are on disk.
    pub(in crate::sink) waiting: u64,
    /// And nothing waits behind it.
    pub(in crate::sink) all_done: bool,
    /// Nothing more will come, and nothing is left to be written.
    pub(in crate::sink) ended: bool,
    pub(in crate::sink) closing: bool,
}

impl Work {
    /// How many events are to be written.
    pub(in crate::sink) fn events(&self) -> u64 {
        self.write.iter().filter(|item| item.is_event()).count() as u64
    }
}

impl Backlog {
    /// What is to be done next; `first` is the number of the first entry that has not left, `next` that of the next to come.
    pub(in crate::sink) fn work(&mut self, first: u64, next: u64) -> Work {
        // What has left before it was written need not be.
        while let Some(item) = self.unwritten.pop_front_if(|item| item.number < first) {
            self.written_one(&item);
        }
        if self.unwritten.is_empty() {
            self.failed = None;
            self.unwritten_max = unwritten_max(self.policy.max_size);
        }
        let retry = self.failed.as_ref().map(|failed| failed.retry);
        let mut work =
            Work { done: first, all_done: first == next, closing: self.closing, retry, ..Work::default() };
        let mut size = 0;
        for item in &self.unwritten {
            size += item.size;
            if !work.write.is_empty() && size > self.write_max {
                break;
            }
            work.write.push(item.clone());
        }
        if let Some(last) = work.write.last() {
            self.writing_to = last.number + 1;
        }
        work.remove = self.drop_done_parts(first, next);
        work.front = self.parts.front().map(|part| part.segment.first);
        if self.wants_more() && !self.closing {
            let part = self.parts.iter().find(|part| part.resting() > 0);
            work.load = part.map(|part| (part.segment.first, self.resting_from..=part.last));
        }
        // At the end, too: what was shed is not to come back with the next process.
        if self.closing || self.disk_size + size as u64 > self.policy.max_size as u64 {
            let part = self.parts.iter().find(|part| part.shrinks > 0);
            work.compact = part.map(|part| (part.segment.first, part.shed.clone()));
        }
        work.ended = self.closing && self.unwritten.is_empty();
        work
    }

    /// Forgets the parts whose records are all done; returns the first number of each.
    fn drop_done_parts(&mut self, first: u64, next: u64) -> Vec<u64> {
        let mut done = Vec::new();
        while let Some(part) = self.parts.front() {
            let is_over = match self.parts.get(1) {
                Some(next) => next.segment.first <= first,
                // The last one goes when it has grown, or at the end: files are not made and removed for each event.
                None => {
                    part.last < first
                        && (self.closing && next == first || part.segment.size > self.window_max as u64 / 2)
                }
            };
            if !is_over {
                break;
            }
            done.push(part.segment.first);
            self.disk_size -= part.segment.size;
            self.shed_size -= part.shrinks;
            self.parts.pop_front();
        }
        done
    }
}
