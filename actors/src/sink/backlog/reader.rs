//! Records turned back into events, and what was shed among them into gaps.

use std::sync::Arc;

use bytes::Bytes;

use super::super::disk::{Kind, Record};
use super::part::Shed;
use crate::event::{Decoder, Delivery, Gap, GapReason};

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
