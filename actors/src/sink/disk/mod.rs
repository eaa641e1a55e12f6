//! The disk behind a buffer: a thread that writes what came in, reads what the window has room for, and lets go of what
//! has left.

#[cfg(test)]
mod damage;
mod files;
mod head;
#[cfg(test)]
mod holes;
mod log;
mod marks;
mod mend;
#[cfg(test)]
mod model;
mod names;
#[cfg(test)]
mod power;
#[cfg(test)]
mod pressure;
mod record;
mod recover;
#[cfg(test)]
mod taken;

pub use files::FolderError;
pub(crate) use files::{Files, Folder, make};
pub use log::Fsync;
pub(super) use log::{Log, Recovered, Segment, Stored};
pub(super) use record::{HEADER, Kind, Record};

use std::fmt;
use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Buffer;
use super::backlog::{Reader, Shed, Work, segment_size};

/// How long to wait before a write that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often a segment is read that cannot be, before its events are given up.
const READS: u32 = 3;
/// How far behind the marks on disk may be, where nothing else is to be done.
const LAZY: Duration = Duration::from_millis(100);

/// A buffer's hold on its disk.
pub(crate) struct Disk {
    files: Arc<dyn Files>,
    /// Everything before this number was with the sink, as far as the disk knows.
    sent: AtomicU64,
    hand: Hand,
    closed: watch::Receiver<bool>,
}

/// What does the work.
enum Hand {
    Thread(OnceLock<Thread>),
    /// Whoever changes the buffer, at once: for tests that see the same every time.
    Caller(Box<Mutex<Worker>>),
}

/// What to do after one turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Again,
    /// When something changes, or at that moment.
    Wait(Option<Instant>),
    Ended,
}

/// Puts a buffer on a disk, behind what it finds there.
pub(crate) fn open(buffer: &Arc<Buffer>, path: &Path, with_thread: bool) -> Result<(), FolderError> {
    let (folder, lock) = Folder::open(path)?;
    let files: Arc<dyn Files> = Arc::new(folder);
    let (mut worker, recovered, closed) =
        Worker::open(buffer, files.clone()).map_err(|error| FolderError::unusable(path, &error))?;
    (worker.lock, worker.path) = (Some(lock), Some(path.to_owned()));
    let waiting: u64 = recovered.segments.iter().flat_map(|stored| stored.events).sum();
    let Recovered { damaged, missing, .. } = recovered;
    if waiting + damaged + missing > 0 {
        info!(sink = %buffer.name(), waiting, damaged, missing, "found events on disk");
    }
    let sent = AtomicU64::new(worker.sent);
    if !with_thread {
        let hand = Hand::Caller(Box::new(Mutex::new(worker)));
        buffer.put_on_disk(&recovered, Disk { files, sent, hand, closed });
        return Ok(());
    }
    buffer.put_on_disk(&recovered, Disk { files, sent, hand: Hand::Thread(OnceLock::new()), closed });
    let weak = Arc::downgrade(buffer);
    let run = move || {
        loop {
            let Some(buffer) = weak.upgrade() else { return };
            let next = worker.turn(&buffer, Instant::now());
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
    if let Some(Disk { hand: Hand::Thread(slot), .. }) = buffer.disk() {
        let _ = slot.set(thread.thread().clone());
        thread.thread().unpark();
    }
    Ok(())
}

impl Disk {
    /// Something has changed; where it is not urgent, the thread will see it soon enough.
    pub(super) fn wake(&self, buffer: &Buffer, urgent: bool) {
        match &self.hand {
            Hand::Thread(thread) => {
                if let Some(thread) = thread.get().filter(|_| urgent) {
                    thread.unpark();
                }
            }
            // Not from inside of its own work.
            Hand::Caller(worker) => {
                if let Ok(mut worker) = worker.try_lock() {
                    while worker.turn(buffer, Instant::now()) == Next::Again {}
                }
            }
        }
    }

    /// Everything before this number may be with the sink from now on.
    pub(super) fn sent(&self, number: u64) {
        if self.sent.fetch_max(number, Ordering::Relaxed) < number {
            marks::sent(&*self.files, number);
        }
    }

    /// Waits until nothing is left to be written, or nothing can be.
    pub(super) async fn closed(&self) {
        let mut closed = self.closed.clone();
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

/// The thread finds that its buffer is gone.
impl Drop for Disk {
    fn drop(&mut self) {
        if let Hand::Thread(thread) = &self.hand
            && let Some(thread) = thread.get()
        {
            thread.unpark();
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Does the work, a turn at a time.
pub(super) struct Worker {
    log: Log,
    reader: Reader,
    /// Records of an earlier process before this number may have been sent by it.
    sent: u64,
    /// The log was told that nothing can be written.
    told: bool,
    failed_reads: u32,
    /// Held for as long as nobody else may use the folder.
    lock: Option<File>,
    /// The folder, to be made again where it has been taken away.
    path: Option<PathBuf>,
    ended: watch::Sender<bool>,
}

impl Worker {
    pub(super) fn open(
        buffer: &Buffer,
        files: Arc<dyn Files>,
    ) -> std::io::Result<(Worker, Recovered, watch::Receiver<bool>)> {
        let policy = buffer.policy();
        let fsync = policy.disk.unwrap_or_default();
        let size = segment_size(policy.max_size) as u64;
        let (log, recovered) = Log::open(buffer.name().clone(), files, size, fsync)?;
        let (ended, closed) = watch::channel(false);
        let reader = Reader::new(buffer.name().clone());
        let sent = recovered.sent;
        Ok((
            Worker { log, reader, sent, told: false, failed_reads: 0, lock: None, path: None, ended },
            recovered,
            closed,
        ))
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
        if retry.is_none() && std::mem::take(&mut self.told) {
            warn!(sink = %buffer.name(), "nothing waits any more that the buffer on disk could not take");
        }
        // Where it fails the next one tells more.
        let _ = self.log.done(work.done, waiting);
        if work.ended && self.restore(buffer, true) {
            return Next::Again;
        }
        if work.ended || (work.closing && retry.is_some()) {
            self.log.sync(now, true);
            buffer.change(|backlog, _| backlog.abandon());
            self.lock = None;
            let _ = self.ended.send(true);
            return Next::Ended;
        }
        let sync = self.log.sync(now, false);
        let look = (!work.all_done).then(|| now + LAZY);
        match retry {
            None if !work.write.is_empty() => Next::Again,
            _ => Next::Wait(retry.into_iter().chain(sync).chain(look).min()),
        }
    }

    /// Looks whether what is said to be kept is there. Where all files have been taken away, what is in memory is to be
    /// written again, and what is not is lost and counted; returns whether there is something to write.
    fn restore(&mut self, buffer: &Buffer, is_end: bool) -> bool {
        let segments = buffer.change(|backlog, _| backlog.segments()).unwrap_or_default();
        let gone: Vec<u64> =
            segments.iter().filter(|segment| !self.log.has(**segment)).map(|segment| segment.first).collect();
        let is_all = gone.len() == segments.len();
        // Among segments that are there, what was before them cannot be written any more; until the end, the sink may still
        // get it from memory.
        if gone.is_empty() || !(is_all || is_end) {
            return false;
        }
        let (lost, again) = buffer.taken_away(&gone);
        error!(
            sink = %buffer.name(), files = gone.len(), lost, again,
            "files of the buffer on disk have been taken away or cut while it was in use"
        );
        if is_all {
            self.log.begin_anew();
            self.lock_again();
        }
        is_all && again > 0
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
        if written.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            self.lock_again();
            if self.restore(buffer, false) {
                return None;
            }
            written = self.log.append(&records, now);
        }
        match written {
            Ok(segment) => {
                buffer.change(|backlog, entries| backlog.written(last, segment, entries));
                None
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    warn!(sink = %buffer.name(), %error, "the buffer on disk cannot be written; events wait in memory");
                }
                let retry = now + RETRY;
                buffer.change(|backlog, _| backlog.not_written(error.to_string(), retry));
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
        buffer.loaded(first, read.collect(), self.sent);
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
            Ok(segment) => buffer.change(|backlog, _| backlog.rewritten(segment)),
            Err(error) => {
                warn!(sink = %buffer.name(), %error, "a part of the buffer on disk cannot be made smaller");
                buffer.change(|backlog, _| backlog.not_rewritten(first))
            }
        };
    }
}
