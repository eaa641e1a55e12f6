//! Redis Streams as a source: a consumer group, or a cursor of one's own.
//!
//! Two connections: one reads and may block, the other acknowledges, takes over and asks.

mod commands;
mod left;
mod nodes;
mod read;
mod replies;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, RedisError, Value};
use streamll_actors::sink::DeliveryError;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use self::commands::Place;
use self::nodes::Nodes;
use self::replies::{Standing, id};
use super::consumer::{Consumer, Start};
use super::dead_letter::{DeadLetters, Letter};
use super::error::ConsumeError;
use super::source::{Entry, Source, Ticket};
use super::status::Shared;
use super::window::Window;
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::{Failure, Scene, Stage, explain};

/// How long a read may block, which is also how often a quiet connection shows that it lives.
const BLOCK: Duration = Duration::from_secs(1);
/// Most entries of one read.
const READ: usize = 1000;
/// What was delivered so often and is still in hand may have ended whoever had it, and is tried by itself.
const WARY: u64 = 2;

/// The end of the stream as it is when it is first looked at.
const LAST: Ticket = Ticket::entry(u64::MAX, u64::MAX);

type Reading = Pin<Box<dyn Future<Output = Result<Vec<Value>, RedisError>> + Send>>;

/// Reads a stream; see the [module](self).
pub(super) struct RedisSource {
    nodes: Nodes,
    /// The node that has the stream, as people read it.
    shown: String,
    /// The connection to the node of a cluster that keeps the dead letters, once there are any.
    graves: Arc<Mutex<Option<Link>>>,
    place: Place,
    /// Whether a stream that is missing is made with the group.
    makes_stream: bool,
    start: Start,
    until: Option<Ticket>,
    claim_after: Duration,
    dead: Option<String>,
    links: Option<Links>,
    phase: Phase,
    /// Read, and not taken yet.
    ready: VecDeque<Vec<Entry>>,
    /// Taken over, and each to be tried by itself, as they may be what has ended others.
    suspects: BTreeMap<Ticket, Entry>,
    /// How many may be in hand.
    prefetch: usize,
    /// How many entries are asked for at most: fewer where they came too slowly.
    most: usize,
    /// It is time to look for what is to be taken over.
    is_claiming: bool,
    /// Nothing new is taken any more.
    is_paused: bool,
    /// How often the entry in hand of this consumer was delivered that was delivered most often.
    most_deliveries: u64,
    shared: Arc<Shared>,
    /// Without a group: the last entry that was read.
    cursor: Option<Ticket>,
    /// How many of the entries that the stream ever had are in front of the next one, where that is known.
    read: Option<u64>,
    /// Up to this entry, what is gone was told of.
    told: Ticket,
    claimed_at: Option<Instant>,
    /// How things stood at the last look.
    standing: Standing,
    /// Since when there was a connection for the first time.
    has_begun: bool,
    /// Nobody is at work, so that one entry can be tried by itself.
    alone: bool,
    /// The status says that the stream is not there.
    is_missed: bool,
}

struct Links {
    reader: Link,
    control: Link,
    /// Names the reader's connection to the server.
    client: Option<i64>,
    reading: Option<UnderWay>,
}

/// A read under way.
struct UnderWay {
    phase: Phase,
    /// How many entries were asked for, and when.
    most: usize,
    since: Instant,
    reply: Reading,
}

/// What is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What this consumer had in hand before, behind this entry.
    Pending(Ticket),
    /// What is there.
    New,
    /// There was nothing: wait for more.
    Wait,
}

impl RedisSource {
    pub(super) fn new(consumer: &Consumer, url: &str) -> Result<RedisSource, ConsumeError> {
        let wrong = |text: &str| Err(ConsumeError::Setting(text.to_owned()));
        let nodes = Nodes::parse(url, consumer.ca_file.clone()).map_err(ConsumeError::Url)?;
        if consumer.target.is_empty() {
            return wrong("target: the stream has no name; write `ai_events`");
        }
        let dead = match &consumer.dead_letters {
            None => Some(format!("{}.dead", consumer.target)),
            Some(DeadLetters::Stream(name)) if *name == consumer.target => {
                return wrong(&format!(
                    "dead_letters: `{name}` is what is read, where they would come back; name another stream"
                ));
            }
            Some(DeadLetters::Stream(name)) => Some(name.clone()),
            Some(DeadLetters::Exchange(_)) => {
                return wrong("dead_letters: an exchange is RabbitMQ's; name a stream or a file");
            }
            Some(DeadLetters::File(_)) => None,
        };
        let start = match (&consumer.start, &consumer.group) {
            (Some(start), _) => start.clone(),
            (None, Some(_)) => Start::Begin,
            (None, None) => Start::Now,
        };
        let parse = |text: &str| {
            id(text.as_bytes()).ok_or_else(|| {
                ConsumeError::Setting(format!(
                    "`{text}` is no id of an entry; write it like `1718000000000-0`"
                ))
            })
        };
        if let Start::After(text) = &start {
            parse(text)?;
        }
        let until = match consumer.until.as_deref() {
            Some(_) if consumer.group.is_some() => {
                return wrong("until: a group has no end; leave out one of both");
            }
            Some("+") => Some(LAST),
            Some(text) => Some(parse(text)?),
            None => None,
        };
        Ok(RedisSource {
            shown: nodes.shown(),
            nodes,
            graves: Arc::default(),
            place: Place::new(&consumer.target, consumer.group.as_deref(), consumer.name.as_deref()),
            makes_stream: consumer.makes_target,
            start,
            until,
            claim_after: consumer.claim_after,
            dead,
            links: None,
            phase: Phase::Wait,
            ready: VecDeque::new(),
            suspects: BTreeMap::new(),
            prefetch: consumer.prefetch,
            most: READ,
            is_claiming: false,
            is_paused: false,
            most_deliveries: 0,
            shared: consumer.shared.clone(),
            cursor: None,
            read: None,
            told: Ticket::entry(0, 0),
            claimed_at: None,
            standing: Standing::default(),
            has_begun: false,
            alone: true,
            is_missed: false,
        })
    }

    /// What an error of the client means here.
    fn lost(&self, error: &RedisError, link: &Link, stage: Stage) -> DeliveryError {
        let (last_words, topic) = (link.wire().last_words(), words::topic(&self.place.key));
        explain(error, &Scene { stage, last_words: &last_words, topic }).at(&self.shown)
    }

    /// What a refusal means here.
    fn refused(&self, code: &str, detail: &str) -> DeliveryError {
        let Place { key, group, .. } = &self.place;
        let failure = match code {
            "NOPERM" if group.is_some() => Failure::misconfigured(format!(
                "the user of url may not read there: allow it `+xreadgroup +xgroup +xack +xautoclaim +xclaim +xpending ~{key}`"
            )),
            "NOPERM" => Failure::misconfigured(format!(
                "the user of url may not read there: allow it `+xread +xinfo ~{key}`"
            )),
            "MOVED" | "ASK" | "TRYAGAIN" => Failure::unavailable(format!(
                "the stream `{key}` goes to another node of the cluster, and is looked for there (which needs `+cluster|slots +cluster|info`)"
            )),
            "NOGROUP" | "UNBLOCKED" => Failure::unavailable(format!(
                "the stream `{key}` or its group was deleted, or its node is no master any more: it is looked for, made anew, and goes on where it was as far as the stream is still the same"
            )),
            _ => words::reply(code, detail, key),
        };
        failure.at(&self.shown)
    }

    /// The first reply that is an error.
    fn check(&self, replies: &[Value]) -> Result<(), DeliveryError> {
        let refused = replies.iter().find_map(|reply| match reply {
            Value::ServerError(error) => Some(error),
            _ => None,
        });
        refused.map_or(Ok(()), |error| Err(self.refused(error.code(), error.details().unwrap_or_default())))
    }

    /// Asks on the second connection.
    async fn ask(&mut self, commands: &Pipeline) -> Result<Vec<Value>, DeliveryError> {
        let Some(links) = &mut self.links else { return Err(DeliveryError::unavailable("not connected")) };
        match links.control.ask(commands).await {
            Ok(replies) => Ok(replies),
            Err(error) => {
                self.slow_down(&error, self.most);
                match &self.links {
                    // What was asked for may be asked for again.
                    Some(links) => Err(self.lost(&error, &links.control, Stage::Repeatable)),
                    None => Err(DeliveryError::unavailable(error)),
                }
            }
        }
    }
}

impl Source for RedisSource {
    async fn open(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        self.links = None;
        let key = self.place.key.clone();
        let found = match self.nodes.find(&key).await {
            Ok(control) => match self.nodes.again(&control, &key).await {
                Ok(reader) => Ok((control, reader)),
                Err(failure) => Err(failure),
            },
            Err(failure) => Err(failure),
        };
        let (control, reader) = found.map_err(|failure| failure.at(self.nodes.shown()))?;
        self.shown = control.node.to_string();
        let (reader, client, control) = (reader.link, reader.client, control.link);
        self.links = Some(Links { reader, control, client, reading: None });
        self.begin(window).await?;
        self.has_begun = true;
        Ok(())
    }

    async fn next(&mut self, room: usize) -> Result<Option<Vec<Entry>>, DeliveryError> {
        loop {
            if let Some(found) = self.ready.pop_front() {
                self.alone = false;
                return Ok(Some(found));
            }
            if self.alone
                && let Some((_, suspect)) = self.suspects.first_key_value()
            {
                // What is tried counts again.
                let times = suspect.deliveries + 1;
                let counted = self.ask(&self.place.keep(&[suspect.ticket], Some(times))).await?;
                self.check(&counted)?;
                self.alone = false;
                return Ok(Some(self.suspects.pop_first().map(|(_, suspect)| suspect).into_iter().collect()));
            }
            if self.links.as_ref().is_some_and(|links| links.reading.is_none()) {
                if self.has_reached() {
                    return Ok(None);
                }
                let must_be_alone = self.is_wary() || !self.suspects.is_empty();
                if self.is_claiming || (must_be_alone && !self.alone) {
                    // Until there is room, or everything else is done.
                    return pending().await;
                }
                self.start_read(room);
            }
            let Some(links) = &mut self.links else {
                return Err(DeliveryError::unavailable("not connected"));
            };
            let Some(under_way) = &mut links.reading else { continue };
            let read = under_way.reply.as_mut().await;
            let Some(under_way) = links.reading.take() else { continue };
            match read {
                Ok(replies) => {
                    self.speed_up(&under_way);
                    self.finish_read(under_way.phase, replies)?;
                }
                Err(error) => {
                    self.slow_down(&error, under_way.most);
                    let Some(links) = &self.links else { return Err(DeliveryError::unavailable(error)) };
                    let stage = if error.is_timeout() { Stage::Repeatable } else { Stage::Unwritten };
                    return Err(self.lost(&error, &links.reader, stage));
                }
            }
        }
    }

    fn is_reading(&self) -> bool {
        !self.ready.is_empty() || self.links.as_ref().is_some_and(|links| links.reading.is_some())
    }

    async fn acknowledge(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        if self.place.group.is_none() {
            if let Some(done) = window.remove_front() {
                let cursor = done.to_string();
                self.shared.change(|status| status.cursor = Some(cursor));
            }
            return Ok(());
        }
        while window.done_len() > 0 {
            let done = window.done_first(READ);
            let replies = self.ask(&self.place.acknowledge(&done)).await?;
            self.check(&replies)?;
            window.remove(done.len());
        }
        self.alone = !window.is_at_work();
        self.claim(window).await
    }

    fn bury(&self, letter: Arc<Letter>) -> impl Future<Output = Result<(), DeliveryError>> + Send + 'static {
        let connection = self.links.as_ref().map(|links| links.control.connection());
        let (shown, dead) = (self.shown.clone(), self.dead.clone().unwrap_or_default());
        let command = self.place.bury(&dead, &letter);
        let elsewhere = self.nodes.is_cluster.then(|| (self.nodes.clone(), self.graves.clone()));
        async move {
            let sent = match (elsewhere, connection) {
                (Some((nodes, graves)), _) => {
                    bury_in_cluster(nodes, &mut *graves.lock().await, &dead, &command).await
                }
                (None, Some(mut connection)) => {
                    connection.send_packed_commands(&command, 0, command.len()).await.map_err(|error| {
                        let topic = words::topic(&dead);
                        explain(&error, &Scene { stage: Stage::Repeatable, last_words: &[], topic })
                    })
                }
                (None, None) => return Err(DeliveryError::unavailable("not connected")),
            };
            let failure = match sent.as_deref() {
                Ok([Value::ServerError(error)]) if error.code() == "NOPERM" => Failure::misconfigured(
                    format!("the user of url may not write there: allow it `+xadd ~{dead}`"),
                ),
                Ok([Value::ServerError(error)]) if ["MOVED", "ASK", "TRYAGAIN"].contains(&error.code()) => {
                    Failure::unavailable(format!(
                        "`{dead}` goes to another node of the cluster, and is looked for there"
                    ))
                }
                Ok([Value::ServerError(error)]) => {
                    words::reply(error.code(), error.details().unwrap_or_default(), &dead)
                }
                Ok(_) => return Ok(()),
                Err(failure) => failure.clone(),
            };
            Err(failure.at(&shown))
        }
    }

    async fn tend(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        self.alone = !window.is_at_work();
        let now = Instant::now();
        if self.place.group.is_some() {
            let mut aged = window.aged(self.claim_after / 3, now);
            aged.extend(self.suspects.keys());
            for aged in aged.chunks(READ) {
                let replies = self.ask(&self.place.keep(aged, None)).await?;
                self.check(&replies)?;
            }
            // What it had itself comes first, or what is gone of that would be told of twice.
            let has_begun = !matches!(self.phase, Phase::Pending(_));
            let is_due = self.claimed_at.is_none_or(|at| now.duration_since(at) >= self.claim_after / 2);
            if has_begun && is_due && !self.is_paused {
                self.claimed_at = Some(now);
                self.is_claiming = true;
            }
            self.claim(window).await?;
        }
        let replies = self.ask(&self.place.look()).await?;
        self.note_standing(&replies);
        self.note_missing(&replies);
        let may_look =
            !matches!(replies.first(), Some(Value::ServerError(error)) if error.code() == "NOPERM");
        let lag = match self.place.group {
            Some(_) => self.standing.lag,
            None if !may_look => None,
            None if self.standing.last <= self.cursor => Some(0),
            None => self.standing.added().zip(self.read).map(|(added, read)| added.saturating_sub(read)),
        };
        self.shared.change(|status| status.lag = lag);
        Ok(())
    }

    async fn pause(&mut self) -> Vec<Entry> {
        (self.is_claiming, self.is_paused) = (false, true);
        let client = self.links.as_ref().and_then(|links| links.client);
        if let Some(client) = client.filter(|_| self.is_reading()) {
            // A read that blocks ends at once; what it brings at the last moment is ours to handle.
            let _ = self.ask(&commands::unblock(client)).await;
        }
        let reading = self.links.as_mut().and_then(|links| links.reading.take());
        if let Some(UnderWay { phase, reply, .. }) = reading
            && let Ok(Ok(replies)) = timeout(BLOCK + BLOCK, reply).await
        {
            let _ = self.finish_read(phase, replies);
        }
        self.ready.drain(..).flatten().collect()
    }

    async fn close(&mut self, clean: bool) {
        // A name that nobody will bear again need not stay; with entries in hand it must.
        if clean && self.place.is_fresh && self.place.group.is_some() {
            let left = self.ask(&self.place.in_hand(Ticket::entry(0, 0), 1)).await;
            if matches!(left.as_deref(), Ok([Value::Array(left)]) if left.is_empty()) {
                let _ = self.ask(&self.place.leave()).await;
            }
        }
        self.links = None;
    }
}

/// The dead letters have a slot of their own, and mostly another node.
async fn bury_in_cluster(
    mut nodes: Nodes,
    grave: &mut Option<Link>,
    dead: &str,
    command: &Pipeline,
) -> Result<Vec<Value>, Failure> {
    let mut link = match grave.take().filter(Link::is_alive) {
        Some(link) => link,
        None => nodes.find(dead).await?.link,
    };
    let replies = link.ask(command).await.map_err(|error| {
        let (last_words, topic) = (link.wire().last_words(), words::topic(dead));
        explain(&error, &Scene { stage: Stage::Repeatable, last_words: &last_words, topic })
    })?;
    // A refusal may be that of a node which has its slot no more: it is looked for anew.
    if !matches!(replies.first(), Some(Value::ServerError(_))) {
        *grave = Some(link);
    }
    Ok(replies)
}
