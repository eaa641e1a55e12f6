//! How what rested on disk comes back into the window.

use std::time::Duration;

use tokio::time::Instant;

use super::super::counts::Counts;
use super::super::disk::{Kind, Record};
use super::super::entry::{Entry, Item};
use super::super::store::Store as _;
use super::super::window::Window;
use super::part::{Part, Shed};
use super::reader::Read;
use super::state::Backlog;
use crate::event::{CLASSES, Gap, GapReason, Timestamp};

/// What was read of one segment.
pub(in crate::sink) struct Loaded {
    /// The number that names the segment.
    pub(in crate::sink) first: u64,
    pub(in crate::sink) records: Vec<(Record, Read)>,
    /// Records before this number may have been sent by an earlier process.
    pub(in crate::sink) sent: u64,
}

impl Backlog {
    /// Takes a segment into the window. What it should hold and does not is counted as shed.
    pub(in crate::sink) fn loaded(
        &mut self,
        loaded: Loaded,
        window: &mut Window,
        counts: &mut Counts,
        now: Instant,
    ) {
        let Loaded { first, records, sent } = loaded;
        // The one that was asked for: the first that something rests in.
        let of_it = |part: &&mut Part| part.segment.first == first;
        let resting = self.parts.iter().any(|part| part.segment.first == first && part.resting() > 0);
        let mut parts = self.parts.iter_mut().filter(of_it);
        let Some(part) = parts.find(|part| !resting || part.resting() > 0) else { return };
        let (last, shed) = (part.last, part.shed.clone());
        self.resting -= part.resting();
        let mut missing = std::mem::take(&mut part.events);
        let estimated: u64 = std::mem::take(&mut part.bytes).iter().sum();
        (part.notices, self.resting_from) = (0, last + 1);
        let (mut size, clock) = (0, Timestamp::now().as_micros());
        for (record, read) in records {
            let Some(item) = item(&record, read, &shed) else { continue };
            if let Item::Gap(gap) = &item
                && let Some(Entry { item: Item::Gap(open), .. }) = window.entries.back_mut()
            {
                open.absorb(gap);
                continue;
            }
            let mut entry = entry(item, &record, clock, now);
            if entry.is_event()
                && let Some(events) = missing.get_mut(record.class as usize)
            {
                *events = events.saturating_sub(1);
            }
            size += entry.size as usize;
            entry.attempts = u32::from(record.number < sent);
            window.entries.push_back(entry);
        }
        self.in_window += size;
        if missing.iter().sum::<u64>() > 0 {
            window.entries.push_back(Entry::gap(Gap::unreadable(missing), last, now));
            self.damaged += 1;
        }
        self.refill(window);
        // Before they were encoded, sizes were estimates.
        counts.bytes = (counts.bytes + size).saturating_sub(estimated as usize);
        for (class, events) in CLASSES.into_iter().zip(missing) {
            counts.count_shed(class, events as usize, 0);
        }
    }
}

/// What a record stands for, now that some were shed.
fn item(record: &Record, read: Read, shed: &[Shed]) -> Option<Item> {
    match read {
        Read::Strange => None,
        Read::Gap(gap) => Some(Item::Gap(Box::new(gap))),
        Read::Entry(_, delivery) if shed.iter().any(|shed| shed.takes(record)) => {
            let mut gap = Gap::default();
            gap.add(&delivery.event, GapReason::BufferFull);
            Some(Item::Gap(Box::new(gap)))
        }
        Read::Entry(Kind::Notice, delivery) => Some(Item::Notice(delivery)),
        Read::Entry(_, delivery) => Some(Item::Event(delivery)),
    }
}

fn entry(item: Item, record: &Record, clock: i64, now: Instant) -> Entry {
    let (mut size, mut age) = (0, 0);
    if let Item::Event(delivery) = &item {
        size = record.json.len();
        age = u64::try_from(clock - delivery.event.timestamp().as_micros()).unwrap_or(0);
    }
    let since = now.checked_sub(Duration::from_micros(age)).unwrap_or(now);
    Entry::new(item, record.number, size, since)
}
