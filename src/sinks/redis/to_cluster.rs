//! A batch to a cluster: split by slots, every node's part under way at once, followed where slots move.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use streamll_actors::sink::Deliveries;
use tokio::time::sleep;

use super::advice::{between_nodes, no_asking};
use super::cluster::Cluster;
use super::read_replies::{Concern, Read, Refused, Undone, conclude};
use super::transaction::{Asking, Verdict, read, redirection};
use super::writer::Writer;
use crate::brokers::redis::address::Address;
use crate::brokers::redis::cluster::{Redirect, slot};
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::{Failure, no_master};
use crate::brokers::redis::wire::Wire;

/// How often one batch is sent on to where its slots went.
const ROUNDS: u32 = 8;
/// Before the third round four times this; doubled for each that follows.
const PAUSE: Duration = Duration::from_millis(5);

/// Events of one slot: one transaction.
#[derive(Debug)]
struct Portion {
    slot: u16,
    /// Their places in the batch.
    events: Vec<usize>,
    /// Where the cluster sent it on to.
    to: Option<Address>,
    /// Whether the slot is on its way there.
    asking: Asking,
}

/// How far a batch has come.
#[derive(Default)]
struct Progress {
    /// Portions for the next round.
    waiting: Vec<Portion>,
    failed: Vec<Undone>,
    /// Portions with refused keys, with the replies. Whom that concerns shows when all replies are known, as each slot's
    /// part is a transaction of its own.
    refused: Vec<(Vec<usize>, Vec<Value>)>,
    /// Whether anything arrived in another portion.
    has_arrived: bool,
    /// A node that a slot has moved to.
    moved: Option<Address>,
}

/// One request to a node, with all portions that it has.
struct Request {
    sent: Sent,
    connection: MultiplexedConnection,
    commands: Pipeline,
}

/// What is known of a request when its replies come.
struct Sent {
    node: Address,
    portions: Vec<Portion>,
    wire: Arc<Wire>,
    /// How much was written to the node before.
    before: u64,
}

impl Writer {
    /// Sends a batch, each slot's part in one transaction. Also returns the cluster, if it is good for another batch.
    pub(super) async fn send_to_cluster(
        &mut self,
        mut cluster: Cluster,
        batch: &mut Deliveries,
    ) -> (Option<Cluster>, Result<(), Failure>) {
        let waiting = self.portions(0..batch.len(), batch, slot);
        let mut progress = Progress { waiting, ..Progress::default() };
        if let Err(failure) = self.set_expiry_in_cluster(&mut cluster).await {
            progress.failed.push(Undone::of(failure));
        }
        for round in 0..ROUNDS {
            if progress.waiting.is_empty() || !progress.failed.is_empty() {
                break;
            }
            // A node that sends on says where to. Only what is sent on once more waits until the nodes agree.
            if round > 1 {
                sleep(PAUSE * (1 << round)).await;
            }
            self.send_round(&mut cluster, batch, &mut progress).await;
        }
        self.read_refused(&cluster, batch, &mut progress).await;
        self.finish(cluster, batch, progress).await
    }

    /// Sends what waits to its nodes, and reads their replies.
    async fn send_round(&mut self, cluster: &mut Cluster, batch: &mut Deliveries, progress: &mut Progress) {
        let mut under_way = FuturesUnordered::new();
        for request in self.requests(cluster, std::mem::take(&mut progress.waiting), batch).await {
            match request {
                Ok(Request { sent, mut connection, commands }) => under_way.push(async move {
                    let replies = connection.send_packed_commands(&commands, 0, commands.len()).await;
                    (sent, replies)
                }),
                Err(undone) => progress.failed.push(undone),
            }
        }
        while let Some((sent, replies)) = under_way.next().await {
            match replies {
                Ok(replies) => self.read_node(sent, &replies, batch, progress),
                Err(error) => self.lose_node(sent, &error, cluster, progress),
            }
        }
    }

    /// Reads the replies of one node.
    fn read_node(&mut self, sent: Sent, replies: &[Value], batch: &mut Deliveries, progress: &mut Progress) {
        let mut rest = replies;
        for portion in sent.portions {
            let (mine, others) = rest.split_at(portion.replies().min(rest.len()));
            rest = others;
            self.read_portion(portion, &sent.node, mine, batch, progress);
        }
        let mut waiting = progress.waiting.iter();
        let moved = waiting.find(|portion| portion.asking == Asking::No && portion.to.is_some());
        if let Some(moved) = moved {
            progress.moved.clone_from(&moved.to);
        }
    }

    /// Takes in that a node has not replied.
    fn lose_node(&self, sent: Sent, error: &RedisError, cluster: &mut Cluster, progress: &mut Progress) {
        let Sent { node, portions, wire, before } = sent;
        let mut undone = self.lost(events(&portions), error, &wire, before);
        // One transaction is whole or absent. Of several the first may be there, whatever the error says.
        undone.failure.unsent &= portions.len() == 1 || undone.unwritten;
        cluster.give_up(&node);
        if undone.unwritten {
            // The node had hung up meanwhile, which only showed now.
            progress.waiting.extend(portions);
        } else {
            progress.failed.push(Undone { failure: undone.failure.of_node(&node), ..undone });
        }
    }

    /// Marks what became of the portions with refused keys, once all replies are known.
    async fn read_refused(&mut self, cluster: &Cluster, batch: &mut Deliveries, progress: &mut Progress) {
        let refused = std::mem::take(&mut progress.refused);
        let verdicts = refused.iter().filter_map(|(events, replies)| match read(replies) {
            Verdict::Partly(refused) | Verdict::Barred(refused) => Some((events, refused)),
            _ => None,
        });
        let verdicts: Vec<_> = verdicts.collect();
        let transactions: Vec<_> =
            verdicts.iter().map(|(events, refused)| (&events[..], &refused[..])).collect();
        let connection = cluster.any_link().map(Link::connection);
        let together = Refused { transactions: &transactions, has_arrived: progress.has_arrived };
        let concern = self.concern(together, batch, connection).await;
        for (events, replies) in &refused {
            let Read { undone, .. } = self.read_replies(events.clone(), read(replies), batch, concern);
            progress.failed.extend(undone);
        }
    }

    /// Says how the batch went, and whether the cluster is good for another.
    async fn finish(
        &mut self,
        mut cluster: Cluster,
        batch: &mut Deliveries,
        progress: Progress,
    ) -> (Option<Cluster>, Result<(), Failure>) {
        let Progress { waiting, mut failed, moved, .. } = progress;
        if let Some(first) = waiting.first().filter(|_| failed.is_empty()) {
            let key = self.key_of(batch, first.events[0]);
            failed.push(Undone::of(between_nodes(&key)));
        }
        waiting.iter().flat_map(|portion| &portion.events).for_each(|i| batch.unsent(*i));
        if let Some(node) = moved.filter(|_| failed.is_empty()) {
            cluster.learn(self, &node).await;
        }
        if failed.is_empty()
            && let Err(failure) = self.set_expiry_in_cluster(&mut cluster).await
        {
            failed.push(Undone::of(failure));
        }
        // What may have arrived is reported before what is known never to have: its events stay unmarked.
        failed.sort_by_key(|undone| undone.failure.unsent);
        match conclude(batch, failed) {
            None => (Some(cluster), Ok(())),
            Some((first, keep)) => (Some(cluster).filter(|_| keep), Err(first.failure)),
        }
    }

    /// What is sent to each node, or why nothing can be.
    async fn requests(
        &self,
        cluster: &mut Cluster,
        portions: Vec<Portion>,
        batch: &Deliveries,
    ) -> Vec<Result<Request, Undone>> {
        let nodes = by_node(cluster, portions);
        let mut requests = Vec::with_capacity(nodes.len());
        for (node, portions) in nodes {
            let undone = |failure| Undone { events: events(&portions), ..Undone::of(failure) };
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
                portion.asking.pack(&mut commands);
                let deliveries = portion.events.iter().map(|i| &batch.as_slice()[*i]);
                self.settings.entry.pack(&mut commands, deliveries);
            }
            let before = wire.written();
            let sent = Sent { node, portions, wire, before };
            requests.push(Ok(Request { sent, connection, commands }));
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
                portions.push(Portion { slot: slot(&key), events: Vec::new(), to: None, asking: Asking::No });
                portions.len() - 1
            });
            portions[at].events.push(i);
        }
        portions
    }

    /// Marks what became of a portion, or puts it among those that wait for the next round.
    fn read_portion(
        &mut self,
        portion: Portion,
        node: &Address,
        replies: &[Value],
        batch: &mut Deliveries,
        progress: &mut Progress,
    ) {
        let replies = match replies.split_first() {
            Some((Value::ServerError(error), _))
                if portion.asking == Asking::First && error.code() == "NOPERM" =>
            {
                progress.failed.push(Undone { events: portion.events, ..Undone::of(no_asking()) });
                return;
            }
            Some((_, rest)) if portion.asking == Asking::First => rest,
            _ => replies,
        };
        let found = redirection(replies, |code, detail| Redirect::read(code, detail, node));
        match found {
            None => match read(replies) {
                Verdict::Partly(_) | Verdict::Barred(_) => {
                    progress.refused.push((portion.events, replies.to_vec()))
                }
                verdict => {
                    let events = portion.events;
                    let Read { has_arrived, undone } =
                        self.read_replies(events, verdict, batch, Concern::AllEvents);
                    progress.has_arrived |= has_arrived;
                    progress.failed.extend(undone);
                }
            },
            Some(Redirect::Moved(to)) => {
                progress.waiting.push(Portion { to: Some(to), asking: Asking::No, ..portion });
            }
            Some(redirect) => {
                let keys = self.portions(portion.events.iter().copied(), batch, str::to_owned);
                let one = keys.len() == 1;
                for mut key in keys {
                    (key.to, key.asking) = (portion.to.clone(), portion.asking);
                    // With several keys, each key must find out by itself where its stream is.
                    if let (true, Redirect::Ask(to)) = (one, &redirect) {
                        (key.to, key.asking) = (Some(to.clone()), Asking::First);
                    }
                    progress.waiting.push(key);
                }
            }
        }
    }
}

/// Portions by the node that takes them; `None` where no node has their slot.
fn by_node(cluster: &Cluster, portions: Vec<Portion>) -> Vec<(Option<Address>, Vec<Portion>)> {
    let mut nodes: Vec<(Option<Address>, Vec<Portion>)> = Vec::new();
    for portion in portions {
        let place = portion.to.clone().or_else(|| cluster.map.master_of(portion.slot).cloned());
        let is_there = |node: &Option<Address>| match (node, &place) {
            (Some(node), Some(place)) => node.is(place),
            (node, place) => node.is_none() && place.is_none(),
        };
        match nodes.iter_mut().find(|(node, _)| is_there(node)) {
            Some((_, portions)) => portions.push(portion),
            None => nodes.push((place, vec![portion])),
        }
    }
    nodes
}

fn events(portions: &[Portion]) -> Vec<usize> {
    portions.iter().flat_map(|portion| portion.events.iter().copied()).collect()
}

impl Portion {
    /// How many replies its commands get.
    fn replies(&self) -> usize {
        let n = self.events.len();
        self.asking.commands() + if n == 1 { 1 } else { n + 2 }
    }
}
