//! The file sink: events as lines of JSON (NDJSON), appended to one file.
//!
//! Each batch is one write, without a buffer in between: what was delivered survives the end of the process, kill -9
//! included, but not a loss of power. The file is opened anew when it was moved or removed (`logrotate` with or without
//! `copytruncate`). A write that fails half-way is taken back, so a retry leaves no torn and no double line. Where that is
//! impossible (another process appends to the same file), the torn line is ended before the next one.
//!
//! The sink writes to a pipe, a terminal or a device as far as somebody reads there. When nobody reads for a second, the circuit
//! opens and the events wait. What a reader has left in a pipe when it ends is lost.
//!
//! Events hold prompts and answers: the file and the folders that are missing above it are made for their owner alone.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use streamll_actors::event::Event;
use streamll_actors::sink::{Deliveries, DeliveryError, Sink, SinkContext};

use super::flow::{self, Flow};
use crate::pipes::{Outlet, is_without_reader};
use crate::units::check_path;

/// Most bytes on their way into a pipe, give or take a line: what it holds by default on Linux.
const CHUNK: usize = 1 << 16;

/// What YAML says of a sink with `type: file`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileConfig {
    /// The file, made when it is missing (mode 0600), together with the folders above it (0700). Required.
    pub path: PathBuf,
}

impl FileConfig {
    /// Says what is wrong with `path`, as far as that can be known without looking at the disk.
    pub(crate) fn check(&self) -> Result<(), String> {
        check_path(&self.path).map_err(|why| format!("path: {why}"))
    }

    /// Makes the sink; the file is opened when the sink is.
    #[must_use]
    pub fn build(&self) -> FileSink {
        FileSink { path: self.path.clone(), target: None, lines: Vec::new(), is_torn: false, ctx: None }
    }
}

/// Appends events to a file. Writing blocks the thread, so the sink needs one of its own.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    /// None before the first open and after an error.
    target: Option<Target>,
    lines: Vec<u8>,
    /// The reader of a pipe has gone with half a line.
    is_torn: bool,
    /// Where the sink says that nobody reads.
    ctx: Option<SinkContext>,
}

/// What stands at the path.
#[derive(Debug)]
enum Target {
    /// A regular file: only that can be read, repaired and taken back.
    File(File),
    /// A pipe, a terminal, a device: written as far as somebody reads.
    Flow(Box<Flow>),
}

impl Target {
    fn file(&self) -> &File {
        match self {
            Target::File(file) => file,
            Target::Flow(flow) => flow.outlet().file(),
        }
    }
}

impl FileSink {
    /// Opens what is at the path now, unless that is open.
    fn take(&mut self) -> io::Result<Target> {
        // Taken out, so that an error leaves a file closed: opening it again looks at how its last line ended.
        match self.target.take() {
            Some(target) if still_at(&self.path, target.file()) => Ok(target),
            _ => open(&self.path),
        }
    }

    fn append(&mut self, mut file: File, batch: &Deliveries) -> io::Result<()> {
        self.lines.clear();
        batch.iter().for_each(|delivery| line(&delivery.event, &mut self.lines));
        append(&mut file, &self.lines)?;
        self.target = Some(Target::File(file));
        Ok(())
    }

    async fn pour(&mut self, batch: &mut Deliveries) -> io::Result<()> {
        let Some(Target::Flow(flow)) = &mut self.target else { return Ok(()) };
        if std::mem::take(&mut self.is_torn) && flow.outlet().holds_unread() {
            // Another reader is about to read the half of a line.
            let _ = flow.outlet().write(b"\n");
        }
        flow.cut();
        let patience = flow::patience(self.ctx.as_ref());
        let mut next = flow.resume(batch, patience).await?;
        while next < batch.len() {
            let first = next;
            for delivery in batch.as_slice().iter().skip(first) {
                flow.add(&delivery.event, |text| line(&delivery.event, text));
                next += 1;
                if flow.len() >= CHUNK {
                    break;
                }
            }
            flow.write(batch, first, patience).await?;
        }
        Ok(())
    }

    fn explain(&mut self, error: &io::Error) -> DeliveryError {
        let path = self.path.display();
        let Some(Target::Flow(flow)) = &mut self.target else { return explain(&self.path, error) };
        match error.kind() {
            ErrorKind::TimedOut => {
                let reason = format!("nobody reads `{path}`: it takes nothing");
                if let Some(ctx) = &self.ctx {
                    flow.block(ctx, &reason);
                }
                DeliveryError::overload(reason)
            }
            ErrorKind::BrokenPipe => {
                self.is_torn = flow.is_torn();
                self.target = None;
                DeliveryError::unavailable(format!("nobody reads `{path}` any more: its reader is gone"))
            }
            _ => explain(&self.path, error),
        }
    }
}

impl Sink for FileSink {
    async fn open(&mut self, ctx: &SinkContext) -> Result<(), DeliveryError> {
        self.ctx = Some(ctx.clone());
        self.target = Some(self.take().map_err(|error| explain(&self.path, &error))?);
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        let delivered = match self.take() {
            Ok(Target::File(file)) => self.append(file, batch),
            Ok(flow @ Target::Flow(_)) => {
                // Where it stays when the delivery is given up.
                self.target = Some(flow);
                self.pour(batch).await
            }
            Err(error) => Err(error),
        };
        delivered.map_err(|error| self.explain(&error))
    }
}

/// Adds one event.
fn line(event: &Event, lines: &mut Vec<u8>) {
    let from = lines.len();
    lines.extend_from_slice(event.json());
    // Data that came in over several lines is passed on as it came; in JSON a raw line break is only layout.
    lines.iter_mut().skip(from).filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
    lines.push(b'\n');
}

fn open(path: &Path) -> io::Result<Target> {
    // What is no regular file is opened for writing alone: a process that can also read a pipe is its own reader.
    if path.metadata().is_ok_and(|about| !about.is_file() && !about.is_dir()) {
        return Ok(Target::Flow(Box::new(Flow::new(outlet(path)?))));
    }
    if let Some(folder) = path.parent() {
        let mut folders = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut folders, 0o700);
        folders.recursive(true).create(folder)?;
    }
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.read(true).append(true).create(true).open(path)?;
    if ends_torn(&mut file)? {
        append(&mut file, b"\n")?;
    }
    Ok(Target::File(file))
}

/// A socket cannot be opened by its path; those that this process was started with can be written all the same.
fn outlet(path: &Path) -> io::Result<Outlet> {
    Outlet::open(path).or_else(|error| match path.to_str() {
        Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => Outlet::stdout(),
        Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => Outlet::stderr(),
        _ => Err(error),
    })
}

/// Whether the last line has no end: left by a crash, or by a write that failed and could not be taken back.
fn ends_torn(file: &mut File) -> io::Result<bool> {
    let about = file.metadata()?;
    if !about.is_file() || about.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Appends all of `lines`, or takes back what was written of them.
fn append(file: &mut File, lines: &[u8]) -> io::Result<()> {
    let before = file.metadata()?;
    let mut rest = lines;
    while !rest.is_empty() {
        let error = match file.write(rest) {
            Ok(0) => ErrorKind::WriteZero.into(),
            Ok(written) => {
                rest = rest.get(written..).unwrap_or_default();
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        let ours = before.len() + (lines.len() - rest.len()) as u64;
        if before.is_file() && file.metadata()?.len() == ours {
            file.set_len(before.len())?;
        }
        return Err(error);
    }
    Ok(())
}

/// Whether `path` still leads to `file`.
fn still_at(path: &Path, file: &File) -> bool {
    matches!((path.metadata(), file.metadata()), (Ok(there), Ok(here)) if identity(&there) == identity(&here))
}

#[cfg(unix)]
fn identity(about: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (about.dev(), about.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u64, u64) {
    (0, 0)
}

#[cfg(unix)]
fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.metadata().is_ok_and(|about| about.file_type().is_socket())
}

#[cfg(not(unix))]
fn is_socket(_: &Path) -> bool {
    false
}

fn explain(path: &Path, error: &io::Error) -> DeliveryError {
    if is_without_reader(error) {
        return match is_socket(path) {
            true => DeliveryError::misconfigured(format!(
                "`{}` is a socket, which cannot be opened as a file; `path` must name a file or a pipe",
                path.display()
            )),
            false => DeliveryError::unavailable(format!(
                "nobody reads `{}`: it is a pipe without a reader",
                path.display()
            )),
        };
    }
    let path = path.display();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            DeliveryError::overload(format!("no space left for `{path}`: {error}"))
        }
        ErrorKind::NotFound
        | ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::AlreadyExists
        | ErrorKind::InvalidFilename
        | ErrorKind::InvalidInput => DeliveryError::misconfigured(format!(
            "cannot append to `{path}`: {error}; `path` must name a file that this user may write"
        )),
        _ => DeliveryError::unavailable(format!("cannot append to `{path}`: {error}")),
    }
}
