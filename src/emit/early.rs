//! Early drops: a future or stream is dropped before it is done. A step that ends during such a drop was cut off.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio_stream::Stream;

thread_local! {
    /// How many early drops this thread is currently inside.
    static DROPS: Cell<i32> = const { Cell::new(0) };
}

/// Whether the running code is a part of an early drop.
#[cfg(feature = "tracing")]
pub(super) fn is_dropping() -> bool {
    DROPS.try_with(Cell::get).is_ok_and(|drops| drops > 0)
}

pin_project! {
    /// A future or a stream. Its drop is early between its first poll and its end.
    pub(super) struct Early<T> {
        // Fields go in their order.
        before: Edge,
        #[pin]
        inner: T,
        after: Edge,
    }
}

impl<T> Early<T> {
    pub(super) fn new(inner: T) -> Early<T> {
        Early { before: Edge { step: 0 }, inner, after: Edge { step: 0 } }
    }

    /// Polls it. `is_done` decides from the result whether it has ended.
    fn poll<P>(
        self: Pin<&mut Self>,
        poll: impl FnOnce(Pin<&mut T>) -> Poll<P>,
        is_done: fn(&P) -> bool,
    ) -> Poll<P> {
        let this = self.project();
        (this.before.step, this.after.step) = (1, -1);
        let polled = ready!(poll(this.inner));
        if is_done(&polled) {
            (this.before.step, this.after.step) = (0, 0);
        }
        Poll::Ready(polled)
    }
}

impl<F: Future> Future for Early<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        Early::poll(self, |inner| inner.poll(cx), |_| true)
    }
}

impl<S: Stream> Stream for Early<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Early::poll(self, |inner| inner.poll_next(cx), Option::is_none)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

/// One side of an early drop. The two sides add up to zero.
struct Edge {
    step: i32,
}

impl Drop for Edge {
    fn drop(&mut self) {
        if self.step != 0 {
            let _ = DROPS.try_with(|drops| drops.set(drops.get() + self.step));
        }
    }
}
