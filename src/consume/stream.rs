//! Events as a stream: each is settled when the next one is asked for.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use streamll_actors::event::Event;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;

use super::consumer::{Consumer, ConsumerHandle};
use super::error::ConsumeError;
use super::worker::Receipt;

/// How many events wait for their reader.
const READY: usize = 256;

/// The events of a consumer, one after the other; see [`Consumer::into_stream`].
pub struct Events {
    events: mpsc::Receiver<Receipt>,
    /// The one that was handed out last.
    last: Option<Receipt>,
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
        Ok(Events { events, last: None, handle, running })
    }

    /// Stops the consumer and tells how it stands.
    #[must_use]
    pub fn handle(&self) -> ConsumerHandle {
        self.handle.clone()
    }

    /// The next event, where one is there already.
    pub(crate) fn try_next(&mut self) -> Option<Event> {
        use futures_util::{FutureExt as _, StreamExt as _};
        self.next().now_or_never().flatten()
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
        if let Some(last) = self.last.take() {
            last.done();
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.settle();
        loop {
            match self.events.poll_recv(cx) {
                Poll::Ready(Some(mut receipt)) => {
                    if let Some(event) = receipt.event() {
                        self.last = Some(receipt);
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
