//! Reading and writing for commands: what a descriptor that never blocks does not do now, is waited for.

use std::io::{self, ErrorKind, Read, Write};

use rustix::event::PollFlags;

use super::{AsFd, wait};

/// Reads and writes on where a descriptor that never blocks has nothing, or takes nothing, just now.
#[derive(Debug)]
pub(crate) struct Patient<T>(pub(crate) T);

impl<T: AsFd> Patient<T> {
    fn go_on<R>(&mut self, want: PollFlags, mut act: impl FnMut(&mut T) -> io::Result<R>) -> io::Result<R> {
        loop {
            match act(&mut self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(&self.0, want, None)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl<T: Read + AsFd> Read for Patient<T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.go_on(PollFlags::IN, |from| from.read(into))
    }
}

impl<T: Write + AsFd> Write for Patient<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.go_on(PollFlags::OUT, |to| to.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.go_on(PollFlags::OUT, Write::flush)
    }
}

/// Standard input. The standard library takes a descriptor that is not open for reading for an empty one; this does not.
pub(crate) fn stdin() -> Patient<Stdin> {
    Patient(Stdin(io::stdin()))
}

/// Standard input, without the standard library's buffer.
#[derive(Debug)]
pub(crate) struct Stdin(io::Stdin);

impl Read for Stdin {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, into)?)
    }
}

impl std::os::fd::AsFd for Stdin {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Standard output.
pub(crate) fn stdout() -> Patient<io::StdoutLock<'static>> {
    Patient(io::stdout().lock())
}

/// Standard error.
pub(crate) fn stderr() -> Patient<io::Stderr> {
    Patient(io::stderr())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Both ends of a pipe, of which this process and the others that have them never wait.
    fn non_blocking_pipe() -> (io::PipeReader, io::PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        for end in [reader.as_fd(), writer.as_fd()] {
            rustix::io::ioctl_fionbio(end, true).unwrap();
        }
        (reader, writer)
    }

    #[test]
    fn an_empty_pipe_that_never_blocks_is_waited_for_and_its_end_is_its_end() {
        let (reader, writer) = non_blocking_pipe();
        let read = thread::spawn(move || io::read_to_string(Patient(reader)).unwrap());
        for word in ["one ", "two"] {
            thread::park_timeout(Duration::from_millis(50));
            (&writer).write_all(word.as_bytes()).unwrap();
        }
        drop(writer);
        assert_eq!(read.join().unwrap(), "one two");
    }

    #[test]
    fn a_full_pipe_that_never_blocks_is_waited_for_and_nothing_is_lost() {
        let (reader, writer) = non_blocking_pipe();
        let text = "x".repeat(300_000);
        let written = thread::spawn({
            let text = text.clone();
            move || Patient(File::from(std::os::fd::OwnedFd::from(writer))).write_all(text.as_bytes())
        });
        let read = io::read_to_string(Patient(reader)).unwrap();
        written.join().unwrap().unwrap();
        assert_eq!(read.len(), text.len());
    }
}
