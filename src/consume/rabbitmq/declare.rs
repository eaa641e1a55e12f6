//! Exchange, queue and bindings: looked for, and made where they are missing.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, ErrorKind, ExchangeKind};

use crate::brokers::rabbitmq::connect::Link;
use crate::consume::consumer::Consumer;

/// What a consumer reads from.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Empty for the default exchange.
    pub(super) exchange: ShortString,
    /// Shared by a group; else one of its own.
    queue: Option<ShortString>,
    /// The patterns that were asked for: also for a queue that is there.
    topics: Vec<ShortString>,
    /// The patterns of a queue that is made.
    usual: Vec<ShortString>,
    /// What its user calls the patterns that are asked for.
    pub(super) option: &'static str,
    /// Whether an exchange that is missing is made.
    pub(super) makes_exchange: bool,
}

impl Wanted {
    pub(super) fn of(consumer: &Consumer) -> Result<Wanted, String> {
        let short = |what: &str, text: &str| {
            ShortString::try_new(text)
                .map_err(|_| format!("{what}: `{text}` is longer than the 255 bytes of the protocol"))
        };
        let topics = consumer
            .topics
            .iter()
            .map(|topic| short("topics", topic.as_str()))
            .collect::<Result<Vec<_>, _>>()?;
        // A handler of a type may want it from any topic.
        let patterns: Option<Vec<_>> = consumer.handlers.iter().map(|handler| handler.pattern()).collect();
        // A stream is of everything, whatever its handlers want.
        let patterns = patterns.filter(|patterns| !patterns.is_empty() && consumer.reader.is_none());
        let usual = match patterns {
            Some(patterns) => patterns
                .iter()
                .map(|pattern| short("on_topic", pattern.as_str()))
                .collect::<Result<Vec<_>, _>>()?,
            None => vec![short("topics", "#")?],
        };
        let queue = consumer.group.as_deref().map(|name| short("group", name)).transpose()?;
        let exchange = short("target", &consumer.target)?;
        if exchange.as_str().is_empty() && queue.is_none() {
            return Err(format!(
                "target: the default exchange has no topics; name the queue with {}",
                consumer.options.group
            ));
        }
        let (option, makes_exchange) = (consumer.options.topics, consumer.makes_target);
        Ok(Wanted { exchange, queue, topics, usual, option, makes_exchange })
    }

    /// Finds or makes everything; returns a channel that can be used, the queue, and whether that was made. `None` where
    /// the queue is missing, and may not be made. Looking for what is missing costs a channel: where the connection has
    /// none left, the next one goes on with what is known to be `missing`.
    pub(super) async fn make(
        &self,
        link: &mut Link,
        may_make: bool,
        missing: &mut Missing,
    ) -> lapin::Result<Option<(Channel, ShortString, bool)>> {
        let mut channel = link.channel().await?;
        if !self.exchange.as_str().is_empty() {
            let look = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            let make = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let declare = async |channel: &Channel, options| {
                let (name, arguments) = (self.exchange.clone(), FieldTable::default());
                channel.exchange_declare(name, ExchangeKind::Topic, options, arguments).await
            };
            if !missing.exchange && is_missing(declare(&channel, look).await)? {
                missing.exchange = true;
                channel = link.channel().await?;
            }
            if missing.exchange {
                declare(&channel, make).await?;
            }
        }
        let (queue, topics, is_made) = match &self.queue {
            None => {
                let options = QueueDeclareOptions {
                    exclusive: true,
                    auto_delete: true,
                    ..QueueDeclareOptions::default()
                };
                let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?;
                (queue.name().clone(), self.all_topics(), true)
            }
            Some(name) => {
                if missing.queue && !may_make {
                    return Ok(None);
                }
                if !missing.queue && is_missing(waiting(&channel, name).await)? {
                    if !may_make {
                        return Ok(None);
                    }
                    missing.queue = true;
                    channel = link.channel().await?;
                }
                if missing.queue {
                    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                    channel.queue_declare(name.clone(), options, FieldTable::default()).await?;
                    (name.clone(), self.all_topics(), true)
                } else {
                    (name.clone(), &self.topics[..], false)
                }
            }
        };
        for topic in topics.iter().filter(|_| !self.exchange.as_str().is_empty()) {
            let (queue, exchange) = (queue.clone(), self.exchange.clone());
            let options = QueueBindOptions::default();
            channel.queue_bind(queue, exchange, topic.clone(), options, FieldTable::default()).await?;
        }
        Ok(Some((channel, queue, is_made)))
    }

    /// The queue that is asked for, where it has a name.
    pub(super) fn queue_name(&self) -> &str {
        self.queue.as_ref().map_or("", ShortString::as_str)
    }

    /// The queue that is not bound anew where it is there already.
    pub(super) fn queue_to_keep(&self) -> Option<&ShortString> {
        self.queue.as_ref().filter(|_| self.topics.is_empty())
    }

    pub(super) fn all_topics(&self) -> &[ShortString] {
        if self.topics.is_empty() { &self.usual } else { &self.topics }
    }
}

/// What was looked for in vain.
#[derive(Debug, Default)]
pub(super) struct Missing {
    pub(super) exchange: bool,
    pub(super) queue: bool,
    /// It is known whether anything would come from the exchange.
    pub(super) is_seen: bool,
}

/// Whether a connection has no channel left, so that another is to go on.
pub(super) fn is_used_up(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ChannelsLimitReached)
}

/// How many messages wait in a queue.
pub(super) async fn waiting(channel: &Channel, queue: &ShortString) -> lapin::Result<u32> {
    let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.clone(), look, FieldTable::default()).await?;
    Ok(queue.message_count())
}

/// Whether what was looked for is not there. The broker then closes the channel.
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

/// Whether the broker refused because of what a queue is.
pub(super) fn is_precondition(error: &lapin::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ProtocolError(said)
            if matches!(said.kind(), AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED))
    )
}
