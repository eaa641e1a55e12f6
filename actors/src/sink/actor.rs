//! The actor around one sink: leases from the buffer, delivers, and moves the breaker, whose states are its own.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::prelude::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, SpawnHandle, WrapFuture as _,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use super::attempt::{Attempt, End};
use super::breaker::{Circuit, CircuitState, Force, Outcome, Permit};
use super::fence::Fenced;
use super::status::{Change, Signal};
use super::{BatchPolicy, Buffer, DeadLetters, ErrorClass, SinkContext, SinkFactory, SinkState, StatusCell};
use crate::supervise::{Backoff, DeathWatch, Exit, Observer, RestartPolicy};

/// How long `close` may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest pause before a sink that works gets again what it asked for again: when it has had enough of an event is its
/// own to say.
const AGAIN: Duration = Duration::from_millis(500);
/// How often an actor shows that its thread moves.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The longest pause between two tries while the graph ends.
const LAST_TRIES: Duration = Duration::from_secs(1);

/// All of one sink that outlives its incarnations.
pub(crate) struct Worker {
    pub(crate) name: Arc<str>,
    pub(crate) factory: SinkFactory,
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) cell: Arc<StatusCell>,
    pub(crate) circuit: Mutex<Circuit>,
    pub(crate) batch: BatchPolicy,
    pub(crate) deliver_timeout: Duration,
    pub(crate) poison_after: u32,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) restart: RestartPolicy,
    pub(crate) control: AtomicU8,
    /// Told when an incarnation has ended.
    pub(crate) ended: Notify,
}

/// What a sink is to do, beside delivering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Run = 0,
    /// Deliver what waits, then stop.
    Drain = 1,
    /// Stop now.
    Stop = 2,
    /// Go on, and try as often as at an end: the graph ends, and others still give their events to this one.
    Outlast = 3,
}

impl Worker {
    pub(crate) fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the actor, whichever incarnation there is or will be.
    pub(crate) fn control(&self, control: Control) {
        self.control.store(control as u8, Ordering::SeqCst);
        self.cell.call();
    }

    pub(super) fn is_told(&self, control: Control) -> bool {
        self.control.load(Ordering::SeqCst) == control as u8
    }

    /// Whether what waits would be lost with the process, or not be lost by policy.
    fn is_to_be_emptied(&self) -> bool {
        !self.buffer.is_kept() && !self.buffer.is_told_to_drop()
    }

    /// Publishes the circuit's state, with a reason where there is a new one, and tells of it in the log where it changed.
    pub(crate) fn publish(&self, reason: Option<String>) {
        // Held to the end: whoever gives orders publishes, too, and the last word must be the last state.
        let circuit = self.circuit();
        if self.cell.state().0 == SinkState::Failed {
            // For good: no order can bring it back.
            return;
        }
        let state = match circuit.state() {
            CircuitState::Closed => SinkState::Closed,
            CircuitState::Open => SinkState::Open,
            CircuitState::HalfOpen => SinkState::HalfOpen,
        };
        // First the reason, then what wakes those who may ask for it.
        let change = self.cell.set_state(state, reason, circuit.failures());
        self.buffer.set_open(state != SinkState::Closed, false);
        // Under the lock, too, so that the log has them in their order.
        match change {
            Some(Change::Opened(reason)) => warn!(sink = %self.name, reason, "circuit opened"),
            Some(Change::Closed(lasted)) => {
                let waiting = self.buffer.balance(Instant::now()).waiting;
                warn!(sink = %self.name, open_for = %seconds(lasted), waiting, "circuit closed");
            }
            None => {}
        }
    }
}

/// A time as the log has it.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

impl Observer for Worker {
    fn ended(&self, exit: &Exit) {
        self.buffer.revoke(matches!(exit, Exit::Panicked(_)));
        self.circuit().crashed();
        self.cell.ended(exit);
        self.dead_letters.tell_of_others(&self.name, Instant::now(), true);
        self.ended.notify_waiters();
    }

    fn progressed(&self) -> bool {
        self.cell.take_progress()
    }

    fn restarting(&self) {
        self.cell.restarted();
    }

    fn gave_up(&self, exit: &Exit) {
        let circuit = self.circuit();
        self.cell.set_state(SinkState::Failed, Some(exit.to_string()), circuit.failures());
        self.buffer.set_open(true, true);
        drop(circuit);
        self.ended.notify_waiters();
    }
}

/// One incarnation.
pub(crate) struct SinkActor {
    worker: Arc<Worker>,
    watch: DeathWatch,
    /// Which one, as the buffer counts them: once there is a later one, this one must not go on.
    incarnation: u64,
    context: SinkContext,
    sink: Option<Fenced>,
    opened: bool,
    turn: Turn,
    retry: Backoff,
    retry_at: Option<Instant>,
    /// Smaller batches, while a bad event is searched for.
    bisect: Option<usize>,
    /// Whether it was tried once more since the end began.
    is_tried_at_end: bool,
    /// When the latest attempt was over.
    tried_at: Option<Instant>,
    /// Numbers the turns.
    turns: u64,
}

/// What the actor is waiting for.
enum Turn {
    Nothing,
    /// Work, or a moment: may be cut short.
    Idle(SpawnHandle),
    /// The sink.
    Busy(SpawnHandle),
}

impl SinkActor {
    pub(crate) fn new(worker: Arc<Worker>, watch: DeathWatch, incarnation: u64) -> SinkActor {
        let context = SinkContext::new(worker.name.clone(), worker.cell.clone(), worker.deliver_timeout);
        SinkActor {
            worker,
            watch,
            incarnation,
            context,
            sink: None,
            opened: false,
            turn: Turn::Nothing,
            retry: Backoff::retries(),
            retry_at: None,
            bisect: None,
            is_tried_at_end: false,
            tried_at: None,
            turns: 0,
        }
    }

    /// One turn: wait as the circuit says, or deliver.
    fn step(&mut self, ctx: &mut Context<Self>) {
        self.turn = Turn::Nothing;
        if self.is_superseded() {
            return ctx.stop();
        }
        self.take_signal();
        let now = Instant::now();
        let draining = self.worker.is_told(Control::Drain);
        if self.worker.is_told(Control::Stop) || (draining && self.worker.buffer.is_empty()) {
            return self.finish(ctx);
        }
        let before = self.worker.circuit().state();
        if draining || self.worker.is_told(Control::Outlast) {
            self.retry_at = self.retry_at.map(|at| at.min(now + LAST_TRIES));
        }
        let permit = self.worker.circuit().permit(now);
        if before != self.worker.circuit().state() {
            self.worker.publish(None);
        }
        match permit {
            Permit::Wait(until) => self.wait(ctx, until, now),
            Permit::Go { .. } if self.retry_at.is_some_and(|at| at > now) => {
                self.idle(ctx, self.retry_at, false)
            }
            Permit::Go { probe: false, .. } if self.opened && self.worker.buffer.is_empty() => {
                self.idle(ctx, None, true)
            }
            Permit::Go { limit, generation, probe } => {
                // With nothing waiting, `open` is the probe.
                self.opened &= !(probe && self.worker.buffer.is_empty());
                let limit = if probe && self.worker.cell.probes_widely() { usize::MAX } else { limit };
                self.deliver(ctx, limit, generation)
            }
        }
    }

    /// The circuit is open: waits for the next probe. At an end that comes at once, and then each second, for as long as
    /// the end waits for this sink.
    fn wait(&mut self, ctx: &mut Context<Self>, until: Option<Instant>, now: Instant) {
        if self.worker.is_told(Control::Run) {
            return self.idle(ctx, until, false);
        }
        let is_held = self.worker.circuit().force() == Force::Open;
        let is_enough = is_held || (self.is_tried_at_end && !self.worker.is_to_be_emptied());
        // What is on disk goes out at the next start.
        if is_enough && self.worker.is_told(Control::Drain) {
            return self.finish(ctx);
        }
        if is_held {
            return self.idle(ctx, None, false);
        }
        let next = self.tried_at.filter(|_| self.is_tried_at_end).map_or(now, |at| at + LAST_TRIES);
        if next > now {
            return self.idle(ctx, until.map(|until| until.min(next)).or(Some(next)), false);
        }
        self.is_tried_at_end = true;
        self.worker.circuit().unblock();
        self.worker.publish(None);
        self.step(ctx);
    }

    fn is_superseded(&self) -> bool {
        self.worker.buffer.incarnation() != self.incarnation
    }

    fn idle(&mut self, ctx: &mut Context<Self>, until: Option<Instant>, for_work: bool) {
        let worker = self.worker.clone();
        let wait = async move {
            match until {
                Some(until) => sleep_until(until).await,
                None if for_work => worker.buffer.filled(1).await,
                None => std::future::pending().await,
            }
        };
        let number = self.next_turn();
        let turn = wait.into_actor(self).map(move |(), actor, ctx| {
            if actor.turns == number {
                actor.step(ctx);
            }
        });
        self.turn = Turn::Idle(ctx.spawn(turn));
    }

    /// A cancelled future that is ready in the same poll still runs to its end (actix 0.13.5): only the newest turn
    /// may go on.
    fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    fn deliver(&mut self, ctx: &mut Context<Self>, limit: usize, generation: u64) {
        let number = self.next_turn();
        let attempt = Attempt {
            worker: self.worker.clone(),
            context: self.context.clone(),
            sink: self.sink.take(),
            incarnation: self.incarnation,
            opened: self.opened,
            limit: limit.min(self.worker.batch.max_events).min(self.bisect.unwrap_or(usize::MAX)).max(1),
        };
        let turn = attempt.run().into_actor(self).map(move |(sink, opened, end), actor, ctx| {
            if actor.turns != number {
                return;
            }
            actor.sink = sink;
            actor.opened = opened;
            actor.settle(end, generation, ctx);
        });
        self.turn = Turn::Busy(ctx.spawn(turn));
    }

    fn settle(&mut self, end: End, generation: u64, ctx: &mut Context<Self>) {
        if self.is_superseded() {
            return ctx.stop();
        }
        let now = Instant::now();
        self.tried_at = Some(now);
        let (outcome, reason) = match end {
            End::Arrived => {
                self.retry.reset();
                self.retry_at = None;
                self.bisect =
                    self.bisect.map(|n| n.saturating_mul(2)).filter(|n| *n < self.worker.batch.max_events);
                (Some(Outcome::Success), None)
            }
            End::Partly { arrived, why } => {
                // The sink works, so that a probe closes the circuit. With progress, what is left may not slow down what
                // comes behind it more and more.
                if arrived > 0 {
                    self.retry.reset();
                }
                self.retry_at = Some(now + self.retry.next().min(AGAIN));
                (Some(Outcome::Success), why)
            }
            End::Condemned => {
                self.retry.reset();
                self.retry_at = None;
                self.worker.cell.passed();
                (None, None)
            }
            End::Bad { among, why } => {
                self.bisect = Some((among / 2).max(1));
                self.worker.publish(Some(why));
                (None, None)
            }
            End::Failed(error) if error.class() == ErrorClass::Fatal => {
                self.watch.because(Exit::Failed(error.to_string()));
                return ctx.stop();
            }
            End::Failed(error) => {
                self.retry_at = Some(now + self.retry.next());
                let trips = error.class() == ErrorClass::Misconfigured;
                let outcome = if trips { Outcome::Trip } else { Outcome::Failure(error.cost()) };
                (Some(outcome), Some(error.to_string()))
            }
            End::Panicked(message) => {
                self.watch.because(Exit::Panicked(message));
                return ctx.stop();
            }
        };
        if let Some(outcome) = outcome {
            let transition = self.worker.circuit().record(generation, outcome, now, fastrand::f64());
            if outcome == Outcome::Success
                && let Some(crashing) = self.worker.cell.succeeded()
            {
                warn!(sink = %self.worker.name, after = %seconds(crashing), "works again after it was restarted");
            }
            if let Some(transition) = transition {
                debug!(sink = %self.worker.name, from = %transition.from, to = %transition.to, "circuit");
                self.retry.reset();
                self.retry_at = None;
            }
            self.worker.publish(reason);
        }
        self.step(ctx);
    }

    /// Takes in what the sink said from outside a delivery.
    fn take_signal(&mut self) {
        let reason = match self.worker.cell.take_signal() {
            Some(Signal::Block(reason)) => {
                self.worker.circuit().trip(Instant::now(), fastrand::f64());
                Some(reason)
            }
            Some(Signal::Unblock) => {
                self.worker.circuit().unblock();
                None
            }
            None => return,
        };
        self.worker.publish(reason);
    }

    /// Somebody has a word for this sink: an order, a block, a change of the circuit.
    fn listen(&mut self, ctx: &mut Context<Self>) {
        let worker = self.worker.clone();
        let told = async move { worker.cell.signalled.notified().await };
        ctx.spawn(told.into_actor(self).map(|(), actor, ctx| {
            actor.listen(ctx);
            actor.heed(ctx);
        }));
    }

    fn heed(&mut self, ctx: &mut Context<Self>) {
        if self.is_superseded() {
            // The word was for another.
            self.worker.cell.call();
            return ctx.stop();
        }
        match self.turn {
            Turn::Idle(handle) => {
                ctx.cancel_future(handle);
                self.step(ctx);
            }
            Turn::Busy(handle) if self.worker.is_told(Control::Stop) => {
                ctx.cancel_future(handle);
                self.next_turn();
                self.worker.buffer.revoke(false);
                self.watch.because(Exit::Stopped);
                ctx.stop();
            }
            // A sink between two turns or with a delivery under way looks by itself.
            Turn::Busy(_) | Turn::Nothing => {}
        }
    }

    fn finish(&mut self, ctx: &mut Context<Self>) {
        self.next_turn();
        let sink = self.sink.take();
        let close = async move {
            if let Some(mut sink) = sink
                && !matches!(timeout(CLOSE_TIMEOUT, sink.close()).await, Ok(Ok(())))
            {
                debug!("a sink did not close, or not in time");
            }
        };
        ctx.spawn(close.into_actor(self).map(|(), actor, ctx| {
            actor.watch.because(Exit::Stopped);
            ctx.stop();
        }));
    }
}

impl Actor for SinkActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.worker.cell.started();
        self.worker.publish(None);
        self.worker.cell.beat(Instant::now());
        ctx.run_interval(HEARTBEAT, |actor, ctx| {
            if actor.is_superseded() {
                return ctx.stop();
            }
            let (worker, now) = (&actor.worker, Instant::now());
            worker.cell.beat(now);
            worker.dead_letters.tell_of_others(&worker.name, now, false);
        });
        self.listen(ctx);
        self.step(ctx);
    }
}
