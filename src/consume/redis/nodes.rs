//! Where a stream is: on a single server, or on the node of a cluster that has its slot.

use std::path::PathBuf;

use redis::Value;

use super::commands::greeting;
use super::words::{reply, topic};
use crate::brokers::addresses::Addresses;
use crate::brokers::redis::address::Address;
use crate::brokers::redis::cluster::{Map, several, slot};
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::{Failure, no_master};

/// The addresses that were given, and the nodes that were found.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    given: Vec<Address>,
    /// In the order in which they are tried.
    places: Vec<Address>,
    ca_file: Option<PathBuf>,
    pub(super) is_cluster: bool,
}

/// A connection to the node that has what was looked for.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) node: Address,
    pub(super) link: Link,
    /// Names the connection to its server.
    pub(super) client: Option<i64>,
}

impl Nodes {
    pub(super) fn parse(url: &str, ca_file: Option<PathBuf>) -> Result<Nodes, String> {
        let addresses = Addresses::from(url);
        let given = addresses.iter().map(Address::parse).collect::<Result<Vec<_>, _>>()?;
        Ok(Nodes { places: given.clone(), given, ca_file, is_cluster: false })
    }

    /// The addresses as people read them.
    pub(super) fn shown(&self) -> String {
        several(&self.given)
    }

    /// Connects to the node that has this key.
    pub(super) async fn find(&mut self, key: &str) -> Result<Found, Failure> {
        let mut failed = None;
        for _ in 0..self.places.len() {
            let Some(place) = self.places.first().cloned() else { break };
            match self.ask(&place, key).await {
                Ok(found) => return Ok(found),
                Err(failure) => {
                    // Rotated at once, so that the next attempt continues with the next node, even if this one is dropped.
                    self.places.rotate_left(1);
                    // A node that answers knows more than one that does not.
                    if failure.keep || failed.is_none() {
                        failed = Some(if self.places.len() > 1 { failure.of_node(&place) } else { failure });
                    }
                }
            }
        }
        Err(failed.unwrap_or_else(|| Failure::unavailable("there is no address")))
    }

    async fn ask(&mut self, place: &Address, key: &str) -> Result<Found, Failure> {
        let (mut found, in_cluster) = self.greet(place, key).await?;
        self.is_cluster = in_cluster;
        if !in_cluster {
            return Ok(found);
        }
        let map = Map::ask(&mut found.link, place, topic(key)).await?;
        let node = map.master_of(slot(key)).cloned().ok_or_else(|| no_master(slot(key)))?;
        let given = self.given.iter().filter(|given| !map.nodes.iter().any(|node| node.is(given)));
        self.places = map.nodes.iter().chain(given).cloned().collect();
        if node.is(place) {
            return Ok(found);
        }
        let (found, _) = self.greet(&node, key).await.map_err(|failure| failure.of_node(&node))?;
        Ok(found)
    }

    /// Another connection to the same node.
    pub(super) async fn again(&self, found: &Found, key: &str) -> Result<Found, Failure> {
        Ok(self.greet(&found.node, key).await?.0)
    }

    /// Connects to a node. Also says whether it is a node of a cluster.
    async fn greet(&self, node: &Address, key: &str) -> Result<(Found, bool), Failure> {
        let opened = Link::open(node, self.ca_file.as_deref(), &greeting(), topic(key), || ()).await;
        let (link, answers) = opened?;
        // A user that may not ask for the number of the connection, or for the cluster, does without.
        if let Some(Value::ServerError(error)) = answers.first()
            && error.code() != "NOPERM"
        {
            return Err(reply(error.code(), error.details().unwrap_or_default(), key));
        }
        let client = match answers.get(1) {
            Some(Value::Int(client)) => Some(*client),
            _ => None,
        };
        let in_cluster = !matches!(answers.get(2), None | Some(Value::ServerError(_)));
        Ok((Found { node: node.clone(), link, client }, in_cluster))
    }
}
