//! An actor of the user in the path, on its own thread. The batches that it was given outlive it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use actix::prelude::Recipient;
use tokio::time::Instant;
use tracing::error;

use super::watch::{Record, Silence, Watched, named};
use super::{OnFailed, ProcessorStatus};
use crate::event::{Confirmation, Event};
use crate::ingress::{Batch, Inbox, Originals, Ticket};
use crate::supervise::{Exit, Observer};

/// How often the thread of the actor shows that it moves.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
/// The longest silence of a healthy thread: two missed heartbeats.
const BEATS: Duration = Duration::from_millis(2 * HEARTBEAT.as_millis() as u64 + 500);

/// Starts an actor that takes batches and sends them on to the given next stage.
pub type ActorFactory = Arc<dyn Fn(Recipient<Batch>) -> Recipient<Batch> + Send + Sync>;

/// One actor of the user, over all its incarnations.
///
/// The actor gets copies, whose events are shared. The batches themselves stay here until the copies arrive at the next
/// stage. After the end of the actor, they are given to the next incarnation. The batch that the actor was
/// [handling](State::at) is given event by event, so that the event that ends it again is known.
pub(crate) struct Custom {
    start: ActorFactory,
    inbox: Arc<Inbox>,
    next: Arc<Inbox>,
    on_failed: OnFailed,
    state: Mutex<State>,
}

struct State {
    incarnation: u64,
    tickets: u64,
    lent: VecDeque<Lent>,
    /// The batch that the actor was given last, until its handler has returned.
    handling: Option<u64>,
    /// How many batches have arrived from the actor.
    arrived: u64,
    /// Batches to give before those in the inbox, and whether each was a suspect before.
    again: VecDeque<(Batch, bool)>,
    /// How often the thread of the actor showed that it moves. `None` while there is no thread.
    beats: Option<u64>,
    silence: Silence,
    /// The silence of its handler, which may await for ever on a thread that moves.
    waiting: Silence,
    record: Record,
    stuck: Vec<u64>,
}

/// A batch of which the actor has a copy.
struct Lent {
    number: u64,
    batch: Batch,
    /// How often the actor looked at the copy.
    looks: Arc<AtomicUsize>,
    /// Whether the copy was dropped, and not by a panic.
    dropped: bool,
    /// Whether an incarnation ended while it had this batch. It is unknown whether the batch was the cause.
    suspect: bool,
}

/// Another incarnation has taken over.
pub(super) struct Superseded;

impl Custom {
    pub(crate) fn new(
        name: Arc<str>,
        start: ActorFactory,
        inbox: Arc<Inbox>,
        next: Arc<Inbox>,
        on_failed: OnFailed,
    ) -> Arc<Custom> {
        let state = State {
            incarnation: 0,
            tickets: 0,
            lent: VecDeque::new(),
            handling: None,
            arrived: 0,
            again: VecDeque::new(),
            beats: None,
            silence: Silence::default(),
            waiting: Silence::default(),
            record: Record::new(name),
            stuck: Vec::new(),
        };
        Arc::new(Custom { start, inbox, next, on_failed, state: Mutex::new(state) })
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.lock().incarnation
    }

    pub(super) fn beat(&self, incarnation: u64) -> Result<(), Superseded> {
        let mut state = self.current(incarnation)?;
        state.beats = Some(state.beats.map_or(0, |beats| beats + 1));
        Ok(())
    }

    /// Returns the next batch for the actor, as a copy, and its number. If the actor was given up, batches become dead
    /// letters.
    pub(super) fn lend(self: &Arc<Self>, incarnation: u64) -> Result<Option<(u64, Batch)>, Superseded> {
        let (events, why) = {
            let mut state = self.current(incarnation)?;
            if state.again.is_empty() && !self.next.has_room() {
                return Ok(None);
            }
            let next = state.again.pop_front().or_else(|| Some((self.inbox.take()?, false)));
            let Some((batch, suspect)) = next else { return Ok(None) };
            let Some(why) = state.record.refuses() else {
                state.tickets += 1;
                let number = state.tickets;
                let originals: Weak<dyn Originals> = Arc::downgrade(&(self.clone() as Arc<dyn Originals>));
                let looks = Arc::<AtomicUsize>::default();
                let copy = batch.copy(Ticket { number, originals, looks: looks.clone() });
                state.lent.push_back(Lent { number, batch, looks, dropped: false, suspect });
                state.handling = Some(number);
                return Ok(Some((number, copy)));
            };
            (self.pass_empty(batch), why)
        };
        events.iter().for_each(|event| self.failed(event, &why));
        Ok(None)
    }

    /// Waits until there may be a batch to lend.
    pub(super) async fn ready(&self) {
        if self.lock().again.is_empty() {
            self.inbox.passable(&self.next).await;
        }
    }

    /// The handler of the actor has returned.
    pub(super) fn handled(&self, incarnation: u64, number: u64) -> Result<(), Superseded> {
        let mut state = self.current(incarnation)?;
        state.handling = None;
        if state.lent.iter().any(|lent| lent.number == number && lent.dropped) {
            self.swallowed(&mut state, number);
        }
        Ok(())
    }

    /// Waits until there is room in the next stage.
    pub(super) async fn room(&self) {
        self.next.room().await;
    }

    /// Returns the factory of the actor, or `None` if the actor was given up.
    pub(super) fn factory(&self) -> Option<&ActorFactory> {
        let given_up = self.lock().record.refuses().is_some();
        (!given_up).then_some(&self.start)
    }

    /// The actor dropped a copy that it should have sent on.
    fn swallowed(&self, state: &mut State, number: u64) {
        if let Some(place) = state.lent.iter().position(|lent| lent.number == number)
            && let Some(lent) = state.lent.remove(place)
        {
            for event in self.pass_empty(lent.batch) {
                if let Some(receipt) = event.receipt() {
                    receipt.answer(Confirmation::Lost);
                }
            }
        }
    }

    /// Sends a batch on without its events, which are counted as failed.
    fn pass_empty(&self, mut batch: Batch) -> Vec<Event> {
        let mut events = std::mem::take(&mut batch.events);
        let system = events.extract_if(.., |event| event.is_system()).collect();
        batch.events = system;
        batch.tally.failed += events.len() as u64;
        self.next.put(batch);
        events
    }

    /// The actor sent something on: a copy, or a batch that it made.
    pub(super) fn arrived(&self, incarnation: u64, mut batch: Batch) {
        let ticket = batch.ticket.take();
        let mut state = self.lock();
        if state.incarnation != incarnation {
            return batch.forget();
        }
        state.arrived += 1;
        match ticket {
            None => self.next.put(batch),
            Some(ticket) => match state.lent.iter().position(|lent| lent.number == ticket.number) {
                Some(place) => {
                    if let Some(lent) = state.lent.remove(place) {
                        self.next.put(lent.batch.with_copy(batch));
                    }
                }
                None => batch.forget(),
            },
        }
    }

    /// The current incarnation has ended, or is left alone.
    fn disown(&self, state: &mut State, why: &str) -> Vec<(Event, String)> {
        state.incarnation += 1;
        let (at, handling) = (state.at(), state.handling.take());
        (state.beats, state.silence, state.waiting) = (None, Silence::default(), Silence::default());
        let (mut letters, mut again) = (Vec::new(), VecDeque::new());
        for (place, lent) in std::mem::take(&mut state.lent).into_iter().enumerate() {
            if at != Some(place) {
                again.push_back((lent.batch, lent.suspect));
                continue;
            }
            let is_sure = match handling {
                Some(number) if number == lent.number => lent.is_begun() && !lent.dropped,
                // It let nothing in behind this one.
                Some(_) => true,
                None => false,
            };
            if !is_sure && !lent.suspect {
                again.push_back((lent.batch, true));
                continue;
            }
            match lent.batch.events.len() {
                0 | 1 => {
                    letters.extend(self.pass_empty(lent.batch).into_iter().map(|e| (e, why.to_owned())));
                }
                _ => again.extend(lent.batch.one_by_one().into_iter().map(|batch| (batch, false))),
            }
        }
        again.append(&mut state.again);
        state.again = again;
        letters
    }

    fn failed(&self, event: &Event, why: &str) {
        if let Some(receipt) = event.receipt() {
            receipt.answer(Confirmation::Lost);
        }
        (self.on_failed)(event, why);
    }

    pub(super) fn gone(&self, incarnation: u64) {
        self.lock().stuck.retain(|stuck| *stuck != incarnation);
    }

    fn current(&self, incarnation: u64) -> Result<MutexGuard<'_, State>, Superseded> {
        let state = self.lock();
        if state.incarnation == incarnation { Ok(state) } else { Err(Superseded) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lent {
    fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// Whether its handler has begun with the batch, as far as can be seen.
    fn is_begun(&self) -> bool {
        self.looks() > 0
    }
}

impl State {
    /// Returns what has not moved and for how long: the thread, or else the handler. If there is no `room` in the next
    /// stage, the handler may wait for room, and its silence does not count.
    fn silence(&mut self, room: bool, now: Instant) -> Option<(&'static str, Duration)> {
        let thread = self.silence.look((self.beats?, 0), now);
        let last = || self.lent.iter().find(|lent| lent.batch.last).map(|lent| lent.number);
        let handler = match self.handling.or_else(last).filter(|_| room) {
            Some(number) => {
                let looks = self.lent.iter().map(Lent::looks).sum();
                self.waiting.look((number + self.arrived, looks), now)
            }
            None => {
                self.waiting = Silence::default();
                Duration::ZERO
            }
        };
        Some(if thread > BEATS { ("its thread", thread.max(handler)) } else { ("its handler", handler) })
    }

    /// Returns the position of the batch that the actor works on: the batch that its handler has begun, or else the one
    /// before, which it may still await (`ctx.wait`) while the next one is in its mailbox.
    fn at(&self) -> Option<usize> {
        let Some(handling) = self.handling else { return self.lent.len().checked_sub(1) };
        // It is handed on already: at none that is here.
        let place = self.lent.iter().position(|lent| lent.number == handling)?;
        let is_begun = self.lent.get(place).is_some_and(|lent| lent.is_begun() || lent.dropped);
        Some(if is_begun { place } else { place.saturating_sub(1) })
    }

    /// The current incarnation does not return. Returns the reason for the dead letter.
    fn hung(&mut self, what: &str, silence: Duration, now: Instant) -> String {
        let about = self.about();
        self.stuck.push(self.incarnation);
        self.record.hung(what, about, silence, self.stuck.len(), now)
    }

    /// Returns what the actor works on.
    fn about(&self) -> Option<String> {
        let events = &self.lent.get(self.at()?)?.batch.events;
        match events.as_slice() {
            [] => None,
            [event] => Some(named(event)),
            [first, ..] => Some(format!("{} events from {} on", events.len(), named(first))),
        }
    }
}

impl Originals for Custom {
    fn dropped(&self, number: u64) {
        if std::thread::panicking() {
            // Its actor dies of it, or dies with it in its mailbox: its end is heard of.
            return;
        }
        let mut state = self.lock();
        let Some(lent) = state.lent.iter_mut().find(|lent| lent.number == number) else { return };
        lent.dropped = true;
        if state.handling != Some(number) {
            self.swallowed(&mut state, number);
        }
    }
}

impl Watched for Custom {
    fn condemn(&self, patience: Duration, now: Instant) -> bool {
        let letters = {
            let mut state = self.lock();
            let silence = state.silence(self.next.has_room(), now);
            let patience = patience.max(BEATS);
            let Some((what, silence)) = silence.filter(|(_, silence)| *silence > patience) else {
                return false;
            };
            let why = state.hung(what, silence, now);
            self.disown(&mut state, &why)
        };
        letters.iter().for_each(|(event, why)| self.failed(event, why));
        true
    }

    fn troubles(&self, now: Instant) -> Vec<ProcessorStatus> {
        let mut state = self.lock();
        let busy = state.silence(self.next.has_room(), now).map(|(_, silence)| (silence, state.about()));
        state.record.status(None, busy).into_iter().collect()
    }

    fn close(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        let silence = state.silence(self.next.has_room(), now);
        // What has just begun did not hang.
        if let Some((what, silence)) = silence.filter(|(_, silence)| !silence.is_zero()) {
            state.hung(what, silence, now);
        }
        state.incarnation += 1;
        (state.beats, state.handling) = (None, None);
        // Their events are counted as failed when they are dropped.
        state.lent.clear();
        state.again.clear();
    }
}

impl Observer for Custom {
    fn ended(&self, exit: &Exit) {
        if *exit == Exit::Stopped {
            self.lock().beats = None;
            return;
        }
        let why = "its actor panicked or ended while it handled this event";
        let letters = self.disown(&mut self.lock(), why);
        for (event, why) in &letters {
            error!(?event, why, "an event becomes a dead letter");
            self.failed(event, why);
        }
    }

    fn progressed(&self) -> bool {
        true
    }

    fn restarting(&self) {}

    fn gave_up(&self, _: &Exit) {}
}
