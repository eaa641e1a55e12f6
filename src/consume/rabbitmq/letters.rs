//! Dead letters as messages: persistent, confirmed, and taken by a queue.

use lapin::message::BasicReturnMessage;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ExchangeKind};

use super::declare::is_missing;
use crate::consume::consumer::Consumer;
use crate::consume::dead_letter::{DeadLetters, Letter};
use crate::consume::source::Payload;

/// Most of a reason that goes into a header.
const REASON: usize = 1000;

/// Where dead letters go.
#[derive(Debug)]
pub(super) struct Letters {
    /// What they were read from.
    from: ShortString,
    to: To,
    /// With confirms; made when it is first needed.
    channel: Option<Channel>,
}

#[derive(Debug)]
enum To {
    /// A durable queue, made where it is missing.
    Queue(ShortString),
    /// An exchange, by the key of the message.
    Exchange(ShortString),
}

impl Letters {
    pub(super) fn of(consumer: &Consumer) -> Result<Letters, String> {
        let short = |text: &str| {
            ShortString::try_new(text)
                .map_err(|_| "dead_letters: the name is longer than the 255 bytes of the protocol".to_owned())
        };
        let from = consumer.group.as_deref().unwrap_or(&consumer.target);
        let to = match &consumer.dead_letters {
            Some(DeadLetters::Exchange(name)) => To::Exchange(short(name)?),
            _ => To::Queue(short(&format!("{from}.dead"))?),
        };
        Ok(Letters { from: short(from)?, to, channel: None })
    }

    /// The connection is another one.
    pub(super) fn forget(&mut self) {
        self.channel = None;
    }

    /// Publishes one, and waits for its confirm; `Some` says why it is not kept.
    pub(super) async fn keep(
        &mut self,
        connection: &Connection,
        letter: &Letter,
    ) -> lapin::Result<Option<String>> {
        let properties = self.properties(letter);
        let channel = match &self.channel {
            Some(channel) => channel,
            Some(DeadLetters::Exchange(name)) if *name == consumer.target => {
                return Err(format!(
                    "dead_letters: `{name}` is what is read, where they would come back; name another exchange"
                ));
            }
            None => self.channel.insert(make(&self.to, connection).await?),
        };
        let (exchange, key) = match &self.to {
            To::Queue(name) => (ShortString::default(), name.clone()),
            To::Exchange(name) => (name.clone(), letter.entry.key.as_deref().unwrap_or_default().into()),
        };
        let Payload::Body(body) = &letter.entry.payload else { return Ok(None) };
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = channel.basic_publish(exchange, key, options, body, properties).await?.await?;
        Ok(match confirm {
            Confirmation::Ack(None) => None,
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                Some(unroutable(&returned))
            }
            _ => Some("the broker refuses it: is the queue full?".to_owned()),
        })
    }

    fn properties(&self, letter: &Letter) -> BasicProperties {
        let mut headers = FieldTable::default();
        let reason: String = letter.reason.chars().take(REASON).collect();
        let mut add = |name: &str, value| {
            headers.insert(name.into(), value);
        };
        add("reason", AMQPValue::LongString(reason.into()));
        add("attempts", AMQPValue::LongUInt(letter.attempts));
        add("queue", AMQPValue::LongString(self.from.as_str().into()));
        add("died_at", AMQPValue::LongString(letter.at.to_string().into()));
        if let Some(key) = &letter.entry.key {
            add("key", AMQPValue::LongString((&**key).into()));
        }
        BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_headers(headers)
    }
}

async fn make(to: &To, connection: &Connection) -> lapin::Result<Channel> {
    let mut channel = connection.create_channel().await?;
    match to {
        To::Queue(name) => {
            if is_missing(super::declare::waiting(&channel, name).await)? {
                channel = connection.create_channel().await?;
                let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(name.clone(), options, FieldTable::default()).await?;
            }
        }
        To::Exchange(name) => {
            let look = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            let make = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let looked =
                channel.exchange_declare(name.clone(), ExchangeKind::Topic, look, FieldTable::default());
            if is_missing(looked.await)? {
                channel = connection.create_channel().await?;
                channel
                    .exchange_declare(name.clone(), ExchangeKind::Topic, make, FieldTable::default())
                    .await?;
            }
        }
    }
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

fn unroutable(returned: &BasicReturnMessage) -> String {
    let (exchange, key) = (&returned.delivery.exchange, &returned.delivery.routing_key);
    format!("no queue takes it: exchange `{exchange}` has no binding for key `{key}`; bind one")
}
