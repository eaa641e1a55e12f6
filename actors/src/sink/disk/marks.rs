//! How far a log has come: what is done, what was ever sent, and what is to be found in it at the next start.
//!
//! Written in place into one small file that has its room from the beginning, so that no disk is too full for it.

use std::io;
use std::sync::Arc;

use super::files::Files;

const MARKS: &str = "marks";
/// Where logs without heads have what is done, twice.
const DONE: [u64; 2] = [0, 16];
const SENT: u64 = 32;
/// Two places for a note, so that one is whole whatever happens.
const NOTES: [u64; 2] = [64, 128];
const NOTE: usize = 64;
const SIZE: usize = 192;

/// A number and its checksum.
pub(super) const MARK: usize = 16;

/// What a log says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Note {
    /// Everything before this number is done.
    pub(super) done: u64,
    /// Names the log.
    pub(super) log: u64,
    /// The segment that was written last; zero where there is none any more.
    pub(super) segment: u64,
    /// The number of the record that was written last.
    pub(super) last: u64,
    /// How many events were ever written to the log.
    pub(super) total: u64,
    /// How many of them are in it that are not done.
    pub(super) waiting: u64,
}

/// The marks of one log, as they are written.
pub(super) struct Marks {
    files: Arc<dyn Files>,
    noted: Note,
    /// Tells which of two notes is the later one.
    turn: u64,
}

/// What was found.
pub(super) struct Found {
    /// The latest note that is whole.
    pub(super) note: Option<Note>,
    /// What is done, where there is no note.
    pub(super) done: u64,
    /// What may have been sent; everything, where that cannot be read.
    pub(super) sent: u64,
}

impl Marks {
    /// Gives the marks their room where they have none, and reads them.
    pub(super) fn open(files: Arc<dyn Files>) -> io::Result<(Marks, Found)> {
        let bytes = files.read(MARKS).unwrap_or_default();
        if bytes.len() < SIZE {
            files.write(MARKS, bytes.len() as u64, &vec![0; SIZE - bytes.len()])?;
        }
        let read = |at: u64| {
            let bytes = bytes.get(usize::try_from(at).ok()?..)?.first_chunk::<MARK>()?;
            let number = u64::from_le_bytes(*bytes.first_chunk()?);
            (mark(number) == *bytes).then_some(number)
        };
        let done = DONE.iter().filter_map(|place| read(*place)).max().unwrap_or(0);
        let unwritten = bytes.iter().skip(SENT as usize).take(MARK).all(|byte| *byte == 0);
        // Rather marked as a repeat without need than not marked.
        let sent = read(SENT).unwrap_or(if unwritten { 0 } else { u64::MAX });
        let notes = NOTES.iter().filter_map(|place| read_note(bytes.get(usize::try_from(*place).ok()?..)?));
        let latest = notes.max_by_key(|(turn, _)| *turn);
        let turn = latest.map_or(0, |(turn, _)| turn);
        let marks = Marks { files, noted: Note::default(), turn };
        Ok((marks, Found { note: latest.map(|(_, note)| note), done, sent }))
    }

    /// Writes a note, if it is another one than the last. In the page cache: it survives the process. Lost, it costs
    /// repeats only.
    pub(super) fn note(&mut self, note: Note) -> io::Result<()> {
        if note == self.noted {
            return Ok(());
        }
        let turn = self.turn + 1;
        let place = NOTES.get(usize::from(turn.is_multiple_of(2))).copied().unwrap_or_default();
        self.files.write(MARKS, place, &note_bytes(turn, &note))?;
        (self.turn, self.noted) = (turn, note);
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.files.sync(MARKS)
    }
}

fn note_bytes(turn: u64, note: &Note) -> [u8; NOTE] {
    let mut bytes = [0; NOTE];
    let fields = [turn, note.done, note.log, note.segment, note.last, note.total, note.waiting];
    let fields = fields.into_iter().flat_map(u64::to_le_bytes);
    bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
    let sum = sum(bytes.get(..NOTE - 8).unwrap_or_default()).to_le_bytes();
    bytes.iter_mut().skip(NOTE - 8).zip(sum).for_each(|(byte, value)| *byte = value);
    bytes
}

fn read_note(bytes: &[u8]) -> Option<(u64, Note)> {
    let field = |i: usize| bytes.get(8 * i..)?.first_chunk().copied().map(u64::from_le_bytes);
    let turn = field(0)?;
    let note = Note {
        done: field(1)?,
        log: field(2)?,
        segment: field(3)?,
        last: field(4)?,
        total: field(5)?,
        waiting: field(6)?,
    };
    (note_bytes(turn, &note) == bytes.get(..NOTE)?).then_some((turn, note))
}

/// Notes that everything before this number may be with the sink from now on. In the page cache: it survives the process,
/// and after a loss of power a repeat may not be marked.
pub(super) fn sent(files: &dyn Files, number: u64) {
    // Where this fails, repeats after a crash are not marked; whoever writes the log tells of the disk.
    let _ = files.write(MARKS, SENT, &mark(number));
}

/// A number with its checksum.
pub(super) fn mark(number: u64) -> [u8; MARK] {
    let mut bytes = [0; MARK];
    let number = number.to_le_bytes();
    let sum = sum(&number).to_le_bytes();
    bytes.iter_mut().zip(number.into_iter().chain(sum)).for_each(|(byte, value)| *byte = value);
    bytes
}

/// Never zero: what was never written is no mark.
fn sum(bytes: &[u8]) -> u64 {
    u64::from(crc32fast::hash(bytes)) | 1 << 32
}
