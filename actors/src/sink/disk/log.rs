//! The log behind one buffer: segments that grow at the end and go from the front, and marks of how far it has come.
//!
//! A segment is never appended to by a second process, nor after an error: what may be at its end then is skipped. Each
//! is named after the number of its first record; the order of the names is that of the records.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{error, warn};

use super::files::Files;
use super::record::{Found, Kind, Record, Scan};
use crate::event::Timestamp;

const SEGMENT: &str = ".log";
const FRESH: &str = ".new";
const MARKS: &str = "marks";
/// Two places for the mark of what is done, so that one is whole whatever happens, and one for what was ever sent.
const DONE: [u64; 2] = [0, 16];
const SENT: u64 = 32;
const MARK: usize = 16;

/// When what was written is made to survive a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// Before it counts as held: with each write, for all that gathered meanwhile.
    #[default]
    Group,
    /// So often; a loss of power costs as much.
    Every(Duration),
    /// When the system likes to.
    Never,
}

/// What a log held when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Its segments that have records which are not done.
    pub(crate) segments: Vec<Stored>,
    /// The number of the next record.
    pub(crate) next: u64,
    /// Records before this number may have been sent.
    pub(crate) sent: u64,
    /// Places that could not be read.
    pub(crate) damaged: u64,
}

/// What of a segment is not done: no more than numbers, since a log may be larger than memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stored {
    pub(crate) segment: Segment,
    pub(crate) from: u64,
    pub(crate) last: u64,
    /// Events by class, and the bytes of their JSON.
    pub(crate) events: [u64; 3],
    pub(crate) bytes: [u64; 3],
    /// Gaps and alerts, and the alerts alone.
    pub(crate) notices: u64,
    pub(crate) alerts: u64,
}

impl Stored {
    fn add(&mut self, record: &Record) {
        if self.events.iter().sum::<u64>() + self.notices == 0 {
            self.from = record.number;
        }
        self.last = record.number;
        if record.kind != Kind::Event {
            self.notices += 1;
            self.alerts += u64::from(record.kind == Kind::Notice);
        } else if let (Some(events), Some(bytes)) =
            (self.events.get_mut(record.class as usize), self.bytes.get_mut(record.class as usize))
        {
            *events += 1;
            *bytes += record.json.len() as u64;
        }
    }
}

/// One file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    /// Its size in bytes.
    pub(crate) size: u64,
}

pub(crate) struct Log {
    name: Arc<str>,
    files: Arc<dyn Files>,
    segment_size: u64,
    fsync: Fsync,
    /// The segment that is written to, and its good length.
    active: Option<Segment>,
    /// Since when something is written and not synced.
    unsynced: Option<Instant>,
    done: u64,
    /// Which of its two places the mark is written to next.
    place: usize,
    sync_folder: bool,
}

impl Log {
    /// Reads what there is. Damage costs what is damaged, and is kept aside; only a folder that cannot be read at all is
    /// an error.
    pub(crate) fn open(
        name: Arc<str>,
        files: Arc<dyn Files>,
        segment_size: u64,
        fsync: Fsync,
    ) -> io::Result<(Log, Recovered)> {
        reserve_marks(&*files)?;
        let (done, sent, damaged_marks) = marks(&*files);
        let mut names: Vec<_> = files.list()?;
        names.sort();
        let mut recovered = Recovered { next: done, sent, ..Recovered::default() };
        for name in names.iter().filter(|name| name.ends_with(FRESH)) {
            let _ = files.remove(name);
        }
        let firsts: Vec<u64> =
            names.iter().filter_map(|name| name.strip_suffix(SEGMENT)?.parse().ok()).collect();
        for (i, first) in firsts.iter().enumerate() {
            if firsts.get(i + 1).is_some_and(|next| *next <= done) {
                let _ = files.remove(&file_name(*first));
                continue;
            }
            let bytes = match read_patiently(&*files, &file_name(*first)) {
                Ok(bytes) => bytes,
                Err(error) => {
                    recovered.damaged += 1;
                    keep_unread(&name, &*files, *first, &error);
                    continue;
                }
            };
            let segment = Segment { first: *first, size: bytes.len() as u64 };
            let mut stored = Stored { segment, ..Stored::default() };
            for found in Scan::new(bytes.clone()) {
                match found {
                    // What was written a second time after an error stands in two segments.
                    Found::Record(record) if record.number < recovered.next => {}
                    Found::Record(record) => {
                        recovered.next = record.number + 1;
                        stored.add(&record);
                    }
                    Found::Damaged(range) => {
                        recovered.damaged += 1;
                        set_aside(&name, &*files, *first, range.start, bytes.get(range).unwrap_or_default());
                    }
                    Found::Torn(range) => warn!(
                        sink = %name, segment = first, bytes = range.len(),
                        "the buffer on disk ends with half a record, which was never confirmed"
                    ),
                }
            }
            match stored.events.iter().sum::<u64>() + stored.notices {
                0 => {
                    let _ = files.remove(&file_name(*first));
                }
                _ => recovered.segments.push(stored),
            }
        }
        // No number is ever used again: an old mark that a loss of power brings back must not speak of new records. Faster
        // than 256 records a microsecond nobody writes.
        let now = u64::try_from(Timestamp::now().as_micros()).unwrap_or(0) << 8;
        recovered.next = recovered.next.max(now);
        if damaged_marks {
            // Rather told twice than told wrongly.
            recovered.sent = u64::MAX;
        }
        Ok((
            Log {
                name,
                files,
                segment_size,
                fsync,
                active: None,
                unsynced: None,
                done,
                place: 0,
                sync_folder: false,
            },
            recovered,
        ))
    }

    /// Writes records at the end, whole or not at all, as durably as it is to be. Returns the segment that they went to.
    pub(crate) fn append(&mut self, records: &[Record], now: Instant) -> io::Result<Segment> {
        let mut bytes = Vec::with_capacity(records.iter().map(Record::size).sum());
        records.iter().for_each(|record| record.write(&mut bytes));
        let first = records.first().map_or(0, |record| record.number);
        if self.active.is_some_and(|active| active.size + bytes.len() as u64 > self.segment_size) {
            self.seal();
        }
        let old = self.active.is_some();
        match self.write(first, &bytes, now) {
            // What became of pages that could not be synced nobody knows: that file is not touched again.
            Err(error) if old => {
                warn!(sink = %self.name, %error, "a write to the buffer on disk failed; trying a new file");
                self.write(first, &bytes, now)
            }
            written => written,
        }
    }

    fn write(&mut self, first: u64, bytes: &[u8], now: Instant) -> io::Result<Segment> {
        let active = self.active.take();
        let mut segment = active.unwrap_or(Segment { first, size: 0 });
        let name = file_name(segment.first);
        self.sync_folder |= active.is_none();
        let written = self.files.write(&name, segment.size, bytes).and_then(|()| {
            self.unsynced.get_or_insert(now);
            if self.fsync == Fsync::Group { self.sync_file(&name) } else { Ok(()) }
        });
        match written {
            Ok(()) => {
                segment.size += bytes.len() as u64;
                self.active = Some(segment);
                Ok(segment)
            }
            Err(error) => {
                let _ = match active {
                    Some(segment) => self.files.cut(&name, segment.size),
                    None => self.files.remove(&name),
                };
                // What was written before is still to survive.
                if self.unsynced.take().is_some() && active.is_some() {
                    let _ = self.files.sync(&name);
                }
                Err(error)
            }
        }
    }

    fn sync_file(&mut self, name: &str) -> io::Result<()> {
        self.files.sync(name)?;
        if std::mem::take(&mut self.sync_folder)
            && let Err(error) = self.files.sync_folder()
        {
            self.sync_folder = true;
            return Err(error);
        }
        self.unsynced = None;
        Ok(())
    }

    /// Syncs what has waited for it long enough, or `now` whatever waits. Returns when to come again.
    pub(crate) fn sync(&mut self, now: Instant, whatever: bool) -> Option<Instant> {
        let since = self.unsynced?;
        let due = match self.fsync {
            Fsync::Group => since,
            Fsync::Every(interval) => since + interval,
            Fsync::Never => return None,
        };
        if due > now && !whatever {
            return Some(due);
        }
        let name = file_name(self.active?.first);
        if let Err(error) = self.sync_file(&name) {
            error!(sink = %self.name, %error, "the buffer on disk cannot be synced: a loss of power would cost what it holds");
            (self.active, self.unsynced) = (None, None);
        }
        None
    }

    /// Writes no more to the segment that is written to.
    pub(crate) fn seal(&mut self) {
        if let Fsync::Every(_) = self.fsync {
            self.sync(Instant::now(), true);
        }
        (self.active, self.unsynced) = (None, None);
    }

    pub(crate) fn is_active(&self, first: u64) -> bool {
        self.active.is_some_and(|active| active.first == first)
    }

    /// The records of a segment.
    pub(crate) fn read(&self, first: u64) -> io::Result<Vec<Record>> {
        let bytes = self.files.read(&file_name(first))?;
        let records = Scan::new(bytes.clone()).filter_map(|found| match found {
            Found::Record(record) => Some(record),
            Found::Damaged(range) => {
                set_aside(&self.name, &*self.files, first, range.start, bytes.get(range).unwrap_or_default());
                None
            }
            Found::Torn(_) => None,
        });
        Ok(records.collect())
    }

    /// Gives up a segment that cannot be read; its file stays, for whoever can.
    pub(crate) fn give_up(&mut self, first: u64, error: &io::Error) {
        keep_unread(&self.name, &*self.files, first, error);
    }

    /// Puts other records in the place of a segment that is sealed; after a crash there are the ones or the others.
    pub(crate) fn rewrite(&mut self, first: u64, records: &[Record]) -> io::Result<Segment> {
        let mut bytes = Vec::with_capacity(records.iter().map(Record::size).sum());
        records.iter().for_each(|record| record.write(&mut bytes));
        let fresh = format!("{first:020}{FRESH}");
        let written = self.files.write(&fresh, 0, &bytes).and_then(|()| self.files.sync(&fresh));
        if let Err(error) = written {
            let _ = self.files.remove(&fresh);
            return Err(error);
        }
        self.files.rename(&fresh, &file_name(first))?;
        self.files.sync_folder()?;
        Ok(Segment { first, size: bytes.len() as u64 })
    }

    /// Forgets a segment whose records are all done.
    pub(crate) fn remove(&mut self, first: u64) {
        if self.is_active(first) {
            (self.active, self.unsynced) = (None, None);
        }
        if let Err(error) = self.files.remove(&file_name(first))
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(sink = %self.name, segment = first, %error, "a part of the buffer on disk cannot be removed");
        }
    }

    /// Notes that everything before this number is done. Lost, it costs repeats only.
    pub(crate) fn done(&mut self, number: u64) {
        if number != self.done
            && let Some(place) = DONE.get(self.place)
            && self.files.write(MARKS, *place, &mark(number)).is_ok()
        {
            (self.done, self.place) = (number, 1 - self.place);
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("name", &self.name).field("active", &self.active).finish_non_exhaustive()
    }
}

/// Notes that everything before this number may be with the sink from now on. In the page cache: it survives the process,
/// and after a loss of power a repeat may not be marked.
pub(crate) fn sent(files: &dyn Files, number: u64) {
    // Where this fails, repeats after a crash are not marked; whoever writes the log tells of the disk.
    let _ = files.write(MARKS, SENT, &mark(number));
}

/// Gives the marks their room, so that no disk is too full for them. What is there stays.
fn reserve_marks(files: &dyn Files) -> io::Result<()> {
    let there = files.read(MARKS).map_or(0, |bytes| bytes.len());
    let missing = (SENT as usize + MARK).saturating_sub(there);
    if missing == 0 { Ok(()) } else { files.write(MARKS, there as u64, &vec![0; missing]) }
}

/// What is done, what may have been sent, and whether the latter is unreadable.
fn marks(files: &dyn Files) -> (u64, u64, bool) {
    let Ok(bytes) = files.read(MARKS) else { return (0, 0, false) };
    let read = |at: u64| {
        let at = usize::try_from(at).ok()?;
        let (number, sum) = bytes.get(at..at + MARK)?.split_at_checked(8)?;
        let number: [u8; 8] = number.try_into().ok()?;
        (mark(u64::from_le_bytes(number)).get(8..)? == sum).then_some(u64::from_le_bytes(number))
    };
    let done = DONE.iter().filter_map(|place| read(*place)).max().unwrap_or(0);
    let unwritten = bytes.get(SENT as usize..).is_none_or(|rest| rest.iter().all(|byte| *byte == 0));
    let sent = read(SENT);
    (done, sent.unwrap_or(0), sent.is_none() && !unwritten)
}

fn mark(number: u64) -> [u8; MARK] {
    let mut bytes = [0; MARK];
    let number = number.to_le_bytes();
    let sum = u64::from(crc32fast::hash(&number)) | 1 << 32;
    let (left, right) = bytes.split_at_mut(8);
    left.copy_from_slice(&number);
    right.copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn file_name(first: u64) -> String {
    format!("{first:020}{SEGMENT}")
}

/// How often a file is read that cannot be, before it is given up, and how long that is put off.
const READS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(50);

fn read_patiently(files: &dyn Files, name: &str) -> io::Result<Bytes> {
    let mut read = files.read(name);
    for _ in 1..READS {
        if read.is_ok() {
            break;
        }
        std::thread::sleep(PAUSE);
        read = files.read(name);
    }
    read
}

fn keep_unread(sink: &str, files: &dyn Files, first: u64, error: &io::Error) {
    let file = format!("unread-{first:020}");
    let kept = files.rename(&file_name(first), &file).is_ok();
    error!(sink, file, kept, %error, "a part of the buffer on disk cannot be read; what is whole goes on");
}

/// Keeps bytes that are no record for whoever wants to look at them.
fn set_aside(sink: &str, files: &dyn Files, segment: u64, at: usize, bytes: &[u8]) {
    let name = format!("damaged-{segment}-{at}");
    let kept = files.write(&name, 0, bytes);
    error!(
        sink,
        file = name,
        bytes = bytes.len(),
        kept = kept.is_ok(),
        "a part of the buffer on disk is damaged; what is whole goes on"
    );
}
