//! Exchange, queue and bindings: looked for, and made where they are missing.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, ErrorKind, ExchangeKind};
use streamll_actors::route::TopicPattern;

use crate::brokers::rabbitmq::connect::Link;
use crate::consume::settings::{IfMissing, SettingNames, Settings};

/// What a consumer reads from.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Empty for the default exchange.
    pub(super) exchange: ShortString,
    pub(super) missing_exchange: IfMissing,
    /// The queue of a group. Without one, the consumer has a queue of its own.
    queue: Option<ShortString>,
    /// The patterns that were asked for. They are bound even if the queue exists already.
    topics: Vec<ShortString>,
    /// The patterns of a queue that the consumer makes.
    usual: Vec<ShortString>,
    /// How many messages may be in hand.
    pub(super) prefetch: u16,
    pub(super) names: SettingNames,
}

/// A queue that is there now, and a channel that can be used.
pub(super) struct Declared {
    pub(super) channel: Channel,
    pub(super) queue: ShortString,
    pub(super) origin: Origin,
}

/// Whether a queue was there before, or was made for this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Found,
    Made,
}

impl Wanted {
    /// `handled` are the patterns of the handlers, if they want no other topics.
    pub(super) fn new(settings: &Settings, handled: Option<&[&TopicPattern]>) -> Result<Wanted, String> {
        let reading = &settings.reading;
        let all = |setting: &str, patterns: &[&str]| {
            patterns.iter().map(|pattern| short(setting, pattern)).collect::<Result<Vec<_>, _>>()
        };
        let topics: Vec<_> = settings.choice.topics.iter().map(TopicPattern::as_str).collect();
        let usual = match handled {
            Some(patterns) => {
                all("on_topic", &patterns.iter().map(|pattern| pattern.as_str()).collect::<Vec<_>>())
            }
            None => all("topics", &["#"]),
        };
        let wanted = Wanted {
            topics: all("topics", &topics)?,
            usual: usual?,
            queue: reading.group.as_deref().map(|name| short("group", name)).transpose()?,
            exchange: short("target", &reading.target)?,
            missing_exchange: reading.missing_target,
            prefetch: reading.prefetch,
            names: settings.names,
        };
        if wanted.is_default_exchange() && wanted.queue.is_none() {
            return Err(format!(
                "target: the default exchange has no topics; name the queue with {}",
                wanted.names.group
            ));
        }
        Ok(wanted)
    }

    pub(super) fn is_default_exchange(&self) -> bool {
        self.exchange.as_str().is_empty()
    }

    /// Finds or makes everything. `None` if the queue is missing, and may not be made. To look for what is missing costs a
    /// channel: if the connection has none left, the next one continues with what is known to be `missing`.
    pub(super) async fn declare_all(
        &self,
        link: &mut Link,
        missing_queue: IfMissing,
        missing: &mut Missing,
    ) -> lapin::Result<Option<Declared>> {
        let mut channel = link.channel().await?;
        if !self.is_default_exchange() {
            let look = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            if !missing.exchange && is_missing(self.declare_exchange(&channel, look).await)? {
                missing.exchange = true;
                channel = link.channel().await?;
            }
            if missing.exchange {
                let make = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
                self.declare_exchange(&channel, make).await?;
            }
        }
        let declared = match &self.queue {
            None => own_queue(channel).await?,
            Some(name) => match shared_queue(name, channel, link, missing_queue, missing).await? {
                Some(declared) => declared,
                None => return Ok(None),
            },
        };
        let topics = match declared.origin {
            Origin::Made => self.all_topics(),
            Origin::Found => &self.topics,
        };
        for topic in topics.iter().filter(|_| !self.is_default_exchange()) {
            let (queue, exchange) = (declared.queue.clone(), self.exchange.clone());
            let options = QueueBindOptions::default();
            declared
                .channel
                .queue_bind(queue, exchange, topic.clone(), options, FieldTable::default())
                .await?;
        }
        Ok(Some(declared))
    }

    pub(super) async fn declare_exchange(
        &self,
        channel: &Channel,
        options: ExchangeDeclareOptions,
    ) -> lapin::Result<()> {
        let (name, arguments) = (self.exchange.clone(), FieldTable::default());
        channel.exchange_declare(name, ExchangeKind::Topic, options, arguments).await
    }

    /// The name of the queue, if it was given one.
    pub(super) fn queue_name(&self) -> &str {
        self.queue.as_ref().map_or("", ShortString::as_str)
    }

    /// The queue that keeps its bindings if it exists already.
    pub(super) fn queue_to_keep(&self) -> Option<&ShortString> {
        self.queue.as_ref().filter(|_| self.topics.is_empty())
    }

    pub(super) fn all_topics(&self) -> &[ShortString] {
        if self.topics.is_empty() { &self.usual } else { &self.topics }
    }
}

/// A name for the protocol.
fn short(setting: &str, text: &str) -> Result<ShortString, String> {
    ShortString::try_new(text)
        .map_err(|_| format!("{setting}: `{text}` is longer than the 255 bytes of the protocol"))
}

/// Makes a queue that ends with its connection.
async fn own_queue(channel: Channel) -> lapin::Result<Declared> {
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?;
    Ok(Declared { queue: queue.name().clone(), channel, origin: Origin::Made })
}

/// Finds or makes the queue of a group.
async fn shared_queue(
    name: &ShortString,
    mut channel: Channel,
    link: &mut Link,
    if_missing: IfMissing,
    missing: &mut Missing,
) -> lapin::Result<Option<Declared>> {
    let may_not_make = if_missing == IfMissing::Report;
    if missing.queue && may_not_make {
        return Ok(None);
    }
    if !missing.queue && is_missing(waiting(&channel, name).await)? {
        if may_not_make {
            return Ok(None);
        }
        missing.queue = true;
        channel = link.channel().await?;
    }
    if !missing.queue {
        return Ok(Some(Declared { channel, queue: name.clone(), origin: Origin::Found }));
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.clone(), options, FieldTable::default()).await?;
    Ok(Some(Declared { channel, queue: name.clone(), origin: Origin::Made }))
}

/// What was looked for and is missing.
#[derive(Debug, Default)]
pub(super) struct Missing {
    pub(super) exchange: bool,
    pub(super) queue: bool,
    /// Whether the consumer has looked at the exchange.
    pub(super) is_exchange_seen: bool,
}

/// Whether a connection has no channel left, so that another one has to continue.
pub(super) fn is_used_up(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ChannelsLimitReached)
}

/// How many messages wait in a queue.
pub(super) async fn waiting(channel: &Channel, queue: &ShortString) -> lapin::Result<u32> {
    let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.clone(), look, FieldTable::default()).await?;
    Ok(queue.message_count())
}

/// Whether what was looked for is missing. The broker then closes the channel.
pub(super) fn is_missing<T>(looked: lapin::Result<T>) -> lapin::Result<bool> {
    match looked {
        Ok(_) => Ok(false),
        Err(error) => match error.kind() {
            ErrorKind::ProtocolError(said)
                if matches!(said.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)) =>
            {
                Ok(true)
            }
            _ => Err(error),
        },
    }
}

/// Whether the broker refused because of the kind of a queue.
pub(super) fn is_precondition(error: &lapin::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ProtocolError(said)
            if matches!(said.kind(), AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED))
    )
}
