//! Puts gaps in the place of what is missing in a log, so that it is counted once, and marked where it was.

use std::collections::BTreeMap;
use std::io;

use tracing::warn;

use super::head::{self, Head};
use super::record::{Found, Record, Scan};
use super::recover::{Hole, Recovery, Seen, total};
use super::segment::{Stored, file_name, replace};
use crate::event::Gap;

/// What is missing in one hole, shared out among the places where gaps are to stand.
struct Shares {
    by_segment: BTreeMap<usize, Gaps>,
    /// What is left for a file that is not there: how many events were not done, and how many were written.
    lost: u64,
    gone: u64,
}

/// The gaps of one segment.
#[derive(Default)]
struct Gaps {
    /// The number of each, and of how many events it tells.
    places: Vec<(u64, u64)>,
    /// How many events are not in the segment any more.
    gone: u64,
}

impl Recovery<'_> {
    /// Puts gaps where something is missing, so that the next start finds a log that is whole.
    pub(super) fn mend(
        &mut self,
        log: u64,
        done: u64,
        mut seen: Vec<Seen>,
        holes: &[Hole],
        stored: impl Fn(&Seen) -> Stored,
    ) -> Vec<Stored> {
        let mut fillers: Vec<Stored> = Vec::new();
        for hole in holes {
            let Shares { by_segment, lost, gone } = share_out(hole, &seen, done);
            for (i, gaps) in by_segment {
                let previous =
                    i.checked_sub(1).and_then(|i| seen.get(i)).map_or(0, |seen| seen.segment.first);
                let before = before(&seen, i, holes);
                if let Some(seen) = seen.get_mut(i) {
                    self.rewrite(log, seen, &gaps, previous, before);
                }
            }
            if let Some(first) = hole.file.filter(|_| lost > 0) {
                let last = hole.segments.clone().last().and_then(|i| seen.get(i));
                let next = seen.get(hole.segments.end).and_then(|seen| seen.head);
                let before =
                    next.map_or_else(|| total(&seen, &[], None), |next| next.before.saturating_sub(gone));
                let head = Head {
                    log,
                    first,
                    previous: last.map_or(0, |last| last.segment.first),
                    before,
                    gone,
                    is_front: last.is_none(),
                };
                let gap = Record::gap(first.max(done), &Gap::missing(lost), self.name);
                fillers.extend(self.fill(&head, &gap));
            }
        }
        let mut segments: Vec<Stored> = seen.iter().map(stored).chain(fillers).collect();
        segments.sort_by_key(|stored| stored.segment.first);
        segments
    }

    /// Writes a segment with one gap in the place of a file that is not there.
    fn fill(&self, head: &Head, gap: &Record) -> Option<Stored> {
        match replace(self.files, head.first, Some(head), std::slice::from_ref(gap)) {
            Ok(segment) => {
                let mut filler = Stored { segment, from: u64::MAX, ..Stored::default() };
                filler.add(gap);
                Some(filler)
            }
            Err(error) => {
                self.not_mended(head.first, &error);
                None
            }
        }
    }

    fn not_mended(&self, first: u64, error: &io::Error) {
        warn!(sink = %self.name, file = file_name(first), %error, "a gap cannot be written in the place of what is missing");
    }

    /// Writes a segment anew: without what is no record, with gaps in its place, and a head that tells of them.
    fn rewrite(&mut self, log: u64, seen: &mut Seen, gaps: &Gaps, previous: u64, before: Option<u64>) {
        let first = seen.segment.first;
        let Ok(bytes) = self.files.read(&file_name(first)) else { return };
        let (head, found, _) = head::split(&bytes);
        let mut records: Vec<Record> = Scan::new(found)
            .filter_map(|found| if let Found::Record(record) = found { Some(record) } else { None })
            .collect();
        let mut added = Vec::new();
        for (number, lost) in gaps.places.iter().filter(|(_, lost)| *lost > 0) {
            // A number that is in use cannot be had; then the number in the report is all that tells of it.
            if records.iter().all(|record| record.number != *number) {
                let record = Record::gap(*number, &Gap::missing(*lost), self.name);
                let place = records.partition_point(|record| record.number < *number);
                added.push(record.clone());
                records.insert(place, record);
            }
        }
        let made =
            before.map(|before| Head { log, first, previous, before, gone: 0, is_front: previous == 0 });
        let head = head.or(made).map(|head| Head { gone: head.gone + gaps.gone, ..head });
        match replace(self.files, first, head.as_ref(), &records) {
            Ok(segment) => {
                (seen.segment, seen.fresh.segment, seen.all.segment, seen.head) =
                    (segment, segment, segment, head);
                for record in &added {
                    seen.end = seen.end.max(record.number + 1);
                    for stored in [&mut seen.fresh, &mut seen.all] {
                        let last = stored.last.max(record.number);
                        stored.from = stored.from.min(record.number);
                        (stored.notices, stored.last) = (stored.notices + 1, last);
                    }
                }
            }
            Err(error) => self.not_mended(first, &error),
        }
    }
}

/// One gap for each damaged place, or one at the end of what is there; the rest of what is missing in the last of them,
/// unless there is a file to fill.
fn share_out(hole: &Hole, seen: &[Seen], done: u64) -> Shares {
    let mut gaps: Vec<(usize, u64)> = Vec::new();
    for i in hole.segments.clone() {
        gaps.extend(seen.get(i).iter().flat_map(|seen| &seen.damaged).map(|number| (i, *number)));
    }
    let mut lost = hole.lost;
    let is_without_place = hole.file.is_none() && gaps.is_empty() && lost > 0;
    let at_the_end = hole.segments.clone().last().filter(|_| is_without_place);
    gaps.extend(at_the_end.and_then(|i| Some((i, seen.get(i)?.end))));
    // What is missing at the end and was done does not count as written any more.
    let is_at_the_end = hole.segments.end == seen.len();
    let mut gone = hole.counted.filter(|_| !is_at_the_end).map_or(lost, |counted| counted.max(lost));
    let mut by_segment: BTreeMap<usize, Gaps> = BTreeMap::new();
    for (k, (i, number)) in gaps.iter().enumerate() {
        let is_last = k + 1 == gaps.len() && hole.file.is_none();
        let (share, share_gone) = if is_last { (lost, gone) } else { (lost.min(1), gone.min(1)) };
        (lost, gone) = (lost - share, gone - share_gone);
        let gaps = by_segment.entry(*i).or_default();
        gaps.gone += share_gone;
        // What was done before the gap is no part of it.
        gaps.places.push(((*number).max(done), share));
    }
    Shares { by_segment, lost, gone }
}

/// How many events had been written before one segment, where its head does not say so.
fn before(seen: &[Seen], i: usize, holes: &[Hole]) -> Option<u64> {
    let start = (0..i).rev().find_map(|start| Some((start, seen.get(start)?.head?)));
    if let Some((start, head)) = start {
        let events: u64 = seen.get(start..i)?.iter().map(|seen| seen.events).sum();
        return Some(head.before + head.gone + events);
    }
    let next = (i + 1..seen.len()).find_map(|next| Some((next, seen.get(next)?.head?)));
    let (next, head) = next?;
    let events: u64 = seen.get(i..next)?.iter().map(|seen| seen.events).sum();
    let lost: u64 = holes.iter().filter(|hole| hole.segments.contains(&i)).map(|hole| hole.lost).sum();
    Some(head.before.saturating_sub(events + lost))
}
