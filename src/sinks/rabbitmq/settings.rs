//! What a configuration comes to, once nothing is wrong in it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::declare::Declared;
use crate::brokers::rabbitmq::address::Address;

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

/// The settings of a RabbitMQ sink.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) targets: Vec<Address>,
    pub(super) declared: Declared,
    /// Most events that are sent and not yet confirmed.
    pub(super) window: usize,
    pub(super) ordering: Ordering,
    pub(super) ca_file: Option<PathBuf>,
}
