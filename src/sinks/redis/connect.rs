//! Connects the sink to the first place that answers: a server, or the cluster of that server.

use super::advice::topic;
use super::cluster::Cluster;
use super::writer::Writer;
use crate::brokers::redis::address::Address;
use crate::brokers::redis::cluster::Map;
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::{Failure, no_cluster, no_cluster_info};

/// What the sink is connected to.
#[derive(Debug)]
pub(super) enum Connection {
    Server(Link),
    Cluster(Cluster),
}

impl Writer {
    /// Connects to the first place that answers. Also returns what inspecting it found.
    pub(super) async fn connect(&mut self) -> Result<(Connection, Vec<String>), Failure> {
        let (places, mut failed, mut maps) = (self.nodes.places.clone(), None, 0);
        for place in &places {
            // If this future is dropped half-way, the next attempt begins with the next place.
            self.nodes.put_last(place);
            match self.connect_to(place, &mut maps).await {
                Ok(connected) => return Ok(connected),
                Err(failure) => {
                    let failure = if places.len() > 1 { failure.of_node(place) } else { failure };
                    // Its map may have brought it to the front again.
                    self.nodes.put_last(place);
                    // One that answers knows more than one that does not.
                    failed = Some(match failed {
                        Some(earlier) if !failure.keep => Failure::cheaper(earlier, &failure),
                        Some(earlier) => Failure::cheaper(failure, &earlier),
                        None => failure,
                    });
                }
            }
            // Two places knew the cluster, and it could not be reached: a third says the same, and takes its time.
            if maps >= 2 {
                break;
            }
        }
        Err(failed.unwrap_or_else(|| Failure::unavailable("there is no address")))
    }

    /// Connects to one place. `maps` counts the places that knew their cluster.
    async fn connect_to(
        &mut self,
        place: &Address,
        maps: &mut u32,
    ) -> Result<(Connection, Vec<String>), Failure> {
        let key = self.settings.entry.keys.one().map(str::to_owned);
        let key = key.as_deref().filter(|_| self.nodes.in_cluster != Some(true));
        let (mut link, inspection) = self.link(place, key).await?;
        let in_cluster = self.nodes.in_cluster.unwrap_or(inspection.in_cluster);
        if !in_cluster && self.settings.addresses.len() > 1 {
            return Err(match inspection.may_ask {
                true => no_cluster(topic("*")),
                false => no_cluster_info(),
            });
        }
        if !in_cluster {
            self.set_expiry(&link).await?;
            return Ok((Connection::Server(link), inspection.findings));
        }
        let map = Map::ask(&mut link, place, topic("*")).await?;
        *maps += 1;
        drop(link);
        self.remember(&map);
        let (mut cluster, findings) = Cluster::open(self, map).await?;
        self.set_expiry_in_cluster(&mut cluster).await?;
        Ok((Connection::Cluster(cluster), findings))
    }
}
