//! What speaking to Redis needs, for sinks and consumers alike: addresses, connections, the map of a cluster,
//! and what errors mean.

pub(crate) mod address;
pub(crate) mod cluster;
pub(crate) mod connect;
pub(crate) mod error;
pub(crate) mod wire;

use std::time::Duration;

/// How long an answer may take. After that a command counts as unknown, as it may still be carried out.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
