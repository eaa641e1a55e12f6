//! Delivers batches as transactions, and says of each event what became of it.

use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use redis::{Pipeline, RedisError, Value};
use streamll_actors::sink::{Deliveries, DeliveryError, ErrorClass, Sink, SinkContext};
use tracing::warn;

use super::Ordering;
use super::address::Address;
use super::blame::Blame;
use super::connect::Link;
use super::error::{Failure, Scene, Stage, explain, no_pexpire, reply, wrong_type};
use super::transaction::{Entry, Refusal, Verdict, read};
use super::wire::Wire;

/// Events in one transaction where two are under way.
const PIECE: usize = 256;

/// What a configuration comes to, once nothing is wrong in it.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) address: Address,
    pub(super) entry: Entry,
    pub(super) ordering: Ordering,
    pub(super) ca_file: Option<PathBuf>,
}

/// Writes events into Redis Streams; see [`RedisConfig`](super::RedisConfig).
#[derive(Debug)]
pub struct RedisSink {
    settings: Settings,
    /// None before the first open, after a failure, and while a future of ours is under way: one that is dropped
    /// half-way leaves no connection behind.
    link: Option<Link>,
    ctx: Option<SinkContext>,
    /// What the last look found.
    told: Vec<String>,
    blame: Blame,
    /// Streams that took events since they were last told how long to stay, where they are told.
    owed: HashSet<String>,
}

impl Sink for RedisSink {
    async fn open(&mut self, ctx: &SinkContext) -> Result<(), DeliveryError> {
        self.link = None;
        self.ctx = Some(ctx.clone());
        let link = self.connect().await.map_err(|failure| failure.at(&self.settings.address))?;
        self.link = Some(link);
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        let sent = match self.link.take().filter(Link::is_alive) {
            Some(link) => match self.send(link, batch).await {
                // The server had hung up meanwhile, which only showed now.
                Err(Undone { stale: true, .. }) => self.connect_and_send(batch).await,
                sent => sent.map_err(|undone| undone.failure),
            },
            None => self.connect_and_send(batch).await,
        };
        if self.link.is_none() {
            self.connected(false);
        }
        sent.map_err(|failure| failure.at(&self.settings.address))
    }

    async fn close(&mut self) {
        self.link = None;
        self.connected(false);
    }
}

impl RedisSink {
    pub(super) fn new(settings: Settings) -> RedisSink {
        let blame = Blame::new(settings.entry.keys.are_by_value());
        RedisSink { settings, link: None, ctx: None, told: Vec::new(), blame, owed: HashSet::new() }
    }

    async fn connect(&mut self) -> Result<Link, Failure> {
        let Settings { address, entry, ca_file, .. } = &self.settings;
        let expires = entry.expire.is_some();
        let opened =
            Link::open(address, ca_file.as_deref(), entry.keys.one(), expires, self.ctx.clone()).await;
        let prolonged = match opened {
            Ok((link, findings)) => self.prolong(&link).await.map(|()| (link, findings)),
            Err(failure) => Err(failure),
        };
        let (link, findings) = match prolonged {
            Ok(opened) => opened,
            Err(failure) => {
                self.connected(false);
                return Err(failure);
            }
        };
        let name = self.ctx.as_ref().map_or("", SinkContext::name);
        for finding in findings.iter().filter(|finding| !self.told.contains(finding)) {
            warn!(sink = %name, server = %self.settings.address, "{finding}");
        }
        self.told = findings;
        self.connected(true);
        Ok(link)
    }

    async fn connect_and_send(&mut self, batch: &mut Deliveries) -> Result<(), Failure> {
        match self.connect().await {
            Ok(link) => match self.send(link, batch).await {
                Err(undone) if undone.stale => Err(unsent(batch, undone.failure)),
                sent => sent.map_err(|undone| undone.failure),
            },
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
            self.link = Some(link).filter(|_| failure.keep);
            return Err(Undone::of(unsent(batch, failure)));
        }
        let size = match self.settings.ordering {
            Ordering::Strict => batch.len(),
            Ordering::Pipelined => PIECE,
        };
        let mut under_way = FuturesOrdered::new();
        let (mut next, mut failed) = (0, Vec::new());
        loop {
            while failed.is_empty() && next < batch.len() && under_way.len() < 2 {
                let range = next..batch.len().min(next + size);
                next = range.end;
                let commands = self.settings.entry.pack(&batch.as_slice()[range.clone()]);
                let (mut connection, before) = (link.connection(), link.wire().written());
                under_way.push_back(async move {
                    let replies = connection.send_packed_commands(&commands, 0, commands.len()).await;
                    (range, before, replies)
                });
            }
            let Some((range, before, replies)) = under_way.next().await else { break };
            let mut taken = Vec::new();
            let settled = match &replies {
                Ok(replies) => self.settle(range, replies, batch, &mut taken),
                Err(error) => Err(self.lost(range, error, link.wire(), before)),
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
        let mut failed = failed.into_iter();
        // The first is the cause, the next its consequence.
        let Some(mut undone) = failed.next() else {
            self.link = Some(link);
            return Ok(());
        };
        if undone.stale {
            return Err(undone);
        }
        // The machine searches what is bad among the unmarked, so those of a rejection stay so.
        let first = Some(&undone).filter(|undone| undone.failure.class != ErrorClass::Rejected);
        let certain = first.into_iter().chain(failed.as_slice()).filter(|undone| undone.failure.unsent);
        certain
            .flat_map(|undone| undone.range.clone())
            .chain(next..batch.len())
            .for_each(|i| batch.unsent(i));
        if let Some(key) = &undone.wrong_type
            && let Some(failure) = name_the_type(&mut link, key).await
        {
            undone.failure = failure;
        }
        // One that has not answered may still carry it out: what is sent then comes twice.
        let keep = undone.failure.keep && failed.as_slice().iter().all(|undone| undone.failure.keep);
        self.link = Some(link).filter(|_| keep);
        Err(undone)
    }

    /// Marks what became of the events of one transaction.
    fn settle(
        &mut self,
        range: Range<usize>,
        replies: &[Value],
        batch: &mut Deliveries,
        taken: &mut Vec<usize>,
    ) -> Result<(), Undone> {
        // `EXEC` itself concerns all of them, the first as well as any.
        let keys = &self.settings.entry.keys;
        let key = |batch: &Deliveries, at: usize| {
            let sent = &batch.as_slice()[range.clone()];
            keys.of(sent.get(at).unwrap_or(&sent[0])).into_owned()
        };
        match read(replies) {
            Verdict::Done => {
                if keys.one().is_none() {
                    for at in [0, range.len() - 1] {
                        self.blame.worked(&key(batch, at));
                    }
                }
                taken.extend(range.clone());
                range.for_each(|i| batch.delivered(i));
                Ok(())
            }
            Verdict::Refused(Refusal { at, code, detail }) => Err(Undone {
                failure: reply(code, detail, &key(batch, at)),
                range,
                wrong_type: None,
                stale: false,
            }),
            Verdict::Loose(done, Refusal { at, code, detail }) => {
                range.clone().for_each(|i| batch.unsent(i));
                taken.extend(done.iter().map(|at| range.start + at));
                taken.iter().for_each(|i| batch.delivered(*i));
                let failure = reply(code, detail, &key(batch, at));
                Err(Undone::of(failure))
            }
            Verdict::Partly(refused) => {
                let bad: HashSet<usize> = refused.iter().map(|refusal| refusal.at).collect();
                let wrong_type = refused.iter().all(|refusal| refusal.code == "WRONGTYPE");
                let theirs = wrong_type && keys.one().is_none() && {
                    let keys = bad.iter().map(|at| key(batch, *at)).collect();
                    self.blame.is_theirs(&keys, bad.len() < range.len())
                };
                for at in 0..range.len() {
                    let i = range.start + at;
                    if !bad.contains(&at) {
                        batch.delivered(i);
                        taken.push(i);
                    } else if theirs {
                        let key = key(batch, at);
                        let why = format!(
                            "the key `{key}` holds no stream: delete it, or choose another stream_key"
                        );
                        batch.poison(i, why);
                    } else {
                        batch.unsent(i);
                    }
                }
                if theirs {
                    return Ok(());
                }
                let Refusal { at, code, detail } = refused[0];
                let key = key(batch, at);
                let failure = reply(code, detail, &key);
                let wrong_type = (code == "WRONGTYPE").then_some(key);
                Err(Undone { failure, range: 0..0, wrong_type, stale: false })
            }
        }
    }

    /// Streams that took these events are to live on for their time.
    fn owe(&mut self, batch: &Deliveries, taken: &[usize]) {
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
        let commands = self.settings.entry.prolong(&self.owed);
        let replies = link.connection().send_packed_commands(&commands, 0, commands.len()).await;
        let key = self.settings.entry.keys.one().unwrap_or("*");
        let refused = replies.map(|replies| {
            replies.into_iter().find_map(|reply| match reply {
                Value::ServerError(error) => Some(error),
                _ => None,
            })
        });
        let failure = match refused {
            Ok(None) => {
                self.owed.clear();
                return Ok(());
            }
            Ok(Some(error)) if error.code() == "NOPERM" => no_pexpire(key),
            Ok(Some(error)) => reply(error.code(), error.details().unwrap_or_default(), key),
            Err(error) => {
                let last_words = link.wire().last_words();
                explain(&error, &Scene { stage: Stage::Prolonging, last_words: &last_words, key })
            }
        };
        Err(failure.of_prolonging())
    }

    /// No reply came.
    fn lost(&self, range: Range<usize>, error: &RedisError, wire: &Wire, before: u64) -> Undone {
        let stage = if wire.written() > before { Stage::Written } else { Stage::Unwritten };
        let last_words = wire.last_words();
        let key = self.settings.entry.keys.one().unwrap_or("*");
        let failure = explain(error, &Scene { stage, last_words: &last_words, key });
        let stale = stage == Stage::Unwritten && range.start == 0;
        Undone { failure, range, wrong_type: None, stale }
    }
}

/// A transaction that was not carried out, or not known to be.
struct Undone {
    failure: Failure,
    /// Its events that are not marked yet.
    range: Range<usize>,
    /// The key of the wrong type, where that is why.
    wrong_type: Option<String>,
    /// Whether the connection was dead before any event was written; then none is marked.
    stale: bool,
}

impl Undone {
    /// All events are marked.
    fn of(failure: Failure) -> Undone {
        Undone { failure, range: 0..0, wrong_type: None, stale: false }
    }
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
        Value::SimpleString(kind) => Some(wrong_type(key, Some(kind))),
        _ => None,
    }
}
