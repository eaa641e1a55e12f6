//! Events as a stream: each is settled when the next one is asked for.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use streamll_actors::event::Event;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::{Stream, StreamExt as _};

use super::consumer::{Consumer, ConsumerHandle};
use super::error::ConsumeError;
use super::worker::Receipt;

/// How many events wait for their reader.
const READY: usize = 256;

/// The events of a consumer, one after the other; see [`Consumer::into_stream`].
pub struct Events {
    events: mpsc::Receiver<Receipt>,
    /// What was handed out last: of a batch, all of it.
    last: Vec<Receipt>,
    handle: ConsumerHandle,
    running: JoinHandle<()>,
}

impl Events {
    pub(super) fn of(mut consumer: Consumer) -> Result<Events, ConsumeError> {
        consumer.check()?;
        let handle = consumer.handle();
        let (reader, events) = mpsc::channel(READY);
        consumer.reader = Some(reader);
        let running = tokio::spawn(async move {
            if let Err(error) = consumer.run().await {
                tracing::error!("{error}");
            }
        });
        Ok(Events { events, last: Vec::new(), handle, running })
    }

    /// Stops the consumer and tells how it stands.
    #[must_use]
    pub fn handle(&self) -> ConsumerHandle {
        self.handle.clone()
    }

    /// The next events, as many as are there already; settled together when more are asked for. Empty at the end.
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

    /// What was handed out last has not been handled: it is given back.
    pub(crate) fn give_back(&mut self) {
        self.last.clear();
    }

    /// Unless it is not to be read any more.
    fn hand_out(&mut self, mut receipt: Receipt) -> Option<Event> {
        let event = receipt.event()?;
        self.last.push(receipt);
        Some(event)
    }

    /// Ends it in order: what was handed out last counts as handled.
    pub async fn close(mut self) {
        self.handle.stop();
        self.settle();
        // What is still on its way is given back.
        self.events.close();
        while self.events.try_recv().is_ok() {}
        let _ = (&mut self.running).await;
    }

    fn settle(&mut self) {
        self.last.drain(..).for_each(Receipt::done);
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.settle();
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
