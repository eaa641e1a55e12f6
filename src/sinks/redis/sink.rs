//! Delivers batches as transactions, and says of each event what became of it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use streamll_actors::sink::{Deliveries, DeliveryError, ErrorClass, Sink, SinkContext};
use tokio::time::{Instant, sleep};

use super::Ordering;
use super::advice::{no_pexpire, not_expiring, of_key, topic};
use super::again::LOOK;
use super::look::{self, Look};
use super::nodes::Cluster;
use super::transaction::{Entry, Refusal, Verdict, read};
use crate::brokers::redis::address::Address;
use crate::brokers::redis::cluster::{Map, Redirect, several};
use crate::brokers::redis::connect::{CONNECT, Link};
use crate::brokers::redis::error::{
    Failure, Scene, Stage, explain, is_of_key, no_cluster, no_cluster_info, reply, wrong_type,
};
use crate::brokers::redis::wire::Wire;
use crate::sinks::blame::Blame;

/// Between two looks whether a cluster has its masters again.
const ELECTION: Duration = Duration::from_millis(300);
/// Events in one transaction where two are under way.
const PIECE: usize = 256;

/// What a configuration comes to, once nothing is wrong in it.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) addresses: Vec<Address>,
    /// Whether it is a cluster, where the user says so.
    pub(super) cluster: Option<bool>,
    pub(super) entry: Entry,
    pub(super) ordering: Ordering,
    pub(super) ca_file: Option<PathBuf>,
}

/// Writes events into Redis Streams; see [`RedisConfig`](super::RedisConfig).
#[derive(Debug)]
pub struct RedisSink {
    pub(super) settings: Settings,
    /// None before the first open, after a failure, and while a future of ours is under way: one that is dropped
    /// half-way leaves no connection behind.
    pub(super) reach: Option<Reach>,
    /// Where to connect, in the order in which it is tried: nodes of a cluster that were found come behind.
    places: Vec<Address>,
    in_cluster: Option<bool>,
    /// It had a cluster since it was last opened in vain.
    is_patient: bool,
    pub(super) ctx: Option<SinkContext>,
    /// What the last look found.
    pub(super) told: Vec<String>,
    pub(super) looked_at: Instant,
    blame: Blame,
    /// A key was refused, and nobody knows whether others are taken.
    in_doubt: bool,
    /// Streams that took events since they were last told how long to stay, where they are told.
    pub(super) owed: HashSet<String>,
}

/// What it is connected to.
#[derive(Debug)]
pub(super) enum Reach {
    Server(Link),
    Cluster(Cluster),
}

impl Sink for RedisSink {
    async fn open(&mut self, ctx: &SinkContext) -> Result<(), DeliveryError> {
        self.reach = None;
        self.ctx = Some(ctx.clone());
        // Nothing is sent behind it: all of the time but for one more try, which may be met by silence.
        let time = ctx.deliver_timeout();
        let patience = time.saturating_sub(3 * CONNECT).max(time / 2);
        let until = Instant::now() + if self.is_patient { patience } else { Duration::ZERO };
        let reach = loop {
            match self.connect().await {
                // A cluster that worked elects another master within seconds: the circuit's pauses are made for longer.
                Err(failure) if failure.class == ErrorClass::Unavailable && Instant::now() < until => {
                    sleep(ELECTION).await;
                }
                reach => break reach,
            }
        };
        // Once in vain is enough: then it is the circuit that waits.
        self.is_patient &= reach.is_ok();
        let reach = reach.map_err(|failure| self.shown(failure))?;
        self.reach = Some(reach);
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        self.in_doubt = false;
        let sent = match self.reach.take() {
            Some(Reach::Server(link)) if link.is_alive() => match self.send(link, batch).await {
                // The server had hung up meanwhile, which only showed now.
                Err(Undone { unwritten: true, .. }) => self.connect_and_send(batch).await,
                sent => sent.map_err(|undone| undone.failure),
            },
            Some(Reach::Cluster(cluster)) if cluster.is_alive() => self.send_to_cluster(cluster, batch).await,
            _ => self.connect_and_send(batch).await,
        };
        if self.reach.is_none() {
            self.connected(false);
        }
        if let Some(ctx) = &self.ctx {
            ctx.probe_widely(self.in_doubt && sent.is_err());
        }
        if sent.is_ok() && self.looked_at.elapsed() >= LOOK {
            self.look_again().await;
        }
        sent.map_err(|failure| self.shown(failure))
    }

    async fn close(&mut self) {
        self.look_again().await;
        self.reach = None;
        self.connected(false);
    }
}

impl RedisSink {
    pub(super) fn new(settings: Settings) -> RedisSink {
        let (places, in_cluster) = (settings.addresses.clone(), settings.cluster);
        let (reach, ctx, told, owed) = (None, None, Vec::new(), HashSet::new());
        let (blame, in_doubt) = (Blame::default(), false);
        let looked_at = Instant::now();
        RedisSink {
            settings,
            reach,
            places,
            in_cluster,
            is_patient: false,
            ctx,
            told,
            looked_at,
            blame,
            in_doubt,
            owed,
        }
    }

    async fn connect(&mut self) -> Result<Reach, Failure> {
        match self.reach_one().await {
            Ok((reach, findings)) => {
                self.looked_at = Instant::now();
                self.tell(findings);
                self.connected(true);
                Ok(reach)
            }
            Err(failure) => {
                self.connected(false);
                Err(failure)
            }
        }
    }

    /// Connects to the first place that answers, and to its cluster.
    async fn reach_one(&mut self) -> Result<(Reach, Vec<String>), Failure> {
        let (places, mut failed, mut maps) = (self.places.clone(), None, 0);
        for place in &places {
            // Should this be dropped half-way, it begins with the next one.
            self.put_last(place);
            match self.reach(place, &mut maps).await {
                Ok(reached) => return Ok(reached),
                Err(failure) => {
                    let failure = if places.len() > 1 { failure.of_node(place) } else { failure };
                    // Its map may have brought it to the front again.
                    self.put_last(place);
                    // One that answers knows more than one that does not.
                    failed = Some(match failed {
                        Some(earlier) if !failure.keep => Failure::cheaper(earlier, &failure),
                        Some(earlier) => Failure::cheaper(failure, &earlier),
                        None => failure,
                    });
                }
            }
            // Two that know the cluster, and it could not be reached: a third says the same, and takes its time.
            if maps >= 2 {
                break;
            }
        }
        Err(failed.unwrap_or_else(|| Failure::unavailable("there is no address")))
    }

    fn put_last(&mut self, place: &Address) {
        self.places.retain(|known| !known.is(place));
        self.places.push(place.clone());
    }

    /// Counts in `maps` that a place knew its cluster.
    async fn reach(&mut self, place: &Address, maps: &mut u32) -> Result<(Reach, Vec<String>), Failure> {
        let key = self.settings.entry.keys.one().map(str::to_owned);
        let key = key.as_deref().filter(|_| self.in_cluster != Some(true));
        let (mut link, look) = self.link(place, key).await?;
        let in_cluster = self.in_cluster.unwrap_or(look.in_cluster);
        if !in_cluster && self.settings.addresses.len() > 1 {
            return Err(match look.may_ask {
                true => no_cluster(topic("*")),
                false => no_cluster_info(),
            });
        }
        if !in_cluster {
            self.prolong(&link).await?;
            return Ok((Reach::Server(link), look.findings));
        }
        let map = Map::ask(&mut link, place, topic("*")).await?;
        *maps += 1;
        drop(link);
        self.remember(&map);
        let (mut cluster, findings) = Cluster::open(self, map).await?;
        self.prolong_in(&mut cluster).await?;
        self.is_patient = true;
        Ok((Reach::Cluster(cluster), findings))
    }

    /// All nodes of a cluster, to ask when some are gone.
    pub(super) fn remember(&mut self, map: &Map) {
        let given = self.settings.addresses.iter();
        let given = given.filter(|given| !map.nodes.iter().any(|node| node.is(given)));
        self.places = map.nodes.iter().chain(given).cloned().collect();
    }

    /// A connection to one node. `key` is one that it must be able to write to.
    pub(super) async fn link(&self, address: &Address, key: Option<&str>) -> Result<(Link, Look), Failure> {
        let Settings { entry, ca_file, .. } = &self.settings;
        let ctx = self.ctx.clone();
        let on_end = move || ctx.into_iter().for_each(|ctx| ctx.connected(false));
        look::connect(address, ca_file.as_deref(), key, entry.expire.is_some(), on_end).await
    }

    pub(super) fn keep(&mut self, cluster: Cluster) {
        // A node that had hung up is connected again.
        self.connected(true);
        self.reach = Some(Reach::Cluster(cluster));
    }

    /// As people read it.
    fn shown(&self, failure: Failure) -> DeliveryError {
        failure.at(several(&self.settings.addresses))
    }

    async fn connect_and_send(&mut self, batch: &mut Deliveries) -> Result<(), Failure> {
        match self.connect().await {
            Ok(Reach::Server(link)) => match self.send(link, batch).await {
                Err(undone) if undone.unwritten => Err(unsent(batch, undone.failure)),
                sent => sent.map_err(|undone| undone.failure),
            },
            Ok(Reach::Cluster(cluster)) => self.send_to_cluster(cluster, batch).await,
            Err(failure) => Err(unsent(batch, failure)),
        }
    }

    fn connected(&self, connected: bool) {
        if let Some(ctx) = &self.ctx {
            ctx.connected(connected);
        }
    }

    /// Sends a batch in one transaction or, pipelined, in several; keeps the connection if it is good for another.
    async fn send(&mut self, mut link: Link, batch: &mut Deliveries) -> Result<(), Undone> {
        if let Err(failure) = self.prolong(&link).await {
            self.reach = Some(Reach::Server(link)).filter(|_| failure.keep);
            return Err(Undone::of(unsent(batch, failure)));
        }
        let size = match self.settings.ordering {
            Ordering::Strict => batch.len(),
            Ordering::Pipelined => PIECE,
        };
        let mut under_way = FuturesOrdered::new();
        let (mut next, mut failed, mut barred) = (0, Vec::new(), false);
        loop {
            while failed.is_empty() && !barred && next < batch.len() && under_way.len() < 2 {
                let range = next..batch.len().min(next + size);
                next = range.end;
                let mut commands = Pipeline::with_capacity(range.len() + 2);
                self.settings.entry.pack(&mut commands, batch.as_slice()[range.clone()].iter());
                let (mut connection, before) = (link.connection(), link.wire().written());
                under_way.push_back(async move {
                    let replies = connection.send_packed_commands(&commands, 0, commands.len()).await;
                    (range, before, replies)
                });
            }
            let Some((range, before, replies)) = under_way.next().await else { break };
            let mut taken = Vec::new();
            let settled = match &replies {
                Ok(replies) => {
                    let (events, verdict): (Vec<_>, _) = (range.collect(), read(replies));
                    // What else there is in its transaction is sent again, before anything behind it.
                    barred |= matches!(verdict, Verdict::Barred(_));
                    let theirs = match &verdict {
                        Verdict::Partly(refused) | Verdict::Barred(refused) => {
                            let connection = Some(link.connection());
                            self.are_theirs(&[(&events, refused)], batch, false, connection).await
                        }
                        _ => false,
                    };
                    self.settle(events, verdict, batch, theirs, &mut taken)
                }
                Err(error) => {
                    let first = range.start == 0;
                    let undone = self.lost(range.collect(), error, link.wire(), before);
                    Err(Undone { unwritten: undone.unwritten && first, ..undone })
                }
            };
            self.owe(batch, &taken);
            failed.extend(settled.err());
        }
        if failed.is_empty()
            && let Err(failure) = self.prolong(&link).await
        {
            // The events have arrived: none of them may be sent again for this.
            failed.push(Undone::of(failure));
        }
        if failed.first().is_some_and(|first| first.unwritten) {
            return Err(failed.swap_remove(0));
        }
        (next..batch.len()).for_each(|i| batch.unsent(i));
        // The first is the cause, the next its consequence.
        let Some((mut undone, keep)) = conclude(batch, failed) else {
            self.reach = Some(Reach::Server(link));
            return Ok(());
        };
        if let Some(key) = &undone.wrong_type
            && let Some(failure) = name_the_type(&mut link, key).await
        {
            undone.failure = failure;
        }
        self.reach = Some(Reach::Server(link)).filter(|_| keep);
        Err(undone)
    }

    /// The key that an event is written to.
    pub(super) fn key_of(&self, batch: &Deliveries, i: usize) -> String {
        batch
            .as_slice()
            .get(i)
            .map(|delivery| self.settings.entry.keys.of(delivery).into_owned())
            .unwrap_or_default()
    }

    /// Whether keys that are refused are the trouble of those events alone that named them, in transactions that are
    /// judged together; `others` says whether events of the same batch arrived beside them. In doubt the server is asked.
    pub(super) async fn are_theirs(
        &mut self,
        transactions: &[(&[usize], &[Refusal<'_>])],
        batch: &Deliveries,
        others: bool,
        connection: Option<MultiplexedConnection>,
    ) -> bool {
        let mut others = others;
        if self.settings.entry.keys.one().is_some() || transactions.is_empty() {
            return false;
        }
        for (events, refused) in transactions {
            if refused.iter().any(|refusal| !refusal.is_of_key()) {
                return false;
            }
            others |= refused.len() < events.len();
            for event in refused.iter().filter_map(|refusal| events.get(refusal.at)) {
                self.blame.refused(&self.key_of(batch, *event));
            }
        }
        let theirs = others || self.is_any_taken(connection).await;
        self.in_doubt |= !theirs;
        theirs
    }

    /// Asks whether a key that has worked is still taken. Who may not write to it is told so before the id is read, of
    /// which nothing can come.
    async fn is_any_taken(&mut self, connection: Option<MultiplexedConnection>) -> bool {
        let keys = self.blame.to_ask(usize::MAX);
        let Some(mut connection) = connection.filter(|_| !keys.is_empty()) else { return false };
        let mut ask = Pipeline::new();
        for key in &keys {
            ask.cmd("XADD").arg(key).arg("?").arg("a").arg("1");
        }
        let Ok(told) = connection.send_packed_commands(&ask, 0, ask.len()).await else { return false };
        let mut is_taken = false;
        for (key, told) in keys.iter().zip(told) {
            match told {
                Value::ServerError(error) if error.code() == "NOPERM" => self.blame.refused(key),
                // Of a cluster, any node knows.
                Value::ServerError(error) => is_taken |= ["ERR", "MOVED", "ASK"].contains(&error.code()),
                _ => {}
            }
        }
        is_taken
    }

    /// Marks what became of the events of one transaction; those whose key is refused are bad where that is `theirs`.
    pub(super) fn settle(
        &mut self,
        events: Vec<usize>,
        verdict: Verdict<'_>,
        batch: &mut Deliveries,
        theirs: bool,
        taken: &mut Vec<usize>,
    ) -> Result<(), Undone> {
        // `EXEC` itself concerns all of them, the first as well as any.
        let event = |at: usize| events.get(at).or(events.first()).copied().unwrap_or_default();
        let by_event = self.settings.entry.keys.one().is_none();
        match verdict {
            Verdict::Done => {
                if by_event {
                    // Some of them, as each costs: a batch is of few keys, or its keys come but once.
                    for at in (0..events.len()).step_by((events.len() / 8).max(1)) {
                        let key = self.key_of(batch, event(at));
                        self.blame.worked(&key);
                    }
                }
                events.iter().for_each(|i| batch.delivered(*i));
                taken.extend(events);
                Ok(())
            }
            Verdict::Refused(Refusal { at, code, detail }) => {
                let failure = self.refused(code, detail, &self.key_of(batch, event(at)));
                Err(Undone { events, ..Undone::of(failure) })
            }
            Verdict::Loose(done, Refusal { at, code, detail }) => {
                events.iter().for_each(|i| batch.unsent(*i));
                taken.extend(done.iter().map(|at| event(*at)));
                taken.iter().for_each(|i| batch.delivered(*i));
                Err(Undone::of(self.refused(code, detail, &self.key_of(batch, event(at)))))
            }
            Verdict::Partly(ref refused) | Verdict::Barred(ref refused) => {
                let arrived = matches!(verdict, Verdict::Partly(_));
                let bad: HashMap<usize, &str> =
                    refused.iter().map(|refusal| (event(refusal.at), refusal.code)).collect();
                for i in &events {
                    match bad.get(i) {
                        None if arrived => {
                            batch.delivered(*i);
                            taken.push(*i);
                        }
                        Some(code) if theirs => {
                            let user = self.settings.addresses.first().and_then(Address::user);
                            batch.poison(*i, of_key(code, &self.key_of(batch, *i), user));
                        }
                        _ => batch.unsent(*i),
                    }
                }
                if let Some(one) = taken.last().filter(|_| by_event) {
                    let key = self.key_of(batch, *one);
                    self.blame.worked(&key);
                }
                if theirs {
                    return Ok(());
                }
                let Refusal { at, code, detail } = refused[0];
                let key = self.key_of(batch, event(at));
                let failure = self.refused(code, detail, &key);
                let wrong_type = (code == "WRONGTYPE").then_some(key);
                Err(Undone { wrong_type, ..Undone::of(failure) })
            }
        }
    }

    /// What a refusal means. Who was taken for a single server may turn out to be a node of a cluster.
    fn refused(&mut self, code: &str, detail: &str, key: &str) -> Failure {
        if ["MOVED", "ASK", "CROSSSLOT"].contains(&code) && self.settings.cluster.is_none() {
            self.in_cluster = Some(true);
            return Failure::unavailable("is a node of a cluster: the others are looked for");
        }
        reply(code, detail, topic(key))
    }

    /// Streams that took these events are to live on for their time.
    pub(super) fn owe(&mut self, batch: &Deliveries, taken: &[usize]) {
        let Entry { keys, expire, .. } = &self.settings.entry;
        let taken = if keys.one().is_some() { taken.get(..1).unwrap_or_default() } else { taken };
        let taken = taken.iter().filter_map(|i| batch.as_slice().get(*i)).filter(|_| expire.is_some());
        self.owed.extend(taken.map(|delivery| keys.of(delivery).into_owned()));
    }

    /// Lets streams live on for their time, also those where it failed before.
    async fn prolong(&mut self, link: &Link) -> Result<(), Failure> {
        if self.owed.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = self.owed.iter().cloned().collect();
        let told = self.prolong_some(link, &self.settings.addresses[0], &keys, false).await?;
        if told.iter().any(Option::is_some) {
            // A node of a cluster by now: the next event is told so.
            return Ok(());
        }
        self.owed.clear();
        Ok(())
    }

    /// Says of each stream where `node` sent it on to, if it did; `asking` where its slot is on its way to that node.
    pub(super) async fn prolong_some(
        &self,
        link: &Link,
        node: &Address,
        keys: &[String],
        asking: bool,
    ) -> Result<Vec<Option<Redirect>>, Failure> {
        let commands = self.settings.entry.prolong(keys, asking);
        let replies = link.connection().send_packed_commands(&commands, 0, commands.len()).await;
        let key = self.settings.entry.keys.one().unwrap_or("*");
        let replies = replies.map_err(|error| {
            let last_words = link.wire().last_words();
            let scene = Scene { stage: Stage::Repeatable, last_words: &last_words, topic: topic(key) };
            not_expiring(explain(&error, &scene))
        })?;
        let told = replies.iter().skip(usize::from(asking)).step_by(1 + usize::from(asking));
        let told = told.map(|told| {
            let Value::ServerError(error) = told else { return Ok(None) };
            let (code, detail) = (error.code(), error.details().unwrap_or_default());
            match Redirect::read(code, detail, node) {
                Some(redirect) => Ok(Some(redirect)),
                // Of this key alone, which its events are told as well: no other may wait for it.
                None if is_of_key(code, detail) && self.settings.entry.keys.one().is_none() => Ok(None),
                None if code == "NOPERM" => Err(not_expiring(no_pexpire(key))),
                None => Err(not_expiring(reply(code, detail, topic(key)))),
            }
        });
        told.collect()
    }

    /// No reply came.
    pub(super) fn lost(&self, events: Vec<usize>, error: &RedisError, wire: &Wire, before: u64) -> Undone {
        let stage = if wire.written() > before { Stage::Written } else { Stage::Unwritten };
        let last_words = wire.last_words();
        let key = self.settings.entry.keys.one().unwrap_or("*");
        let failure = explain(error, &Scene { stage, last_words: &last_words, topic: topic(key) });
        Undone { failure, events, wrong_type: None, unwritten: stage == Stage::Unwritten }
    }
}

/// A transaction that was not carried out, or not known to be.
pub(super) struct Undone {
    pub(super) failure: Failure,
    /// Its events that are not marked yet.
    pub(super) events: Vec<usize>,
    /// The key of the wrong type, where that is why.
    pub(super) wrong_type: Option<String>,
    /// Whether the connection was dead before any event was written; then none is marked.
    pub(super) unwritten: bool,
}

impl Undone {
    /// All events are marked.
    pub(super) fn of(failure: Failure) -> Undone {
        Undone { failure, events: Vec::new(), wrong_type: None, unwritten: false }
    }
}

/// Marks what is known never to have been carried out. Returns the first failure, which is to be told, and whether the
/// connection is good for more: one that has not answered may still carry it out, and what is sent then comes twice.
pub(super) fn conclude(batch: &mut Deliveries, failed: Vec<Undone>) -> Option<(Undone, bool)> {
    let keep = failed.iter().all(|undone| undone.failure.keep);
    // The machine searches what is bad among the unmarked, so those of a rejection stay so.
    let is_rejected = failed.first()?.failure.class == ErrorClass::Rejected;
    let certain = failed.iter().skip(usize::from(is_rejected)).filter(|undone| undone.failure.unsent);
    certain.flat_map(|undone| &undone.events).for_each(|i| batch.unsent(*i));
    failed.into_iter().next().map(|first| (first, keep))
}

/// Marks all events as never sent, which the failure tells of.
fn unsent(batch: &mut Deliveries, failure: Failure) -> Failure {
    (0..batch.len()).for_each(|i| batch.unsent(i));
    failure
}

/// What a key holds that should be a stream.
async fn name_the_type(link: &mut Link, key: &str) -> Option<Failure> {
    let mut ask = Pipeline::new();
    ask.cmd("TYPE").arg(key);
    match link.ask(&ask).await.ok()?.first()? {
        Value::SimpleString(kind) => Some(wrong_type(Some(kind), topic(key))),
        _ => None,
    }
}
