//! An actor of somebody's own in the path, on a thread of its own: what it was given outlives it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use actix::prelude::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient,
    ResponseFuture, WrapFuture as _,
};
use tokio::time::Instant;
use tracing::error;

use super::watch::{Record, Silence, Watched, named};
use super::{OnFailed, ProcessorStatus};
use crate::event::{Confirmation, Event};
use crate::ingress::{Batch, Inbox, Originals, Ticket};
use crate::supervise::{DeathWatch, Exit, Observer};

/// How often the actor's thread shows that it moves.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Starts an actor that takes batches and hands them on to the given next stage.
pub type ActorFactory = Arc<dyn Fn(Recipient<Batch>) -> Recipient<Batch> + Send + Sync>;

/// One actor of somebody's own, over all its incarnations.
///
/// It gets copies, whose events are shared; the batches themselves stay here until the copies arrive at the next stage.
/// After its end they are given to the next incarnation: the one that it was handling event by event, so that the event
/// that ends it again is known.
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
    /// To be given before what is in the inbox, and how often each vanished from the mailbox.
    again: VecDeque<(Batch, u32)>,
    /// How often its thread showed that it moves; `None` while there is none.
    beats: Option<u64>,
    silence: Silence,
    record: Record,
    stuck: Vec<u64>,
}

/// A batch of which the actor has a copy.
struct Lent {
    number: u64,
    batch: Batch,
    /// The actor's handler has returned.
    handled: bool,
    /// The copy was dropped, and not by a panic.
    dropped: bool,
    vanished: u32,
}

/// Another incarnation has taken over.
struct Superseded;

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
            again: VecDeque::new(),
            beats: None,
            silence: Silence::default(),
            record: Record::new(name),
            stuck: Vec::new(),
        };
        Arc::new(Custom { start, inbox, next, on_failed, state: Mutex::new(state) })
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.lock().incarnation
    }

    fn beat(&self, incarnation: u64) -> Result<(), Superseded> {
        let mut state = self.current(incarnation)?;
        state.beats = Some(state.beats.map_or(0, |beats| beats + 1));
        Ok(())
    }

    /// The next batch for the actor, as a copy, and its number; where it was given up, batches become dead letters.
    fn lend(self: &Arc<Self>, incarnation: u64) -> Result<Option<(u64, Batch)>, Superseded> {
        let (events, why) = {
            let mut state = self.current(incarnation)?;
            if state.again.is_empty() && !self.next.has_room() {
                return Ok(None);
            }
            let next = state.again.pop_front().or_else(|| Some((self.inbox.take()?, 0)));
            let Some((batch, vanished)) = next else { return Ok(None) };
            let Some(why) = state.record.refuses() else {
                state.tickets += 1;
                let number = state.tickets;
                let originals: Weak<dyn Originals> = Arc::downgrade(&(self.clone() as Arc<dyn Originals>));
                let copy = batch.copy(Ticket { number, originals });
                state.lent.push_back(Lent { number, batch, handled: false, dropped: false, vanished });
                return Ok(Some((number, copy)));
            };
            (self.pass_empty(batch), why)
        };
        events.iter().for_each(|event| self.failed(event, &why));
        Ok(None)
    }

    /// Whether there may be a batch to lend.
    async fn ready(&self) {
        if self.lock().again.is_empty() {
            self.inbox.passable(&self.next).await;
        }
    }

    /// The actor's handler has returned.
    fn handled(&self, incarnation: u64, number: u64) -> Result<(), Superseded> {
        let mut state = self.current(incarnation)?;
        if let Some(lent) = state.lent.iter_mut().find(|lent| lent.number == number) {
            lent.handled = true;
            if lent.dropped {
                self.swallowed(&mut state, number);
            }
        }
        Ok(())
    }

    /// It dropped what it was to hand on.
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

    /// Hands a batch on without its events, which are counted as failed.
    fn pass_empty(&self, mut batch: Batch) -> Vec<Event> {
        let mut events = std::mem::take(&mut batch.events);
        let system = events.extract_if(.., |event| event.is_system()).collect();
        batch.events = system;
        batch.tally.failed += events.len() as u64;
        self.next.put(batch);
        events
    }

    /// Something came out of the actor: a copy, or a batch that it made.
    fn arrived(&self, incarnation: u64, mut batch: Batch) {
        let ticket = batch.ticket.take();
        let mut state = self.lock();
        if state.incarnation != incarnation {
            return batch.forget();
        }
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

    /// The incarnation that there is has ended, or is left to itself.
    fn disown(&self, state: &mut State, why: &str) -> Vec<(Event, String)> {
        state.incarnation += 1;
        (state.beats, state.silence) = (None, Silence::default());
        let (mut letters, mut again) = (Vec::new(), VecDeque::new());
        for lent in std::mem::take(&mut state.lent) {
            if lent.handled {
                again.push_back((lent.batch, 0));
                continue;
            }
            if lent.dropped && lent.vanished == 0 {
                // The actor stopped before it came to this one, as far as anybody can tell.
                again.push_back((lent.batch, 1));
                continue;
            }
            // It was at this one.
            match lent.batch.events.len() {
                0 | 1 => {
                    letters.extend(self.pass_empty(lent.batch).into_iter().map(|e| (e, why.to_owned())));
                }
                _ => again.extend(lent.batch.one_by_one().into_iter().map(|batch| (batch, 0))),
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

    fn gone(&self, incarnation: u64) {
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

impl State {
    fn silence(&mut self, now: Instant) -> Option<Duration> {
        self.beats.map(|beats| self.silence.look((beats, 0), now))
    }

    /// What it is at.
    fn about(&self) -> Option<String> {
        let events = &self.lent.iter().find(|lent| !lent.handled)?.batch.events;
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
        if lent.handled {
            self.swallowed(&mut state, number);
        }
    }
}

impl Watched for Custom {
    fn condemn(&self, patience: Duration, now: Instant) -> bool {
        let letters = {
            let mut state = self.lock();
            // Two beats may be missed.
            let patience = patience.max(2 * HEARTBEAT + HEARTBEAT / 2);
            let Some(silence) = state.silence(now).filter(|silence| *silence > patience) else {
                return false;
            };
            let (incarnation, about) = (state.incarnation, state.about());
            state.stuck.push(incarnation);
            let stuck = state.stuck.len();
            let why = state.record.hung("its thread", about, silence, stuck, now);
            self.disown(&mut state, &why)
        };
        letters.iter().for_each(|(event, why)| self.failed(event, why));
        true
    }

    fn troubles(&self, now: Instant) -> Vec<ProcessorStatus> {
        let mut state = self.lock();
        let busy = state.silence(now).map(|silence| (silence, state.about()));
        state.record.status(None, busy).into_iter().collect()
    }

    fn close(&self) {
        let mut state = self.lock();
        state.incarnation += 1;
        state.beats = None;
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

/// What the actor hands on to.
struct Onward(Arc<Custom>, u64);

impl Actor for Onward {
    type Context = Context<Self>;
}

impl Handler<Batch> for Onward {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, batch: Batch, _: &mut Context<Self>) -> Self::Result {
        self.0.arrived(self.1, batch);
        let next = self.0.next.clone();
        Box::pin(async move { next.room().await })
    }
}

/// Starts one incarnation, and gives it its batches: the next one when it has handled the one before.
pub(crate) struct CustomActor {
    custom: Arc<Custom>,
    incarnation: u64,
    actor: Option<Recipient<Batch>>,
    watch: DeathWatch,
}

impl CustomActor {
    pub(crate) fn new(custom: Arc<Custom>, incarnation: u64, watch: DeathWatch) -> CustomActor {
        CustomActor { custom, incarnation, actor: None, watch }
    }

    fn begin(&mut self, ctx: &mut Context<Self>) -> Result<bool, Superseded> {
        self.custom.beat(self.incarnation)?;
        if self.custom.lock().record.refuses().is_none() {
            let next = Onward(self.custom.clone(), self.incarnation).start().recipient();
            match catch_unwind(AssertUnwindSafe(|| (self.custom.start)(next))) {
                Ok(actor) => self.actor = Some(actor),
                Err(panic) => {
                    self.watch.because(Exit::Panicked(super::panic_message(&*panic)));
                    ctx.stop();
                    return Ok(false);
                }
            }
        }
        ctx.run_interval(HEARTBEAT, |feeder, ctx| {
            if feeder.custom.beat(feeder.incarnation).is_err() {
                ctx.stop();
            }
        });
        Ok(true)
    }

    fn turn(&mut self, ctx: &mut Context<Self>) {
        if self.actor.as_ref().is_some_and(|actor| !actor.connected()) {
            // What comes next waits for the next incarnation.
            self.watch.because(Exit::Failed("the actor is gone".to_owned()));
            return ctx.stop();
        }
        match self.custom.lend(self.incarnation) {
            Err(Superseded) => ctx.stop(),
            Ok(None) => {
                let custom = self.custom.clone();
                let ready = async move {
                    tokio::task::yield_now().await;
                    custom.ready().await;
                };
                ctx.spawn(ready.into_actor(self).map(|(), feeder, ctx| feeder.turn(ctx)));
            }
            Ok(Some((number, copy))) => {
                let Some(actor) = &self.actor else { return ctx.stop() };
                let last = copy.is_last();
                let sent = actor.send(copy);
                ctx.spawn(sent.into_actor(self).map(move |sent, feeder, ctx| {
                    if sent.is_err() {
                        feeder.watch.because(Exit::Failed("the actor is gone".to_owned()));
                        return ctx.stop();
                    }
                    match feeder.custom.handled(feeder.incarnation, number) {
                        Ok(()) if !last => feeder.turn(ctx),
                        // What it hands on still passes.
                        Ok(()) => feeder.watch.because(Exit::Stopped),
                        Err(Superseded) => ctx.stop(),
                    }
                }));
            }
        }
    }
}

impl Actor for CustomActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        match self.begin(ctx) {
            Ok(true) => self.turn(ctx),
            Ok(false) | Err(Superseded) => ctx.stop(),
        }
    }
}

impl Drop for CustomActor {
    fn drop(&mut self) {
        self.custom.gone(self.incarnation);
    }
}
