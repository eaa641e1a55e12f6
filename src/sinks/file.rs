//! The file sink: events as lines of JSON (NDJSON), appended to one file.
//!
//! Each batch is one write, without a buffer in between: what was delivered survives the end of the process, kill -9
//! included, but not a loss of power. The file is opened anew when it was moved or removed (`logrotate` with or without
//! `copytruncate`). A write that fails half-way is taken back, so a retry leaves no torn and no double line; where that
//! is impossible (another process appends to the same file), the torn line is ended before the next one.
//!
//! Events hold prompts and answers: the file and the folders that are missing above it are made for their owner alone.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use streamll_actors::sink::{Deliveries, DeliveryError, Sink, SinkContext};

use crate::units::check_path;

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
        FileSink { path: self.path.clone(), file: None, lines: Vec::new() }
    }
}

/// Appends events to a file. Blocks its thread while it writes, so it wants one of its own.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    /// None before the first open and after an error.
    file: Option<File>,
    lines: Vec<u8>,
}

impl FileSink {
    fn append(&mut self) -> io::Result<()> {
        // Taken out, so that an error leaves it closed: opening it again looks at how its last line ended.
        let mut file = match self.file.take() {
            Some(file) if still_at(&self.path, &file) => file,
            _ => open(&self.path)?,
        };
        append(&mut file, &self.lines)?;
        self.file = Some(file);
        Ok(())
    }
}

impl Sink for FileSink {
    async fn open(&mut self, _: &SinkContext) -> Result<(), DeliveryError> {
        self.file = Some(open(&self.path).map_err(|error| explain(&self.path, &error))?);
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        self.lines.clear();
        for delivery in batch.iter() {
            let from = self.lines.len();
            self.lines.extend_from_slice(delivery.event.json());
            // Data that came in over several lines is passed on as it came; in JSON a raw line break is only layout.
            self.lines.iter_mut().skip(from).filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
            self.lines.push(b'\n');
        }
        self.append().map_err(|error| explain(&self.path, &error))
    }
}

fn open(path: &Path) -> io::Result<File> {
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
    Ok(file)
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

fn explain(path: &Path, error: &io::Error) -> DeliveryError {
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
            "cannot append to `{path}`: {error}; `path` must name a file of ours"
        )),
        _ => DeliveryError::unavailable(format!("cannot append to `{path}`: {error}")),
    }
}
