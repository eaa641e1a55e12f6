//! Dead letters as messages: persistent, confirmed, and taken by a queue. They have a connection of their own: a broker
//! that runs out of memory stops all that is said on one that publishes, and with it acknowledgements.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use lapin::message::BasicReturnMessage;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, ExchangeKind};
use streamll_actors::sink::DeliveryError;
use tokio::time::timeout;

use super::DECLARE;
use super::declare::{is_missing, is_used_up};
use super::words::of_letters;
use crate::brokers::rabbitmq::address::Address;
use crate::brokers::rabbitmq::connect::{Link, connect};
use crate::brokers::rabbitmq::error::{Place, Stage, explain, explain_connect};
use crate::consume::consumer::Consumer;
use crate::consume::dead_letter::{DeadLetters, Letter};
use crate::consume::source::Payload;
use crate::consume::status::Shared;

/// Most bytes of a reason that go into a header: all headers must fit into the smallest frame that a broker may ask for.
const REASON: usize = 1000;

/// Where dead letters go.
pub(super) struct Letters {
    /// What they were read from.
    from: ShortString,
    to: To,
    ca_file: Option<PathBuf>,
    shared: Arc<Shared>,
    /// Made when it is first needed.
    open: Option<Open>,
}

/// Somewhere to publish to, with confirms.
struct Open {
    channel: Channel,
    // Last: everything else is dropped into an open socket.
    link: Link,
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
            Some(DeadLetters::Exchange(name)) if *name == consumer.target => {
                return Err(format!(
                    "dead_letters: `{name}` is what is read, where they would come back; name another exchange"
                ));
            }
            Some(DeadLetters::Exchange(name)) => To::Exchange(short(name)?),
            _ => To::Queue(short(&format!("{from}.dead"))?),
        };
        Ok(Letters {
            from: short(from)?,
            to,
            ca_file: consumer.ca_file.clone(),
            shared: consumer.shared.clone(),
            open: None,
        })
    }

    /// Publishes one, and waits until it is confirmed: for as long as the broker is blocked, where it says that it is.
    pub(super) async fn keep(&mut self, target: &Address, letter: &Letter) -> Result<(), DeliveryError> {
        let exchange = match &self.to {
            To::Queue(_) => "",
            To::Exchange(name) => name.as_str(),
        };
        let place = Place { target, exchange, advice: of_letters };
        let open =
            match self.open.take().filter(|open| open.link.is_alive() && open.channel.status().connected()) {
                Some(open) => open,
                None => {
                    let mut missing = false;
                    loop {
                        let link = connect(target, self.ca_file.as_deref(), "dead letters", |_| ()).await;
                        let mut link = link.map_err(|trouble| explain_connect(&trouble, place))?;
                        let was_missing = missing;
                        match timeout(DECLARE, make(&self.to, &mut link, &mut missing)).await {
                            Ok(Ok(channel)) => break Open { channel, link },
                            Ok(Err(error)) if is_used_up(&error) && !was_missing => {
                                link.close(super::CLOSE).await;
                            }
                            Ok(Err(error)) => return Err(explain(&error, Stage::Publish, place)),
                            Err(_) => {
                                return Err(DeliveryError::unavailable(
                                    "the broker gives no answer; is it frozen?",
                                ));
                            }
                        }
                    }
                }
            };
        let published = {
            let mut published = pin!(self.publish(&open.channel, letter));
            loop {
                match timeout(DECLARE, &mut published).await {
                    Ok(published) => {
                        break published.map_err(|error| explain(&error, Stage::Publish, place))?;
                    }
                    // Published once more, it would be there twice in the end.
                    Err(_) if open.link.connection.status().blocked() => {
                        self.shared.unkept("the broker is blocked: it is low on memory or disk space");
                    }
                    Err(_) => return Err(DeliveryError::unavailable("the broker does not confirm it")),
                }
            }
        };
        self.open = Some(open);
        published.map_or(Ok(()), |why| Err(DeliveryError::unavailable(why)))
    }

    /// `Some` says why it is not kept.
    async fn publish(&self, channel: &Channel, letter: &Letter) -> lapin::Result<Option<String>> {
        let (exchange, key) = match &self.to {
            To::Queue(name) => (ShortString::default(), name.clone()),
            To::Exchange(name) => (name.clone(), letter.entry.key.as_deref().unwrap_or_default().into()),
        };
        let Payload::Body(body) = &letter.entry.payload else { return Ok(None) };
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = self.properties(letter);
        let confirm = channel.basic_publish(exchange, key, options, body, properties).await?.await?;
        Ok(match confirm {
            Confirmation::Ack(None) => None,
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                Some(unroutable(&returned))
            }
            _ => Some("the broker refuses it: is the queue full?".to_owned()),
        })
    }

    /// Ends its connection.
    pub(super) async fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.link.close(super::CLOSE).await;
        }
    }

    fn properties(&self, letter: &Letter) -> BasicProperties {
        let mut headers = FieldTable::default();
        let reason = letter.reason.get(..letter.reason.floor_char_boundary(REASON)).unwrap_or_default();
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

/// Finds it or makes it. Where the connection has no channel left for that, the next one knows that it is `missing`.
async fn make(to: &To, link: &mut Link, missing: &mut bool) -> lapin::Result<Channel> {
    let mut channel = link.channel().await?;
    match to {
        To::Queue(name) => {
            if !*missing && is_missing(super::declare::waiting(&channel, name).await)? {
                *missing = true;
                channel = link.channel().await?;
            }
            if *missing {
                let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(name.clone(), options, FieldTable::default()).await?;
            }
        }
        To::Exchange(name) => {
            let look = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            let make = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let looked =
                channel.exchange_declare(name.clone(), ExchangeKind::Topic, look, FieldTable::default());
            if !*missing && is_missing(looked.await)? {
                *missing = true;
                channel = link.channel().await?;
            }
            if *missing {
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
