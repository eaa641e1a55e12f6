//! Events as a stream: each event is done when the next one is asked for.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use streamll_actors::event::Event;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::{Stream, StreamExt as _};

use super::handle::ConsumerHandle;
use super::worker::Receipt;

/// How many events wait for the reader of the stream.
pub(super) const READY: usize = 256;

/// The events of a consumer, one after the other; see [`Consumer::into_stream`](crate::consume::Consumer::into_stream).
pub struct Events {
    events: mpsc::Receiver<Receipt>,
    /// The receipts of the event that was handed out last, or of the whole last batch.
    last: Vec<Receipt>,
    handle: ConsumerHandle,
    running: JoinHandle<()>,
}

impl Events {
    /// The events that a running consumer sends here.
    pub(super) fn new(
        events: mpsc::Receiver<Receipt>,
        handle: ConsumerHandle,
        running: JoinHandle<()>,
    ) -> Events {
        Events { events, last: Vec::new(), handle, running }
    }

    /// A handle that stops the consumer, and reads its status.
    #[must_use]
    pub fn handle(&self) -> ConsumerHandle {
        self.handle.clone()
    }

    /// The next events, as many as are there already. They are done when more are asked for. Empty at the end.
    pub(crate) async fn next_batch(&mut self, most: usize) -> Vec<Event> {
        let mut batch: Vec<_> = self.next().await.into_iter().collect();
        while !batch.is_empty()
            && batch.len() < most
            && let Ok(receipt) = self.events.try_recv()
        {
            batch.extend(self.hand_out(receipt));
        }
        batch
    }

    /// Gives the events that were handed out last back to the broker: they were not handled.
    pub(crate) fn give_back(&mut self) {
        self.last.clear();
    }

    /// The event of a receipt, unless the event is not to be read any more.
    fn hand_out(&mut self, mut receipt: Receipt) -> Option<Event> {
        let event = receipt.event()?;
        self.last.push(receipt);
        Some(event)
    }

    /// Stops the consumer in order. The event that was handed out last counts as handled.
    pub async fn close(mut self) {
        self.handle.stop();
        self.complete_last();
        // Events that are still on their way are given back.
        self.events.close();
        while self.events.try_recv().is_ok() {}
        let _ = (&mut self.running).await;
    }

    fn complete_last(&mut self) {
        self.last.drain(..).for_each(Receipt::complete);
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.complete_last();
        loop {
            match self.events.poll_recv(cx) {
                Poll::Ready(Some(receipt)) => {
                    if let Some(event) = self.hand_out(receipt) {
                        return Poll::Ready(Some(event));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("status", &self.handle.status().to_string()).finish_non_exhaustive()
    }
}
