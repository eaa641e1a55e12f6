//! The byte stream under a connection, with what the client library does not say: whether anything was written, and
//! what the server said last before it hung up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longer than any line that a server sends before it hangs up.
const TAIL: usize = 256;

/// What is known of a connection from outside.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    written: AtomicU64,
    /// The last bytes that came in.
    tail: Mutex<Vec<u8>>,
}

impl Wire {
    /// How many bytes were handed to the system so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// What came in last.
    pub(crate) fn last_words(&self) -> Vec<u8> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn heard(&self, new: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = TAIL.saturating_sub(new.len()).min(tail.len());
        let from = tail.len() - keep;
        tail.drain(..from);
        tail.extend_from_slice(&new[new.len().saturating_sub(TAIL)..]);
    }
}

/// A stream that keeps its [`Wire`] up to date.
#[derive(Debug)]
pub(crate) struct Tapped<S> {
    pub(crate) stream: S,
    pub(crate) wire: Arc<Wire>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tapped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.wire.heard(&buf.filled()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = polled {
            self.wire.written.fetch_add(written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_kept_however_they_came() {
        for sizes in [vec![1; 600], vec![600], vec![300, 10, 290], vec![200, 100, 300]] {
            let (wire, mut said) = (Wire::default(), Vec::new());
            for size in sizes {
                let new: Vec<u8> = (0..size).map(|i| (said.len() + i) as u8).collect();
                wire.heard(&new);
                said.extend(new);
            }
            assert_eq!(wire.last_words(), said[said.len() - TAIL..]);
        }
    }
}
