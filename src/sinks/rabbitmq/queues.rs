//! The queues of a RabbitMQ sink: what YAML says of them, and what it comes to at the broker.

use std::collections::BTreeMap;
use std::fmt;

use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::units::Period;

/// The exchange where the configuration names none.
pub(super) const EXCHANGE: &str = "ai_events";
/// What a name may have at most, in bytes: the protocol counts in one byte.
const NAME: usize = 255;

/// How an exchange chooses queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExchangeType {
    /// By patterns such as `ai.*.error` and `ai.#`.
    #[default]
    Topic,
    /// By the key itself.
    Direct,
    /// All of them.
    Fanout,
    /// By headers: a binding is `event_type=error`, or several of these separated by commas, all of which must match.
    Headers,
}

/// A queue: how it is bound, and what it is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, remote = "Self")]
pub struct QueueConfig {
    /// The patterns that it is bound with. Default: none; something else binds it.
    pub bind: Vec<String>,
    /// The type of the queue: `classic` (the default), `quorum` or `stream`.
    #[serde(rename = "type")]
    pub kind: QueueType,
    /// How long a message stays at most. Default: without limit.
    pub message_ttl: Option<Period>,
    /// How many messages it holds at most. Default: any number.
    pub max_length: Option<u64>,
    /// The exchange that takes messages that are refused, have expired, or are too many. The sink does not declare it, and
    /// without it at the broker such messages are lost. Default: none.
    pub dead_letter_exchange: Option<String>,
    /// Arguments by their names, `x-overflow: reject-publish`. Default: none.
    pub arguments: BTreeMap<String, Argument>,
}

/// What a queue is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueType {
    /// On one node.
    #[default]
    Classic,
    /// On several nodes; a message is safe once a majority has it.
    Quorum,
    /// A log that many can read, each from where it likes; a confirm does not wait for its disk.
    Stream,
}

/// The value of a queue's argument.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Argument {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// Any other number.
    Fraction(f64),
    /// A text.
    Text(String),
}

impl<'de> Deserialize<'de> for QueueConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<QueueConfig, D::Error> {
        struct PatternsOrMore;
        impl<'de> de::Visitor<'de> for PatternsOrMore {
            type Value = QueueConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of patterns such as `[\"ai.#\"]`, or a map with `bind` and `type`")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<QueueConfig, A::Error> {
                let bind = Vec::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(QueueConfig { bind, ..QueueConfig::default() })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<QueueConfig, A::Error> {
                QueueConfig::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(PatternsOrMore)
    }
}

/// One queue, with the keys and arguments of its bindings.
#[derive(Debug, Clone)]
pub(super) struct QueuePlan {
    pub(super) name: ShortString,
    pub(super) arguments: FieldTable,
    pub(super) bindings: Vec<(ShortString, FieldTable)>,
}

impl QueueConfig {
    /// A queue that is bound with these patterns.
    #[must_use]
    pub fn bound<T: Into<String>>(patterns: impl IntoIterator<Item = T>) -> QueueConfig {
        QueueConfig { bind: patterns.into_iter().map(Into::into).collect(), ..QueueConfig::default() }
    }

    /// Sets the type of the queue.
    #[must_use]
    pub fn kind(mut self, kind: QueueType) -> QueueConfig {
        self.kind = kind;
        self
    }

    /// Sets an argument, such as `x-overflow`.
    #[must_use]
    pub fn argument(mut self, name: impl Into<String>, value: Argument) -> QueueConfig {
        self.arguments.insert(name.into(), value);
        self
    }

    /// What is declared for this queue at an exchange of this type.
    ///
    /// # Errors
    /// What cannot be right whatever the broker says; the text begins with `queues: `.
    pub(super) fn plan(
        &self,
        name: &str,
        exchange: ExchangeType,
        durable: bool,
    ) -> Result<QueuePlan, String> {
        let arguments = self.declared_arguments(name, durable)?;
        let bindings = self.bind.iter().map(|pattern| binding(name, pattern, exchange));
        let mut bindings: Vec<_> = bindings.collect::<Result<_, _>>()?;
        if exchange == ExchangeType::Fanout && bindings.is_empty() {
            bindings.push((ShortString::default(), FieldTable::default()));
        }
        Ok(QueuePlan { name: named("queues", name)?, arguments, bindings })
    }

    fn declared_arguments(&self, name: &str, durable: bool) -> Result<FieldTable, String> {
        let mut arguments = FieldTable::default();
        let kind = match self.kind {
            QueueType::Classic => None,
            QueueType::Quorum => Some("quorum"),
            QueueType::Stream => Some("stream"),
        };
        if let Some(kind) = kind {
            if !durable {
                return Err(format!(
                    "queues: `{name}` cannot be a {kind} queue when `durable` is false; make it `classic`"
                ));
            }
            arguments.insert(short("x-queue-type")?, AMQPValue::LongString(kind.into()));
        }
        if self.kind == QueueType::Stream && (self.max_length.is_some() || self.message_ttl.is_some()) {
            return Err(format!(
                "queues: `{name}` is a stream, which knows neither `max_length` nor `message_ttl`; say \
                 `arguments: {{ x-max-length-bytes: 1000000000 }}` or `{{ x-max-age: 7D }}`"
            ));
        }
        if self.max_length == Some(0) || self.message_ttl.is_some_and(|Period(time)| time.is_zero()) {
            return Err(format!(
                "queues: `{name}` would keep nothing; leave out `max_length` or `message_ttl` of zero"
            ));
        }
        if let Some(Period(time)) = self.message_ttl {
            let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
            arguments.insert(short("x-message-ttl")?, AMQPValue::LongLongInt(millis));
        }
        if let Some(length) = self.max_length {
            let length = i64::try_from(length).unwrap_or(i64::MAX);
            arguments.insert(short("x-max-length")?, AMQPValue::LongLongInt(length));
        }
        if let Some(exchange) = &self.dead_letter_exchange {
            named("queues", exchange)?;
            arguments
                .insert(short("x-dead-letter-exchange")?, AMQPValue::LongString(exchange.as_str().into()));
        }
        for (argument, value) in &self.arguments {
            let key = named("queues", argument)?;
            if !argument.starts_with("x-") {
                return Err(format!(
                    "queues: `{name}` has an argument `{argument}`; their names begin with `x-`"
                ));
            }
            if arguments.contains_key(argument) {
                return Err(format!("queues: `{name}` says `{argument}` twice; leave it out of `arguments`"));
            }
            arguments.insert(key, value.into());
        }
        Ok(arguments)
    }
}

/// The key and the arguments of a binding.
fn binding(queue: &str, pattern: &str, exchange: ExchangeType) -> Result<(ShortString, FieldTable), String> {
    if exchange != ExchangeType::Headers {
        let key = ShortString::try_new(pattern)
            .map_err(|_| format!("queues: a pattern of `{queue}` is longer than {NAME} bytes"))?;
        return Ok((key, FieldTable::default()));
    }
    let mut wanted = FieldTable::default();
    wanted.insert(short("x-match")?, AMQPValue::LongString("all".into()));
    for pair in pattern.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (header, value) = pair.split_once('=').ok_or_else(|| {
            format!("queues: `{queue}` is bound by headers, not by `{pair}`; write `event_type=error`")
        })?;
        wanted.insert(named("queues", header)?, AMQPValue::LongString(value.into()));
    }
    Ok((ShortString::default(), wanted))
}

impl From<&Argument> for AMQPValue {
    fn from(value: &Argument) -> AMQPValue {
        match value {
            Argument::Flag(flag) => AMQPValue::Boolean(*flag),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
            Argument::Fraction(number) => AMQPValue::Double(*number),
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
        }
    }
}

/// A name that the protocol takes.
pub(super) fn named(key: &str, name: &str) -> Result<ShortString, String> {
    if name.is_empty() {
        return Err(format!("{key}: a name is empty; name it, for example `{EXCHANGE}`"));
    }
    ShortString::try_new(name).map_err(|_| {
        let begin: String = name.chars().take(16).collect();
        format!("{key}: the name `{begin}…` has {} bytes; the protocol allows {NAME}", name.len())
    })
}

fn short(name: &str) -> Result<ShortString, String> {
    ShortString::try_new(name).map_err(|error| error.to_string())
}
