//! One file of the log: its name, what is said of it, how it is written anew, and what is kept of one that is damaged.

use std::io;

use tracing::error;

use super::super::policy::Fsync;
use super::files::Files;
use super::head::{self, HEAD, Head};
use super::marks::mark;
use super::record::{Kind, Record};

pub(super) const SEGMENT: &str = ".log";
pub(super) const FRESH: &str = ".new";

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
    /// Events that should have been there and were not.
    pub(crate) missing: u64,
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
    pub(super) fn add(&mut self, record: &Record) {
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

/// Says in the head of a segment that everything before it is done, before what is there may go.
pub(super) fn mark_front(files: &dyn Files, first: u64, fsync: Fsync) -> io::Result<()> {
    let name = file_name(first);
    if Head::read(&files.read_start(&name, HEAD)?).is_none() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    files.write(&name, head::FRONT as u64, &mark(first))?;
    if fsync == Fsync::Never { Ok(()) } else { files.sync(&name) }
}

pub(super) fn file_name(first: u64) -> String {
    format!("{first:020}{SEGMENT}")
}

/// Writes a segment anew; after a crash there is the old one or the new one.
pub(super) fn replace(
    files: &dyn Files,
    first: u64,
    head: Option<&Head>,
    records: &[Record],
) -> io::Result<Segment> {
    let mut bytes = Vec::with_capacity(HEAD + records.iter().map(Record::size).sum::<usize>());
    bytes.extend(head.iter().flat_map(|head| head.bytes()));
    records.iter().for_each(|record| record.write(&mut bytes));
    let fresh = format!("{first:020}{FRESH}");
    let written = files.write(&fresh, 0, &bytes).and_then(|()| files.sync(&fresh));
    if let Err(error) = written {
        let _ = files.remove(&fresh);
        return Err(error);
    }
    files.rename(&fresh, &file_name(first))?;
    files.sync_folder()?;
    Ok(Segment { first, size: bytes.len() as u64 })
}

/// How many of them are events.
pub(super) fn events(records: &[Record]) -> u64 {
    records.iter().filter(|record| record.kind == Kind::Event).count() as u64
}

pub(super) fn keep_unread(sink: &str, files: &dyn Files, first: u64, error: &io::Error) {
    let file = format!("unread-{first:020}");
    let kept = files.rename(&file_name(first), &file).is_ok();
    error!(sink, file, kept, %error, "a part of the buffer on disk cannot be read; what is whole goes on");
}

/// Keeps bytes that are no record for whoever wants to look at them.
pub(super) fn set_aside(sink: &str, files: &dyn Files, segment: u64, at: usize, bytes: &[u8]) {
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
