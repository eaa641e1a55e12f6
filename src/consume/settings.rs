//! The settings of a consumer, as plain values: the builder collects them, sources and engine take them.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use streamll_actors::event::Kind;
use streamll_actors::route::TopicPattern;

use super::dead_letter::DeadLetters;
use super::filter::{Filter, Key};

/// Where a consumer begins to read. A Redis group that exists continues where it was, whatever this says. A classic or
/// quorum queue of RabbitMQ continues with what is in it; such a queue refuses [`After`](Start::After), because it has no
/// offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With the oldest entry that still exists.
    Begin,
    /// With what comes after the first connection.
    Now,
    /// After this id of a Redis stream (`1718000000000-0`), or after this offset of a RabbitMQ stream queue (`4711`).
    /// [`ConsumerStatus::cursor`](crate::consume::ConsumerStatus::cursor) has this form.
    After(String),
}

/// All settings of a consumer but its handlers.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) broker: Broker,
    pub(super) reading: Reading,
    pub(super) choice: Choice,
    pub(super) handling: Handling,
    pub(super) dead_letters: Option<DeadLetters>,
    pub(super) names: SettingNames,
}

/// How the broker is reached.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) url: SecretString,
    pub(super) ca_file: Option<PathBuf>,
}

/// What is read, from where to where, and as whom.
#[derive(Debug)]
pub(super) struct Reading {
    /// A stream of Redis, or an exchange of RabbitMQ.
    pub(super) target: String,
    /// An exchange of RabbitMQ, or the stream of a Redis group.
    pub(super) missing_target: IfMissing,
    pub(super) group: Option<String>,
    /// The consumer's name in its group.
    pub(super) name: Option<String>,
    pub(super) start: Option<Start>,
    pub(super) until: Option<String>,
    pub(super) claim_after: Duration,
    /// How many entries may be in hand.
    pub(super) prefetch: u16,
}

/// What a consumer does about an exchange, queue or stream that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMissing {
    /// The consumer makes it.
    Make,
    /// The consumer says so, and looks for it again.
    Report,
}

/// Which events are taken, and where they stand in an entry.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) field: Option<String>,
    pub(super) topics: Vec<TopicPattern>,
    /// If there are any, all other types are left out.
    pub(super) kinds: Vec<Kind>,
    pub(super) filters: Vec<Filter>,
}

/// How events are handled.
#[derive(Debug)]
pub(super) struct Handling {
    pub(super) workers: usize,
    /// Events with the same value are handled in order.
    pub(super) key: Key,
    pub(super) max_attempts: u32,
    /// How many handled events the duplicate filter remembers at least; without one, nothing is filtered.
    pub(super) duplicate_window: Option<usize>,
    pub(super) stop_timeout: Duration,
}

/// The names of those settings that messages mention, as the user of this consumer knows them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SettingNames {
    pub(crate) field: &'static str,
    pub(crate) group: &'static str,
    pub(crate) start: &'static str,
    pub(crate) topics: &'static str,
}

impl Settings {
    /// The defaults, for one target of one broker.
    pub(super) fn new(url: SecretString, target: String) -> Settings {
        Settings {
            broker: Broker { url, ca_file: None },
            reading: Reading {
                target,
                missing_target: IfMissing::Make,
                group: None,
                name: None,
                start: None,
                until: None,
                claim_after: Duration::from_secs(60),
                prefetch: 1024,
            },
            choice: Choice::default(),
            handling: Handling {
                workers: 1,
                key: Key::Data("conversation_id".to_owned()),
                max_attempts: 3,
                duplicate_window: None,
                stop_timeout: Duration::from_secs(10),
            },
            dead_letters: None,
            names: SettingNames { field: "`field`", group: "`group`", start: "`start`", topics: "`topics`" },
        }
    }
}
