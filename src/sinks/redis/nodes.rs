//! A batch into a cluster: split by slots, every node's part under way at once, followed where slots move.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use streamll_actors::sink::Deliveries;
use tokio::time::sleep;

use super::advice::{between_nodes, no_asking, not_expiring, topic};
use super::look::Look;
use super::sink::{RedisSink, Undone, conclude};
use super::transaction::{Verdict, read, redirection};
use crate::brokers::redis::address::Address;
use crate::brokers::redis::cluster::{Map, Redirect, slot};
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::{Failure, no_master};
use crate::brokers::redis::wire::Wire;

/// How often one batch is sent on to where its slots went.
const ROUNDS: u32 = 8;
/// Before the third round four times this; doubled for each that follows.
const PAUSE: Duration = Duration::from_millis(5);

/// Connections to the masters of a cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    map: Map,
    links: Vec<(Address, Link)>,
}

/// Events of one slot: one transaction.
#[derive(Debug)]
struct Portion {
    slot: u16,
    /// Their places in the batch.
    events: Vec<usize>,
    /// Where the cluster sent it on to.
    to: Option<Address>,
    /// The slot is on its way there.
    asking: bool,
}

/// How far a batch has come.
#[derive(Default)]
struct Progress {
    /// For the next round.
    waiting: Vec<Portion>,
    failed: Vec<Undone>,
    /// Where some keys hold no stream, with the replies: whose trouble that is shows when all of them are known, as each
    /// slot's part is a transaction of its own.
    refused: Vec<(Vec<usize>, Vec<Value>)>,
    /// Whether anything arrived in another.
    has_arrived: bool,
}

impl Cluster {
    /// Connects to every master.
    pub(super) async fn open(sink: &RedisSink, map: Map) -> Result<(Cluster, Vec<String>), Failure> {
        let opened = map.masters().iter().map(async |node| {
            let opened = sink.link(node, None).await.map_err(|failure| failure.of_node(node));
            opened.map(|(link, Look { findings, .. })| {
                let told: Vec<_> = findings.iter().map(|finding| format!("node {node}: {finding}")).collect();
                ((node.clone(), link), told)
            })
        });
        // One without a master keeps its events from arriving, and those behind them.
        let (links, findings): (Vec<_>, Vec<_>) = try_join_all(opened).await?.into_iter().unzip();
        Ok((Cluster { map, links }, findings.concat()))
    }

    pub(super) fn links(&mut self) -> &mut [(Address, Link)] {
        &mut self.links
    }

    /// Whether no node has hung up.
    pub(super) fn is_alive(&self) -> bool {
        self.links.iter().all(|(_, link)| link.is_alive())
    }

    /// The connection to a node, made where there is none.
    async fn link(&mut self, sink: &RedisSink, node: &Address) -> Result<&Link, Failure> {
        self.links.retain(|(known, link)| !known.is(node) || link.is_alive());
        let at = match self.links.iter().position(|(known, _)| known.is(node)) {
            Some(at) => at,
            None => {
                let (link, _) = sink.link(node, None).await.map_err(|failure| failure.of_node(node))?;
                self.links.push((node.clone(), link));
                self.links.len() - 1
            }
        };
        Ok(&self.links[at].1)
    }

    /// Asks a node that has got a slot how things stand now. Where it fails, the next batch is sent on once more.
    async fn learn(&mut self, node: &Address) {
        let Some((_, link)) = self.links.iter_mut().find(|(known, _)| known.is(node)) else { return };
        if let Ok(map) = Map::ask(link, node, topic("*")).await {
            self.links.retain(|(node, _)| map.masters().iter().any(|master| master.is(node)));
            self.map = map;
        }
    }

    fn place_of(&self, portion: &Portion) -> Option<Address> {
        portion.to.clone().or_else(|| self.map.master_of(portion.slot).cloned())
    }
}

/// One request to a node, with all portions that it has.
struct Request {
    node: Address,
    portions: Vec<Portion>,
    connection: MultiplexedConnection,
    commands: Pipeline,
    wire: Arc<Wire>,
    /// How much was written to the node before.
    before: u64,
}

impl RedisSink {
    /// Sends a batch, each slot's part in one transaction. The cluster is given back where it is good for another.
    pub(super) async fn send_to_cluster(
        &mut self,
        mut cluster: Cluster,
        batch: &mut Deliveries,
    ) -> Result<(), Failure> {
        let (mut progress, mut moved) = (Progress::default(), None);
        progress.waiting = self.portions(0..batch.len(), batch, slot);
        if let Err(failure) = self.prolong_in(&mut cluster).await {
            progress.failed.push(Undone::of(failure));
        }
        for round in 0..ROUNDS {
            if progress.waiting.is_empty() || !progress.failed.is_empty() {
                break;
            }
            // Whoever sends on says where to; only who is sent on again waits until the nodes agree.
            if round > 1 {
                sleep(PAUSE * (1 << round)).await;
            }
            let mut under_way = FuturesUnordered::new();
            for request in self.requests(&mut cluster, std::mem::take(&mut progress.waiting), batch).await {
                match request {
                    Ok(request) => under_way.push(async move {
                        let Request { node, portions, mut connection, commands, wire, before } = request;
                        let replies = connection.send_packed_commands(&commands, 0, commands.len()).await;
                        (node, portions, wire, before, replies)
                    }),
                    Err(undone) => progress.failed.push(undone),
                }
            }
            while let Some((node, portions, wire, before, replies)) = under_way.next().await {
                match replies {
                    Ok(replies) => {
                        let mut rest = &replies[..];
                        for portion in portions {
                            let (mine, others) = rest.split_at(portion.replies().min(rest.len()));
                            rest = others;
                            self.read(portion, &node, mine, batch, &mut progress);
                        }
                        let target = |portion: &&Portion| !portion.asking && portion.to.is_some();
                        moved = progress
                            .waiting
                            .iter()
                            .find(target)
                            .and_then(|portion| portion.to.clone())
                            .or(moved);
                    }
                    Err(error) => {
                        let events = portions.iter().flat_map(|portion| portion.events.clone()).collect();
                        let mut undone = self.lost(events, &error, &wire, before);
                        // One transaction is whole or absent; of several, the first may be there, whatever the error says.
                        undone.failure.unsent &= portions.len() == 1 || undone.unwritten;
                        cluster.links.retain(|(known, _)| !known.is(&node));
                        if undone.unwritten {
                            // It had hung up meanwhile, which only showed now.
                            progress.waiting.extend(portions);
                        } else {
                            progress.failed.push(Undone { failure: undone.failure.of_node(&node), ..undone });
                        }
                    }
                }
            }
        }
        let Progress { waiting, mut failed, refused, has_arrived } = progress;
        let theirs = {
            let judged = refused.iter().filter_map(|(events, replies)| match read(replies) {
                Verdict::Partly(refused) | Verdict::Barred(refused) => Some((events, refused)),
                _ => None,
            });
            let judged: Vec<_> = judged.collect();
            let judged: Vec<_> = judged.iter().map(|(events, refused)| (&events[..], &refused[..])).collect();
            let connection = cluster.links.first().map(|(_, link)| link.connection());
            self.are_theirs(&judged, batch, has_arrived, connection).await
        };
        for (events, replies) in refused {
            let mut taken = Vec::new();
            let settled = self.settle(events, read(&replies), batch, theirs, &mut taken);
            self.owe(batch, &taken);
            failed.extend(settled.err());
        }
        if let Some(first) = waiting.first().filter(|_| failed.is_empty()) {
            let at = self.key_of(batch, first.events[0]);
            failed.push(Undone::of(between_nodes(&at)));
        }
        waiting.iter().flat_map(|portion| &portion.events).for_each(|i| batch.unsent(*i));
        if let Some(node) = moved.filter(|_| failed.is_empty()) {
            cluster.learn(&node).await;
            self.remember(&cluster.map);
        }
        if failed.is_empty()
            && let Err(failure) = self.prolong_in(&mut cluster).await
        {
            failed.push(Undone::of(failure));
        }
        // What nobody knows of is told before what is known; what is unmarked then may have arrived.
        failed.sort_by_key(|undone| undone.failure.unsent);
        let Some((first, keep)) = conclude(batch, failed) else {
            self.keep(cluster);
            return Ok(());
        };
        if keep {
            self.keep(cluster);
        }
        Err(first.failure)
    }

    /// What is sent to each node, or why nothing can be.
    async fn requests(
        &self,
        cluster: &mut Cluster,
        portions: Vec<Portion>,
        batch: &Deliveries,
    ) -> Vec<Result<Request, Undone>> {
        let mut nodes: Vec<(Option<Address>, Vec<Portion>)> = Vec::new();
        for portion in portions {
            let place = cluster.place_of(&portion);
            let same = |node: &Option<Address>| match (node, &place) {
                (Some(node), Some(place)) => node.is(place),
                (node, place) => node.is_none() && place.is_none(),
            };
            match nodes.iter_mut().find(|(node, _)| same(node)) {
                Some((_, portions)) => portions.push(portion),
                None => nodes.push((place, vec![portion])),
            }
        }
        let mut requests = Vec::with_capacity(nodes.len());
        for (node, portions) in nodes {
            let undone = |failure| {
                let events = portions.iter().flat_map(|portion| portion.events.clone()).collect();
                Undone { events, ..Undone::of(failure) }
            };
            let Some(node) = node else {
                requests.push(Err(undone(no_master(portions[0].slot))));
                continue;
            };
            let (connection, wire) = match cluster.link(self, &node).await {
                Ok(link) => (link.connection(), link.shared_wire()),
                Err(failure) => {
                    requests.push(Err(undone(failure)));
                    continue;
                }
            };
            let mut commands = Pipeline::new();
            for portion in &portions {
                if portion.asking {
                    commands.cmd("ASKING");
                }
                let deliveries = portion.events.iter().map(|i| &batch.as_slice()[*i]);
                self.settings.entry.pack(&mut commands, deliveries);
            }
            let before = wire.written();
            requests.push(Ok(Request { node, portions, connection, commands, wire, before }));
        }
        requests
    }

    /// Events by what `name` makes of their keys, in the order in which each comes first.
    fn portions<T: Eq + Hash>(
        &self,
        events: impl IntoIterator<Item = usize>,
        batch: &Deliveries,
        name: impl Fn(&str) -> T,
    ) -> Vec<Portion> {
        let (mut portions, mut places) = (Vec::<Portion>::new(), HashMap::new());
        for i in events {
            let key = self.settings.entry.keys.of(&batch.as_slice()[i]);
            let at = *places.entry(name(&key)).or_insert_with(|| {
                portions.push(Portion { slot: slot(&key), events: Vec::new(), to: None, asking: false });
                portions.len() - 1
            });
            portions[at].events.push(i);
        }
        portions
    }

    /// Marks what became of a portion, or puts it among those that wait for the next round.
    fn read(
        &mut self,
        portion: Portion,
        node: &Address,
        replies: &[Value],
        batch: &mut Deliveries,
        progress: &mut Progress,
    ) {
        let replies = match replies.split_first() {
            Some((Value::ServerError(error), _)) if portion.asking && error.code() == "NOPERM" => {
                progress.failed.push(Undone { events: portion.events, ..Undone::of(no_asking()) });
                return;
            }
            Some((_, rest)) if portion.asking => rest,
            _ => replies,
        };
        let found = redirection(replies, |code, detail| Redirect::read(code, detail, node));
        match found {
            None => match read(replies) {
                Verdict::Partly(_) | Verdict::Barred(_) => {
                    progress.refused.push((portion.events, replies.to_vec()))
                }
                verdict => {
                    let mut taken = Vec::new();
                    let settled = self.settle(portion.events, verdict, batch, false, &mut taken);
                    progress.has_arrived |= !taken.is_empty();
                    self.owe(batch, &taken);
                    progress.failed.extend(settled.err());
                }
            },
            Some(Redirect::Moved(to)) => {
                progress.waiting.push(Portion { to: Some(to), asking: false, ..portion });
            }
            Some(redirect) => {
                let keys = self.portions(portion.events.iter().copied(), batch, str::to_owned);
                let one = keys.len() == 1;
                for mut key in keys {
                    (key.to, key.asking) = (portion.to.clone(), portion.asking);
                    // With several keys, each is to find out by itself where it is.
                    if let (true, Redirect::Ask(to)) = (one, &redirect) {
                        (key.to, key.asking) = (Some(to.clone()), true);
                    }
                    progress.waiting.push(key);
                }
            }
        }
    }

    /// Lets streams live on for their time, each at its node. What is on its way is told later on.
    pub(super) async fn prolong_in(&mut self, cluster: &mut Cluster) -> Result<(), Failure> {
        let mut nodes: Vec<(Address, Vec<String>)> = Vec::new();
        for key in &self.owed {
            let Some(node) = cluster.map.master_of(slot(key)) else { continue };
            match nodes.iter_mut().find(|(known, _)| known.is(node)) {
                Some((_, keys)) => keys.push(key.clone()),
                None => nodes.push((node.clone(), vec![key.clone()])),
            }
        }
        for (node, _) in &nodes {
            cluster.link(self, node).await.map_err(not_expiring)?;
        }
        let told = nodes.iter().map(async |(node, keys)| {
            let link = cluster.links.iter().find(|(known, _)| known.is(node)).map(|(_, link)| link);
            let Some(link) = link else { return Ok(Vec::new()) };
            let told = self.prolong_some(link, node, keys, false).await;
            let told = told.map_err(|failure| failure.of_node(node))?;
            Ok(keys.iter().cloned().zip(told).collect())
        });
        let (mut on_their_way, mut moved) = (Vec::<(Address, Vec<String>)>::new(), None);
        for (key, redirect) in try_join_all(told).await?.into_iter().flatten() {
            match redirect {
                None => drop(self.owed.remove(&key)),
                Some(Redirect::Ask(to)) => match on_their_way.iter_mut().find(|(node, _)| node.is(&to)) {
                    Some((_, keys)) => keys.push(key),
                    None => on_their_way.push((to, vec![key])),
                },
                Some(Redirect::Moved(to)) => moved = Some(to),
                Some(Redirect::Split) => {}
            }
        }
        // A slot may stay on its way for long, and a stream of it would end meanwhile.
        for (node, keys) in on_their_way {
            let link = cluster.link(self, &node).await.map_err(not_expiring)?;
            let told = self.prolong_some(link, &node, &keys, true).await;
            let told = told.map_err(|failure| failure.of_node(&node))?;
            for (key, _) in keys.iter().zip(told).filter(|(_, redirect)| redirect.is_none()) {
                self.owed.remove(key);
            }
        }
        if let Some(node) = moved {
            cluster.link(self, &node).await.map_err(not_expiring)?;
            cluster.learn(&node).await;
            self.remember(&cluster.map);
        }
        Ok(())
    }
}

impl Portion {
    /// How many replies its commands get.
    fn replies(&self) -> usize {
        let n = self.events.len();
        usize::from(self.asking) + if n == 1 { 1 } else { n + 2 }
    }
}
