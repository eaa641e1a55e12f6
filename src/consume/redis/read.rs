//! Where reading begins, and one read after the other.

use redis::{RedisError, Value};
use streamll_actors::sink::DeliveryError;
use tokio::time::Instant;

use super::commands::text;
use super::replies::{Standing, deliveries, entries, id};
use super::{BLOCK, LAST, Phase, READ, RedisSource, UnderWay, WARY};
use crate::brokers::redis::ANSWER;
use crate::brokers::redis::error::Failure;
use crate::consume::consumer::Start;
use crate::consume::source::Ticket;
use crate::consume::window::Window;

impl RedisSource {
    /// The group, made where it is missing; or the place to read from.
    pub(super) async fn begin(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        if self.place.group.is_some() {
            let from = match &self.start {
                _ if self.has_begun => self.again_from().await?,
                Start::Begin => "0".to_owned(),
                Start::Now => "$".to_owned(),
                Start::After(id) => id.clone(),
            };
            let made = self.ask(&self.place.make_group(&from, self.makes_stream)).await?;
            match made.first() {
                Some(Value::ServerError(error)) if error.code() == "BUSYGROUP" => {}
                Some(Value::ServerError(error))
                    if error.details().is_some_and(|said| said.contains("requires the key to exist")) =>
                {
                    let key = &self.place.key;
                    let why = format!("there is no stream `{key}`: is that its name? It is looked for again");
                    return Err(Failure::misconfigured(why).at(&self.shown));
                }
                _ => self.check(&made)?,
            }
            // They are among what this consumer has in hand at its server.
            self.suspects.clear();
            self.is_claiming = false;
            return self.find_own(window).await;
        }
        let look = self.ask(&self.place.look()).await?;
        let is_known = match look.first() {
            // A stream that is missing is one that is still to come; who may not look reads all the same.
            Some(Value::ServerError(error))
                if error.details().is_some_and(|said| said.contains("no such key")) =>
            {
                true
            }
            Some(Value::ServerError(error)) if error.code() == "NOPERM" => false,
            _ => self.check(&look).map(|()| true)?,
        };
        if !is_known {
            // Behind everything: only whether it may read.
            let tried = self.ask(&self.place.read_new(LAST, 1, None)).await?;
            self.check(tried.get(tried.len().saturating_sub(1)..).unwrap_or_default())?;
        }
        let standing = Standing::of(&look, None);
        let last = standing.last.unwrap_or(Ticket::entry(0, 0));
        if self.cursor.is_none() && self.start == Start::Now && !is_known {
            return Err(Failure::misconfigured(format!(
                "where `{}` ends now only `+xinfo` tells: allow it, or set `start` to the beginning or behind an id",
                self.place.key
            ))
            .at(&self.shown));
        }
        if self.until == Some(LAST) && is_known {
            self.until = Some(last);
        }
        match (self.cursor, &self.start) {
            (None, Start::Begin) => {
                (self.cursor, self.read) = (Some(Ticket::entry(0, 0)), standing.in_front())
            }
            (None, Start::Now) => (self.cursor, self.read) = (Some(last), standing.added()),
            (None, Start::After(text)) => self.cursor = id(text.as_bytes()),
            (Some(cursor), _) if is_known && last < cursor => {
                // Its server has forgotten some: it began anew, or is a replica that lagged behind.
                (self.cursor, self.read) = (Some(last), standing.added());
                self.shared.change(|status| status.cursor = Some(text(last)));
                window.forget_before(LAST);
            }
            _ => {}
        }
        // Later on it follows what is handled.
        if !self.has_begun && self.start != Start::Begin {
            let cursor = self.cursor.map(text);
            self.shared.change(|status| status.cursor = cursor);
        }
        self.is_missed = false;
        // What was read and is not taken yet is read again.
        self.phase = Phase::New;
        Ok(())
    }

    /// Takes in a look at the stream and its group; of one that is gone, what it was given stays known.
    pub(super) fn note_standing(&mut self, replies: &[Value]) {
        let before = self.standing.delivered;
        self.standing = Standing::of(replies, self.place.group.as_deref());
        self.standing.delivered = self.standing.delivered.or(before);
    }

    /// Says that there is no stream yet: its name may be a wrong one.
    pub(super) fn note_missing(&mut self, replies: &[Value]) {
        let is_missing = matches!(replies.first(), Some(Value::ServerError(error))
            if error.details().is_some_and(|said| said.contains("no such key")));
        if is_missing == self.is_missed {
            return;
        }
        self.is_missed = is_missing;
        let key = &self.place.key;
        let why = is_missing.then(|| format!("there is no stream `{key}` yet: is that its name?"));
        self.shared.change(|status| status.reason = why);
    }

    /// Where a group goes on that was there before and is gone: behind what it was given, unless the stream is another one.
    async fn again_from(&mut self) -> Result<String, DeliveryError> {
        let look = self.ask(&self.place.look()).await?;
        let last = Standing::of(&look, None).last;
        Ok(self.standing.delivered.filter(|delivered| last >= Some(*delivered)).map_or("0".to_owned(), text))
    }

    /// The first entry that it has in hand at its server and not here, and how often such were delivered. To read one
    /// once more counts as delivering it.
    async fn find_own(&mut self, window: &Window) -> Result<(), DeliveryError> {
        let mut behind = Ticket::entry(0, 0);
        self.phase = Phase::New;
        loop {
            let in_hand = self.ask(&self.place.in_hand(behind, READ)).await?;
            self.check(&in_hand)?;
            let mut in_hand: Vec<_> = deliveries(in_hand.first()).into_iter().collect();
            in_hand.retain(|(ticket, _)| *ticket > behind);
            in_hand.sort_unstable();
            let known = in_hand.iter().take_while(|(ticket, _)| window.contains(*ticket)).count();
            if let Some((last, _)) = in_hand[..known].last() {
                behind = *last;
            }
            let others = in_hand.iter().filter(|(ticket, _)| !window.contains(*ticket));
            self.most_deliveries = others.map(|(_, times)| *times).max().unwrap_or(0);
            if known < in_hand.len() {
                self.phase = Phase::Pending(behind);
            }
            if known < in_hand.len() || in_hand.is_empty() {
                return Ok(());
            }
        }
    }

    /// The next read, which is then under way until it is taken.
    pub(super) fn start_read(&mut self, room: usize) {
        let most = if self.is_wary() { 1 } else { room.min(self.most) };
        let behind = self.cursor.unwrap_or(Ticket::entry(0, 0));
        let Some(links) = &mut self.links else { return };
        let commands = match self.phase {
            Phase::Pending(from) => self.place.read_pending(from, most),
            Phase::New => self.place.read_new(behind, most, None),
            Phase::Wait => self.place.read_new(behind, most, Some(BLOCK)),
        };
        let mut connection = links.reader.connection();
        connection.set_response_timeout(BLOCK + ANSWER);
        let reply = async move { connection.send_packed_commands(&commands, 0, commands.len()).await };
        let (phase, since) = (self.phase, Instant::now());
        links.reading = Some(UnderWay { phase, most, since, reply: Box::pin(reply) });
    }

    /// Whether what is read next may be what has ended this process before: then it is tried by itself.
    pub(super) fn is_wary(&self) -> bool {
        matches!(self.phase, Phase::Pending(_)) && self.most_deliveries >= WARY
    }

    /// Takes a read in; what it brought is ready then.
    pub(super) fn finish_read(&mut self, phase: Phase, mut replies: Vec<Value>) -> Result<(), DeliveryError> {
        let read = replies.pop().unwrap_or_default();
        if let Value::ServerError(error) = &read {
            return Err(self.refused(error.code(), error.details().unwrap_or_default()));
        }
        let mut found = entries(read);
        if phase == Phase::New {
            self.note_standing(&replies);
            self.tell_gap();
        }
        if let Some(until) = self.until {
            found.retain(|entry| entry.ticket <= until);
        }
        match phase {
            Phase::Pending(_) => {
                let counts = deliveries(replies.first());
                for entry in &mut found {
                    entry.deliveries = counts.get(&entry.ticket).copied().unwrap_or(0);
                }
                self.phase = found.last().map_or(Phase::New, |last| Phase::Pending(last.ticket));
            }
            Phase::New | Phase::Wait if found.is_empty() => self.phase = Phase::Wait,
            Phase::New | Phase::Wait => {
                self.phase = Phase::New;
                if self.place.group.is_none() {
                    self.cursor = found.last().map(|last| last.ticket).or(self.cursor);
                    self.read = self.read.map(|read| read + found.len() as u64);
                }
            }
        }
        if !found.is_empty() {
            self.ready.push_back(found);
        }
        Ok(())
    }

    /// Whether it has come to where it was to end.
    pub(super) fn has_reached(&self) -> bool {
        self.until.is_some_and(|until| {
            self.phase == Phase::Wait || self.cursor.is_some_and(|cursor| cursor >= until)
        })
    }

    /// Fewer at a time: their answer did not come in time.
    pub(super) fn slow_down(&mut self, error: &RedisError, asked: usize) {
        if error.is_timeout() {
            self.most = (asked / 2).max(1);
        }
    }

    /// More at a time: they came quickly.
    pub(super) fn speed_up(&mut self, read: &UnderWay) {
        if read.since.elapsed() < ANSWER / 4 {
            self.most = (self.most * 2).min(READ);
        }
    }
}
