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

use super::watch::{Record, Watched, named};
use super::{OnFailed, ProcessorStatus};
use crate::event::{Confirmation, Event};
use crate::ingress::{Batch, Home, Inbox, Ticket};
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
pub(crate) struct Guest {
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
    /// To be given before what is in the inbox.
    again: VecDeque<Batch>,
    /// When its thread last moved, and whether it ended for good.
    beat: Option<Instant>,
    record: Record,
    stuck: Vec<u64>,
}

/// A batch of which the actor has a copy.
struct Lent {
    number: u64,
    batch: Batch,
    /// The actor's handler has returned.
    handled: bool,
    /// The copy was dropped.
    dropped: bool,
}

/// Another incarnation has taken over.
struct Superseded;

impl Guest {
    pub(crate) fn new(
        name: Arc<str>,
        start: ActorFactory,
        inbox: Arc<Inbox>,
        next: Arc<Inbox>,
        on_failed: OnFailed,
    ) -> Arc<Guest> {
        let state = State {
            incarnation: 0,
            tickets: 0,
            lent: VecDeque::new(),
            again: VecDeque::new(),
            beat: None,
            record: Record::new(name),
            stuck: Vec::new(),
        };
        Arc::new(Guest { start, inbox, next, on_failed, state: Mutex::new(state) })
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.lock().incarnation
    }

    fn beat(&self, incarnation: u64) -> Result<(), Superseded> {
        self.current(incarnation)?.beat = Some(Instant::now());
        Ok(())
    }

    /// The next batch for the actor, as a copy, and its number; where it was given up, batches become dead letters.
    fn lend(self: &Arc<Self>, incarnation: u64) -> Result<Option<(u64, Batch)>, Superseded> {
        let (events, why) = {
            let mut state = self.current(incarnation)?;
            if state.again.is_empty() && !self.next.has_room() {
                return Ok(None);
            }
            let Some(batch) = state.again.pop_front().or_else(|| self.inbox.take()) else { return Ok(None) };
            let Some(why) = state.record.refuses() else {
                state.tickets += 1;
                let number = state.tickets;
                let home: Weak<dyn Home> = Arc::downgrade(&(self.clone() as Arc<dyn Home>));
                let copy = batch.copy(Ticket { number, home });
                state.lent.push_back(Lent { number, batch, handled: false, dropped: false });
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
        state.beat = None;
        let (mut letters, mut again) = (Vec::new(), VecDeque::new());
        for lent in std::mem::take(&mut state.lent) {
            if lent.handled {
                again.push_back(lent.batch);
                continue;
            }
            // It was at this one.
            match lent.batch.events.len() {
                0 | 1 => {
                    letters.extend(self.pass_empty(lent.batch).into_iter().map(|e| (e, why.to_owned())));
                }
                _ => again.extend(lent.batch.one_by_one()),
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
    fn silence(&self, now: Instant) -> Option<Duration> {
        self.beat.map(|beat| now.saturating_duration_since(beat))
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

impl Home for Guest {
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

impl Watched for Guest {
    fn condemn(&self, patience: Duration, now: Instant) -> bool {
        let letters = {
            let mut state = self.lock();
            // Two beats may be missed.
            let patience = patience.max(2 * HEARTBEAT + HEARTBEAT / 2);
            let Some(silence) = state.silence(now).filter(|silence| *silence > patience) else { return false };
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
        let state = self.lock();
        let busy = state.silence(now).map(|silence| (silence, state.about()));
        state.record.status(None, busy).into_iter().collect()
    }

    fn close(&self) {
        let mut state = self.lock();
        state.incarnation += 1;
        state.beat = None;
        // Their events are counted as failed when they are dropped.
        state.lent.clear();
        state.again.clear();
    }
}

impl Observer for Guest {
    fn ended(&self, exit: &Exit) {
        if *exit == Exit::Stopped {
            self.lock().beat = None;
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
struct Exitway(Arc<Guest>, u64);

impl Actor for Exitway {
    type Context = Context<Self>;
}

impl Handler<Batch> for Exitway {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, batch: Batch, _: &mut Context<Self>) -> Self::Result {
        self.0.arrived(self.1, batch);
        let next = self.0.next.clone();
        Box::pin(async move { next.room().await })
    }
}

/// Starts one incarnation, and gives it its batches: the next one when it has handled the one before.
pub(crate) struct GuestActor {
    guest: Arc<Guest>,
    incarnation: u64,
    actor: Option<Recipient<Batch>>,
    watch: DeathWatch,
}

impl GuestActor {
    pub(crate) fn new(guest: Arc<Guest>, incarnation: u64, watch: DeathWatch) -> GuestActor {
        GuestActor { guest, incarnation, actor: None, watch }
    }

    fn begin(&mut self, ctx: &mut Context<Self>) -> Result<bool, Superseded> {
        self.guest.beat(self.incarnation)?;
        if self.guest.lock().record.refuses().is_none() {
            let next = Exitway(self.guest.clone(), self.incarnation).start().recipient();
            match catch_unwind(AssertUnwindSafe(|| (self.guest.start)(next))) {
                Ok(actor) => self.actor = Some(actor),
                Err(panic) => {
                    self.watch.because(Exit::Panicked(super::panic_message(&*panic)));
                    ctx.stop();
                    return Ok(false);
                }
            }
        }
        ctx.run_interval(HEARTBEAT, |feeder, ctx| {
            if feeder.guest.beat(feeder.incarnation).is_err() {
                ctx.stop();
            }
        });
        Ok(true)
    }

    fn turn(&mut self, ctx: &mut Context<Self>) {
        match self.guest.lend(self.incarnation) {
            Err(Superseded) => ctx.stop(),
            Ok(None) => {
                let guest = self.guest.clone();
                let ready = async move {
                    tokio::task::yield_now().await;
                    guest.ready().await;
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
                    match feeder.guest.handled(feeder.incarnation, number) {
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

impl Actor for GuestActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        match self.begin(ctx) {
            Ok(true) => self.turn(ctx),
            Ok(false) | Err(Superseded) => ctx.stop(),
        }
    }
}

impl Drop for GuestActor {
    fn drop(&mut self) {
        self.guest.gone(self.incarnation);
    }
}
