//! RabbitMQ as a source: a queue that a group shares, or one of one's own for as long as the connection lasts.

mod declare;
mod exchange;
mod letters;
mod offsets;
mod words;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ChannelState, ErrorKind};
use streamll_actors::sink::DeliveryError;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use self::declare::{Missing, Wanted, is_precondition, is_used_up};
use self::letters::Letters;
use self::offsets::Offsets;
use super::consumer::{Consumer, Start};
use super::dead_letter::{DeadLetters, Letter};
use super::error::ConsumeError;
use super::source::{Entry, Payload, Source, Ticket};
use super::status::Shared;
use super::window::Window;
use crate::brokers::addresses::Addresses;
use crate::brokers::rabbitmq::address::Address;
use crate::brokers::rabbitmq::connect::{Link, connect};
use crate::brokers::rabbitmq::error::{Place, Stage, explain, explain_connect};

/// How often both sides show that they live, in seconds.
const HEARTBEAT: u16 = 10;
/// How long declaring may take.
const DECLARE: Duration = Duration::from_secs(5);
/// How long closing may take.
const CLOSE: Duration = Duration::from_secs(1);
/// How long the client may take to tell what it knows of an end that it has noticed.
const CAUSE: Duration = Duration::from_millis(200);
/// How many more connections it may take to begin: for an exchange and a queue that are missing, and for a queue that turns
/// out to be no stream, where a connection has no channel left for each; and for looking what the exchange is.
const LINKS: u32 = 4;
/// How often to ask how long the queue is.
const LAG: Duration = Duration::from_secs(2);

/// Consumes a queue; see the [module](self).
pub(super) struct RabbitMqSource {
    targets: Vec<Address>,
    /// The one to try next, or that answers.
    current: usize,
    ca_file: Option<PathBuf>,
    wanted: Wanted,
    /// What its user calls the place to begin.
    start_option: &'static str,
    prefetch: u16,
    letters: Arc<Mutex<Letters>>,
    /// Where it is in a queue that is a stream.
    offsets: Offsets,
    shared: Arc<Shared>,
    session: Option<Session>,
    /// Counts the connections.
    epoch: u64,
    lag_at: Option<Instant>,
}

struct Session {
    channel: Channel,
    consumer: lapin::Consumer,
    queue: ShortString,
    since: Instant,
    // Last: everything else is dropped into an open socket.
    link: Link,
}

impl RabbitMqSource {
    pub(super) fn new(consumer: &Consumer, url: &str) -> Result<RabbitMqSource, ConsumeError> {
        let wrong = |text: &str| Err(ConsumeError::Setting(text.to_owned()));
        let targets = Addresses::from(url);
        let targets = targets.iter().map(|url| Address::parse(url, HEARTBEAT)).collect::<Result<Vec<_>, _>>();
        let targets = targets.map_err(|why| ConsumeError::Url(why.trim_start_matches("url: ").to_owned()))?;
        if consumer.until.is_some() {
            return wrong("until: a queue has no ids; only a Redis stream ends there");
        }
        if consumer.group.is_none() && ![None, Some(Start::Now)].contains(&consumer.start) {
            let options = consumer.options;
            let (start, group) = (options.start.trim_matches('`'), options.group);
            return wrong(&format!(
                "{start}: RabbitMQ keeps nothing outside of its queues; name one with {group}"
            ));
        }
        let offsets = match &consumer.group {
            Some(_) => Offsets::new(consumer.start.as_ref()).map_err(ConsumeError::Setting)?,
            None => Offsets::none(),
        };
        if let Some(DeadLetters::Stream(_)) = consumer.dead_letters {
            return wrong("dead_letters: a stream is Redis'; name an exchange or a file");
        }
        let wanted = Wanted::of(consumer).map_err(ConsumeError::Setting)?;
        let letters = Letters::of(consumer).map_err(ConsumeError::Setting)?;
        Ok(RabbitMqSource {
            targets,
            current: 0,
            ca_file: consumer.ca_file.clone(),
            wanted,
            start_option: consumer.options.start,
            prefetch: u16::try_from(consumer.prefetch).unwrap_or(u16::MAX),
            letters: Arc::new(Mutex::new(letters)),
            offsets,
            shared: consumer.shared.clone(),
            session: None,
            epoch: 0,
            lag_at: None,
        })
    }

    fn place<'a>(&'a self, target: &'a Address) -> Place<'a> {
        Place { target, exchange: self.wanted.exchange.as_str(), advice: words::of_reading }
    }

    /// What an error means here.
    fn explain(&self, error: &lapin::Error) -> DeliveryError {
        match self.targets.get(self.current) {
            Some(target) => explain(error, Stage::Consume, self.place(target)),
            None => DeliveryError::unavailable("no address"),
        }
    }

    /// Why the connection is of no more use, waiting a little for the cause.
    async fn cause(&self, error: lapin::Error) -> DeliveryError {
        let error = match &self.session {
            Some(session) => session.link.cause(error, session.since, CAUSE).await,
            None => error,
        };
        self.explain(&error)
    }

    /// Whether its queue was not there, and was made.
    async fn start(&mut self) -> Result<bool, DeliveryError> {
        let Some(target) = self.targets.get(self.current) else {
            return Err(DeliveryError::unavailable("no address"));
        };
        let (mut missing, mut vain, mut links) = (Missing::default(), None, 0);
        let (link, since, began) = loop {
            let link = connect(target, self.ca_file.as_deref(), "consumer", |_| ()).await;
            let mut link = link.map_err(|trouble| explain_connect(&trouble, self.place(target)))?;
            let (since, wanted, offsets) = (Instant::now(), &self.wanted, &mut self.offsets);
            let began = begin(&mut link, wanted, &mut missing, offsets, &mut vain, self.prefetch);
            match timeout(DECLARE, began).await {
                Ok(Err(error)) if is_used_up(&error) && links < LINKS => {
                    links += 1;
                    link.close(CLOSE).await;
                }
                began => break (link, since, began),
            }
        };
        let (channel, queue, consumer, is_made) = match began {
            Ok(Ok(Some(began))) => began,
            Ok(Ok(None)) => {
                let (queue, start) = (self.wanted.queue_name(), self.start_option);
                return Err(match vain {
                    Some(Vain::Exchange(why)) => {
                        let vhost = target.vhost();
                        DeliveryError::misconfigured(format!("{target}, vhost `{vhost}`: {why}"))
                    }
                    Some(Vain::Offset(offset)) => DeliveryError::misconfigured(format!(
                        "queue `{queue}` is no stream and has no offset {offset}: leave out {start}"
                    )),
                    None => DeliveryError::unavailable(format!(
                        "queue `{queue}` is gone, and is not made anew, as it is to be a stream: declare it with the argument \
                         `x-queue-type: stream`"
                    )),
                });
            }
            Ok(Err(error)) => return Err(self.explain(&error)),
            Err(_) => {
                return Err(DeliveryError::unavailable(format!(
                    "{target} gave no answer within {DECLARE:?}; is it frozen?"
                )));
            }
        };
        self.session = Some(Session { channel, consumer, queue, since, link });
        Ok(is_made)
    }

    fn entry(&mut self, delivery: Delivery) -> Entry {
        if let Some(missed) = self.offsets.note(&delivery) {
            self.shared.gap(missed, "the stream has dropped its oldest messages before they were read");
        }
        Entry {
            ticket: Ticket::delivery(self.epoch, delivery.delivery_tag),
            key: Some(Arc::from(delivery.routing_key.as_str())),
            is_routed: !delivery.exchange.as_str().is_empty(),
            payload: Payload::Body(delivery.data),
            // A quorum queue counts each way back of a message, also of one that nobody has tried: its own limit judges.
            deliveries: 0,
        }
    }

    /// Deliveries that are there already.
    fn more(&mut self, found: &mut Vec<Entry>, room: usize) {
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
}

/// What was asked for in vain.
enum Vain {
    /// An offset, of a queue that is no stream.
    Offset(String),
    /// An exchange from which nothing would ever come, and why.
    Exchange(String),
}

/// A channel that consumes, its queue, and whether that was made; `None` where there is nothing to consume, or something
/// was asked for in `vain`.
async fn begin(
    link: &mut Link,
    wanted: &Wanted,
    missing: &mut Missing,
    offsets: &mut Offsets,
    vain: &mut Option<Vain>,
    prefetch: u16,
) -> lapin::Result<Option<(Channel, ShortString, lapin::Consumer, bool)>> {
    if let Some(why) = wanted.unfit(link, missing).await? {
        *vain = Some(Vain::Exchange(why));
        return Ok(None);
    }
    let made = wanted.make(link, !offsets.wants_stream(), missing).await?;
    let Some((mut channel, queue, is_made)) = made else { return Ok(None) };
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    offsets.begin(is_made);
    let consume = async |channel: &Channel, offset: Option<AMQPValue>| {
        let mut arguments = FieldTable::default();
        if let Some(offset) = offset {
            arguments.insert("x-stream-offset".into(), offset);
        }
        let options = BasicConsumeOptions::default();
        channel.basic_consume(queue.clone(), "".into(), options, arguments).await
    };
    // What we have made is no stream.
    let offset = offsets.next().filter(|_| !is_made);
    let is_asked = offset.is_some();
    let mut consumer = consume(&channel, offset).await;
    match &consumer {
        Ok(_) if is_asked => offsets.is_taken(),
        // Only a stream takes an offset, and there is no other way to know what a queue is.
        Err(error) if is_asked && is_precondition(error) => {
            *vain = offsets.is_refused().map(Vain::Offset);
            if vain.is_some() {
                // Nothing is taken from a queue that was meant to be another.
                return Ok(None);
            }
            channel = link.channel().await?;
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            consumer = consume(&channel, None).await;
        }
        _ => {}
    }
    let consumer = consumer?;
    Ok(Some((channel, queue, consumer, is_made)))
}

impl Source for RabbitMqSource {
    async fn open(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        self.session = None;
        // What was in hand is delivered again, by this name or to somebody else.
        self.epoch += 1;
        self.shared.set_epoch(self.epoch);
        window.forget_before(Ticket::delivery(self.epoch, 0));
        match self.start().await {
            Ok(is_made) => {
                let again = self.shared.status().connections > 0;
                if again && self.offsets.skips() {
                    self.shared
                        .gap(0, "nothing had come from the stream yet: what came meanwhile is skipped");
                }
                if is_made && again {
                    self.shared
                        .gap(0, "the queue is gone, and with it what was in it or was published meanwhile");
                }
                Ok(())
            }
            Err(error) => {
                self.current = (self.current + 1) % self.targets.len().max(1);
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
                self.more(&mut found, room);
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
            let last = window.remove_front();
            if let Some(last) = last.and_then(tag) {
                session.channel.basic_ack(last, BasicAckOptions { multiple: true }).await?;
            }
            // Behind one that takes its time, one by one.
            let done = window.done_first(usize::MAX);
            for tag in done.iter().copied().filter_map(tag) {
                session.channel.basic_ack(tag, BasicAckOptions::default()).await?;
            }
            window.remove(done.len());
            Ok::<_, lapin::Error>(last)
        };
        match timeout(DECLARE, acknowledge).await {
            Ok(Ok(last)) => {
                let done = last.and_then(tag);
                if let Some(cursor) = self.offsets.done(done, window.is_empty()) {
                    self.shared.change(|status| status.cursor = Some(cursor.to_string()));
                }
                Ok(())
            }
            Ok(Err(error)) => Err(self.cause(error).await),
            Err(_) => Err(DeliveryError::unavailable("the broker takes no acknowledgements; is it frozen?")),
        }
    }

    fn bury(&self, letter: Arc<Letter>) -> impl Future<Output = Result<(), DeliveryError>> + Send + 'static {
        let (letters, target) = (self.letters.clone(), self.targets.get(self.current).cloned());
        async move {
            let Some(target) = target else { return Err(DeliveryError::unavailable("no address")) };
            letters.lock().await.keep(&target, &letter).await
        }
    }

    async fn tend(&mut self, _: &mut Window) -> Result<(), DeliveryError> {
        let now = Instant::now();
        if self.lag_at.is_some_and(|at| now.duration_since(at) < LAG) {
            return Ok(());
        }
        self.lag_at = Some(now);
        let Some(session) = &self.session else { return Ok(()) };
        if self.offsets.is_stream() {
            // The length of a stream says nothing of what is still to be read.
            self.shared.change(|status| status.lag = None);
            return Ok(());
        }
        let waiting = timeout(DECLARE, declare::waiting(&session.channel, &session.queue)).await;
        match waiting {
            Ok(Ok(waiting)) => {
                self.shared.change(|status| status.lag = Some(waiting.into()));
                Ok(())
            }
            Ok(Err(error)) => Err(self.cause(error).await),
            Err(_) => Err(DeliveryError::unavailable("the broker gives no answer; is it frozen?")),
        }
    }

    async fn pause(&mut self) -> Vec<Entry> {
        if let Some(session) = &self.session {
            let tag = session.consumer.tag();
            let _ = timeout(CLOSE, session.channel.basic_cancel(tag, BasicCancelOptions::default())).await;
        }
        // What the client has in store goes back when the connection ends.
        Vec::new()
    }

    async fn close(&mut self, _: bool) {
        self.letters.lock().await.close().await;
        if let Some(session) = self.session.take() {
            session.link.close(CLOSE).await;
        }
    }
}

/// What acknowledges a delivery.
fn tag(ticket: Ticket) -> Option<u64> {
    match ticket {
        Ticket::Delivery { tag, .. } => Some(tag),
        Ticket::Entry { .. } => None,
    }
}
