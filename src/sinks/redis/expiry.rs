//! Sets how long streams stay that took events (`expire`). What fails is tried again before the next batch.

use futures_util::future::try_join_all;
use redis::Value;
use streamll_actors::sink::Deliveries;

use super::advice::{no_pexpire, not_expiring, topic};
use super::cluster::Cluster;
use super::transaction::{Asking, Entry};
use super::writer::Writer;
use crate::brokers::redis::address::Address;
use crate::brokers::redis::cluster::{Redirect, slot};
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::{Failure, Scene, Stage, explain, is_of_key, reply};

impl Writer {
    /// Notes the streams that took these events: their expiry is to be set anew.
    pub(super) fn note_unexpired(&mut self, batch: &Deliveries, taken: &[usize]) {
        let Entry { keys, expire, .. } = &self.settings.entry;
        let taken = if keys.one().is_some() { taken.get(..1).unwrap_or_default() } else { taken };
        let taken = taken.iter().filter_map(|i| batch.as_slice().get(*i)).filter(|_| expire.is_some());
        self.unexpired.extend(taken.map(|delivery| keys.of(delivery).into_owned()));
    }

    /// Sets the expiry of the streams of one server, also of those where that failed before.
    pub(super) async fn set_expiry(&mut self, link: &Link) -> Result<(), Failure> {
        if self.unexpired.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = self.unexpired.iter().cloned().collect();
        let node = &self.settings.addresses[0];
        let redirects = self.set_expiry_at(link, node, &keys, Asking::No).await?;
        if redirects.iter().any(Option::is_some) {
            // The server is a node of a cluster by now, which the replies to the next events say as well.
            return Ok(());
        }
        self.unexpired.clear();
        Ok(())
    }

    /// Sets the expiry of some streams at a node. Returns for each stream where the node sent it on to, if it did.
    async fn set_expiry_at(
        &self,
        link: &Link,
        node: &Address,
        keys: &[String],
        asking: Asking,
    ) -> Result<Vec<Option<Redirect>>, Failure> {
        let commands = self.settings.entry.set_expiry(keys, asking);
        let replies = link.connection().send_packed_commands(&commands, 0, commands.len()).await;
        let key = self.settings.entry.keys.one().unwrap_or("*");
        let replies = replies.map_err(|error| {
            let last_words = link.wire().last_words();
            let scene = Scene { stage: Stage::Repeatable, last_words: &last_words, topic: topic(key) };
            not_expiring(explain(&error, &scene))
        })?;
        let replies = replies.iter().skip(asking.commands()).step_by(1 + asking.commands());
        let redirects = replies.map(|reply_to_key| {
            let Value::ServerError(error) = reply_to_key else { return Ok(None) };
            let (code, detail) = (error.code(), error.details().unwrap_or_default());
            match Redirect::read(code, detail, node) {
                Some(redirect) => Ok(Some(redirect)),
                // It concerns this key alone, and its events are refused likewise: no other key may wait for it.
                None if is_of_key(code, detail) && self.settings.entry.keys.one().is_none() => Ok(None),
                None if code == "NOPERM" => Err(not_expiring(no_pexpire(key))),
                None => Err(not_expiring(reply(code, detail, topic(key)))),
            }
        });
        redirects.collect()
    }

    /// Sets the expiry of the streams of a cluster, each at its node.
    pub(super) async fn set_expiry_in_cluster(&mut self, cluster: &mut Cluster) -> Result<(), Failure> {
        let mut nodes = Vec::new();
        for key in &self.unexpired {
            let Some(node) = cluster.map.master_of(slot(key)) else { continue };
            add(&mut nodes, node, key.clone());
        }
        for (node, _) in &nodes {
            cluster.link(self, node).await.map_err(not_expiring)?;
        }
        let redirects = nodes.iter().map(async |(node, keys)| {
            let Some(link) = cluster.known_link(node) else { return Ok(Vec::new()) };
            let redirects = self.set_expiry_at(link, node, keys, Asking::No).await;
            let redirects = redirects.map_err(|failure| failure.of_node(node))?;
            Ok(keys.iter().cloned().zip(redirects).collect())
        });
        let (mut on_their_way, mut moved) = (Vec::new(), None);
        for (key, redirect) in try_join_all(redirects).await?.into_iter().flatten() {
            match redirect {
                None => drop(self.unexpired.remove(&key)),
                Some(Redirect::Ask(to)) => add(&mut on_their_way, &to, key),
                Some(Redirect::Moved(to)) => moved = Some(to),
                Some(Redirect::Split) => {}
            }
        }
        // A slot may be on its way for long, and a stream of it would end meanwhile.
        for (node, keys) in on_their_way {
            let link = cluster.link(self, &node).await.map_err(not_expiring)?;
            let redirects = self.set_expiry_at(link, &node, &keys, Asking::First).await;
            let redirects = redirects.map_err(|failure| failure.of_node(&node))?;
            for (key, _) in keys.iter().zip(redirects).filter(|(_, redirect)| redirect.is_none()) {
                self.unexpired.remove(key);
            }
        }
        if let Some(node) = moved {
            cluster.link(self, &node).await.map_err(not_expiring)?;
            cluster.learn(self, &node).await;
        }
        Ok(())
    }
}

/// Adds a key to those of its node.
fn add(nodes: &mut Vec<(Address, Vec<String>)>, node: &Address, key: String) {
    match nodes.iter_mut().find(|(known, _)| known.is(node)) {
        Some((_, keys)) => keys.push(key),
        None => nodes.push((node.clone(), vec![key])),
    }
}
