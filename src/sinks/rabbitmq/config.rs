//! What YAML says of a RabbitMQ sink, its setters, and the checks that need no broker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use lapin::types::{FieldTable, ShortString};
use serde::Deserialize;

use super::declare::Declared;
use super::queues::{EXCHANGE, ExchangeType, QueueConfig, QueuePlan, named};
use super::settings::{Ordering, Settings};
use super::sink::RabbitMqSink;
use crate::brokers::addresses::Addresses;
use crate::brokers::rabbitmq::address::Address;
use crate::units::{Period, check_path};

/// Most unconfirmed publishes.
const WINDOW: u32 = 65_535;

/// What YAML says of a sink with `type: rabbitmq`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct RabbitMqConfig {
    /// The addresses of the broker: `amqp://user:password@host:5672/vhost` or `amqps://…`, one, a list, or several separated
    /// by commas. When one fails, the next is tried. The default vhost is `/`. Required.
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
    /// How often both sides send a heartbeat; twice this time without one ends the connection. `?heartbeat=` in `url` wins
    /// over this. Default `10s`.
    pub heartbeat: Period,
    /// Most events sent and not yet confirmed. Default 1024.
    pub window: u32,
    /// `pipelined` (the default) sends on while confirms are under way, so that an event that the broker refused comes
    /// after its neighbours; `strict` waits for each confirm.
    pub ordering: Ordering,
    /// The certificates (PEM) that sign the broker's, for `amqps://`. Default: those of the system.
    pub ca_file: Option<PathBuf>,
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

    /// Sets whether exchange, queues and messages survive a restart of the broker; `true` by default.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> RabbitMqConfig {
        self.durable = durable;
        self
    }

    /// Sets whether to declare what is missing at the broker; `true` by default.
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

    /// Sets how often both sides send a heartbeat, in whole seconds; 10 s by default.
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
        Ok(RabbitMqSink::new(Settings {
            targets,
            declared: self.declared()?,
            window,
            ordering: self.ordering,
            ca_file: self.ca_file.clone(),
        }))
    }

    /// The patterns that its queues keep, by queue; `None` where the configuration does not say.
    pub(crate) fn keeps(&self) -> Option<Vec<(String, Vec<String>)>> {
        let is_known = self.queue.is_none() && self.declare && self.exchange_type == ExchangeType::Topic;
        (is_known && !self.queues.is_empty())
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
        let queues =
            self.queues.iter().map(|(name, queue)| queue.plan(name, self.exchange_type, self.durable));
        Ok(Declared { exchange, queues: queues.collect::<Result<_, _>>()?, ..declared })
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::AMQPValue;
    use serde_json::{Value, json};

    use super::super::queues::QueueType;
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
        assert_eq!(config.keeps().expect("the patterns are known").len(), 2);
    }

    #[test]
    fn a_debug_print_holds_no_password() {
        let config = read(json!({}));
        let sink = config.build().expect("it is right");
        assert!(!format!("{config:?}{sink:?}").contains("canary"));
    }
}
