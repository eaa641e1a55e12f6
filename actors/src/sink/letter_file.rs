//! A file of dead letters, one JSON object a line: for its owner only, bounded, and shared with other processes.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::disk::make;

/// The largest file of dead letters: when it is full, whoever has more of them waits rather than drops them.
const MAX_FILE: u64 = 256 << 20;

/// A file of dead letters, one JSON object a line. Made when it is first needed.
pub struct LetterFile {
    path: PathBuf,
    max_size: u64,
    /// One letter after the other.
    turn: Mutex<()>,
}

impl LetterFile {
    /// At this place, with 256 MiB at most.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> LetterFile {
        LetterFile { path: path.into(), max_size: MAX_FILE, turn: Mutex::default() }
    }

    /// The same with another bound, in bytes.
    #[must_use]
    pub fn max_size(self, max_size: u64) -> LetterFile {
        LetterFile { max_size, ..self }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one JSON object, which is on the disk then, or not in the file at all. `when_full` says what is to be done
    /// about a file that is full.
    ///
    /// # Errors
    /// When the file is full, or cannot be written.
    pub fn append(&self, json: &[u8], when_full: &str) -> io::Result<()> {
        let _one = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = self.open()?;
        let good = file.metadata()?.len();
        let mut line = Vec::with_capacity(json.len() + 2);
        // A loss of power may have left half a line.
        if good > 0 && !ends_a_line(&mut file)? {
            line.push(b'\n');
        }
        line.extend(json);
        line.push(b'\n');
        if good + line.len() as u64 > self.max_size {
            let full = format!("it is full; {when_full}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, full));
        }
        // What counts as dead-lettered is on disk.
        if let Err(error) = file.write_all(&line).and_then(|()| file.sync_data()) {
            // Half a line would spoil the next one.
            let _ = file.set_len(good);
            return Err(error);
        }
        Ok(())
    }

    /// Opens it anew each time, and locks it: others may write to it, or take it away, beside a running service.
    fn open(&self) -> io::Result<File> {
        loop {
            let file = create(&self.path)?;
            file.lock()?;
            if is_at(&file, &self.path) {
                return Ok(file);
            }
        }
    }
}

fn ends_a_line(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Whether this open file is still the one at that place.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (open, there) = (file.metadata(), fs::metadata(path));
    matches!((open, there), (Ok(open), Ok(there)) if (open.dev(), open.ino()) == (there.dev(), there.ino()))
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

impl fmt::Debug for LetterFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LetterFile").field(&self.path).finish()
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).read(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let is_new = !path.exists();
    // Of a bare name it is empty.
    let parent =
        path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    if let Some(parent) = parent {
        make(parent)?;
    }
    let file = options.open(path)?;
    if is_new
        && cfg!(unix)
        && let Some(parent) = parent
    {
        File::open(parent)?.sync_all()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_takes_no_more_and_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead/live.ndjson");
        let file = LetterFile::new(&path).max_size(6);
        file.append(b"{}", "purge it").unwrap();
        file.append(b"{}", "purge it").unwrap();
        let refused = file.append(b"{}", "purge it").unwrap_err().to_string();
        assert_eq!(refused, "it is full; purge it");
        assert_eq!(fs::metadata(&path).unwrap().len(), 6);
        fs::remove_file(&path).unwrap();
        file.append(b"{}", "").unwrap();
    }

    #[test]
    fn half_a_line_that_a_crash_has_left_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("live.ndjson");
        fs::write(&path, "{\"a\":1}\n{\"b\"").unwrap();
        LetterFile::new(&path).append(b"{}", "").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"b\"\n{}\n");
    }

    #[test]
    fn nobody_writes_while_another_has_it_and_one_that_was_taken_away_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("live.ndjson");
        let file = std::sync::Arc::new(LetterFile::new(&path));
        file.append(b"{}", "").unwrap();
        let held = File::open(&path).unwrap();
        held.lock().unwrap();
        let appending = {
            let file = file.clone();
            std::thread::spawn(move || file.append(b"{\"late\":1}", ""))
        };
        // The one that waits sees that it is another file by now.
        fs::rename(&path, folder.path().join("taken.ndjson")).unwrap();
        drop(held);
        appending.join().unwrap().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"late\":1}\n");
    }
}
