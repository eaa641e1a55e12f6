//! What works for a buffer on disk: writes what came in, reads what the window has room for, and lets go of what has left.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::super::backlog::{Loaded, Reader, Shed, TakenAway, Work, segment_size};
use super::super::buffer::Buffer;
use super::files::{Files, Folder, FolderError};
use super::handle::{Disk, Hand};
use super::log::Log;
use super::record::Record;
use super::segment::Recovered;

/// How long to wait before a write that failed is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(500);
/// How often a segment is read that cannot be, before its events are given up.
const READS: u32 = 3;
/// How far behind the marks on disk may be, where nothing else is to be done.
const LAZY: Duration = Duration::from_millis(100);

/// What to do after one turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Again,
    /// When something changes, or at that moment.
    Wait(Option<Instant>),
    Ended,
}

/// Puts a buffer on a disk, behind what it finds there. A thread of its own does the work.
pub(crate) fn open(buffer: &Arc<Buffer>, path: &Path) -> Result<(), FolderError> {
    let (mut writer, attached) = Writer::open_folder(buffer, path)?;
    let slot = Arc::new(OnceLock::new());
    buffer.put_on_disk(&attached.recovered, attached.disk(Hand::Thread(slot.clone())));
    let weak = Arc::downgrade(buffer);
    let run = move || {
        loop {
            let Some(buffer) = weak.upgrade() else { return };
            let next = writer.turn(&buffer, Instant::now());
            drop(buffer);
            match next {
                Next::Again => {}
                Next::Wait(None) => thread::park(),
                Next::Wait(Some(until)) => {
                    thread::park_timeout(until.saturating_duration_since(Instant::now()))
                }
                Next::Ended => return,
            }
        }
    };
    let thread = thread::Builder::new().name(format!("disk-{}", buffer.name())).spawn(run);
    let thread = thread.map_err(|error| FolderError::unusable(path, &error))?;
    let _ = slot.set(thread.thread().clone());
    thread.thread().unpark();
    Ok(())
}

/// The same without a thread: whoever changes the buffer does the work, at once.
pub(crate) fn open_inline(buffer: &Arc<Buffer>, path: &Path) -> Result<(), FolderError> {
    let (writer, attached) = Writer::open_folder(buffer, path)?;
    let (weak, writer) = (Arc::downgrade(buffer), Mutex::new(writer));
    let work = move || {
        // Not from inside of its own work.
        if let Some(buffer) = weak.upgrade()
            && let Ok(mut writer) = writer.try_lock()
        {
            while writer.turn(&buffer, Instant::now()) == Next::Again {}
        }
    };
    buffer.put_on_disk(&attached.recovered, attached.disk(Hand::Caller(Box::new(work))));
    Ok(())
}

/// What a writer has found, and how to reach it.
pub(super) struct Attached {
    pub(super) recovered: Recovered,
    files: Arc<dyn Files>,
    closed: watch::Receiver<bool>,
}

impl Attached {
    pub(super) fn disk(&self, hand: Hand) -> Disk {
        let sent = AtomicU64::new(self.recovered.sent);
        Disk { files: self.files.clone(), sent, hand, closed: self.closed.clone() }
    }
}

/// Segments whose files are not there any more.
struct Gone {
    firsts: Vec<u64>,
    /// And no others are.
    is_all: bool,
}

/// Does the work, a turn at a time.
pub(super) struct Writer {
    log: Log,
    reader: Reader,
    /// Records of an earlier process before this number may have been sent by it.
    sent: u64,
    /// The log says that nothing can be written.
    has_warned: bool,
    failed_reads: u32,
    /// Held for as long as nobody else may use the folder.
    lock: Option<File>,
    /// The folder, to be made again where it has been taken away.
    path: Option<PathBuf>,
    ended: watch::Sender<bool>,
}

impl Writer {
    fn open_folder(buffer: &Buffer, path: &Path) -> Result<(Writer, Attached), FolderError> {
        let (folder, lock) = Folder::open(path)?;
        let (mut writer, attached) =
            Writer::open(buffer, Arc::new(folder)).map_err(|error| FolderError::unusable(path, &error))?;
        (writer.lock, writer.path) = (Some(lock), Some(path.to_owned()));
        let Recovered { segments, damaged, missing, .. } = &attached.recovered;
        let waiting: u64 = segments.iter().flat_map(|stored| stored.events).sum();
        if waiting + damaged + missing > 0 {
            info!(sink = %buffer.name(), waiting, damaged, missing, "found events on disk");
        }
        Ok((writer, attached))
    }

    pub(super) fn open(buffer: &Buffer, files: Arc<dyn Files>) -> io::Result<(Writer, Attached)> {
        let policy = buffer.policy();
        let fsync = policy.disk.unwrap_or_default();
        let size = segment_size(policy.max_size) as u64;
        let (log, recovered) = Log::open(buffer.name().clone(), files.clone(), size, fsync)?;
        let (ended, closed) = watch::channel(false);
        let writer = Writer {
            log,
            reader: Reader::new(buffer.name().clone()),
            sent: recovered.sent,
            has_warned: false,
            failed_reads: 0,
            lock: None,
            path: None,
            ended,
        };
        Ok((writer, Attached { recovered, files, closed }))
    }

    pub(super) fn turn(&mut self, buffer: &Buffer, now: Instant) -> Next {
        if *self.ended.borrow() {
            return Next::Ended;
        }
        let work = buffer.work();
        self.log.remove(&work.remove, work.front);
        if let Some((first, shed)) = &work.compact {
            self.compact(buffer, *first, shed, &work);
            return Next::Again;
        }
        // Before anything is written: that may add to the same segment.
        if let Some((first, numbers)) = work.load {
            return self.load(buffer, first, &numbers);
        }
        let (mut retry, mut waiting) = (work.retry, work.waiting);
        // At the end once more, however short ago the last write failed.
        if !work.write.is_empty() && (work.closing || retry.is_none_or(|at| at <= now)) {
            retry = self.write(buffer, &work, now);
            waiting += if retry.is_none() { work.events() } else { 0 };
        }
        if retry.is_none() && std::mem::take(&mut self.has_warned) {
            warn!(sink = %buffer.name(), "nothing waits any more that the buffer on disk could not take");
        }
        // Where it fails the next one tells more.
        let _ = self.log.done(work.done, waiting);
        if work.ended {
            let gone = self.look_for_gone(buffer);
            if self.restore(buffer, &gone) {
                return Next::Again;
            }
        }
        if work.ended || (work.closing && retry.is_some()) {
            self.log.sync();
            buffer.change_backlog(|backlog, _, _| backlog.abandon());
            self.lock = None;
            let _ = self.ended.send(true);
            return Next::Ended;
        }
        let sync = self.log.sync_in_time(now);
        let look = (!work.all_done).then(|| now + LAZY);
        match retry {
            None if !work.write.is_empty() => Next::Again,
            _ => Next::Wait(retry.into_iter().chain(sync).chain(look).min()),
        }
    }

    /// Looks whether what is said to be kept is there.
    fn look_for_gone(&self, buffer: &Buffer) -> Gone {
        let segments = buffer.change_backlog(|backlog, _, _| backlog.segments()).unwrap_or_default();
        let gone = segments.iter().filter(|segment| !self.log.has(**segment)).map(|segment| segment.first);
        let firsts: Vec<u64> = gone.collect();
        Gone { is_all: firsts.len() == segments.len(), firsts }
    }

    /// What was there alone is lost, and counted. Where all files are gone, what is in memory is to be written again; returns
    /// whether there is something to write.
    fn restore(&mut self, buffer: &Buffer, gone: &Gone) -> bool {
        if gone.firsts.is_empty() {
            return false;
        }
        let taken = buffer.change_backlog(|backlog, window, counts| {
            backlog.taken_away(&gone.firsts, window, counts, Instant::now())
        });
        let TakenAway { lost, again } = taken.unwrap_or_default();
        error!(
            sink = %buffer.name(), files = gone.firsts.len(), lost, again,
            "files of the buffer on disk have been taken away or cut while it was in use"
        );
        if gone.is_all {
            self.log.begin_anew();
            self.lock_again();
        }
        gone.is_all && again > 0
    }

    fn lock_again(&mut self) {
        if let Some(Ok((_, lock))) = self.path.as_deref().map(Folder::open) {
            self.lock = Some(lock);
        }
    }

    /// Returns when to try again, where it fails.
    fn write(&mut self, buffer: &Buffer, work: &Work, now: Instant) -> Option<Instant> {
        let records: Vec<Record> = work.write.iter().map(|item| item.record()).collect();
        let last = records.last().map(|record| record.number)?;
        let mut written = self.log.append(&records, now);
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.lock_again();
            // Among segments that are there, what was before them cannot be written any more; until the end, the sink may
            // still get it from memory.
            let gone = self.look_for_gone(buffer);
            if gone.is_all && self.restore(buffer, &gone) {
                return None;
            }
            written = self.log.append(&records, now);
        }
        match written {
            Ok(segment) => {
                buffer.change_backlog(|backlog, window, _| backlog.written(last, segment, window));
                None
            }
            Err(error) => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    warn!(sink = %buffer.name(), %error, "the buffer on disk cannot be written; events wait in memory");
                }
                let retry = now + RETRY;
                buffer.change_backlog(|backlog, _, _| backlog.not_written(error.to_string(), retry));
                Some(retry)
            }
        }
    }

    fn load(&mut self, buffer: &Buffer, first: u64, numbers: &RangeInclusive<u64>) -> Next {
        if self.log.is_active(first) {
            self.log.seal();
        }
        let records = match self.log.read(first) {
            Err(error) if self.failed_reads < READS => {
                warn!(sink = %buffer.name(), %error, "the buffer on disk cannot be read; trying again");
                self.failed_reads += 1;
                return Next::Wait(Some(Instant::now() + LAZY));
            }
            Err(error) => {
                self.log.give_up(first, &error);
                Vec::new()
            }
            Ok(records) => records,
        };
        self.failed_reads = 0;
        let records = records.into_iter().filter(|record| numbers.contains(&record.number));
        // Outside of the buffer's lock: the router must not wait for it.
        let read = records.map(|record| {
            let read = self.reader.read(&record);
            (record, read)
        });
        let loaded = Loaded { first, records: read.collect(), sent: self.sent };
        buffer.change_backlog(|backlog, window, counts| {
            backlog.loaded(loaded, window, counts, Instant::now());
        });
        Next::Again
    }

    fn compact(&mut self, buffer: &Buffer, first: u64, shed: &[Shed], work: &Work) {
        if self.log.is_active(first) {
            self.log.seal();
        }
        // What was shed is not counted on any more, before it goes.
        let noted = self.log.surely_done(work.done, work.waiting);
        let reader = &mut self.reader;
        let rewritten = noted.and_then(|()| self.log.compact(first, |records| reader.without(records, shed)));
        match rewritten {
            Ok(segment) => buffer.change_backlog(|backlog, _, _| backlog.rewritten(segment)),
            Err(error) => {
                warn!(sink = %buffer.name(), %error, "a part of the buffer on disk cannot be made smaller");
                buffer.change_backlog(|backlog, _, _| backlog.not_rewritten(first))
            }
        };
    }
}
