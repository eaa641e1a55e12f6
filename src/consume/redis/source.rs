//! The source: it reads a stream, for a group or for a reader of its own.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use secrecy::ExposeSecret as _;
use streamll_actors::sink::DeliveryError;
use tokio::time::Instant;

use super::commands::Place;
use super::letters::LetterStream;
use super::look::Look;
use super::nodes::Nodes;
use super::reading::{Cursor, Phase, Reading};
use super::replies::{deliveries, entries, id, is_no_permission};
use super::server::{BATCH, BLOCK, ReadReplies, Server};
use super::takeover::Takeover;
use crate::consume::dead_letter::{DeadLetters, Letter};
use crate::consume::entry::{Entry, Ticket};
use crate::consume::error::ConsumeError;
use crate::consume::settings::{self, IfMissing, Settings, Start};
use crate::consume::source::Source;
use crate::consume::status::Shared;
use crate::consume::window::Window;

/// The end of the stream, as it is when the consumer first looks at it.
pub(super) const LAST: Ticket = Ticket::entry(u64::MAX, u64::MAX);

/// Reads a stream; see the [module](super).
pub(in crate::consume) struct RedisSource {
    pub(super) server: Server,
    pub(super) plan: Plan,
    pub(super) reading: Reading,
    pub(super) cursor: Cursor,
    pub(super) takeover: Takeover,
    pub(super) look: Look,
    letters: LetterStream,
    /// Whether there was a connection before.
    pub(super) has_begun: bool,
    pub(super) shared: Arc<Shared>,
}

/// How to read.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) start: Start,
    /// Of a group.
    pub(super) missing_stream: IfMissing,
    pub(super) claim_after: Duration,
    /// How many entries may be in hand.
    pub(super) prefetch: usize,
}

impl RedisSource {
    pub(in crate::consume) fn new(
        settings: &Settings,
        shared: Arc<Shared>,
    ) -> Result<RedisSource, ConsumeError> {
        let settings::Reading { target, group, name, start, .. } = &settings.reading;
        let url = settings.broker.url.expose_secret();
        let nodes = Nodes::parse(url, settings.broker.ca_file.clone()).map_err(ConsumeError::Url)?;
        if target.is_empty() {
            return wrong("target: the stream has no name; write `ai_events`");
        }
        let letters = LetterStream::new(letter_key(settings.dead_letters.as_ref(), target)?);
        let start = match (start, group) {
            (Some(start), _) => start.clone(),
            (None, Some(_)) => Start::Begin,
            (None, None) => Start::Now,
        };
        if let Start::After(text) = &start {
            parse_id(text)?;
        }
        let until = parse_until(settings.reading.until.as_deref(), group.as_deref())?;
        Ok(RedisSource {
            server: Server::new(nodes, Place::new(target, group.as_deref(), name.as_deref())),
            plan: Plan {
                start,
                missing_stream: settings.reading.missing_target,
                claim_after: settings.reading.claim_after,
                prefetch: usize::from(settings.reading.prefetch),
            },
            reading: Reading::new(),
            cursor: Cursor::new(until),
            takeover: Takeover::new(),
            look: Look::new(),
            letters,
            has_begun: false,
            shared,
        })
    }

    pub(super) fn is_group(&self) -> bool {
        self.server.place.group.is_some()
    }

    fn start_read(&mut self, room: usize) {
        let most = if self.reading.is_suspicious() { 1 } else { room.min(self.server.most) };
        let after = self.cursor.at.unwrap_or(Ticket::START);
        let (phase, place) = (self.reading.phase, &self.server.place);
        let commands = match phase {
            Phase::Pending(from) => place.read_pending(from, most),
            Phase::New => place.read_new(after, most, None),
            Phase::Wait => place.read_new(after, most, Some(BLOCK)),
        };
        self.server.start_read(phase, commands, most);
    }

    /// Takes note of a read. What it brought is ready then.
    fn finish_read(&mut self, read: ReadReplies) -> Result<(), DeliveryError> {
        let ReadReplies { phase, mut replies } = read;
        let read = replies.pop().unwrap_or_default();
        if let Value::ServerError(error) = &read {
            return Err(self.server.refused(error.code(), error.details().unwrap_or_default()));
        }
        let mut found = entries(read);
        if phase == Phase::New {
            let Place { key, group, .. } = &self.server.place;
            self.look.note(&replies, group.as_deref());
            self.look.count_gone(key, group.as_deref(), &mut self.cursor, &self.shared);
        }
        if let Some(until) = self.cursor.until {
            found.retain(|entry| entry.ticket <= until);
        }
        self.reading.phase = match phase {
            Phase::Pending(_) => {
                let counts = deliveries(replies.first());
                for entry in &mut found {
                    entry.deliveries = counts.get(&entry.ticket).copied().unwrap_or(0);
                }
                found.last().map_or(Phase::New, |last| Phase::Pending(last.ticket))
            }
            Phase::New | Phase::Wait if found.is_empty() => Phase::Wait,
            Phase::New | Phase::Wait => {
                match found.last() {
                    Some(last) if self.is_group() => self.look.note_delivered(last.ticket),
                    _ => self.cursor.advance(&found),
                }
                Phase::New
            }
        };
        self.reading.push(found);
        Ok(())
    }

    /// Entries that can be handed out without a read.
    async fn next_ready(&mut self) -> Result<Option<Vec<Entry>>, DeliveryError> {
        if let Some(found) = self.reading.ready.pop_front() {
            self.takeover.is_idle = false;
            return Ok(Some(found));
        }
        if let Some(suspect) = self.takeover.next_suspect() {
            // This attempt counts as a delivery again.
            let times = suspect.deliveries + 1;
            let count = self.server.place.keep(&[suspect.ticket], Some(times));
            self.server.ask_well(&count).await?;
            self.takeover.is_idle = false;
            return Ok(Some(
                self.takeover.suspects.pop_first().map(|(_, suspect)| suspect).into_iter().collect(),
            ));
        }
        Ok(None)
    }

    /// Whether no read may be started until there is room, or until everything else is done.
    fn must_wait(&self) -> bool {
        let needs_idle = self.reading.is_suspicious() || !self.takeover.suspects.is_empty();
        self.takeover.is_under_way() || (needs_idle && !self.takeover.is_idle)
    }

    /// Shows that what is in hand is not forgotten, and takes over what other consumers have left.
    async fn maintain_group(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        let now = Instant::now();
        let mut aged = window.aged(self.plan.claim_after / 3, now);
        aged.extend(self.takeover.suspects.keys());
        for aged in aged.chunks(BATCH) {
            let keep = self.server.place.keep(aged, None);
            self.server.ask_well(&keep).await?;
        }
        // What this consumer had in hand itself comes first. Otherwise entries that are gone would be counted twice.
        if !matches!(self.reading.phase, Phase::Pending(_)) {
            self.takeover.begin_if_due(now, self.plan.claim_after / 2);
        }
        self.claim(window).await
    }

    /// How many entries wait, as of the last look.
    fn lag(&self, look: Option<&Value>) -> Option<u64> {
        let (standing, cursor) = (&self.look.standing, &self.cursor);
        if self.is_group() {
            return standing.lag;
        }
        if is_no_permission(look) {
            return None;
        }
        if standing.last <= cursor.at {
            return Some(0);
        }
        standing.added().zip(cursor.read).map(|(added, read)| added.saturating_sub(read))
    }
}

impl Source for RedisSource {
    async fn connect(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        self.server.connect().await?;
        self.begin(window).await?;
        self.has_begun = true;
        Ok(())
    }

    async fn next(&mut self, room: usize) -> Result<Option<Vec<Entry>>, DeliveryError> {
        loop {
            if let Some(found) = self.next_ready().await? {
                return Ok(Some(found));
            }
            if self.server.may_read() {
                if self.cursor.has_reached_end(self.reading.phase) {
                    return Ok(None);
                }
                if self.must_wait() {
                    return pending().await;
                }
                self.start_read(room);
            }
            let read = self.server.replies().await?;
            self.finish_read(read)?;
        }
    }

    fn is_reading(&self) -> bool {
        !self.reading.ready.is_empty() || self.server.is_reading()
    }

    async fn acknowledge(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        if !self.is_group() {
            if let Some(done) = window.remove_front() {
                let cursor = done.to_string();
                self.shared.change(|status| status.cursor = Some(cursor));
            }
            return Ok(());
        }
        while window.done_len() > 0 {
            let done = window.done_first(BATCH);
            let acknowledge = self.server.place.acknowledge(&done);
            self.server.ask_well(&acknowledge).await?;
            window.remove(done.len());
        }
        self.takeover.is_idle = !window.is_at_work();
        self.claim(window).await
    }

    fn dead_letter(
        &self,
        letter: Arc<Letter>,
    ) -> impl Future<Output = Result<(), DeliveryError>> + Send + 'static {
        self.letters.keep(&self.server, &letter)
    }

    async fn maintain(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        self.takeover.is_idle = !window.is_at_work();
        if self.is_group() {
            self.maintain_group(window).await?;
        }
        let look = self.server.place.look();
        let replies = self.server.ask(&look).await?;
        let Place { key, group, .. } = &self.server.place;
        self.look.note(&replies, group.as_deref());
        self.look.note_missing(replies.first(), key, &self.shared);
        let lag = self.lag(replies.first());
        self.shared.change(|status| status.lag = lag);
        Ok(())
    }

    async fn stop_reading(&mut self) -> Vec<Entry> {
        self.takeover.stop();
        if self.is_reading() {
            // A read that blocks ends at once. What it brings at the last moment is in hand.
            self.server.unblock().await;
        }
        if let Some(read) = self.server.last_replies().await {
            let _ = self.finish_read(read);
        }
        self.reading.ready.drain(..).flatten().collect()
    }

    async fn leave(&mut self) {
        // A name that nobody will bear again need not stay. With entries in hand it must.
        let place = &self.server.place;
        if place.is_fresh && place.group.is_some() {
            let look = place.in_hand(Ticket::START, 1);
            let left = self.server.ask(&look).await;
            if matches!(left.as_deref(), Ok([Value::Array(left)]) if left.is_empty()) {
                let leave = self.server.place.leave();
                let _ = self.server.ask(&leave).await;
            }
        }
    }

    async fn close(&mut self) {
        self.server.disconnect();
    }
}

fn wrong<T>(text: &str) -> Result<T, ConsumeError> {
    Err(ConsumeError::Setting(text.to_owned()))
}

/// The stream that keeps dead letters, unless a file does.
fn letter_key(choice: Option<&DeadLetters>, target: &str) -> Result<String, ConsumeError> {
    match choice {
        None | Some(DeadLetters::File(_)) => Ok(format!("{target}.dead")),
        Some(DeadLetters::Stream(name)) if name == target => wrong(&format!(
            "dead_letters: `{name}` is what is read, where they would come back; name another stream"
        )),
        Some(DeadLetters::Stream(name)) => Ok(name.clone()),
        Some(DeadLetters::Exchange(_)) => {
            wrong("dead_letters: an exchange is RabbitMQ's; name a stream or a file")
        }
    }
}

fn parse_until(text: Option<&str>, group: Option<&str>) -> Result<Option<Ticket>, ConsumeError> {
    match text {
        Some(_) if group.is_some() => wrong("until: a group has no end; leave out one of both"),
        Some("+") => Ok(Some(LAST)),
        Some(text) => parse_id(text).map(Some),
        None => Ok(None),
    }
}

fn parse_id(text: &str) -> Result<Ticket, ConsumeError> {
    id(text.as_bytes()).ok_or_else(|| {
        ConsumeError::Setting(format!("`{text}` is no id of an entry; write it like `1718000000000-0`"))
    })
}
