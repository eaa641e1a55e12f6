//! A buffer's hold on its disk: whom to wake when something has changed, and where to note what is with the sink.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use tokio::sync::watch;

use super::files::Files;
use super::marks;

pub(in crate::sink) struct Disk {
    pub(super) files: Arc<dyn Files>,
    /// Everything before this number was with the sink, as far as the disk knows.
    pub(super) sent: AtomicU64,
    pub(super) hand: Hand,
    pub(super) closed: watch::Receiver<bool>,
}

/// What does the work.
pub(super) enum Hand {
    /// There once it has been started.
    Thread(Arc<OnceLock<Thread>>),
    /// Whoever changes the buffer, at once: for tests that see the same every time.
    Caller(Box<dyn Fn() + Send + Sync>),
}

impl Disk {
    /// Something has changed that is to be seen at once.
    pub(in crate::sink) fn wake(&self) {
        match &self.hand {
            Hand::Thread(thread) => {
                if let Some(thread) = thread.get() {
                    thread.unpark();
                }
            }
            Hand::Caller(work) => work(),
        }
    }

    /// Something has changed; a thread will see it soon enough.
    pub(in crate::sink) fn look_soon(&self) {
        if let Hand::Caller(work) = &self.hand {
            work();
        }
    }

    /// Everything before this number may be with the sink from now on.
    pub(in crate::sink) fn sent(&self, number: u64) {
        if self.sent.fetch_max(number, Ordering::Relaxed) < number {
            marks::sent(&*self.files, number);
        }
    }

    /// Waits until nothing is left to be written, or nothing can be.
    pub(in crate::sink) async fn closed(&self) {
        let mut closed = self.closed.clone();
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

/// The thread finds that its buffer is gone.
impl Drop for Disk {
    fn drop(&mut self) {
        if let Hand::Thread(thread) = &self.hand
            && let Some(thread) = thread.get()
        {
            thread.unpark();
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("files", &self.files).finish_non_exhaustive()
    }
}
