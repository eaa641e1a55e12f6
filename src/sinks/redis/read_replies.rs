//! What the replies to a transaction say of its events, and whom a refusal concerns.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use streamll_actors::sink::{Deliveries, ErrorClass};

use super::advice::{of_key, topic};
use super::transaction::{Refusal, Verdict};
use super::writer::Writer;
use crate::brokers::redis::address::Address;
use crate::brokers::redis::error::{Failure, Scene, Stage, explain, reply};
use crate::brokers::redis::wire::Wire;

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

/// Whom it concerns that keys are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concern {
    /// The events alone that named the keys: they can never arrive.
    TheirEvents,
    /// All events: a person must mend something first.
    AllEvents,
}

/// Transactions with refused commands, which are judged together.
pub(super) struct Refused<'a> {
    /// The events of each, and the commands that were refused.
    pub(super) transactions: &'a [(&'a [usize], &'a [Refusal<'a>])],
    /// Whether events of the same batch arrived in another transaction.
    pub(super) has_arrived: bool,
}

/// What was read from the replies to one transaction.
pub(super) struct Read {
    /// Whether any of its events arrived.
    pub(super) has_arrived: bool,
    pub(super) undone: Option<Undone>,
}

impl Writer {
    /// Whom it concerns that keys are refused. In doubt the server is asked.
    pub(super) async fn concern(
        &mut self,
        refused: Refused<'_>,
        batch: &Deliveries,
        connection: Option<MultiplexedConnection>,
    ) -> Concern {
        let Refused { transactions, mut has_arrived } = refused;
        if self.settings.entry.keys.one().is_some() || transactions.is_empty() {
            return Concern::AllEvents;
        }
        for (events, refused) in transactions {
            if refused.iter().any(|refusal| !refusal.is_of_key()) {
                return Concern::AllEvents;
            }
            has_arrived |= refused.len() < events.len();
            for event in refused.iter().filter_map(|refusal| events.get(refusal.at)) {
                self.suspects.refused(&self.key_of(batch, *event));
            }
        }
        if has_arrived || self.is_any_taken(connection).await {
            return Concern::TheirEvents;
        }
        self.in_doubt = true;
        Concern::AllEvents
    }

    /// Asks whether a key that has worked is still taken, by an `XADD` whose id is none. The server looks at the permission
    /// before it reads the id, so nothing is written.
    async fn is_any_taken(&mut self, connection: Option<MultiplexedConnection>) -> bool {
        let keys = self.suspects.to_ask(usize::MAX);
        let Some(mut connection) = connection.filter(|_| !keys.is_empty()) else { return false };
        let mut ask = Pipeline::new();
        for key in &keys {
            ask.cmd("XADD").arg(key).arg("?").arg("a").arg("1");
        }
        let Ok(replies) = connection.send_packed_commands(&ask, 0, ask.len()).await else { return false };
        let mut is_taken = false;
        for (key, reply) in keys.iter().zip(replies) {
            match reply {
                Value::ServerError(error) if error.code() == "NOPERM" => self.suspects.refused(key),
                // Any node of a cluster knows.
                Value::ServerError(error) => is_taken |= ["ERR", "MOVED", "ASK"].contains(&error.code()),
                _ => {}
            }
        }
        is_taken
    }

    /// Marks what became of the events of one transaction. `concern` says what becomes of those whose key is refused.
    pub(super) fn read_replies(
        &mut self,
        events: Vec<usize>,
        verdict: Verdict<'_>,
        batch: &mut Deliveries,
        concern: Concern,
    ) -> Read {
        let mut taken = Vec::new();
        let undone = match verdict {
            Verdict::Done => {
                self.note_some_worked(batch, &events);
                events.iter().for_each(|i| batch.delivered(*i));
                taken = events;
                None
            }
            Verdict::Refused(refusal) => {
                let failure = self.refused(refusal, &events, batch);
                Some(Undone { events, ..Undone::of(failure) })
            }
            Verdict::Loose(done, refusal) => {
                events.iter().for_each(|i| batch.unsent(*i));
                taken.extend(done.iter().map(|at| event(&events, *at)));
                taken.iter().for_each(|i| batch.delivered(*i));
                Some(Undone::of(self.refused(refusal, &events, batch)))
            }
            Verdict::Partly(refused) => {
                let bad = self.mark_refused(&events, &refused, batch, concern);
                taken.extend(events.iter().filter(|i| !bad.contains_key(i)));
                taken.iter().for_each(|i| batch.delivered(*i));
                if let Some(one) = taken.last() {
                    self.note_worked(batch, *one);
                }
                self.undone_for_keys(&events, &refused, batch, concern)
            }
            Verdict::Barred(refused) => {
                let bad = self.mark_refused(&events, &refused, batch, concern);
                events.iter().filter(|i| !bad.contains_key(i)).for_each(|i| batch.unsent(*i));
                self.undone_for_keys(&events, &refused, batch, concern)
            }
        };
        self.note_unexpired(batch, &taken);
        Read { has_arrived: !taken.is_empty(), undone }
    }

    /// Marks the events whose key is refused. Returns them with the codes of their refusals.
    fn mark_refused<'a>(
        &self,
        events: &[usize],
        refused: &[Refusal<'a>],
        batch: &mut Deliveries,
        concern: Concern,
    ) -> HashMap<usize, &'a str> {
        let bad: HashMap<usize, &str> =
            refused.iter().map(|refusal| (event(events, refusal.at), refusal.code)).collect();
        let user = self.settings.addresses.first().and_then(Address::user);
        for (i, code) in events.iter().filter_map(|i| Some((i, bad.get(i)?))) {
            match concern {
                Concern::TheirEvents => batch.poison(*i, of_key(code, &self.key_of(batch, *i), user)),
                Concern::AllEvents => batch.unsent(*i),
            }
        }
        bad
    }

    /// What refused keys mean for the transaction, where they concern all events.
    fn undone_for_keys(
        &mut self,
        events: &[usize],
        refused: &[Refusal<'_>],
        batch: &Deliveries,
        concern: Concern,
    ) -> Option<Undone> {
        let first = *refused.first().filter(|_| concern == Concern::AllEvents)?;
        let failure = self.refused(first, events, batch);
        let wrong_type = (first.code == "WRONGTYPE").then(|| self.key_of(batch, event(events, first.at)));
        Some(Undone { wrong_type, ..Undone::of(failure) })
    }

    /// Notes that some of these events' keys work, as each costs: a batch is of few keys, or its keys come but once.
    fn note_some_worked(&mut self, batch: &Deliveries, events: &[usize]) {
        for i in events.iter().step_by((events.len() / 8).max(1)) {
            self.note_worked(batch, *i);
        }
    }

    /// Notes that an event's key works, where events name keys.
    fn note_worked(&mut self, batch: &Deliveries, i: usize) {
        if self.settings.entry.keys.one().is_none() {
            self.suspects.worked(&self.key_of(batch, i));
        }
    }

    /// What a refusal means. What was taken for a single server may turn out to be a node of a cluster.
    fn refused(&mut self, refusal: Refusal<'_>, events: &[usize], batch: &Deliveries) -> Failure {
        let Refusal { at, code, detail } = refusal;
        if ["MOVED", "ASK", "CROSSSLOT"].contains(&code) && self.settings.cluster.is_none() {
            self.nodes.in_cluster = Some(true);
            return Failure::unavailable("is a node of a cluster: the others are looked for");
        }
        reply(code, detail, topic(&self.key_of(batch, event(events, at))))
    }

    /// What it means that no reply came. `before` is how much had been written before the transaction.
    pub(super) fn lost(&self, events: Vec<usize>, error: &RedisError, wire: &Wire, before: u64) -> Undone {
        let stage = if wire.written() > before { Stage::Written } else { Stage::Unwritten };
        let last_words = wire.last_words();
        let key = self.settings.entry.keys.one().unwrap_or("*");
        let failure = explain(error, &Scene { stage, last_words: &last_words, topic: topic(key) });
        Undone { failure, events, wrong_type: None, unwritten: stage == Stage::Unwritten }
    }
}

/// The event of a command. `EXEC` itself concerns all of them, the first as well as any.
fn event(events: &[usize], at: usize) -> usize {
    events.get(at).or(events.first()).copied().unwrap_or_default()
}

/// Marks what is known never to have been carried out. Returns the failure to report, the first, and whether the connection
/// is good for more: a server that has not answered may still carry the transaction out, and what is sent then comes twice.
pub(super) fn conclude(batch: &mut Deliveries, failed: Vec<Undone>) -> Option<(Undone, bool)> {
    let keep = failed.iter().all(|undone| undone.failure.keep);
    // The machine searches what is bad among the unmarked, so those of a rejection stay so.
    let is_rejected = failed.first()?.failure.class == ErrorClass::Rejected;
    let certain = failed.iter().skip(usize::from(is_rejected)).filter(|undone| undone.failure.unsent);
    certain.flat_map(|undone| &undone.events).for_each(|i| batch.unsent(*i));
    failed.into_iter().next().map(|first| (first, keep))
}
