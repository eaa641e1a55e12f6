//! The nodes of a broker, and the one that is used.

use std::path::{Path, PathBuf};

use streamll_actors::sink::DeliveryError;

use crate::brokers::addresses::Addresses;
use crate::brokers::rabbitmq::address::Address;

/// How often both sides show that they live, in seconds.
const HEARTBEAT: u16 = 10;

/// The addresses that were given.
#[derive(Debug)]
pub(super) struct Nodes {
    addresses: Vec<Address>,
    /// The one to try next, or that answers.
    current: usize,
    ca_file: Option<PathBuf>,
}

impl Nodes {
    pub(super) fn parse(url: &str, ca_file: Option<PathBuf>) -> Result<Nodes, String> {
        let urls = Addresses::from(url);
        let addresses = urls.iter().map(|url| Address::parse(url, HEARTBEAT)).collect::<Result<Vec<_>, _>>();
        let addresses = addresses.map_err(|why| why.trim_start_matches("url: ").to_owned())?;
        Ok(Nodes { addresses, current: 0, ca_file })
    }

    /// The node to speak to.
    pub(super) fn current(&self) -> Result<&Address, DeliveryError> {
        self.addresses.get(self.current).ok_or_else(|| DeliveryError::unavailable("no address"))
    }

    /// This node has failed: the next one is tried.
    pub(super) fn advance(&mut self) {
        self.current = (self.current + 1) % self.addresses.len().max(1);
    }

    pub(super) fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }
}
