//! What YAML says of a sink with `type: redis`, and what can be wrong in it.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use streamll_actors::route::Template;
use streamll_actors::sink::{BatchPolicy, Placement};

use super::settings::{Ordering, Settings};
use super::sink::RedisSink;
use super::transaction::{Entry, Keys};
use crate::brokers::addresses::Addresses;
use crate::brokers::redis::address::Address;
use crate::units::{Period, check_path};

/// The default limits of one delivery: 1024 events make a round trip cheap.
pub(crate) const BATCH: BatchPolicy =
    BatchPolicy { max_events: 1024, max_size: 1 << 20, linger: Duration::ZERO };
/// The sink only awaits, so that it needs no thread of its own, and no wake of one.
pub(crate) const PLACEMENT: Placement = Placement::Spine;

/// What YAML says of a sink with `type: redis`.
#[derive(Debug, Clone, Deserialize)]
pub struct RedisConfig {
    /// The server: `redis://host:6379`, or `rediss://` for TLS, with user, password and database where it needs them:
    /// `redis://user:password@host:6379/0`. Of a cluster one node or several, as a list or separated by commas; the
    /// others are found. Required. Not a Unix socket, and no Sentinel.
    pub url: Addresses,
    /// Whether `url` names nodes of a cluster. Default: what the server says.
    #[serde(default)]
    pub cluster: Option<bool>,
    /// The key of the stream, as a template like a routing key: `prod_ai_events`, or `chat:{data.conversation_id}` for one
    /// stream for each conversation. Default: `ai_events`. Every value of a placeholder makes a new stream, so give such
    /// streams an `expire`.
    #[serde(default = "stream_key")]
    pub stream_key: String,
    /// The field of an entry that holds the event as JSON. Default: `event`.
    #[serde(default = "field")]
    pub field: String,
    /// About how many entries a stream keeps, at least 1; older ones are trimmed (`MAXLEN ~`). Default: all.
    #[serde(default)]
    pub max_len: Option<u64>,
    /// A stream is deleted after this time without an event (`PEXPIRE` with each batch). Default: never.
    #[serde(default)]
    pub expire: Option<Period>,
    /// Whether one transaction is under way at a time (`strict`, the default) or two (`pipelined`); of a cluster one
    /// batch is, with a transaction for each slot.
    #[serde(default)]
    pub ordering: Ordering,
    /// The authorities to trust with `rediss://`, as PEM, read on connecting. Default: those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

fn stream_key() -> String {
    "ai_events".to_owned()
}

fn field() -> String {
    "event".to_owned()
}

impl RedisConfig {
    /// A sink for the server at `url`, with the defaults for all else.
    #[must_use]
    pub fn new(url: impl Into<Addresses>) -> RedisConfig {
        RedisConfig {
            url: url.into(),
            cluster: None,
            stream_key: stream_key(),
            field: field(),
            max_len: None,
            expire: None,
            ordering: Ordering::default(),
            ca_file: None,
        }
    }

    /// Sets whether `url` names nodes of a cluster; by default the server says it.
    #[must_use]
    pub fn cluster(mut self, cluster: bool) -> RedisConfig {
        self.cluster = Some(cluster);
        self
    }

    /// Sets the template of the stream's key.
    #[must_use]
    pub fn stream_key(mut self, template: impl Into<String>) -> RedisConfig {
        self.stream_key = template.into();
        self
    }

    /// Sets the field that holds the event.
    #[must_use]
    pub fn field(mut self, name: impl Into<String>) -> RedisConfig {
        self.field = name.into();
        self
    }

    /// Sets about how many entries a stream keeps.
    #[must_use]
    pub fn max_len(mut self, entries: u64) -> RedisConfig {
        self.max_len = Some(entries);
        self
    }

    /// Sets after which time without an event a stream is deleted, in whole milliseconds.
    #[must_use]
    pub fn expire(mut self, after: Duration) -> RedisConfig {
        self.expire = Some(Period(after));
        self
    }

    /// Sets how many transactions are under way at a time.
    #[must_use]
    pub fn ordering(mut self, ordering: Ordering) -> RedisConfig {
        self.ordering = ordering;
        self
    }

    /// Sets the authorities to trust with `rediss://`.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> RedisConfig {
        self.ca_file = Some(path.into());
        self
    }

    /// Makes the sink; it connects when it is opened.
    ///
    /// # Errors
    /// When a value cannot be right. The text begins with its key, `url: …`, and never shows a password.
    pub fn build(&self) -> Result<RedisSink, String> {
        let parse = |url| Address::parse(url).map_err(|why| format!("url: {why}"));
        let addresses = self.url.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Err("url: is missing; write `redis://user:password@host:6379`".to_owned());
        }
        if self.cluster == Some(false) && addresses.len() > 1 {
            return Err(
                "cluster: several servers are those of a cluster; leave out `cluster: false`, or name \
                one server in url"
                    .to_owned(),
            );
        }
        let template = Template::parse(&self.stream_key).map_err(|why| format!("stream_key: {why}"))?;
        if self.field.is_empty() || self.field == "attempt" {
            return Err(format!("field: `{}` cannot be its name; write `event`", self.field));
        }
        if self.max_len == Some(0) {
            return Err("max_len: must be at least 1; leave it out to keep all".to_owned());
        }
        let expire = self.expire.map(|Period(after)| after.as_millis());
        if expire == Some(0) {
            return Err("expire: must be at least 1ms; leave it out to keep streams".to_owned());
        }
        if let Some(Err(why)) = self.ca_file.as_deref().map(check_path) {
            return Err(format!("ca_file: {why}"));
        }
        if self.ca_file.is_some() && !addresses.iter().all(|address| address.tls) {
            return Err("ca_file: is for TLS alone; begin `url` with `rediss://`".to_owned());
        }
        Ok(RedisSink::new(Settings {
            addresses,
            cluster: self.cluster,
            entry: Entry {
                keys: Keys::new(template),
                field: self.field.clone(),
                max_len: self.max_len.map(|entries| entries.to_string()),
                expire: expire.map(|ms| ms.to_string()),
            },
            ordering: self.ordering,
            ca_file: self.ca_file.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_needs_the_url_alone() {
        let read: RedisConfig =
            serde_json::from_value(serde_json::json!({ "url": "redis://:hunter2@h" })).unwrap();
        assert_eq!((&*read.stream_key, &*read.field), ("ai_events", "event"));
        assert_eq!((read.max_len, read.expire, read.ordering), (None, None, Ordering::Strict));
        assert!(!format!("{read:?} {:?}", read.build().unwrap()).contains("hunter2"));
    }

    #[test]
    fn what_cannot_be_right_is_refused_at_its_key() {
        let good = RedisConfig::new("redis://:hunter2@h");
        assert!(good.build().is_ok());
        let none = serde_json::from_value(serde_json::json!({ "url": [] })).unwrap();
        for (bad, key) in [
            (none, "url: is missing"),
            (RedisConfig::new("redis://:hunter2@h:99999"), "url: "),
            (good.clone().stream_key("chat:{data.id"), "stream_key: "),
            (RedisConfig::new("redis://:hunter2@h,redis://:hunter2@h:99999"), "url: "),
            (RedisConfig::new("redis://:hunter2@h,redis://:hunter2@g").cluster(false), "cluster: "),
            (good.clone().field(""), "field: "),
            (good.clone().field("attempt"), "field: "),
            (good.clone().max_len(0), "max_len: "),
            (good.clone().expire(Duration::from_micros(999)), "expire: "),
            (good.clone().ca_file("ca.pem"), "ca_file: "),
            (RedisConfig::new("rediss://h").ca_file("~/ca.pem"), "ca_file: "),
            (RedisConfig::new("rediss://h").ca_file(""), "ca_file: "),
        ] {
            let error = bad.build().expect_err(key);
            assert!(error.starts_with(key) && error.contains("; ") | (key == "stream_key: "), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
