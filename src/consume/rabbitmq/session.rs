//! One connection that consumes a queue: how it is made, and why it cannot be.

use std::time::Duration;

use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer};
use streamll_actors::sink::DeliveryError;
use tokio::time::{Instant, timeout};

use super::declare::{Declared, Missing, Origin, Wanted, is_precondition, is_used_up};
use super::nodes::Nodes;
use super::offsets::Offsets;
use super::words;
use crate::brokers::rabbitmq::address::Address;
use crate::brokers::rabbitmq::connect::{Link, connect};
use crate::brokers::rabbitmq::error::{Place, Stage, explain, explain_connect};
use crate::consume::settings::IfMissing;

/// How long the broker may take for an answer.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// How long closing may take.
pub(super) const CLOSE: Duration = Duration::from_secs(1);
/// How long the client may take to tell what it knows of an end that it has noticed.
const CAUSE: Duration = Duration::from_millis(200);
/// How many more connections it may take to begin, where a connection has no channel left: one for an exchange that is
/// missing, one for a queue that is missing, one for a queue that turns out to be no stream, and one for the look at the
/// exchange.
const LINKS: u32 = 4;

/// A connection that consumes.
pub(super) struct Session {
    pub(super) channel: Channel,
    pub(super) consumer: Consumer,
    pub(super) queue: ShortString,
    since: Instant,
    // Last: everything else is dropped into an open socket.
    pub(super) link: Link,
}

/// A channel that consumes a queue.
struct Begun {
    channel: Channel,
    consumer: Consumer,
    queue: ShortString,
    origin: Origin,
}

/// Why there is nothing to consume, though the broker answers.
enum Vain {
    /// The queue has no such offset, because it is no stream.
    Offset(String),
    /// Nothing would ever come from the exchange, for this reason.
    Exchange(String),
    /// The queue is missing, and must not be made, because it is to be a stream.
    Queue,
}

impl Session {
    /// Connects to the current node and consumes. Also says whether the queue was there before.
    pub(super) async fn open(
        nodes: &Nodes,
        wanted: &Wanted,
        offsets: &mut Offsets,
    ) -> Result<(Session, Origin), DeliveryError> {
        let target = nodes.current()?;
        let (mut missing, mut links) = (Missing::default(), 0);
        let (link, since, begun) = loop {
            let link = connect(target, nodes.ca_file(), "consumer", |_| ()).await;
            let mut link = link.map_err(|trouble| explain_connect(&trouble, place(target, wanted)))?;
            let since = Instant::now();
            match timeout(ANSWER, begin(&mut link, wanted, &mut missing, offsets)).await {
                Ok(Err(error)) if is_used_up(&error) && links < LINKS => {
                    links += 1;
                    link.close(CLOSE).await;
                }
                begun => break (link, since, begun),
            }
        };
        match begun {
            Ok(Ok(Ok(Begun { channel, consumer, queue, origin }))) => {
                Ok((Session { channel, consumer, queue, since, link }, origin))
            }
            Ok(Ok(Err(vain))) => Err(explain_vain(vain, target, wanted)),
            Ok(Err(error)) => Err(explain(&error, Stage::Consume, place(target, wanted))),
            Err(_) => Err(DeliveryError::unavailable(format!(
                "{target} gave no answer within {ANSWER:?}; is it frozen?"
            ))),
        }
    }

    /// The reason for an error. The client gets a little time to say what it knows.
    pub(super) async fn cause(&self, error: lapin::Error) -> lapin::Error {
        self.link.cause(error, self.since, CAUSE).await
    }
}

/// What errors name.
pub(super) fn place<'a>(target: &'a Address, wanted: &'a Wanted) -> Place<'a> {
    Place { target, exchange: wanted.exchange.as_str(), advice: words::of_reading }
}

fn explain_vain(vain: Vain, target: &Address, wanted: &Wanted) -> DeliveryError {
    let queue = wanted.queue_name();
    match vain {
        Vain::Exchange(why) => {
            DeliveryError::misconfigured(format!("{target}, vhost `{}`: {why}", target.vhost()))
        }
        Vain::Offset(offset) => DeliveryError::misconfigured(format!(
            "queue `{queue}` is no stream and has no offset {offset}: leave out {}",
            wanted.names.start
        )),
        Vain::Queue => DeliveryError::unavailable(format!(
            "queue `{queue}` is gone, and is not made anew, because it has to be a stream: declare it with the argument \
             `x-queue-type: stream`"
        )),
    }
}

/// Declares what is wanted, and consumes the queue.
async fn begin(
    link: &mut Link,
    wanted: &Wanted,
    missing: &mut Missing,
    offsets: &mut Offsets,
) -> lapin::Result<Result<Begun, Vain>> {
    if let Some(why) = wanted.unfit(link, missing).await? {
        return Ok(Err(Vain::Exchange(why)));
    }
    // A queue that the consumer makes is no stream.
    let missing_queue = if offsets.wants_stream() { IfMissing::Report } else { IfMissing::Make };
    let declared = wanted.declare_all(link, missing_queue, missing).await?;
    let Some(Declared { mut channel, queue, origin }) = declared else { return Ok(Err(Vain::Queue)) };
    qos(&channel, wanted).await?;
    let offset = match origin {
        Origin::Made => {
            offsets.begin_anew();
            None
        }
        Origin::Found => {
            offsets.resume();
            offsets.next()
        }
    };
    let is_asked = offset.is_some();
    let mut consumer = consume(&channel, &queue, offset).await;
    match &consumer {
        Ok(_) if is_asked => offsets.note_taken(),
        // Only a stream takes an offset, and there is no other way to know what a queue is.
        Err(error) if is_asked && is_precondition(error) => {
            if let Some(offset) = offsets.note_refused() {
                // Nothing is taken from a queue that was meant to be another.
                return Ok(Err(Vain::Offset(offset)));
            }
            channel = link.channel().await?;
            qos(&channel, wanted).await?;
            consumer = consume(&channel, &queue, None).await;
        }
        _ => {}
    }
    let consumer = consumer?;
    Ok(Ok(Begun { channel, consumer, queue, origin }))
}

async fn qos(channel: &Channel, wanted: &Wanted) -> lapin::Result<()> {
    channel.basic_qos(wanted.prefetch, BasicQosOptions::default()).await
}

async fn consume(
    channel: &Channel,
    queue: &ShortString,
    offset: Option<AMQPValue>,
) -> lapin::Result<Consumer> {
    let mut arguments = FieldTable::default();
    if let Some(offset) = offset {
        arguments.insert("x-stream-offset".into(), offset);
    }
    channel.basic_consume(queue.clone(), "".into(), BasicConsumeOptions::default(), arguments).await
}
