//! The server that has the stream, the two connections to it, and what its refusals mean.

use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use redis::{Pipeline, RedisError, Value};
use streamll_actors::sink::DeliveryError;
use tokio::time::{Instant, timeout};

use super::commands::{Place, unblock};
use super::nodes::Nodes;
use super::reading::Phase;
use super::words;
use crate::brokers::redis::ANSWER;
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::{Failure, Scene, Stage, explain};

/// How long a read may block. A quiet connection shows that often that it lives.
pub(super) const BLOCK: Duration = Duration::from_secs(1);
/// The most entries of one command.
pub(super) const BATCH: usize = 1000;

/// A server, and what is read from it.
pub(super) struct Server {
    pub(super) nodes: Nodes,
    /// The node that has the stream, as people read it.
    shown: String,
    pub(super) place: Place,
    links: Option<Links>,
    /// How many entries are asked for at most: fewer after they came too slowly.
    pub(super) most: usize,
}

struct Links {
    reader: Link,
    control: Link,
    /// Names the reader's connection to the server.
    client: Option<i64>,
    read: Option<Read>,
}

type Reply = Pin<Box<dyn Future<Output = Result<Vec<Value>, RedisError>> + Send>>;

/// A read under way.
struct Read {
    phase: Phase,
    /// How many entries were asked for, and when.
    most: usize,
    since: Instant,
    reply: Reply,
}

/// The replies of a read, and what it has read.
pub(super) struct ReadReplies {
    pub(super) phase: Phase,
    pub(super) replies: Vec<Value>,
}

impl Server {
    pub(super) fn new(nodes: Nodes, place: Place) -> Server {
        Server { shown: nodes.shown(), nodes, place, links: None, most: BATCH }
    }

    /// Connects both connections to the node that has the stream.
    pub(super) async fn connect(&mut self) -> Result<(), DeliveryError> {
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
        self.links = Some(Links { reader, control, client, read: None });
        Ok(())
    }

    pub(super) fn disconnect(&mut self) {
        self.links = None;
    }

    /// The node that has the stream, as people read it.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The connection for everything but reading.
    pub(super) fn control(&self) -> Option<redis::aio::MultiplexedConnection> {
        self.links.as_ref().map(|links| links.control.connection())
    }

    /// Asks on the connection that does not read.
    pub(super) async fn ask(&mut self, commands: &Pipeline) -> Result<Vec<Value>, DeliveryError> {
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

    /// Asks, and takes any reply that is an error for a failure.
    pub(super) async fn ask_well(&mut self, commands: &Pipeline) -> Result<Vec<Value>, DeliveryError> {
        let replies = self.ask(commands).await?;
        self.check(&replies)?;
        Ok(replies)
    }

    /// Whether a read is under way.
    pub(super) fn is_reading(&self) -> bool {
        self.links.as_ref().is_some_and(|links| links.read.is_some())
    }

    /// Whether a read may be started.
    pub(super) fn may_read(&self) -> bool {
        self.links.as_ref().is_some_and(|links| links.read.is_none())
    }

    /// Starts the next read, which is then under way until its replies are taken.
    pub(super) fn start_read(&mut self, phase: Phase, commands: Pipeline, most: usize) {
        let Some(links) = &mut self.links else { return };
        let mut connection = links.reader.connection();
        connection.set_response_timeout(BLOCK + ANSWER);
        let reply = async move { connection.send_packed_commands(&commands, 0, commands.len()).await };
        links.read = Some(Read { phase, most, since: Instant::now(), reply: Box::pin(reply) });
    }

    /// Waits for the replies of the read under way. Nothing is lost when the future is dropped.
    pub(super) async fn replies(&mut self) -> Result<ReadReplies, DeliveryError> {
        let Some(links) = &mut self.links else {
            return Err(DeliveryError::unavailable("not connected"));
        };
        let Some(under_way) = &mut links.read else { return pending().await };
        let replies = under_way.reply.as_mut().await;
        let (phase, most, since) = (under_way.phase, under_way.most, under_way.since);
        links.read = None;
        match replies {
            Ok(replies) => {
                self.speed_up(since);
                Ok(ReadReplies { phase, replies })
            }
            Err(error) => {
                self.slow_down(&error, most);
                let Some(links) = &self.links else { return Err(DeliveryError::unavailable(error)) };
                let stage = if error.is_timeout() { Stage::Repeatable } else { Stage::Unwritten };
                Err(self.lost(&error, &links.reader, stage))
            }
        }
    }

    /// Ends a read that blocks.
    pub(super) async fn unblock(&mut self) {
        if let Some(client) = self.links.as_ref().and_then(|links| links.client) {
            let _ = self.ask(&unblock(client)).await;
        }
    }

    /// The replies of the read under way, if they come soon.
    pub(super) async fn last_replies(&mut self) -> Option<ReadReplies> {
        let Read { phase, reply, .. } = self.links.as_mut()?.read.take()?;
        let replies = timeout(BLOCK + BLOCK, reply).await.ok()?.ok()?;
        Some(ReadReplies { phase, replies })
    }

    /// Fewer entries at a time, if their answer did not come in time.
    fn slow_down(&mut self, error: &RedisError, asked: usize) {
        if error.is_timeout() {
            self.most = (asked / 2).max(1);
        }
    }

    /// More entries at a time, if they came quickly.
    fn speed_up(&mut self, since: Instant) {
        if since.elapsed() < ANSWER / 4 {
            self.most = (self.most * 2).min(BATCH);
        }
    }

    /// What an error of the client means here.
    fn lost(&self, error: &RedisError, link: &Link, stage: Stage) -> DeliveryError {
        let (last_words, topic) = (link.wire().last_words(), words::topic(&self.place.key));
        explain(error, &Scene { stage, last_words: &last_words, topic }).at(&self.shown)
    }

    /// What a refusal means here.
    pub(super) fn refused(&self, code: &str, detail: &str) -> DeliveryError {
        let Place { key, group, .. } = &self.place;
        let failure = match code {
            "NOPERM" if group.is_some() => Failure::misconfigured(format!(
                "the user of url may not read there: allow it `+xreadgroup +xgroup +xack +xautoclaim +xclaim +xpending ~{key}`"
            )),
            "NOPERM" => Failure::misconfigured(format!(
                "the user of url may not read there: allow it `+xread +xinfo ~{key}`"
            )),
            "MOVED" | "ASK" | "TRYAGAIN" => Failure::unavailable(format!(
                "the stream `{key}` moves to another node of the cluster, and is looked for there (this needs `+cluster|slots +cluster|info`)"
            )),
            "NOGROUP" | "UNBLOCKED" => Failure::unavailable(format!(
                "the stream `{key}` or its group was deleted, or its node is no longer a master: the consumer looks for both, makes what is missing, and continues where it was if the stream is still the same"
            )),
            _ => words::reply(code, detail, key),
        };
        failure.at(&self.shown)
    }

    /// The first reply that is an error.
    pub(super) fn check(&self, replies: &[Value]) -> Result<(), DeliveryError> {
        let refused = replies.iter().find_map(|reply| match reply {
            Value::ServerError(error) => Some(error),
            _ => None,
        });
        refused.map_or(Ok(()), |error| Err(self.refused(error.code(), error.details().unwrap_or_default())))
    }
}
