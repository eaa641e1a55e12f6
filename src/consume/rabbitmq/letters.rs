//! Dead letters as messages: persistent, confirmed, and taken by a queue. They have a connection of their own. A broker that
//! runs out of memory reads nothing more from a connection that publishes, and acknowledgements there would stop, too.

use std::path::{Path, PathBuf};
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

use super::declare::{is_missing, is_used_up, waiting};
use super::session::{ANSWER, CLOSE};
use super::words::of_letters;
use crate::brokers::rabbitmq::address::Address;
use crate::brokers::rabbitmq::connect::{Link, connect};
use crate::brokers::rabbitmq::error::{Place, Stage, explain, explain_connect};
use crate::consume::dead_letter::{DeadLetters, Letter};
use crate::consume::entry::{Payload, PublishKey};
use crate::consume::settings::Settings;
use crate::consume::status::Shared;

/// The most bytes of a reason that go into a header. All headers must fit into the smallest frame that a broker may ask for.
const REASON: usize = 1000;

/// Where dead letters go.
pub(super) struct Letters {
    /// The queue or exchange that the entries were read from.
    from: ShortString,
    to: To,
    ca_file: Option<PathBuf>,
    shared: Arc<Shared>,
    /// Made for the first letter.
    open: Option<Open>,
}

/// A connection that publishes, with confirms.
struct Open {
    channel: Channel,
    // Last: everything else is dropped into an open socket.
    link: Link,
}

impl Open {
    /// Connects, and finds or makes the place for letters.
    async fn new(place: Place<'_>, ca_file: Option<&Path>, to: &To) -> Result<Open, DeliveryError> {
        let mut missing = Missing::Unknown;
        loop {
            let link = connect(place.target, ca_file, "dead letters", |_| ()).await;
            let mut link = link.map_err(|trouble| explain_connect(&trouble, place))?;
            let before = missing;
            match timeout(ANSWER, make(to, &mut link, &mut missing)).await {
                Ok(Ok(channel)) => return Ok(Open { channel, link }),
                Ok(Err(error)) if is_used_up(&error) && before == Missing::Unknown => link.close(CLOSE).await,
                Ok(Err(error)) => return Err(explain(&error, Stage::Publish, place)),
                Err(_) => {
                    return Err(DeliveryError::unavailable("the broker gives no answer; is it frozen?"));
                }
            }
        }
    }

    fn is_alive(&self) -> bool {
        self.link.is_alive() && self.channel.status().connected()
    }
}

/// Whether the place for letters is known to be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Unknown,
    Yes,
}

/// What became of a letter that was published.
enum Published {
    Kept,
    /// Why it is not kept.
    Refused(String),
}

#[derive(Debug)]
enum To {
    /// A durable queue. It is made if it is missing.
    Queue(ShortString),
    /// An exchange, by the routing key of the message.
    Exchange(ShortString),
}

impl To {
    /// Empty for the default exchange.
    fn exchange(&self) -> &str {
        match self {
            To::Queue(_) => "",
            To::Exchange(name) => name.as_str(),
        }
    }
}

impl Letters {
    pub(super) fn new(settings: &Settings, shared: Arc<Shared>) -> Result<Letters, String> {
        let target = &settings.reading.target;
        let short = |text: &str| {
            ShortString::try_new(text)
                .map_err(|_| "dead_letters: the name is longer than the 255 bytes of the protocol".to_owned())
        };
        let from = settings.reading.group.as_deref().unwrap_or(target);
        let to = match &settings.dead_letters {
            Some(DeadLetters::Exchange(name)) if name == target => {
                return Err(format!(
                    "dead_letters: `{name}` is what is read, where they would come back; name another exchange"
                ));
            }
            Some(DeadLetters::Exchange(name)) => To::Exchange(short(name)?),
            _ => To::Queue(short(&format!("{from}.dead"))?),
        };
        let ca_file = settings.broker.ca_file.clone();
        Ok(Letters { from: short(from)?, to, ca_file, shared, open: None })
    }

    /// Publishes a letter, and waits until it is confirmed. If the broker says that it is blocked, that takes as long as it is.
    pub(super) async fn keep(&mut self, target: &Address, letter: &Letter) -> Result<(), DeliveryError> {
        let place = Place { target, exchange: self.to.exchange(), advice: of_letters };
        let known = self.open.take().filter(Open::is_alive);
        let open = match known {
            Some(open) => open,
            None => Open::new(place, self.ca_file.as_deref(), &self.to).await?,
        };
        let published = {
            let mut published = pin!(self.publish(&open.channel, letter));
            loop {
                match timeout(ANSWER, &mut published).await {
                    Ok(published) => {
                        break published.map_err(|error| explain(&error, Stage::Publish, place))?;
                    }
                    // If it were published once more, it would be there twice in the end.
                    Err(_) if open.link.connection.status().blocked() => {
                        self.shared.letters_wait("the broker is blocked: it is low on memory or disk space");
                    }
                    Err(_) => return Err(DeliveryError::unavailable("the broker does not confirm it")),
                }
            }
        };
        self.open = Some(open);
        match published {
            Published::Kept => Ok(()),
            Published::Refused(why) => Err(DeliveryError::unavailable(why)),
        }
    }

    async fn publish(&self, channel: &Channel, letter: &Letter) -> lapin::Result<Published> {
        let (exchange, key) = match &self.to {
            To::Queue(name) => (ShortString::default(), name.clone()),
            To::Exchange(name) => {
                let key = letter.entry.key.as_ref().map(PublishKey::as_str);
                (name.clone(), key.unwrap_or_default().into())
            }
        };
        let Payload::Body(body) = &letter.entry.payload else { return Ok(Published::Kept) };
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = self.properties(letter);
        let confirm = channel.basic_publish(exchange, key, options, body, properties).await?.await?;
        Ok(match confirm {
            Confirmation::Ack(None) => Published::Kept,
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                Published::Refused(unroutable(&returned))
            }
            _ => Published::Refused("the broker refuses it: is the queue full?".to_owned()),
        })
    }

    /// Ends the connection for letters.
    pub(super) async fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.link.close(CLOSE).await;
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
            add("key", AMQPValue::LongString(key.as_str().into()));
        }
        BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_headers(headers)
    }
}

/// Finds or makes the place for letters. If the connection has no channel left for that, the next one knows that the place is
/// missing.
async fn make(to: &To, link: &mut Link, missing: &mut Missing) -> lapin::Result<Channel> {
    let mut channel = link.channel().await?;
    if *missing == Missing::Unknown {
        let looked = match to {
            To::Queue(name) => is_missing(waiting(&channel, name).await)?,
            To::Exchange(name) => {
                let look = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                is_missing(declare_exchange(&channel, name, look).await)?
            }
        };
        if looked {
            *missing = Missing::Yes;
            channel = link.channel().await?;
        }
    }
    if *missing == Missing::Yes {
        match to {
            To::Queue(name) => {
                let make = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(name.clone(), make, FieldTable::default()).await?;
            }
            To::Exchange(name) => {
                let make = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
                declare_exchange(&channel, name, make).await?;
            }
        }
    }
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

async fn declare_exchange(
    channel: &Channel,
    name: &ShortString,
    options: ExchangeDeclareOptions,
) -> lapin::Result<()> {
    channel.exchange_declare(name.clone(), ExchangeKind::Topic, options, FieldTable::default()).await
}

fn unroutable(returned: &BasicReturnMessage) -> String {
    let (exchange, key) = (&returned.delivery.exchange, &returned.delivery.routing_key);
    format!("no queue takes it: exchange `{exchange}` has no binding for key `{key}`; bind one")
}
