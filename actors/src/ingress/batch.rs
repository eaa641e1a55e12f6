//! Events on their way between two stages: the only data message of the spine. A batch counts what happens to its
//! events.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use actix::prelude::Message;

use super::{FlushRequest, Ingress};
use crate::event::{Confirmation, Event};

/// Events on their way between two stages, in order.
///
/// A stage changes the events through these methods, which do the counting, and sends the same batch on. If a batch is
/// dropped instead, its events are counted as failed. If the actor of the stage ends, the next incarnation gets the
/// batch again.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Batch {
    pub(crate) events: Vec<Event>,
    pub(crate) tally: Tally,
    /// Where the outcome is counted. A batch that an actor made itself gets it at the next stage of the graph.
    ingress: Option<Arc<Ingress>>,
    /// The events of waiting senders: their number, and their size in bytes.
    pub(crate) sent: (usize, usize),
    pub(crate) flushes: Vec<FlushRequest>,
    pub(crate) last: bool,
    /// Where the original is, if this batch is a copy for an actor of the user.
    pub(crate) ticket: Option<Ticket>,
}

/// Identifies the original of a copy.
pub(crate) struct Ticket {
    pub(crate) number: u64,
    pub(crate) originals: Weak<dyn Originals>,
    /// How often the actor looked at the copy. This shows that the actor works on it, and that it moves.
    pub(crate) looks: Arc<AtomicUsize>,
}

/// Keeps the originals of copies.
pub(crate) trait Originals: Send + Sync {
    /// The copy with this number was dropped before it arrived.
    fn dropped(&self, number: u64);
}

/// The outcome of some events so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Negative if a processor holds more events than it releases.
    pub(crate) received: i64,
    pub(crate) created: u64,
    pub(crate) rejected: u64,
    pub(crate) shed: u64,
    pub(crate) filtered: u64,
    pub(crate) merged: u64,
    pub(crate) failed: u64,
    pub(crate) unrouted: u64,
    pub(crate) routed: u64,
}

impl Batch {
    /// Makes a batch of new events that an actor has made itself. They are counted as created.
    #[must_use]
    pub fn created(events: Vec<Event>) -> Batch {
        let tally = Tally { created: events.len() as u64, ..Tally::default() };
        Batch { events, tally, ingress: None, sent: (0, 0), flushes: Vec::new(), last: false, ticket: None }
    }

    pub(crate) fn of(ingress: &Arc<Ingress>, events: Vec<Event>) -> Batch {
        Batch {
            tally: Tally::default(),
            ingress: Some(ingress.clone()),
            events,
            sent: (0, 0),
            flushes: Vec::new(),
            last: false,
            ticket: None,
        }
    }

    /// Makes a copy for an actor that may lose it. The outcome is counted in the original.
    pub(crate) fn copy(&self, ticket: Ticket) -> Batch {
        Batch {
            events: self.events.clone(),
            tally: Tally::default(),
            ingress: None,
            sent: (0, 0),
            flushes: Vec::new(),
            last: self.last,
            ticket: Some(ticket),
        }
    }

    /// Returns the original, with the changes that the actor made in its copy.
    pub(crate) fn with_copy(mut self, mut copy: Batch) -> Batch {
        self.events = std::mem::take(&mut copy.events);
        self.tally.add(&copy.tally);
        copy.forget();
        self
    }

    /// Splits the batch into one batch for each event, in order. The last one keeps the counts.
    pub(crate) fn one_by_one(mut self) -> Vec<Batch> {
        let mut events = std::mem::take(&mut self.events);
        self.events.extend(events.pop());
        let alone = |event| {
            let mut batch = Batch::created(vec![event]);
            (batch.tally, batch.ingress) = (Tally::default(), self.ingress.clone());
            batch
        };
        let mut batches: Vec<Batch> = events.into_iter().map(alone).collect();
        batches.push(self);
        batches
    }

    /// Drops the batch without counting it. It came from an actor that was given up, and its events are processed a
    /// second time.
    pub(crate) fn forget(mut self) {
        self.events.clear();
        self.ticket = None;
        self.ingress = None;
    }

    /// Returns the events, in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        self.look();
        &self.events
    }

    /// Returns whether this is the last batch of the graph. It may be empty, and must be sent on all the same.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.look();
        self.last
    }

    /// Removes the events for which `keep` returns `false`. They are counted as filtered.
    pub fn retain(&mut self, mut keep: impl FnMut(&Event) -> bool) {
        self.look();
        let before = self.events.len();
        self.events.retain(|event| event.is_system() || keep(event));
        self.tally.filtered += (before - self.events.len()) as u64;
    }

    /// Changes every event that is not one of streamll's own events.
    pub fn for_each(&mut self, change: impl FnMut(&mut Event)) {
        self.look();
        self.events.iter_mut().filter(|event| !event.is_system()).for_each(change);
    }

    /// Adds a new event at the end. It is counted as created.
    pub fn push(&mut self, event: Event) {
        self.look();
        self.tally.created += 1;
        self.events.push(event);
    }

    fn look(&self) {
        if let Some(ticket) = &self.ticket {
            ticket.looks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds its counts to the ledger. Its events are in the buffers, or counted elsewhere.
    pub(crate) fn close(mut self, ingress: &Arc<Ingress>) {
        self.events.clear();
        self.ingress.get_or_insert_with(|| ingress.clone());
    }
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.received += other.received;
        self.created += other.created;
        self.rejected += other.rejected;
        self.shed += other.shed;
        self.filtered += other.filtered;
        self.merged += other.merged;
        self.failed += other.failed;
        self.unrouted += other.unrouted;
        self.routed += other.routed;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            if let Some(originals) = ticket.originals.upgrade() {
                originals.dropped(ticket.number);
            }
            return;
        }
        self.tally.failed += self.events.iter().filter(|event| !event.is_system()).count() as u64;
        for event in &self.events {
            if let Some(receipt) = event.receipt() {
                receipt.answer(Confirmation::Lost);
            }
        }
        if let Some(ingress) = self.ingress.take() {
            ingress.ledger.add(&self.tally);
            ingress.left(self.sent.0, self.sent.1);
        }
        for done in self.flushes.drain(..) {
            let _ = done.send(());
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("events", &self.events.len())
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}
