//! Records turned back into events, and what was shed among them into gaps.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::disk::{Kind, Record};
use super::super::queue::{Entry, Item, Queue};
use super::part::{Part, Shed};
use crate::event::{CLASSES, Decoder, Delivery, Gap, GapReason, Timestamp};

/// Turns records back into entries, and those that were shed into gaps.
pub(in crate::sink) struct Reader {
    decoder: Decoder,
    sink: Arc<str>,
}

/// What became of a record.
pub(in crate::sink) enum Read {
    Entry(Kind, Delivery),
    Gap(Gap),
    /// Its checksum is right, but it makes no sense to us.
    Strange,
}

impl Reader {
    pub(in crate::sink) fn new(sink: Arc<str>) -> Reader {
        Reader { decoder: Decoder::default(), sink }
    }

    /// With bytes of its own: one event that waits must not hold the memory of its whole segment.
    pub(in crate::sink) fn read(&mut self, record: &Record) -> Read {
        let Ok(event) =
            self.decoder.restore(Bytes::copy_from_slice(&record.json), Some(record.class), record.system)
        else {
            return Read::Strange;
        };
        if record.kind == Kind::Gap {
            return Gap::read(&event).map_or(Read::Strange, Read::Gap);
        }
        Read::Entry(
            record.kind,
            match &record.key {
                Some(key) => Delivery::new(event, key.as_str().into()),
                None => Delivery::by_topic(event),
            },
        )
    }

    /// A segment without what was shed from it.
    pub(in crate::sink) fn without(&mut self, records: Vec<Record>, shed: &[Shed]) -> Vec<Record> {
        let mut kept: Vec<Record> = Vec::with_capacity(records.len());
        let mut open: Option<(u64, Gap)> = None;
        let close = |open: &mut Option<(u64, Gap)>, kept: &mut Vec<Record>, sink: &str| {
            if let Some((number, gap)) = open.take() {
                kept.push(Record::gap(number, &gap, sink));
            }
        };
        for record in records {
            if !shed.iter().any(|shed| shed.takes(&record)) {
                close(&mut open, &mut kept, &self.sink);
                kept.push(record);
            } else if let Read::Entry(_, delivery) = self.read(&record) {
                let (_, gap) = open.get_or_insert_with(|| (record.number, Gap::default()));
                gap.add(&delivery.event, GapReason::BufferFull);
            }
        }
        close(&mut open, &mut kept, &self.sink);
        kept
    }
}

impl Queue {
    /// Takes a segment into the window. What it should hold and does not is counted as shed.
    pub(in crate::sink) fn loaded(
        &mut self,
        first: u64,
        records: Vec<(Record, Read)>,
        sent: u64,
        now: Instant,
    ) {
        let Some(backlog) = &mut self.backlog else { return };
        // The one that was asked for: the first that something rests in.
        let of_it = |part: &&mut Part| part.segment.first == first;
        let resting = backlog.parts.iter().any(|part| part.segment.first == first && part.resting() > 0);
        let mut parts = backlog.parts.iter_mut().filter(of_it);
        let Some(part) = parts.find(|part| !resting || part.resting() > 0) else { return };
        let (last, shed) = (part.last, part.shed.clone());
        backlog.resting -= part.resting();
        let mut missing = std::mem::take(&mut part.events);
        let estimated: u64 = std::mem::take(&mut part.bytes).iter().sum();
        (part.notices, backlog.resting_from) = (0, last + 1);
        let clock = Timestamp::now().as_micros();
        let mut loaded = 0;
        for (record, read) in records {
            let is_shed = shed.iter().any(|shed| shed.takes(&record));
            let (item, size) = match read {
                Read::Strange => continue,
                Read::Gap(gap) => (Item::Gap(Box::new(gap)), 0),
                Read::Entry(_, delivery) if is_shed => {
                    let mut gap = Gap::default();
                    gap.add(&delivery.event, GapReason::BufferFull);
                    (Item::Gap(Box::new(gap)), 0)
                }
                Read::Entry(Kind::Notice, delivery) => (Item::Notice(delivery), 0),
                Read::Entry(_, delivery) => {
                    if let Some(events) = missing.get_mut(record.class as usize) {
                        *events = events.saturating_sub(1);
                    }
                    (Item::Event(delivery), record.json.len())
                }
            };
            if let Item::Gap(gap) = &item
                && let Some(Entry { item: Item::Gap(open), .. }) = self.entries.back_mut()
            {
                open.absorb(gap);
                continue;
            }
            let age = match &item {
                Item::Event(delivery) => {
                    u64::try_from(clock - delivery.event.timestamp().as_micros()).unwrap_or(0)
                }
                _ => 0,
            };
            let since = now.checked_sub(Duration::from_micros(age)).unwrap_or(now);
            backlog.window += size;
            loaded += size;
            let mut entry = Entry::new(item, record.number, u32::try_from(size).unwrap_or(u32::MAX), since);
            entry.attempts = u32::from(record.number < sent);
            self.entries.push_back(entry);
        }
        if missing.iter().sum::<u64>() > 0 {
            self.entries.push_back(Entry::new(Item::Gap(Box::new(Gap::unreadable(missing))), last, 0, now));
            backlog.damaged += 1;
        }
        backlog.refill(&mut self.entries);
        // Before they were encoded, sizes were estimates.
        self.bytes = (self.bytes + loaded).saturating_sub(estimated as usize);
        for (class, events) in CLASSES.into_iter().zip(missing) {
            self.balance.shed += events;
            self.count_out(class, events as usize, 0);
        }
    }
}
