//! Where events go.
//!
//! | sink | for | order, guarantee |
//! |---|---|---|
//! | [`terminal`](mod@terminal) | people who watch, and `grep` | in order; what is on the screen is gone |
//! | [`file`](mod@file) | keeping events, reading them with other tools, dead letters | in order; survives the process, not the power |
//! | `redis` (feature `redis`) | live views, readers of Redis Streams | in order; as durable as the server's memory and disk |
//! | `rabbitmq` (feature `rabbitmq`) | durable workflows, audit, alerts | in order but for what the broker refuses; on the broker's disk when confirmed (a stream queue: in the memory of most of its nodes) |
//!
//! A configuration holds what YAML says under `sinks.<name>`. In code, these functions make one, and its setters change it:
//!
//! ```
//! use streamll::sinks::{self, terminal::Color};
//!
//! let screen = sinks::terminal().color(Color::Never);
//! let kept = sinks::file("/var/log/rag-api/events.ndjson");
//! assert_eq!(kept.path.file_name().unwrap(), "events.ndjson");
//! ```

pub mod file;
mod flow;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(feature = "rabbitmq", feature = "redis"))]
mod suspects;
pub mod terminal;

use std::path::PathBuf;

pub use file::FileConfig;
#[cfg(feature = "rabbitmq")]
pub use rabbitmq::RabbitMqConfig;
#[cfg(feature = "redis")]
pub use redis::RedisConfig;
pub use terminal::TerminalConfig;

/// Events as readable lines on standard output, in colour where that is a terminal.
#[must_use]
pub fn terminal() -> TerminalConfig {
    TerminalConfig::default()
}

/// Events as lines of JSON, appended to the file `path`.
#[must_use]
pub fn file(path: impl Into<PathBuf>) -> FileConfig {
    FileConfig { path: path.into() }
}

/// Events as persistent, confirmed messages of a RabbitMQ exchange; `url` is one address or several, by commas.
#[cfg(feature = "rabbitmq")]
#[must_use]
pub fn rabbitmq(url: impl AsRef<str>) -> RabbitMqConfig {
    RabbitMqConfig { url: url.into(), ..RabbitMqConfig::default() }
}

/// Events as entries of Redis Streams; `url` is a server, or one or more nodes of a cluster, by commas.
#[cfg(feature = "redis")]
#[must_use]
pub fn redis(url: impl AsRef<str>) -> RedisConfig {
    RedisConfig::new(url)
}
