//! What YAML says of a RabbitMQ sink, its setters, and the checks that need no broker.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::declare::{Declared, QueuePlan};
use super::sink::RabbitMqSink;
use crate::brokers::addresses::Addresses;
use crate::brokers::rabbitmq::address::Address;
use crate::units::{Period, check_path};

/// The exchange where the configuration names none.
const EXCHANGE: &str = "ai_events";
/// What a name may have at most, in bytes: the protocol counts in one byte.
const NAME: usize = 255;
/// Most unconfirmed publishes.
const WINDOW: u32 = 65_535;

/// What YAML says of a sink with `type: rabbitmq`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct RabbitMqConfig {
    /// Where the broker is: `amqp://user:password@host:5672/vhost` or `amqps://…`; several as a list or separated by
    /// commas, of which the next is tried when one fails. Without a vhost it is `/`. Required.
    pub url: Addresses,
    /// The exchange that takes the events. Default `ai_events`.
    pub exchange: Option<String>,
    /// How the exchange chooses queues: `topic` (the default), `direct`, `fanout` or `headers`.
    pub exchange_type: ExchangeType,
    /// Whether exchange, queues and messages survive a restart of the broker. Default `true`.
    pub durable: bool,
    /// Whether to declare exchange, queues and bindings; `false` only checks that they are there. Default `true`.
    pub declare: bool,
    /// The queues: for each name the patterns that it is bound with, or a map with more to say. Default: none.
    pub queues: BTreeMap<String, QueueConfig>,
    /// One queue that takes everything, without an exchange: the key of every message is its name. Excludes `exchange`
    /// and `queues`. Default: none.
    pub queue: Option<String>,
    /// How often both sides show that they live; twice this time without a sign ends the connection. `?heartbeat=`
    /// in `url` goes before. Default `10s`.
    pub heartbeat: Period,
    /// Most events sent and not yet confirmed. Default 1024.
    pub window: u32,
    /// `pipelined` (the default) sends on while confirms are under way, so that an event that the broker refused comes
    /// after its neighbours; `strict` waits for each confirm.
    pub ordering: Ordering,
    /// The certificates (PEM) that sign the broker's, for `amqps://`. Default: those of the system.
    pub ca_file: Option<PathBuf>,
}

/// How a sink orders what the broker refuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// A refused event comes after those that were under way with it.
    #[default]
    Pipelined,
    /// Every event waits for the one before.
    Strict,
}

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
    /// What it is: `classic` (the default), `quorum` or `stream`.
    #[serde(rename = "type")]
    pub kind: QueueType,
    /// How long a message stays at most. Default: for ever.
    pub message_ttl: Option<Period>,
    /// How many messages it holds at most. Default: any number.
    pub max_length: Option<u64>,
    /// The exchange that takes what is refused, has expired or is too much. It is not declared: without it at the
    /// broker such messages are gone. Default: none.
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

impl Default for RabbitMqConfig {
    fn default() -> RabbitMqConfig {
        RabbitMqConfig {
            url: Addresses::default(),
            exchange: None,
            exchange_type: ExchangeType::default(),
            durable: true,
            declare: true,
            queues: BTreeMap::new(),
            queue: None,
            heartbeat: Period(Duration::from_secs(10)),
            window: 1024,
            ordering: Ordering::default(),
            ca_file: None,
        }
    }
}

impl QueueConfig {
    /// A queue that is bound with these patterns.
    #[must_use]
    pub fn bound<T: Into<String>>(patterns: impl IntoIterator<Item = T>) -> QueueConfig {
        QueueConfig { bind: patterns.into_iter().map(Into::into).collect(), ..QueueConfig::default() }
    }

    /// Sets what it is.
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
}

impl RabbitMqConfig {
    /// Sets the exchange; `ai_events` by default.
    #[must_use]
    pub fn exchange(mut self, name: impl Into<String>) -> RabbitMqConfig {
        self.exchange = Some(name.into());
        self
    }

    /// Sets how the exchange chooses queues; by topic by default.
    #[must_use]
    pub fn exchange_type(mut self, kind: ExchangeType) -> RabbitMqConfig {
        self.exchange_type = kind;
        self
    }

    /// Sets whether exchange, queues and messages survive a restart of the broker; they do by default.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> RabbitMqConfig {
        self.durable = durable;
        self
    }

    /// Sets whether to declare what is missing at the broker; so by default.
    #[must_use]
    pub fn declare(mut self, declare: bool) -> RabbitMqConfig {
        self.declare = declare;
        self
    }

    /// Adds a queue.
    #[must_use]
    pub fn bind(mut self, name: impl Into<String>, queue: QueueConfig) -> RabbitMqConfig {
        self.queues.insert(name.into(), queue);
        self
    }

    /// Sends everything into one queue, without an exchange.
    #[must_use]
    pub fn queue(mut self, name: impl Into<String>) -> RabbitMqConfig {
        self.queue = Some(name.into());
        self
    }

    /// Sets how often both sides show that they live, in whole seconds; 10 s by default.
    #[must_use]
    pub fn heartbeat(mut self, every: Duration) -> RabbitMqConfig {
        self.heartbeat = Period(every);
        self
    }

    /// Sets how many events may be sent and not yet confirmed; 1024 by default.
    #[must_use]
    pub fn window(mut self, events: u32) -> RabbitMqConfig {
        self.window = events;
        self
    }

    /// Sets how to order what the broker refuses; pipelined by default.
    #[must_use]
    pub fn ordering(mut self, ordering: Ordering) -> RabbitMqConfig {
        self.ordering = ordering;
        self
    }

    /// Sets the certificates (PEM) that sign the broker's; those of the system by default.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> RabbitMqConfig {
        self.ca_file = Some(path.into());
        self
    }

    /// Makes the sink; it connects when it is opened.
    ///
    /// # Errors
    /// When something cannot be right whatever the broker says; the text begins with the key, `url: …`.
    pub fn build(&self) -> Result<RabbitMqSink, String> {
        let heartbeat = u16::try_from(self.heartbeat.0.as_secs()).unwrap_or(0);
        if heartbeat == 0 || self.heartbeat.0.subsec_nanos() > 0 {
            return Err("heartbeat: must be whole seconds, at least one; write `10s`".to_owned());
        }
        let window = usize::try_from(self.window).unwrap_or(0);
        if !(1..=WINDOW).contains(&self.window) {
            return Err(format!("window: must be between 1 and {WINDOW}; write `1024`"));
        }
        if self.url.iter().next().is_none() {
            return Err("url: is missing; write `amqp://user:password@host:5672/vhost`".to_owned());
        }
        if let Some(Err(why)) = self.ca_file.as_deref().map(check_path) {
            return Err(format!("ca_file: {why}"));
        }
        let targets = self.url.iter().map(|url| Address::parse(url, heartbeat));
        let targets = targets.collect::<Result<_, _>>()?;
        Ok(RabbitMqSink::new(
            targets,
            self.declared()?,
            window,
            self.ordering == Ordering::Strict,
            self.ca_file.clone(),
        ))
    }

    /// The patterns that its queues keep, by queue; `None` where the configuration does not tell.
    pub(crate) fn keeps(&self) -> Option<Vec<(String, Vec<String>)>> {
        let tells = self.queue.is_none() && self.declare && self.exchange_type == ExchangeType::Topic;
        (tells && !self.queues.is_empty())
            .then(|| self.queues.iter().map(|(name, queue)| (name.clone(), queue.bind.clone())).collect())
    }

    fn declared(&self) -> Result<Declared, String> {
        let declared = Declared {
            exchange: ShortString::default(),
            kind: self.exchange_type,
            durable: self.durable,
            declare: self.declare,
            only_queue: None,
            queues: Vec::new(),
        };
        if let Some(queue) = &self.queue {
            if self.exchange.is_some() || !self.queues.is_empty() || self.exchange_type != ExchangeType::Topic
            {
                return Err("queue: takes everything without an exchange; leave out `exchange`, `exchange_type` and `queues`"
                    .to_owned());
            }
            let name = named("queue", queue)?;
            let plan =
                QueuePlan { name: name.clone(), arguments: FieldTable::default(), bindings: Vec::new() };
            return Ok(Declared { only_queue: Some(name), queues: vec![plan], ..declared });
        }
        let exchange = named("exchange", self.exchange.as_deref().unwrap_or(EXCHANGE))?;
        let queues = self.queues.iter().map(|(name, queue)| self.planned(name, queue));
        Ok(Declared { exchange, queues: queues.collect::<Result<_, _>>()?, ..declared })
    }

    fn planned(&self, name: &str, queue: &QueueConfig) -> Result<QueuePlan, String> {
        let mut arguments = FieldTable::default();
        let kind = match queue.kind {
            QueueType::Classic => None,
            QueueType::Quorum => Some("quorum"),
            QueueType::Stream => Some("stream"),
        };
        if let Some(kind) = kind {
            if !self.durable {
                return Err(format!(
                    "queues: `{name}` cannot be a {kind} queue when `durable` is false; make it `classic`"
                ));
            }
            arguments.insert(short("x-queue-type")?, AMQPValue::LongString(kind.into()));
        }
        if queue.kind == QueueType::Stream && (queue.max_length.is_some() || queue.message_ttl.is_some()) {
            return Err(format!(
                "queues: `{name}` is a stream, which knows neither `max_length` nor `message_ttl`; say \
                 `arguments: {{ x-max-length-bytes: 1000000000 }}` or `{{ x-max-age: 7D }}`"
            ));
        }
        if queue.max_length == Some(0) || queue.message_ttl.is_some_and(|Period(time)| time.is_zero()) {
            return Err(format!(
                "queues: `{name}` would keep nothing; leave out `max_length` or `message_ttl` of zero"
            ));
        }
        if let Some(Period(time)) = queue.message_ttl {
            let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
            arguments.insert(short("x-message-ttl")?, AMQPValue::LongLongInt(millis));
        }
        if let Some(length) = queue.max_length {
            let length = i64::try_from(length).unwrap_or(i64::MAX);
            arguments.insert(short("x-max-length")?, AMQPValue::LongLongInt(length));
        }
        if let Some(exchange) = &queue.dead_letter_exchange {
            named("queues", exchange)?;
            arguments
                .insert(short("x-dead-letter-exchange")?, AMQPValue::LongString(exchange.as_str().into()));
        }
        for (argument, value) in &queue.arguments {
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
        let bindings = queue.bind.iter().map(|pattern| self.binding(name, pattern));
        let mut bindings: Vec<_> = bindings.collect::<Result<_, _>>()?;
        if self.exchange_type == ExchangeType::Fanout && bindings.is_empty() {
            bindings.push((ShortString::default(), FieldTable::default()));
        }
        Ok(QueuePlan { name: named("queues", name)?, arguments, bindings })
    }

    /// The key and the arguments of a binding.
    fn binding(&self, queue: &str, pattern: &str) -> Result<(ShortString, FieldTable), String> {
        if self.exchange_type != ExchangeType::Headers {
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
fn named(key: &str, name: &str) -> Result<ShortString, String> {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(mut more: Value) -> RabbitMqConfig {
        if more.get("url").is_none() {
            more["url"] = "amqp://u:canary@localhost".into();
        }
        serde_json::from_value(more).expect("a configuration")
    }

    #[track_caller]
    fn refused(more: Value, why: &str) {
        let error = read(more).build().map(|_| ()).expect_err(why);
        assert!(error.starts_with(why), "{error}");
        assert!(!error.contains("canary"), "{error}");
    }

    #[test]
    fn what_cannot_be_right_is_refused_without_a_broker() {
        refused(json!({ "url": [] }), "url: is missing");
        for url in
            ["", "localhost", "http://u:canary@h", "amqp://u:canary@h:99999", "amqp://u:canary@h/%zz%ff"]
        {
            refused(json!({ "url": url }), "url: ");
        }
        refused(json!({ "url": ["amqp://h", "amqp://u:canary@h/a/b"] }), "url: ");
        refused(json!({ "url": "amqp://u:canary@h?heartbeat=soon" }), "url: ");
        refused(json!({ "ca_file": "~/ca.pem" }), "ca_file: `~`");
        refused(json!({ "ca_file": "" }), "ca_file: an empty path");
        refused(json!({ "exchange": "x".repeat(256) }), "exchange: the name `xxxx");
        refused(json!({ "exchange": "" }), "exchange: a name is empty");
        refused(json!({ "queue": "q", "exchange": "x" }), "queue: takes everything");
        refused(json!({ "queue": "q", "queues": { "a": ["#"] } }), "queue: takes everything");
        refused(json!({ "queues": { "a": ["x".repeat(256)] } }), "queues: a pattern of `a`");
        refused(
            json!({ "durable": false, "queues": { "a": { "type": "quorum" } } }),
            "queues: `a` cannot be",
        );
        refused(
            json!({ "durable": false, "queues": { "a": { "type": "stream" } } }),
            "queues: `a` cannot be",
        );
        refused(
            json!({ "queues": { "a": { "arguments": { "overflow": "x" } } } }),
            "queues: `a` has an argument",
        );
        let twice = json!({ "max_length": 1, "arguments": { "x-max-length": 2 } });
        refused(json!({ "queues": { "a": twice } }), "queues: `a` says `x-max-length` twice");
        refused(
            json!({ "exchange_type": "headers", "queues": { "a": ["ai.#"] } }),
            "queues: `a` is bound by",
        );
        refused(json!({ "window": 0 }), "window: ");
        refused(json!({ "heartbeat": "1500ms" }), "heartbeat: ");
        refused(json!({ "heartbeat": "0s" }), "heartbeat: ");
    }

    #[test]
    fn an_argument_is_a_scalar() {
        let queues = json!({ "a": { "arguments": { "x-a": ["list"] } } });
        serde_json::from_value::<RabbitMqConfig>(json!({ "url": "amqp://h", "queues": queues })).unwrap_err();
    }

    #[test]
    fn a_queue_is_a_list_of_patterns_or_a_map() {
        let config = read(json!({ "queues": {
            "short": ["ai.#"],
            "long": { "bind": ["ai.*.error"], "type": "quorum", "message_ttl": "1h", "max_length": 10,
                "dead_letter_exchange": "dead", "arguments": { "x-single-active-consumer": true } },
        } }));
        assert_eq!(config.queues["short"], QueueConfig::bound(["ai.#"]));
        assert_eq!(config.queues["long"].kind, QueueType::Quorum);
        let declared = config.declared().expect("it is right");
        let long = &declared.queues[0].arguments;
        assert_eq!(long.inner()["x-message-ttl"], AMQPValue::LongLongInt(3_600_000));
        assert_eq!(long.inner()["x-single-active-consumer"], AMQPValue::Boolean(true));
        assert_eq!(long.inner().len(), 5);
        assert_eq!(config.keeps().expect("it tells").len(), 2);
    }

    #[test]
    fn a_debug_print_holds_no_password() {
        let config = read(json!({}));
        let sink = config.build().expect("it is right");
        assert!(!format!("{config:?}{sink:?}").contains("canary"));
    }
}
