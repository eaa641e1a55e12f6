//! One record of a buffer on disk: a number, an event or a gap, and a checksum over all of it.

use std::ops::Range;

use bytes::Bytes;

use crate::event::{Class, Event, Gap};

/// Stands in front of every record. Neither byte occurs in UTF-8, so none does in an event: behind a damaged record the
/// next one is found.
const MARK: [u8; 3] = [0xFF, 0xC1, 1];
/// Mark, flags, checksum, number, length of the whole payload, length of the key in front of it.
pub(crate) const HEADER: usize = 3 + 1 + 4 + 8 + 4 + 2;

const CLASS: u8 = 0b0000_0011;
const SYSTEM: u8 = 0b0000_0100;
const KIND: u8 = 0b0001_1000;

/// What a record stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An event, counted.
    Event,
    /// An alert, counted apart.
    Notice,
    /// Where events were shed.
    Gap,
}

/// A record as it is written and read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) class: Class,
    /// The machine made it.
    pub(crate) system: bool,
    /// Its name at the broker, where that is not its topic.
    pub(crate) key: Option<String>,
    pub(crate) json: Bytes,
}

impl Record {
    /// Where events are missing.
    pub(crate) fn gap(number: u64, gap: &Gap, sink: &str) -> Record {
        let event: Event = gap.event(sink);
        let json: Bytes = event.json().clone();
        Record { number, kind: Kind::Gap, class: Class::Lifecycle, system: true, key: None, json }
    }

    /// Its size on disk.
    pub(crate) fn size(&self) -> usize {
        HEADER + self.key.as_ref().map_or(0, String::len) + self.json.len()
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let kind = match self.kind {
            Kind::Event => 0,
            Kind::Notice => 1,
            Kind::Gap => 2,
        };
        let flags = self.class as u8 | if self.system { SYSTEM } else { 0 } | (kind << 3);
        let key = self.key.as_deref().unwrap_or_default().as_bytes();
        let [key_len, len] = [key.len(), key.len() + self.json.len()];
        let start = out.len();
        out.extend_from_slice(&MARK);
        out.push(flags);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        // A key has at most 255 bytes; `u16::MAX` says that there is none.
        let key_len = self.key.as_ref().map_or(u16::MAX, |_| u16::try_from(key_len).unwrap_or(u16::MAX - 1));
        out.extend_from_slice(&key_len.to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(&self.json);
        let sum = out.get(start..).map_or(0, checksum);
        if let Some(place) = out.get_mut(start + 4..start + 8) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
    }

    /// The record that begins there, and where it ends.
    fn read(bytes: &Bytes, at: usize) -> Option<(Record, usize)> {
        let rest = bytes.get(at..)?;
        let (header, behind) = rest.split_at_checked(HEADER)?;
        if header.get(..3)? != MARK {
            return None;
        }
        let len = usize::try_from(u32::from_le_bytes(header.get(16..20)?.try_into().ok()?)).ok()?;
        let payload = behind.get(..len)?;
        let sum = u32::from_le_bytes(header.get(4..8)?.try_into().ok()?);
        if checksum(rest.get(..HEADER + len)?) != sum {
            return None;
        }
        let flags = *header.get(3)?;
        let kind = match (flags & KIND) >> 3 {
            0 => Kind::Event,
            1 => Kind::Notice,
            2 => Kind::Gap,
            _ => return None,
        };
        let class = match flags & CLASS {
            0 => Class::Token,
            1 => Class::Lifecycle,
            _ => Class::Audit,
        };
        let key = match u16::from_le_bytes(header.get(20..22)?.try_into().ok()?) {
            u16::MAX => None,
            len => Some(std::str::from_utf8(payload.get(..usize::from(len))?).ok()?.to_owned()),
        };
        let end = at + HEADER + len;
        let json = bytes.slice(at + HEADER + key.as_ref().map_or(0, String::len)..end);
        let number = u64::from_le_bytes(header.get(8..16)?.try_into().ok()?);
        Some((Record { number, kind, class, system: flags & SYSTEM != 0, key, json }, end))
    }
}

/// Over all but the mark and the checksum itself.
fn checksum(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(record.get(3..4).unwrap_or_default());
    hasher.update(record.get(8..).unwrap_or_default());
    hasher.finalize()
}

/// What stands in a segment, from its beginning to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Record(Record),
    /// Bytes that are no record.
    Damaged(Range<usize>),
    /// The beginning of a record at the end: it was being written when the process or the machine died.
    Torn(Range<usize>),
}

/// Reads a segment, to its end, whatever it holds.
pub(super) struct Scan {
    bytes: Bytes,
    at: usize,
}

impl Scan {
    pub(super) fn new(bytes: Bytes) -> Scan {
        Scan { bytes, at: 0 }
    }

    /// Where the next record begins, at the earliest behind `at`.
    fn next_start(&self, at: usize) -> Option<usize> {
        let mut from = at + 1;
        loop {
            let rest = self.bytes.get(from..)?;
            let start = from + rest.windows(MARK.len()).position(|window| window == MARK)?;
            if Record::read(&self.bytes, start).is_some() {
                return Some(start);
            }
            from = start + 1;
        }
    }
}

impl Iterator for Scan {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let (start, end) = (self.at, self.bytes.len());
        if start >= end {
            return None;
        }
        if let Some((record, end)) = Record::read(&self.bytes, start) {
            self.at = end;
            return Some(Found::Record(record));
        }
        let next = self.next_start(start);
        self.at = next.unwrap_or(end);
        let rest = self.bytes.get(start..).unwrap_or_default();
        Some(match next {
            Some(next) => Found::Damaged(start..next),
            None if is_unfinished(rest) => Found::Torn(start..end),
            None => Found::Damaged(start..end),
        })
    }
}

/// Whether these bytes begin as a record does that is longer than they are.
fn is_unfinished(bytes: &[u8]) -> bool {
    let marked = bytes.iter().zip(MARK).all(|(byte, mark)| *byte == mark);
    let len = bytes.get(16..20).and_then(|len| len.try_into().ok()).map(u32::from_le_bytes);
    marked
        && (bytes.len() < HEADER
            || len.is_some_and(|len| HEADER as u64 + u64::from(len) > bytes.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(number: u64, text: &str) -> Record {
        let class = [Class::Token, Class::Lifecycle, Class::Audit][number as usize % 3];
        let kind = [Kind::Event, Kind::Notice, Kind::Gap][number as usize % 3];
        let key = number.is_multiple_of(2).then(|| "k".repeat(number as usize % 5));
        Record {
            number,
            kind,
            class,
            system: number.is_multiple_of(4),
            key,
            json: Bytes::from(text.to_owned()),
        }
    }

    fn segment(records: &[Record]) -> Vec<u8> {
        let mut out = Vec::new();
        records.iter().for_each(|record| record.write(&mut out));
        assert_eq!(out.len(), records.iter().map(Record::size).sum::<usize>());
        out
    }

    fn records(bytes: Vec<u8>) -> Vec<Record> {
        let found = Scan::new(bytes.into());
        found
            .filter_map(|found| if let Found::Record(record) = found { Some(record) } else { None })
            .collect()
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let written: Vec<_> = (0..12).map(|n| record(n, &"ä".repeat(n as usize))).collect();
        assert_eq!(records(segment(&written)), written);
    }

    #[test]
    fn a_flipped_bit_costs_its_own_record_and_no_other() {
        let written: Vec<_> = (1..5).map(|n| record(n, "{\"token\":\"x\"}")).collect();
        let whole = segment(&written);
        let mut ends = Vec::new();
        for record in &written {
            ends.push(ends.last().unwrap_or(&0) + record.size());
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let hit = ends.iter().position(|end| bit / 8 < *end).unwrap();
            let mut left = written.clone();
            left.remove(hit);
            assert_eq!(records(bytes), left, "bit {bit}");
        }
    }

    #[test]
    fn a_cut_costs_what_is_behind_it_and_is_no_damage() {
        let written: Vec<_> = (1..5).map(|n| record(n, "{}")).collect();
        let whole = segment(&written);
        for len in 0..whole.len() {
            let found: Vec<_> = Scan::new(whole[..len].to_vec().into()).collect();
            let complete = found.iter().take_while(|found| matches!(found, Found::Record(_))).count();
            assert!(found.len() - complete <= 1 && !matches!(found.last(), Some(Found::Damaged(_))), "{len}");
            let (mut end, mut expected) = (0, 0);
            while expected < written.len() && end + written[expected].size() <= len {
                end += written[expected].size();
                expected += 1;
            }
            assert_eq!(complete, expected, "{len}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever a disk gives back: it ends, accounts for every byte, and what it takes for a record is one.
        #[test]
        fn any_bytes_are_read_to_their_end(
            mut bytes in proptest::collection::vec(prop_oneof![Just(0xFF_u8), Just(0xC1), Just(1), any::<u8>()], 0..400),
            at in 0_usize..400, number in any::<u64>(),
        ) {
            let mut one = Vec::new();
            record(number % 100, "{}").write(&mut one);
            let at = at.min(bytes.len());
            bytes.splice(at..at, one);
            let (mut end, total) = (0, bytes.len());
            let mut read = Vec::new();
            for found in Scan::new(bytes.into()) {
                match found {
                    Found::Record(record) => { end += record.size(); read.push(record) }
                    Found::Damaged(range) | Found::Torn(range) => {
                        prop_assert_eq!(range.start, end);
                        end = range.end;
                    }
                }
            }
            prop_assert_eq!(end, total);
            let is_there = read.contains(&record(number % 100, "{}"));
            prop_assert!(is_there);
        }
    }
}
