//! Connections to the masters of a cluster.

use futures_util::future::try_join_all;

use super::advice::topic;
use super::inspect::Inspection;
use super::writer::Writer;
use crate::brokers::redis::address::Address;
use crate::brokers::redis::cluster::Map;
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::Failure;

/// A cluster that the sink is connected to.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) map: Map,
    links: Vec<(Address, Link)>,
}

impl Cluster {
    /// Connects to every master. Also returns what inspecting them found.
    pub(super) async fn open(writer: &Writer, map: Map) -> Result<(Cluster, Vec<String>), Failure> {
        let opened = map.masters().iter().map(async |node| {
            let opened = writer.link(node, None).await.map_err(|failure| failure.of_node(node));
            opened.map(|(link, Inspection { findings, .. })| {
                ((node.clone(), link), of_node(node, &findings).collect::<Vec<_>>())
            })
        });
        // A master that cannot be reached keeps its events from arriving, and those behind them.
        let (links, findings): (Vec<_>, Vec<_>) = try_join_all(opened).await?.into_iter().unzip();
        Ok((Cluster { map, links }, findings.concat()))
    }

    pub(super) fn links(&mut self) -> &mut [(Address, Link)] {
        &mut self.links
    }

    /// Any connection that there is.
    pub(super) fn any_link(&self) -> Option<&Link> {
        self.links.first().map(|(_, link)| link)
    }

    /// The connection to a node, where there is one.
    pub(super) fn known_link(&self, node: &Address) -> Option<&Link> {
        self.links.iter().find(|(known, _)| known.is(node)).map(|(_, link)| link)
    }

    /// Whether no node has hung up.
    pub(super) fn is_alive(&self) -> bool {
        self.links.iter().all(|(_, link)| link.is_alive())
    }

    /// The connection to a node, made where there is none.
    pub(super) async fn link(&mut self, writer: &Writer, node: &Address) -> Result<&Link, Failure> {
        self.links.retain(|(known, link)| !known.is(node) || link.is_alive());
        let at = match self.links.iter().position(|(known, _)| known.is(node)) {
            Some(at) => at,
            None => {
                let (link, _) = writer.link(node, None).await.map_err(|failure| failure.of_node(node))?;
                self.links.push((node.clone(), link));
                self.links.len() - 1
            }
        };
        Ok(&self.links[at].1)
    }

    /// Closes the connection to a node.
    pub(super) fn give_up(&mut self, node: &Address) {
        self.links.retain(|(known, _)| !known.is(node));
    }

    /// Asks a node that has got a slot for the current map. Where that fails, the next batch is sent on once more.
    pub(super) async fn learn(&mut self, writer: &mut Writer, node: &Address) {
        if let Some((_, link)) = self.links.iter_mut().find(|(known, _)| known.is(node))
            && let Ok(map) = Map::ask(link, node, topic("*")).await
        {
            self.links.retain(|(node, _)| map.masters().iter().any(|master| master.is(node)));
            self.map = map;
        }
        writer.remember(&self.map);
    }
}

/// Findings with the node that they are of.
pub(super) fn of_node<'a>(node: &'a Address, findings: &'a [String]) -> impl Iterator<Item = String> + 'a {
    findings.iter().map(move |finding| format!("node {node}: {finding}"))
}
