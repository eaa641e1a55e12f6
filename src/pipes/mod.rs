//! Descriptors that may stand still (pipes, terminals, sockets, devices): "not now" is no error and no end, and nobody's
//! flags are changed, as a descriptor that was handed to this process belongs to others, too.

#[cfg(all(unix, feature = "cli"))]
mod patient;

#[cfg(all(unix, feature = "cli"))]
pub(crate) use patient::{Patient, stderr, stdin, stdout};

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

/// What a pipe that says it is ready takes without blocking (`PIPE_BUF` of Linux).
const PIPE_BUF: usize = 4096;
/// How long one look at a descriptor may hold its thread.
const LOOK: Duration = Duration::from_millis(5);
/// How long a reader may read nothing before it is said that nobody reads.
pub(crate) const STILL: Duration = Duration::from_secs(1);

#[cfg(not(unix))]
pub(crate) trait AsFd {}
#[cfg(not(unix))]
impl<T> AsFd for T {}
#[cfg(unix)]
pub(crate) use std::os::fd::AsFd;

/// A way out that is written as far as it takes something, and never waited for inside of a write.
#[derive(Debug)]
pub(crate) struct Outlet {
    file: File,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Never blocks, or not for long: a file, or opened by us as non-blocking.
    Free,
    /// Shared with other processes, which may want it to block.
    Shared,
}

impl Outlet {
    /// Standard output.
    pub(crate) fn stdout() -> io::Result<Outlet> {
        Outlet::shared(&io::stdout())
    }

    /// Standard error.
    pub(crate) fn stderr() -> io::Result<Outlet> {
        Outlet::shared(&io::stderr())
    }

    /// What stands at a path and is no regular file: for writing alone, so that a pipe's only reader is not ourselves.
    /// Fails with `ENXIO` where it is a pipe that nobody reads.
    pub(crate) fn open(path: &Path) -> io::Result<Outlet> {
        Ok(Outlet { file: open(path)?, kind: Kind::Free })
    }

    #[cfg(unix)]
    fn shared(of: &impl AsFd) -> io::Result<Outlet> {
        use std::os::fd::AsRawFd as _;
        use std::os::unix::fs::FileTypeExt as _;
        let file = File::from(of.as_fd().try_clone_to_owned()?);
        let kind = file.metadata()?.file_type();
        if kind.is_file() {
            return Ok(Outlet { file, kind: Kind::Free });
        }
        // Opened once more it has flags of its own. Where that is not possible (sockets; another user's terminal) it is
        // written in small pieces, and only when it is ready.
        let again = Path::new("/proc/self/fd").join(file.as_raw_fd().to_string());
        if (kind.is_fifo() || kind.is_char_device())
            && let Ok(own) = open(&again)
        {
            return Ok(Outlet { file: own, kind: Kind::Free });
        }
        Ok(Outlet { file, kind: Kind::Shared })
    }

    #[cfg(not(unix))]
    fn shared(_: &impl AsFd) -> io::Result<Outlet> {
        Err(ErrorKind::Unsupported.into())
    }

    /// Whether it takes something now; also true where a write would fail, so that the write says why.
    pub(crate) fn is_ready(&self) -> bool {
        takes(&self.file, Duration::ZERO).unwrap_or(true)
    }

    /// Waits a moment for it to take something.
    pub(crate) fn look(&self) {
        let _ = takes(&self.file, LOOK);
    }

    /// Writes as much as it takes now; `WouldBlock`, where that is nothing.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let most = match self.kind {
            Kind::Free => bytes.len(),
            Kind::Shared if self.is_ready() => bytes.len().min(PIPE_BUF),
            Kind::Shared => return Err(ErrorKind::WouldBlock.into()),
        };
        loop {
            match (&self.file).write(bytes.get(..most).unwrap_or(bytes)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) if most > 0 => return Err(ErrorKind::WriteZero.into()),
                done => return done,
            }
        }
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether it holds something that its reader has not read.
    #[cfg(unix)]
    pub(crate) fn holds_unread(&self) -> bool {
        rustix::io::ioctl_fionread(&self.file).is_ok_and(|bytes| bytes > 0)
    }

    #[cfg(not(unix))]
    pub(crate) fn holds_unread(&self) -> bool {
        false
    }
}

/// For writing alone, non-blocking, and not as the terminal that controls us.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
        options.custom_flags(i32::try_from(flags).unwrap_or_default());
    }
    options.open(path)
}

/// Whether that is what opening a pipe says that nobody reads; of a socket it means that it is one.
#[cfg(unix)]
pub(crate) fn is_without_reader(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}

#[cfg(not(unix))]
pub(crate) fn is_without_reader(_: &io::Error) -> bool {
    false
}

/// Whether a descriptor takes something within so long, or would say what is wrong with it.
#[cfg(unix)]
fn takes(fd: &impl AsFd, limit: Duration) -> io::Result<bool> {
    wait(fd, rustix::event::PollFlags::OUT, Some(limit))
}

#[cfg(not(unix))]
fn takes(_: &impl AsFd, limit: Duration) -> io::Result<bool> {
    std::thread::sleep(limit);
    Ok(true)
}

/// Whether a descriptor is ready within so long (`None`: however long it takes), or would say what is wrong with it.
#[cfg(unix)]
fn wait(fd: &impl AsFd, want: rustix::event::PollFlags, limit: Option<Duration>) -> io::Result<bool> {
    use rustix::event::{PollFd, Timespec, poll};
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    loop {
        match poll(&mut [PollFd::new(fd, want)], limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_shared_pipe_that_blocks_keeps_its_flags_and_is_never_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        let outlet = Outlet::shared(&writer).unwrap();
        let shared = Outlet { file: outlet.file.try_clone().unwrap(), kind: Kind::Shared };
        let flags = |fd: &io::PipeWriter| rustix::fs::fcntl_getfl(fd).unwrap();
        assert!(!flags(&writer).contains(rustix::fs::OFlags::NONBLOCK));
        for outlet in [
            outlet,
            Outlet { file: File::from(writer.as_fd().try_clone_to_owned().unwrap()), kind: Kind::Shared },
            shared,
        ] {
            let mut written = 0;
            let full = loop {
                match outlet.write(&[b'x'; 10_000]) {
                    Ok(n) => written += n,
                    Err(error) => break error,
                }
            };
            assert_eq!((full.kind(), outlet.is_ready()), (ErrorKind::WouldBlock, false));
            io::Read::read_exact(&mut reader, &mut vec![0; written]).unwrap();
            assert!(outlet.is_ready());
        }
        drop(reader);
        assert_eq!(Outlet::shared(&writer).unwrap().write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}
