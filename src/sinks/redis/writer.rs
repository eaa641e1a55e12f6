//! What writing needs, to one server or to a cluster: the settings, the nodes, and what is known of keys and streams.

use std::collections::HashSet;

use streamll_actors::sink::{Deliveries, SinkContext};

use super::inspect::{self, Inspection};
use super::settings::Settings;
use crate::brokers::redis::address::Address;
use crate::brokers::redis::cluster::Map;
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::Failure;
use crate::sinks::suspects::Suspects;

/// What outlives a connection.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) settings: Settings,
    pub(super) ctx: Option<SinkContext>,
    pub(super) nodes: Nodes,
    pub(super) suspects: Suspects,
    /// A key was refused, and whether other keys are taken is not known.
    pub(super) in_doubt: bool,
    /// Streams that took events since their expiry was set last, where streams expire.
    pub(super) unexpired: HashSet<String>,
}

/// Where to connect.
#[derive(Debug)]
pub(super) struct Nodes {
    /// In the order in which they are tried: nodes of a cluster that were found come behind.
    pub(super) places: Vec<Address>,
    /// Whether they are the nodes of a cluster, once that is known.
    pub(super) in_cluster: Option<bool>,
}

impl Nodes {
    pub(super) fn put_last(&mut self, place: &Address) {
        self.places.retain(|known| !known.is(place));
        self.places.push(place.clone());
    }
}

impl Writer {
    pub(super) fn new(settings: Settings) -> Writer {
        let nodes = Nodes { places: settings.addresses.clone(), in_cluster: settings.cluster };
        let (suspects, unexpired) = (Suspects::default(), HashSet::new());
        Writer { settings, ctx: None, nodes, suspects, in_doubt: false, unexpired }
    }

    /// Says in the status whether there is a connection.
    pub(super) fn connected(&self, connected: bool) {
        if let Some(ctx) = &self.ctx {
            ctx.connected(connected);
        }
    }

    /// Takes in all nodes of a cluster, to ask when some are gone.
    pub(super) fn remember(&mut self, map: &Map) {
        let given = self.settings.addresses.iter();
        let given = given.filter(|given| !map.nodes.iter().any(|node| node.is(given)));
        self.nodes.places = map.nodes.iter().chain(given).cloned().collect();
    }

    /// Connects to one node. `key` is one that the sink must be able to write to.
    pub(super) async fn link(
        &self,
        address: &Address,
        key: Option<&str>,
    ) -> Result<(Link, Inspection), Failure> {
        let Settings { entry, ca_file, .. } = &self.settings;
        let ctx = self.ctx.clone();
        let on_end = move || ctx.into_iter().for_each(|ctx| ctx.connected(false));
        inspect::connect(address, ca_file.as_deref(), key, entry.expire.is_some(), on_end).await
    }

    /// The key that an event is written to.
    pub(super) fn key_of(&self, batch: &Deliveries, i: usize) -> String {
        let delivery = batch.as_slice().get(i);
        delivery.map(|delivery| self.settings.entry.keys.of(delivery).into_owned()).unwrap_or_default()
    }
}
