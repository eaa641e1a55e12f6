//! What becomes of a buffer whose files were taken away while it was in use.

use super::super::disk::{Kind, Segment};
use tokio::time::Instant;

use super::super::queue::{Entry, Item, Queue};
use super::{Backlog, Unwritten};
use crate::event::{CLASSES, Gap};

impl Backlog {
    /// All segments that hold something.
    pub(in crate::sink) fn segments(&self) -> Vec<Segment> {
        self.parts.iter().map(|part| part.segment).collect()
    }
}

impl Queue {
    /// These segments are not there any more: what rested in them is counted as shed, and what is in memory is to be
    /// written again. Returns how many events each of that is.
    pub(in crate::sink) fn taken_away(&mut self, gone: &[u64], name: &str, now: Instant) -> (u64, u64) {
        let Some(mut backlog) = self.backlog.take() else { return (0, 0) };
        let (mut lost, mut again) = (0, Vec::new());
        let (taken, parts): (Vec<_>, _) = std::mem::take(&mut backlog.parts)
            .into_iter()
            .partition(|part| gone.contains(&part.segment.first));
        backlog.parts = parts.into();
        let unwritten = backlog.unwritten.front().map_or(u64::MAX, |item| item.number);
        for mut part in taken {
            backlog.disk_size -= part.segment.size;
            backlog.shed_size -= part.shrinks;
            backlog.resting -= part.resting();
            backlog.damaged += u64::from(part.resting() > 0);
            let rested = part.events;
            for class in CLASSES {
                let (events, bytes) = part.take(class);
                self.balance.shed += events;
                self.count_out(class, events as usize, bytes as usize);
                lost += events;
            }
            if backlog.parts.is_empty() && rested.iter().sum::<u64>() > 0 {
                let gap = Gap::unreadable(rested);
                // Where nothing stands behind it yet, it is written with what will.
                if !backlog.tail.is_empty() {
                    again.push(Unwritten::new(part.last, Kind::Gap, gap.delivery(name)));
                }
                self.entries.push_back(Entry::new(Item::Gap(Box::new(gap)), part.last, 0, now));
            }
            let numbers = part.segment.first..=part.last;
            for entry in self.entries.iter().chain(&backlog.tail) {
                if let Item::Event(delivery) = &entry.item
                    && numbers.contains(&entry.number)
                    && entry.number < unwritten
                {
                    again.push(Unwritten::new(entry.number, Kind::Event, delivery.clone()));
                }
            }
        }
        // Where nothing is in memory, that is where it goes on.
        let next = backlog.parts.iter().find(|part| part.resting() > 0).map(|part| part.segment.first);
        backlog.resting_from = next.map_or(backlog.resting_from, |first| first.max(backlog.resting_from));
        again.sort_by_key(|item| item.number);
        let events = again.iter().filter(|item| item.kind == Kind::Event).count() as u64;
        for item in again.into_iter().rev() {
            if let Some(receipt) = super::receipt(item.kind, &item.delivery) {
                receipt.staged();
            }
            backlog.unwritten_size += item.size;
            backlog.unwritten.push_front(item);
        }
        backlog.refill(&mut self.entries);
        self.backlog = Some(backlog);
        (lost, events)
    }
}
