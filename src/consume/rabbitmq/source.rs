//! The source: it consumes a queue, and knows how far it is if the queue is a stream.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions};
use lapin::{ChannelState, ErrorKind};
use secrecy::ExposeSecret as _;
use streamll_actors::route::TopicPattern;
use streamll_actors::sink::DeliveryError;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::declare::{Origin, Wanted, waiting};
use super::letters::Letters;
use super::nodes::Nodes;
use super::offsets::Offsets;
use super::session::{ANSWER, CLOSE, Session, place};
use crate::brokers::rabbitmq::error::{Stage, explain};
use crate::consume::dead_letter::{DeadLetters, Letter};
use crate::consume::entry::{Entry, Payload, PublishKey, Ticket};
use crate::consume::error::ConsumeError;
use crate::consume::settings::{Settings, Start};
use crate::consume::source::Source;
use crate::consume::status::Shared;
use crate::consume::window::Window;

/// How often to ask how long the queue is.
const LAG: Duration = Duration::from_secs(2);

/// Consumes a queue; see the [module](super).
pub(in crate::consume) struct RabbitMqSource {
    nodes: Nodes,
    wanted: Wanted,
    letters: Arc<Mutex<Letters>>,
    /// How far the consumer is in a queue that is a stream.
    offsets: Offsets,
    session: Option<Session>,
    /// Counts the connections.
    epoch: u64,
    /// When the lag was last asked for.
    lag_at: Option<Instant>,
    shared: Arc<Shared>,
}

impl RabbitMqSource {
    /// `handled` are the patterns of the handlers, if they want no other topics.
    pub(in crate::consume) fn new(
        settings: &Settings,
        handled: Option<&[&TopicPattern]>,
        shared: Arc<Shared>,
    ) -> Result<RabbitMqSource, ConsumeError> {
        let wrong = |text: &str| Err(ConsumeError::Setting(text.to_owned()));
        let (reading, names) = (&settings.reading, settings.names);
        let url = settings.broker.url.expose_secret();
        let nodes = Nodes::parse(url, settings.broker.ca_file.clone()).map_err(ConsumeError::Url)?;
        if reading.until.is_some() {
            return wrong("until: a queue has no ids; only a Redis stream ends there");
        }
        if reading.group.is_none() && ![None, Some(Start::Now)].contains(&reading.start) {
            let (start, group) = (names.start.trim_matches('`'), names.group);
            return wrong(&format!(
                "{start}: RabbitMQ keeps nothing outside of its queues; name one with {group}"
            ));
        }
        let offsets = match &reading.group {
            Some(_) => Offsets::new(reading.start.as_ref()).map_err(ConsumeError::Setting)?,
            None => Offsets::none(),
        };
        if let Some(DeadLetters::Stream(_)) = settings.dead_letters {
            return wrong("dead_letters: a stream is Redis'; name an exchange or a file");
        }
        let wanted = Wanted::new(settings, handled).map_err(ConsumeError::Setting)?;
        let letters = Letters::new(settings, shared.clone()).map_err(ConsumeError::Setting)?;
        let letters = Arc::new(Mutex::new(letters));
        Ok(RabbitMqSource { nodes, wanted, letters, offsets, session: None, epoch: 0, lag_at: None, shared })
    }

    /// Why the connection is of no more use.
    async fn cause(&self, error: lapin::Error) -> DeliveryError {
        let error = match &self.session {
            Some(session) => session.cause(error).await,
            None => error,
        };
        match self.nodes.current() {
            Ok(target) => explain(&error, Stage::Consume, place(target, &self.wanted)),
            Err(no_address) => no_address,
        }
    }

    fn entry(&mut self, delivery: Delivery) -> Entry {
        if let Some(missed) = self.offsets.note(&delivery) {
            self.shared.gap(missed, "the stream has dropped its oldest messages before they were read");
        }
        let key = Arc::from(delivery.routing_key.as_str());
        let key = match delivery.exchange.as_str() {
            "" => PublishKey::Queue(key),
            _ => PublishKey::Topic(key),
        };
        // The entry counts no deliveries. A quorum queue counts each way back of a message, even if nobody has tried it;
        // the limit of the queue itself decides.
        let ticket = Ticket::delivery(self.epoch, delivery.delivery_tag);
        Entry { key: Some(key), ..Entry::new(ticket, Payload::Body(delivery.data)) }
    }

    /// Adds deliveries that are there already.
    fn add_ready(&mut self, found: &mut Vec<Entry>, room: usize) {
        while found.len() < room {
            let Some(session) = &mut self.session else { return };
            match session.consumer.next().now_or_never() {
                Some(Some(Ok(delivery))) => {
                    let entry = self.entry(delivery);
                    found.push(entry);
                }
                // An end shows again at the next read.
                _ => return,
            }
        }
    }

    /// Counts what was missed between two connections.
    fn note_gaps(&self, origin: Origin) {
        let is_first = self.shared.status().connections == 0;
        if !is_first && self.offsets.skips() {
            self.shared.gap(0, "nothing had come from the stream yet: what came meanwhile is skipped");
        }
        if !is_first && origin == Origin::Made {
            self.shared.gap(0, "the queue is gone, and with it what was in it or was published meanwhile");
        }
    }
}

impl Source for RabbitMqSource {
    async fn connect(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        self.session = None;
        // What was in hand is delivered again, to this consumer or to another one.
        self.epoch += 1;
        self.shared.set_epoch(self.epoch);
        window.forget_before(Ticket::delivery(self.epoch, 0));
        match Session::open(&self.nodes, &self.wanted, &mut self.offsets).await {
            Ok((session, origin)) => {
                self.session = Some(session);
                self.note_gaps(origin);
                Ok(())
            }
            Err(error) => {
                self.nodes.advance();
                Err(error)
            }
        }
    }

    async fn next(&mut self, room: usize) -> Result<Option<Vec<Entry>>, DeliveryError> {
        let Some(session) = &mut self.session else {
            return Err(DeliveryError::unavailable("not connected"));
        };
        let error = match session.consumer.next().await {
            Some(Ok(delivery)) => {
                let mut found = vec![self.entry(delivery)];
                self.add_ready(&mut found, room);
                return Ok(Some(found));
            }
            Some(Err(error)) => error,
            None => {
                let alive = session.link.is_alive() && session.channel.status().connected();
                if alive {
                    let queue = &session.queue;
                    return Err(DeliveryError::unavailable(format!(
                        "the broker ended the consumer: queue `{queue}` was deleted, or its node is down"
                    )));
                }
                ErrorKind::InvalidChannelState(ChannelState::Closed, "consume").into()
            }
        };
        Err(self.cause(error).await)
    }

    fn is_reading(&self) -> bool {
        false
    }

    async fn acknowledge(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        let Some(session) = &self.session else { return Ok(()) };
        let acknowledge = async {
            let last = window.remove_front().and_then(tag);
            if let Some(last) = last {
                session.channel.basic_ack(last, BasicAckOptions { multiple: true }).await?;
            }
            // Messages after one that is not done are acknowledged one by one.
            let done = window.done_first(usize::MAX);
            for tag in done.iter().copied().filter_map(tag) {
                session.channel.basic_ack(tag, BasicAckOptions::default()).await?;
            }
            window.remove(done.len());
            Ok::<_, lapin::Error>(last)
        };
        match timeout(ANSWER, acknowledge).await {
            Ok(Ok(last)) => {
                let cursor = match last {
                    _ if window.is_empty() => self.offsets.done_all(),
                    Some(tag) => self.offsets.done_up_to(tag),
                    None => None,
                };
                if let Some(cursor) = cursor {
                    self.shared.change(|status| status.cursor = Some(cursor.to_string()));
                }
                Ok(())
            }
            Ok(Err(error)) => Err(self.cause(error).await),
            Err(_) => Err(DeliveryError::unavailable("the broker takes no acknowledgements; is it frozen?")),
        }
    }

    fn dead_letter(
        &self,
        letter: Arc<Letter>,
    ) -> impl Future<Output = Result<(), DeliveryError>> + Send + 'static {
        let (letters, target) = (self.letters.clone(), self.nodes.current().cloned());
        async move { letters.lock().await.keep(&target?, &letter).await }
    }

    async fn maintain(&mut self, _: &mut Window) -> Result<(), DeliveryError> {
        let now = Instant::now();
        if self.lag_at.is_some_and(|at| now.duration_since(at) < LAG) {
            return Ok(());
        }
        self.lag_at = Some(now);
        let Some(session) = &self.session else { return Ok(()) };
        if self.offsets.is_stream() {
            // The length of a stream does not say how much is still to be read.
            self.shared.change(|status| status.lag = None);
            return Ok(());
        }
        match timeout(ANSWER, waiting(&session.channel, &session.queue)).await {
            Ok(Ok(waiting)) => {
                self.shared.change(|status| status.lag = Some(waiting.into()));
                Ok(())
            }
            Ok(Err(error)) => Err(self.cause(error).await),
            Err(_) => Err(DeliveryError::unavailable("the broker gives no answer; is it frozen?")),
        }
    }

    async fn stop_reading(&mut self) -> Vec<Entry> {
        if let Some(session) = &self.session {
            let tag = session.consumer.tag();
            let _ = timeout(CLOSE, session.channel.basic_cancel(tag, BasicCancelOptions::default())).await;
        }
        // What the client has in store goes back when the connection ends.
        Vec::new()
    }

    async fn leave(&mut self) {}

    async fn close(&mut self) {
        self.letters.lock().await.close().await;
        if let Some(session) = self.session.take() {
            session.link.close(CLOSE).await;
        }
    }
}

/// The tag that acknowledges a delivery.
fn tag(ticket: Ticket) -> Option<u64> {
    match ticket {
        Ticket::Delivery { tag, .. } => Some(tag),
        Ticket::Entry { .. } => None,
    }
}
