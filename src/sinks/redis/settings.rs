//! What a configuration comes to, once nothing is wrong in it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::transaction::Entry;
use crate::brokers::redis::address::Address;

/// How many transactions of a Redis sink are under way at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// One: events never overtake each other.
    #[default]
    Strict,
    /// Two, for more throughput: when the first is refused the second may overtake it.
    Pipelined,
}

/// The settings of a Redis sink.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) addresses: Vec<Address>,
    /// Whether the addresses are those of a cluster, where the user says so.
    pub(super) cluster: Option<bool>,
    pub(super) entry: Entry,
    pub(super) ordering: Ordering,
    pub(super) ca_file: Option<PathBuf>,
}
