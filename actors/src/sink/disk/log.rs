//! The log behind one buffer: segments that grow at the end and go from the front, and marks of how far it has come.
//!
//! A segment is never appended to by a second process, nor after an error: what may be at its end then is skipped. Each
//! is named after the number of its first record; the order of the names is that of the records. Its head says which one
//! was before it, and how many events.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::{error, warn};

use super::super::policy::Fsync;
use super::files::Files;
use super::head::{self, HEAD, Head};
use super::marks::{self, Marks, Note};
use super::record::{Found, Record, Scan};
use super::recover::{self, Recovery};
use super::segment::{Recovered, Segment, events, file_name, keep_unread, mark_front, replace, set_aside};
use crate::event::Timestamp;

pub(crate) struct Log {
    name: Arc<str>,
    files: Arc<dyn Files>,
    segment_size: u64,
    fsync: Fsync,
    marks: Marks,
    /// As the marks say, or will say next.
    note: Note,
    /// The segment that is written to, and its good length.
    active: Option<Segment>,
    /// Since when something is written and not synced.
    unsynced: Option<Instant>,
    sync_folder: bool,
    /// Segments that are over, and still there; and the first of those that are not.
    over: Vec<u64>,
    front: Option<u64>,
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
        let (mut marks, found) = Marks::open(files.clone())?;
        let known_as_sent = found.sent;
        let recovery = Recovery { name: &name, files: &*files, marks: found, damaged: 0 };
        let recover::Opened { mut recovered, note } = recovery.run()?;
        // No number is ever used again: an old mark that a loss of power brings back must not speak of new records. Faster
        // than 256 records a microsecond nobody writes.
        let now = u64::try_from(Timestamp::now().as_micros()).unwrap_or(0) << 8;
        recovered.next = recovered.next.max(now);
        recovered.sent = recovered.sent.min(recovered.next);
        if recovered.sent > known_as_sent {
            marks::sent(&*files, recovered.sent);
        }
        // What fails now is tried again with the next note.
        let _ = marks.note(note).and_then(|()| marks.sync()).and_then(|()| files.sync_folder());
        let log = Log {
            name,
            files,
            segment_size,
            fsync,
            marks,
            note,
            active: None,
            unsynced: None,
            sync_folder: false,
            over: Vec::new(),
            front: None,
        };
        Ok((log, recovered))
    }

    /// Writes records at the end, whole or not at all, as durably as it is to be. Returns the segment that they went to.
    pub(crate) fn append(&mut self, records: &[Record], now: Instant) -> io::Result<Segment> {
        let size: usize = records.iter().map(Record::size).sum();
        let first = records.first().map_or(0, |record| record.number);
        if self.active.is_some_and(|active| active.size + size as u64 > self.segment_size) {
            self.seal();
        }
        // Room for a head in front, should it be a new segment.
        let mut bytes = Vec::with_capacity(HEAD + size);
        bytes.resize(HEAD, 0);
        records.iter().for_each(|record| record.write(&mut bytes));
        let old = self.active.is_some();
        let written = match self.write(first, &mut bytes, now) {
            // What became of pages that could not be synced nobody knows: that file is not touched again.
            // One that was taken away has its folder's other files to look for, see the caller.
            Err(error) if old && error.kind() != io::ErrorKind::NotFound => {
                warn!(sink = %self.name, %error, "a write to the buffer on disk failed; trying a new file");
                self.write(first, &mut bytes, now)
            }
            written => written,
        }?;
        self.note.segment = written.first;
        self.note.last = records.last().map_or(self.note.last, |record| record.number);
        self.note.total += events(records);
        Ok(written)
    }

    fn write(&mut self, first: u64, bytes: &mut [u8], now: Instant) -> io::Result<Segment> {
        let active = self.active.take();
        let mut segment = active.unwrap_or(Segment { first, size: 0 });
        let name = file_name(segment.first);
        let bytes = match active {
            Some(_) => bytes.get(HEAD..).unwrap_or_default(),
            None => {
                let Note { log, segment: previous, total: before, .. } = self.note;
                let head = Head { log, first, previous, before, gone: 0, is_front: false };
                bytes.iter_mut().zip(head.bytes()).for_each(|(byte, value)| *byte = value);
                bytes
            }
        };
        self.sync_folder |= active.is_none();
        let written = self.files.write(&name, segment.size, bytes).and_then(|()| {
            self.unsynced.get_or_insert(now);
            if self.fsync == Fsync::Group { self.sync_file(&name) } else { Ok(()) }
        });
        // What was removed while it is open takes all that is written to it, and keeps nothing.
        let end = segment.size + bytes.len() as u64;
        let written = written.and_then(|()| match self.files.size(&name) {
            Ok(size) if size >= end => Ok(()),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        });
        match written {
            Ok(()) => {
                segment.size += bytes.len() as u64;
                self.active = Some(segment);
                Ok(segment)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.files.forget_all();
                (self.unsynced, self.sync_folder) = (None, true);
                Err(error)
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

    /// Syncs what has waited for it long enough. Returns when to come again.
    pub(crate) fn sync_in_time(&mut self, now: Instant) -> Option<Instant> {
        let due = self.due()?;
        if due > now {
            return Some(due);
        }
        self.sync();
        None
    }

    /// Syncs what waits for it, however short a time.
    pub(crate) fn sync(&mut self) {
        let Some(active) = self.active.filter(|_| self.due().is_some()) else { return };
        if let Err(error) = self.sync_file(&file_name(active.first)) {
            error!(sink = %self.name, %error, "the buffer on disk cannot be synced: a loss of power would cost what it holds");
            (self.active, self.unsynced) = (None, None);
        }
    }

    /// When what is written is to be synced, if it is.
    fn due(&self) -> Option<Instant> {
        let since = self.unsynced?;
        match self.fsync {
            Fsync::Group => Some(since),
            Fsync::Every(interval) => Some(since + interval),
            Fsync::Never => None,
        }
    }

    /// Writes no more to the segment that is written to.
    pub(crate) fn seal(&mut self) {
        if let Fsync::Every(_) = self.fsync {
            self.sync();
        }
        (self.active, self.unsynced) = (None, None);
    }

    pub(crate) fn is_active(&self, first: u64) -> bool {
        self.active.is_some_and(|active| active.first == first)
    }

    /// The records of a segment.
    pub(crate) fn read(&self, first: u64) -> io::Result<Vec<Record>> {
        self.read_with_head(first).map(|(_, records)| records)
    }

    fn read_with_head(&self, first: u64) -> io::Result<(Option<Head>, Vec<Record>)> {
        let bytes = self.files.read(&file_name(first))?;
        let (head, records, offset) = head::split(&bytes);
        let records = Scan::new(records).filter_map(|found| match found {
            Found::Record(record) => Some(record),
            Found::Damaged(range) => {
                let at = offset + range.start;
                let damaged = bytes.get(at..offset + range.end).unwrap_or_default();
                set_aside(&self.name, &*self.files, first, at, damaged);
                None
            }
            Found::Torn(_) => None,
        });
        Ok((head, records.collect()))
    }

    /// Gives up a segment that cannot be read; its file stays, for whoever can.
    pub(crate) fn give_up(&mut self, first: u64, error: &io::Error) {
        keep_unread(&self.name, &*self.files, first, error);
    }

    /// Takes records out of a segment that is sealed; after a crash they are there or not. Before that the marks must not
    /// count on them any more.
    pub(crate) fn compact(
        &mut self,
        first: u64,
        without: impl FnOnce(Vec<Record>) -> Vec<Record>,
    ) -> io::Result<Segment> {
        let (head, records) = self.read_with_head(first)?;
        let before = events(&records);
        let kept = without(records);
        let gone = before.saturating_sub(events(&kept));
        let head = head.map(|head| Head { gone: head.gone + gone, ..head });
        replace(&*self.files, first, head.as_ref(), &kept)
    }

    /// Whether what was written to a segment is still there.
    pub(crate) fn has(&self, segment: Segment) -> bool {
        match self.files.size(&file_name(segment.first)) {
            Ok(size) => size >= segment.size,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// All of its segments have been taken away: it begins anew.
    pub(crate) fn begin_anew(&mut self) {
        self.files.forget_all();
        (self.active, self.unsynced, self.note.segment) = (None, None, 0);
        self.sync_folder = true;
    }

    /// Forgets segments whose records are all done; `front` is the first one that is left.
    pub(crate) fn remove(&mut self, gone: &[u64], front: Option<u64>) {
        if gone.iter().any(|first| self.is_active(*first)) {
            (self.active, self.unsynced) = (None, None);
        }
        if !gone.is_empty() {
            self.front = front;
            self.over.extend(gone);
        }
        if self.over.contains(&self.note.segment) {
            // The next one is the first again.
            self.note.segment = 0;
        }
    }

    /// Takes away the files of what is over. It is on disk before that they need not be there: in the head of the first
    /// that is left, or else in the marks.
    fn clear(&mut self) {
        if self.over.is_empty() {
            return;
        }
        let front = self.front.filter(|front| mark_front(&*self.files, *front, self.fsync).is_ok());
        if front.is_none() && self.marks.note(self.note).and_then(|()| self.sync_marks()).is_err() {
            return;
        }
        for first in std::mem::take(&mut self.over) {
            if let Err(error) = self.files.remove(&file_name(first))
                && error.kind() != io::ErrorKind::NotFound
            {
                warn!(sink = %self.name, segment = first, %error, "a part of the buffer on disk cannot be removed");
            }
        }
    }

    fn sync_marks(&self) -> io::Result<()> {
        if self.fsync == Fsync::Never { Ok(()) } else { self.marks.sync() }
    }

    /// Notes that everything before this number is done, and that so many events behind it are in the log. Lost, it costs
    /// repeats only.
    pub(crate) fn done(&mut self, done: u64, waiting: u64) -> io::Result<()> {
        (self.note.done, self.note.waiting) = (done, waiting);
        self.clear();
        self.marks.note(self.note)
    }

    /// The same, on disk.
    pub(crate) fn surely_done(&mut self, done: u64, waiting: u64) -> io::Result<()> {
        self.done(done, waiting)?;
        self.sync_marks()
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("name", &self.name).field("active", &self.active).finish_non_exhaustive()
    }
}
