//! What code of the user writes: up to a limit, and without ever panicking.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The most that one value or message may hold, in bytes.
pub(crate) const LONGEST: usize = 4 << 10;

/// Code of the user runs here, beside what it is asked of.
pub(crate) fn safely<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

/// Without the half of a character at its end.
pub(crate) fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// Takes so much and no more: whoever writes a large value is stopped where the limit is.
pub(crate) struct Limited {
    pub(crate) bytes: Vec<u8>,
    pub(crate) cut: bool,
}

impl Default for Limited {
    fn default() -> Limited {
        /// Most values fit, and need no second piece of memory.
        const USUAL: usize = 128;
        Limited { bytes: Vec::with_capacity(USUAL), cut: false }
    }
}

impl Limited {
    fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len().min(LONGEST - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..fits]);
        self.cut |= fits < bytes.len();
        !self.cut
    }
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.push(bytes) {
            true => Ok(bytes.len()),
            false => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self.push(text.as_bytes()) {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}
