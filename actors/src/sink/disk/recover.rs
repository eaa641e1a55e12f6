//! Reads a log at the start, whatever has become of its files. What is whole goes on; what is not there and should be is
//! counted and named.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::{error, warn};

use super::super::policy::Fsync;
use super::files::Files;
use super::head::{self, Head};
use super::marks::{self, Note};
use super::record::{Found, Kind, Scan};
use super::segment::{Recovered, Segment, Stored, file_name, keep_unread, mark_front, set_aside};

/// How often a file is read that cannot be, before it is given up, and how long that is put off.
const READS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(50);

/// What was found, and how the log goes on.
pub(super) struct Opened {
    pub(super) recovered: Recovered,
    pub(super) note: Note,
}

/// One segment that is there.
pub(super) struct Seen {
    pub(super) segment: Segment,
    pub(super) head: Option<Head>,
    /// The number behind its last record.
    pub(super) end: u64,
    /// All events in it.
    pub(super) events: u64,
    /// Those that are not done, up to the last record that the marks know.
    pub(super) noted: u64,
    /// What is not done, and all that is there.
    pub(super) fresh: Stored,
    pub(super) all: Stored,
    /// Where something is that is no record: the least number that it can have had.
    pub(super) damaged: Vec<u64>,
    pub(super) is_torn: bool,
}

/// What may be missing in front of one segment, or at the end: in the segments before, or with whole files.
pub(super) struct Hole {
    /// The segments that it may be in.
    pub(super) segments: Range<usize>,
    /// The last segment of those that are not there.
    pub(super) file: Option<u64>,
    /// How many events are missing as the heads count; some of them may have been done.
    pub(super) counted: Option<u64>,
    /// How many of them were not done.
    pub(super) lost: u64,
    /// The last number that can be missing.
    pub(super) to: u64,
}

pub(super) struct Recovery<'a> {
    pub(super) name: &'a Arc<str>,
    pub(super) files: &'a dyn Files,
    pub(super) marks: marks::Found,
    pub(super) damaged: u64,
}

impl Recovery<'_> {
    pub(super) fn run(mut self) -> io::Result<Opened> {
        let (log, firsts) = self.own_segments()?;
        let has_heads = log.is_some();
        let log = log.unwrap_or_else(|| fastrand::u64(1..));
        let note = self.marks.note.filter(|note| !has_heads || note.log == log);
        if note.is_none() && self.marks.note.is_some() {
            self.damaged += 1;
            error!(sink = %self.name, "the marks of the buffer on disk are those of another: all that is found is delivered again");
        }
        // Nothing is known of what was done, or only by a log of old.
        let known = note
            .map(|note| note.done)
            .or((!has_heads && self.marks.note.is_none()).then_some(self.marks.done));
        let mut sent = if known.is_some() { self.marks.sent } else { u64::MAX };
        let mut done = known.unwrap_or(0);
        let mut seen = self.scan(&firsts, done, note);
        // By the word of a later segment. It is on disk before any of those before it goes: that process may have failed to
        // sync it, so it is written once more.
        if let Some(front) = seen.iter().rposition(|seen| seen.head.is_some_and(|head| head.is_front)) {
            let first = seen.get(front).map_or(0, |seen| seen.segment.first);
            let is_sure = front == 0 || mark_front(self.files, first, Fsync::Group).is_ok();
            for over in seen.drain(..front) {
                let file = file_name(over.segment.first);
                let removed = is_sure && self.files.remove(&file).is_ok();
                warn!(sink = %self.name, file, removed, "a part of the buffer on disk was done, and is still there");
            }
        }
        let floor = seen.first().filter(|seen| seen.head.is_some_and(|head| head.is_front));
        let floor = floor.map_or(0, |seen| seen.segment.first);
        let end = seen.iter().map(|seen| seen.end).max().unwrap_or(0);
        let again = !seen.is_empty() && is_of_another_time(&seen, done.max(floor), end, note);
        if again || (known.is_none() && !seen.is_empty()) {
            warn!(sink = %self.name, "the marks of the buffer on disk do not fit what is there: all of it is delivered again");
            (done, sent) = (floor, u64::MAX);
        }
        let done = done.max(floor);
        let mut holes = holes(&seen, note);
        self.judge(&mut holes, &seen, note);
        let lost: u64 = holes.iter().map(|hole| hole.lost).sum();
        let total = total(&seen, &holes, note);
        let segments = self.mend(log, done, seen, &holes, |seen| if again { seen.all } else { seen.fresh });
        let waiting = segments.iter().flat_map(|stored| stored.events).sum();
        let last = segments.last();
        let note = Note {
            done,
            log,
            segment: last.map_or(0, |last| last.segment.first),
            last: last.map_or(0, |last| last.last),
            total,
            waiting,
        };
        let next = segments.iter().map(|stored| stored.last + 1).max().unwrap_or(0);
        let next = next
            .max(end)
            .max(done)
            .max(self.marks.note.filter(|known| known.log == log).map_or(0, |known| known.last + 1));
        let recovered = Recovered { segments, next, sent, damaged: self.damaged, missing: lost };
        Ok(Opened { recovered, note })
    }

    pub(super) fn unreadable(&mut self, first: u64, error: &io::Error) {
        self.damaged += 1;
        keep_unread(self.name, self.files, first, error);
    }

    fn scan(&mut self, firsts: &[u64], done: u64, note: Option<Note>) -> Vec<Seen> {
        let mut all: Vec<Seen> = Vec::new();
        for first in firsts {
            let from = all.last().map_or(0, |seen| seen.end);
            match patiently(|| self.files.read(&file_name(*first))) {
                Ok(bytes) => all.push(self.look(*first, &bytes, from, done, note)),
                Err(error) => self.unreadable(*first, &error),
            }
        }
        all
    }

    /// Reads one segment; nothing is kept of it but numbers, since a log may be larger than memory.
    fn look(&mut self, first: u64, bytes: &Bytes, from: u64, done: u64, note: Option<Note>) -> Seen {
        let segment = Segment { first, size: bytes.len() as u64 };
        let stored = Stored { segment, from: u64::MAX, ..Stored::default() };
        let (head, records, offset) = head::split(bytes);
        let mut seen = Seen {
            segment,
            head,
            end: from,
            events: 0,
            noted: 0,
            fresh: stored,
            all: stored,
            damaged: Vec::new(),
            is_torn: head::is_unfinished(bytes),
        };
        let records = if seen.is_torn { Bytes::new() } else { records };
        for found in Scan::new(records) {
            match found {
                Found::Record(record) => {
                    let is_event = record.kind == Kind::Event;
                    seen.events += u64::from(is_event);
                    // What was written a second time after an error stands in two segments.
                    if record.number < seen.end {
                        continue;
                    }
                    seen.end = record.number + 1;
                    seen.all.add(&record);
                    if record.number >= done {
                        seen.fresh.add(&record);
                        let is_noted = note.is_some_and(|note| record.number <= note.last);
                        seen.noted += u64::from(is_event && is_noted);
                    }
                }
                Found::Damaged(range) => {
                    self.damaged += 1;
                    seen.damaged.push(seen.end.max(first));
                    let at = offset + range.start;
                    set_aside(
                        self.name,
                        self.files,
                        first,
                        at,
                        bytes.get(at..offset + range.end).unwrap_or_default(),
                    );
                }
                Found::Torn(_) => seen.is_torn = true,
            }
        }
        seen.end = seen.end.max(first);
        let last = seen.end.max(first + 1) - 1;
        (seen.fresh.last, seen.all.last) = (last, last);
        seen
    }

    /// Decides how many events are lost in each hole, and tells of it.
    fn judge(&self, holes: &mut [Hole], seen: &[Seen], note: Option<Note>) {
        // Only marks that know of the last segment can say what should be in the log.
        let (latest, end) = seen.last().map_or((0, 0), |last| (last.segment.first, last.end));
        let noted: u64 = seen.iter().map(|seen| seen.noted).sum();
        let mut left = note
            .filter(|note| note.segment >= latest || note.last + 1 >= end)
            .map(|note| note.waiting.saturating_sub(noted));
        let count = holes.len();
        for (i, hole) in holes.iter_mut().enumerate().rev() {
            let places: usize =
                seen.get(hole.segments.clone()).iter().flat_map(|s| s.iter()).map(|s| s.damaged.len()).sum();
            // At the front some may have been done, and at the end all.
            let is_at_an_end = hole.segments.start == 0 || i + 1 == count;
            hole.lost = match (hole.counted, left) {
                (Some(counted), Some(left)) if is_at_an_end => counted.min(left),
                (Some(counted), _) => counted,
                (None, Some(left)) => left,
                // At least so many.
                (None, None) => {
                    let torn = seen.get(hole.segments.clone()).and_then(<[Seen]>::last);
                    let is_torn = i + 1 == count && torn.is_some_and(|seen| seen.is_torn);
                    places as u64 + u64::from(hole.file.is_some()) + u64::from(is_torn)
                }
            };
            left = left.map(|left| left.saturating_sub(hole.lost));
            let last = hole.segments.end.checked_sub(1).and_then(|last| seen.get(last));
            let is_torn = last.is_some_and(|last| last.is_torn);
            let from = last.map_or_else(|| hole.file.unwrap_or(0), |last| last.end);
            let file = file_name(hole.file.or(last.map(|last| last.segment.first)).unwrap_or(0));
            match hole.lost {
                0 if is_torn => warn!(
                    sink = %self.name, file,
                    "the buffer on disk ends with half a record, which was not confirmed as far as its marks tell"
                ),
                0 => {}
                lost => error!(
                    sink = %self.name, file, from, to = hole.to, missing = lost, exact = hole.counted.is_some() || note.is_some(),
                    "events that the buffer on disk held are missing; a gap stands in their place"
                ),
            }
        }
    }
}

/// Whether the marks are not those of this log as it is: then nothing that they call done can be taken for done.
fn is_of_another_time(seen: &[Seen], done: u64, end: u64, note: Option<Note>) -> bool {
    // A segment goes before the next one is begun with.
    let first_is_over = seen.get(1).is_some_and(|second| second.segment.first <= done);
    // All of it may be done and still be there, but then they know of its end.
    let last = seen.last().map_or(0, |last| last.segment.first);
    let are_others = note.is_some_and(|note| done >= end && (note.segment != last || note.last + 1 != end));
    first_is_over || are_others
}

/// The places where something may be missing, in order.
fn holes(seen: &[Seen], note: Option<Note>) -> Vec<Hole> {
    let (mut holes, mut counted, mut start) = (Vec::new(), None, 0);
    for (i, this) in seen.iter().enumerate() {
        if let Some(head) = this.head {
            // Each file stands for one hole, and none that is there for any.
            let is_free = |file: u64| {
                let is_there = seen.binary_search_by_key(&file, |seen| seen.segment.first).is_ok();
                !is_there && holes.iter().all(|hole: &Hole| hole.file != Some(file))
            };
            let file = Some(head.previous).filter(|file| !head.is_front && is_free(*file));
            if i > 0 || file.is_some() {
                let counted = counted.map(|counted| head.before.saturating_sub(counted));
                holes.push(Hole {
                    segments: start..i,
                    file,
                    counted,
                    lost: 0,
                    to: head.first.saturating_sub(1),
                });
            }
            (counted, start) = (Some(head.before + head.gone), i);
        }
        counted = counted.map(|counted| counted + this.events);
    }
    let last = seen.last().map_or(0, |last| last.segment.first);
    let file = note.map(|note| note.segment).filter(|segment| *segment > last);
    let counted = note.and_then(|note| Some(note.total.saturating_sub(counted?)));
    holes.push(Hole {
        segments: start..seen.len(),
        file,
        counted,
        lost: 0,
        to: note.map_or(0, |note| note.last),
    });
    holes
}

/// How many events were written to the log so far, those included that are told of by a gap at its end.
pub(super) fn total(seen: &[Seen], holes: &[Hole], note: Option<Note>) -> u64 {
    let head = seen.iter().enumerate().rev().find_map(|(i, seen)| Some((i, seen.head?)));
    let lost = holes.last().map_or(0, |hole| hole.lost);
    match head {
        Some((i, head)) => {
            let events: u64 = seen.iter().skip(i).map(|seen| seen.events).sum();
            head.before + head.gone + events + lost
        }
        None => note.map_or(0, |note| note.total),
    }
}

pub(super) fn patiently<T>(read: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let mut result = read();
    for _ in 1..READS {
        if result.is_ok() {
            break;
        }
        std::thread::sleep(PAUSE);
        result = read();
    }
    result
}
