//! The few things that a buffer wants of a file system: one folder, real or made up by a test that lets power fail.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// One folder of files. What was written survives the process at once, and a loss of power after `sync`; that a file is
/// there, or has gone, after `sync_folder`.
pub(crate) trait Files: fmt::Debug + Send + Sync {
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// All of a file.
    fn read(&self, name: &str) -> io::Result<Bytes>;
    /// The first so many bytes of a file, or as many as it has.
    fn read_start(&self, name: &str, len: usize) -> io::Result<Bytes>;
    /// How many bytes it has.
    fn size(&self, name: &str) -> io::Result<u64>;
    /// What was open may not be there any more.
    fn forget_all(&self) {}
    /// Writes at a place of a file, which is made if it is not there.
    fn write(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Ends a file there.
    fn cut(&self, name: &str, len: u64) -> io::Result<()>;
    fn sync(&self, name: &str) -> io::Result<()>;
    fn sync_folder(&self) -> io::Result<()>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A folder on a real disk, for its owner only.
pub(crate) struct Folder {
    path: PathBuf,
    /// The files that were used last stay open: the segment that is written, and the marks.
    open: Mutex<Vec<(String, Arc<File>)>>,
}

/// Why a folder cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    /// Another process, or another graph of this one, uses it.
    #[error("its buffer is in use by {holder} ({} is locked)", .path.display())]
    Locked {
        /// The file with the lock.
        path: PathBuf,
        /// `process 4711`, with the host where that is another.
        holder: String,
    },
    /// It cannot be written now: what would mend that is outside of the topology.
    #[error("its buffer cannot be written ({}: {why}): it is tried again each second; make room, or let it be written to", .path.display())]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// It cannot be made or read.
    #[error("{}: {why}; set a `data_dir` that can be written to", .path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
}

impl FolderError {
    pub(super) fn unusable(path: &Path, error: &io::Error) -> FolderError {
        let (path, why) = (path.to_owned(), error.to_string());
        if is_of_the_disk(error) {
            FolderError::Unwritable { path, why }
        } else {
            FolderError::Unusable { path, why }
        }
    }
}

/// Whether that is trouble of the disk, which may pass, rather than of what it is told to do.
fn is_of_the_disk(error: &io::Error) -> bool {
    /// EIO, for which there is no kind.
    const IO: i32 = 5;
    let kinds = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::StaleNetworkFileHandle,
    ];
    kinds.contains(&error.kind()) || (cfg!(unix) && error.raw_os_error() == Some(IO))
}

/// Locked by the process that uses the folder, and names it.
const LOCK: &str = "lock";
/// How many files stay open, at most.
const OPEN: usize = 2;

impl Folder {
    /// Makes the folder where it is missing, and locks it for as long as the second value is held.
    pub(crate) fn open(path: &Path) -> Result<(Folder, File), FolderError> {
        let unusable = |error: io::Error| FolderError::unusable(path, &error);
        make(path).map_err(unusable)?;
        let lock_path = path.join(LOCK);
        let lock = options().create(true).truncate(false).open(&lock_path).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => sign(&lock),
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&fs::read_to_string(&lock_path).unwrap_or_default());
                return Err(FolderError::Locked { path: lock_path, holder });
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        Ok((Folder { path: path.to_owned(), open: Mutex::default() }, lock))
    }

    fn file(&self, name: &str) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open.iter().find(|(known, _)| known == name) {
            return Ok(file.clone());
        }
        let file = Arc::new(options().create(true).truncate(false).open(self.path.join(name))?);
        if open.len() >= OPEN {
            open.remove(0);
        }
        open.push((name.to_owned(), file.clone()));
        Ok(file)
    }

    fn forget(&self, name: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(open, _)| open != name);
    }
}

impl Files for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let names =
            fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
        names.collect()
    }

    fn read(&self, name: &str) -> io::Result<Bytes> {
        fs::read(self.path.join(name)).map(Bytes::from)
    }

    fn read_start(&self, name: &str, len: usize) -> io::Result<Bytes> {
        let mut bytes = Vec::with_capacity(len);
        File::open(self.path.join(name))?.take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        fs::metadata(self.path.join(name)).map(|data| data.len())
    }

    fn forget_all(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    #[cfg(unix)]
    fn write(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        self.file(name)?.write_all_at(bytes, at)
    }

    #[cfg(not(unix))]
    fn write(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        use std::io::{Seek as _, SeekFrom};
        let mut file = &*self.file(name)?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    }

    fn cut(&self, name: &str, len: u64) -> io::Result<()> {
        self.file(name)?.set_len(len)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn sync_folder(&self) -> io::Result<()> {
        // A folder can be opened for reading, and synced, on Unix only.
        if cfg!(unix) { File::open(&self.path)?.sync_all() } else { Ok(()) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.forget(from);
        self.forget(to);
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.forget(name);
        fs::remove_file(self.path.join(name))
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Folder").field(&self.path).finish()
    }
}

/// Writes into the lock who has it. What cannot be written costs no more than that name.
fn sign(mut lock: &File) {
    let text = format!("{} {}\n", std::process::id(), host());
    let _ = lock.set_len(0).and_then(|()| lock.write_all(text.as_bytes()));
}

/// The process that has the lock, as the lock tells: numbers of processes mean something on one host only, or in one container.
fn holder(signed: &str) -> String {
    let mut words = signed.split_whitespace();
    match (words.next(), words.next()) {
        (Some(id), Some(there)) if there != host() => format!("process {id} on {there}"),
        (Some(id), _) => format!("process {id}"),
        (None, _) => "another process".to_owned(),
    }
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a folder with all that it lies in, for its owner only, so that a loss of power does not take it away again.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make(parent)?;
    }
    let mut folder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut folder, 0o700);
    match folder.create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if cfg!(unix)
        && let Some(parent) = parent
    {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_for_one_at_a_time_and_for_its_owner_only() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/buffers/live");
        let (folder, lock) = Folder::open(&path).unwrap();
        folder.write("one", 0, b"abc").unwrap();
        folder.write("one", 1, b"x").unwrap();
        assert_eq!(&*folder.read("one").unwrap(), b"axc");
        let refused = Folder::open(&path).unwrap_err().to_string();
        let in_use = format!("its buffer is in use by process {} (", std::process::id());
        assert!(refused.starts_with(&in_use) && refused.contains("buffers/live/lock is locked"), "{refused}");
        drop(lock);
        let (folder, _lock) = Folder::open(&path).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&root.path().join("a")), mode(&path)), (0o700, 0o700));
            assert_eq!((mode(&path.join("one")), mode(&path.join("lock"))), (0o600, 0o600));
        }
        let mut names = folder.list().unwrap();
        names.sort();
        assert_eq!(names, ["lock", "one"]);
    }

    #[test]
    fn a_lock_names_its_holder_as_far_as_it_is_known() {
        assert_eq!(holder(&format!("4711 {}\n", host())), "process 4711");
        assert_eq!(holder("1 rag-api-7d4b9\n"), "process 1 on rag-api-7d4b9");
        assert_eq!(holder(""), "another process");
    }

    #[test]
    fn what_lies_in_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, "").unwrap();
        let refused = Folder::open(&path.join("buffers")).unwrap_err();
        assert!(
            matches!(&refused, FolderError::Unusable { path, .. } if path.ends_with("file/buffers")),
            "{refused}"
        );
    }
}
