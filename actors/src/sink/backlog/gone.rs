//! What becomes of a buffer whose files were taken away while it was in use.

use tokio::time::Instant;

use super::super::counts::Counts;
use super::super::disk::{Kind, Segment};
use super::super::entry::{Entry, Item};
use super::super::store::Store as _;
use super::super::window::Window;
use super::part::Part;
use super::state::Backlog;
use super::unwritten::Unwritten;
use crate::event::{CLASSES, Gap};

/// What was in those files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::sink) struct TakenAway {
    /// Events that rested there alone.
    pub(in crate::sink) lost: u64,
    /// Events that are in memory, too, and are to be written again.
    pub(in crate::sink) again: u64,
}

impl Backlog {
    /// All segments that hold something.
    pub(in crate::sink) fn segments(&self) -> Vec<Segment> {
        self.parts.iter().map(|part| part.segment).collect()
    }

    /// These segments are not there any more: what rested in them is counted as shed, and what is in memory is to be
    /// written again.
    pub(in crate::sink) fn taken_away(
        &mut self,
        gone: &[u64],
        window: &mut Window,
        counts: &mut Counts,
        now: Instant,
    ) -> TakenAway {
        let (taken, parts): (Vec<_>, _) = std::mem::take(&mut self.parts)
            .into_iter()
            .partition(|part: &Part| gone.contains(&part.segment.first));
        self.parts = parts.into();
        let unwritten = self.unwritten.front().map_or(u64::MAX, |item| item.number);
        let (mut lost, mut again) = (0, Vec::new());
        for part in taken {
            let numbers = part.segment.first..=part.last;
            lost += self.lose(part, window, counts, &mut again, now);
            for entry in window.entries.iter().chain(&self.tail) {
                if let Item::Event(delivery) = &entry.item
                    && numbers.contains(&entry.number)
                    && entry.number < unwritten
                {
                    again.push(Unwritten::new(entry.number, Kind::Event, delivery.clone()));
                }
            }
        }
        // Where nothing is in memory, that is where it goes on.
        let next = self.parts.iter().find(|part| part.resting() > 0).map(|part| part.segment.first);
        self.resting_from = next.map_or(self.resting_from, |first| first.max(self.resting_from));
        again.sort_by_key(|item| item.number);
        let events = again.iter().filter(|item| item.is_event()).count() as u64;
        for item in again.into_iter().rev() {
            if let Some(receipt) = item.receipt() {
                receipt.staged();
            }
            self.unwritten_size += item.size;
            self.unwritten.push_front(item);
        }
        self.refill(window);
        TakenAway { lost, again: events }
    }

    /// What rested in one part is lost; returns how many events. A gap for them goes to `again`, where it is to be written.
    fn lose(
        &mut self,
        mut part: Part,
        window: &mut Window,
        counts: &mut Counts,
        again: &mut Vec<Unwritten>,
        now: Instant,
    ) -> u64 {
        self.disk_size -= part.segment.size;
        self.shed_size -= part.shrinks;
        self.resting -= part.resting();
        self.damaged += u64::from(part.resting() > 0);
        let (rested, mut lost) = (part.events, 0);
        for class in CLASSES {
            let (events, bytes) = part.take(class);
            counts.count_shed(class, events as usize, bytes as usize);
            lost += events;
        }
        if self.parts.is_empty() && rested.iter().sum::<u64>() > 0 {
            let gap = Gap::unreadable(rested);
            // Where nothing stands behind it yet, it is written with what will.
            if !self.tail.is_empty() {
                again.push(Unwritten::new(part.last, Kind::Gap, gap.delivery(&self.name)));
            }
            window.entries.push_back(Entry::gap(gap, part.last, now));
        }
        lost
    }
}
