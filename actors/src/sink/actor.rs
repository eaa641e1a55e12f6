//! The actor around one sink: leases from the buffer, delivers, and moves the breaker, whose states are its own.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::prelude::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, SpawnHandle, WrapFuture as _,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::batch::Mark;
use super::breaker::{Circuit, CircuitState, Outcome, Permit, Transition};
use super::buffer::Lease;
use super::fence::Fenced;
use super::status::Signal;
use super::{
    BatchPolicy, Buffer, DeadLetter, DeadLetters, Deliveries, DeliveryError, ErrorClass, SinkContext,
    SinkFactory, SinkState, StatusCell,
};
use crate::event::Timestamp;
use crate::supervise::{Backoff, DeathWatch, Exit, Observer, RestartPolicy};

/// How long `close` may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often an actor shows that its thread moves.
const HEARTBEAT: Duration = Duration::from_secs(1);

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
    pub(crate) deadline: Mutex<Option<Instant>>,
    /// Told when an incarnation has ended.
    pub(crate) ended: Notify,
}

/// What a sink is to do, beside delivering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Run = 0,
    /// Deliver what waits, until the deadline, then stop.
    Drain = 1,
    /// Stop now.
    Stop = 2,
}

impl Worker {
    pub(crate) fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the actor, whichever incarnation there is or will be.
    pub(crate) fn control(&self, control: Control, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
        self.control.store(control as u8, Ordering::SeqCst);
        self.cell.call();
    }

    fn is_told(&self, control: Control) -> bool {
        self.control.load(Ordering::SeqCst) == control as u8
    }

    fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the circuit's state, with a reason where there is a new one.
    pub(crate) fn publish(&self, reason: Option<String>) {
        if self.cell.state().0 == SinkState::Failed {
            // For good: no order can bring it back.
            return;
        }
        let (state, failures) = {
            let circuit = self.circuit();
            (circuit.state(), circuit.failures())
        };
        let state = match state {
            CircuitState::Closed => SinkState::Closed,
            CircuitState::Open => SinkState::Open,
            CircuitState::HalfOpen => SinkState::HalfOpen,
        };
        self.buffer.set_open(state != SinkState::Closed, false);
        self.cell.set_state(state, reason, failures);
    }
}

impl Observer for Worker {
    fn ended(&self, exit: &Exit) {
        self.buffer.revoke(matches!(exit, Exit::Panicked(_)));
        self.circuit().crashed();
        self.cell.ended(exit);
        self.ended.notify_waiters();
    }

    fn progressed(&self) -> bool {
        self.cell.take_progress()
    }

    fn restarting(&self) {
        self.cell.restarted();
    }

    fn gave_up(&self, exit: &Exit) {
        self.cell.set_state(SinkState::Failed, Some(exit.to_string()), self.circuit().failures());
        self.buffer.set_open(true, true);
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
    last_probe_spent: bool,
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
        let context = SinkContext::new(worker.name.clone(), worker.cell.clone());
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
            last_probe_spent: false,
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
        let permit = self.worker.circuit().permit(now);
        if before != self.worker.circuit().state() {
            self.worker.publish(None);
        }
        match permit {
            Permit::Wait(_) if draining && !self.last_probe_spent => {
                self.last_probe_spent = true;
                if self.worker.circuit().unblock().is_none() {
                    return self.finish(ctx);
                }
                self.step(ctx);
            }
            Permit::Wait(until) => {
                let deadline = self.worker.deadline();
                if draining && until.is_none_or(|until| deadline.is_some_and(|deadline| until > deadline)) {
                    return self.finish(ctx);
                }
                self.idle(ctx, until, false);
            }
            Permit::Go { .. } if self.retry_at.is_some_and(|at| at > now) => {
                self.idle(ctx, self.retry_at, false)
            }
            Permit::Go { probe: false, .. } if self.opened && self.worker.buffer.is_empty() => {
                self.idle(ctx, None, true)
            }
            Permit::Go { limit, generation, probe } => {
                // With nothing waiting, `open` is the probe.
                self.opened &= !(probe && self.worker.buffer.is_empty());
                self.deliver(ctx, limit, generation)
            }
        }
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
        let (outcome, reason) = match end {
            End::Arrived => {
                self.retry.reset();
                self.retry_at = None;
                self.bisect =
                    self.bisect.map(|n| n.saturating_mul(2)).filter(|n| *n < self.worker.batch.max_events);
                (Some(Outcome::Success), None)
            }
            End::Partly { arrived } => {
                self.retry_at = Some(now + self.retry.next());
                (
                    (arrived == 0).then_some(Outcome::Failure),
                    Some("the broker refused some events".to_owned()),
                )
            }
            End::Condemned => (None, None),
            End::Bad { among } => {
                self.bisect = Some((among / 2).max(1));
                (None, None)
            }
            End::Failed(error) => match error.class() {
                ErrorClass::Fatal => {
                    self.watch.because(Exit::Failed(error.to_string()));
                    return ctx.stop();
                }
                ErrorClass::Misconfigured => (Some(Outcome::Trip), Some(error.to_string())),
                _ => {
                    self.retry_at = Some(now + self.retry.next());
                    (Some(Outcome::Failure), Some(error.to_string()))
                }
            },
            End::NotOpened(error) if error.class() == ErrorClass::Fatal => {
                self.watch.because(Exit::Failed(error.to_string()));
                return ctx.stop();
            }
            End::NotOpened(error) => (Some(Outcome::Trip), Some(error.to_string())),
            End::Panicked(message) => {
                self.watch.because(Exit::Panicked(message));
                return ctx.stop();
            }
        };
        if let Some(outcome) = outcome {
            let transition = self.worker.circuit().record(generation, outcome, now, fastrand::f64());
            self.log(transition, reason.as_deref());
            self.worker.publish(reason);
            if transition.is_some() {
                self.retry.reset();
                self.retry_at = None;
            }
        }
        self.step(ctx);
    }

    /// Takes in what the sink said from outside a delivery.
    fn take_signal(&mut self) {
        let (transition, reason) = match self.worker.cell.take_signal() {
            Some(Signal::Block(reason)) => {
                (self.worker.circuit().trip(Instant::now(), fastrand::f64()), Some(reason))
            }
            Some(Signal::Unblock) => (self.worker.circuit().unblock(), None),
            None => return,
        };
        self.log(transition, reason.as_deref());
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

    fn log(&self, transition: Option<Transition>, reason: Option<&str>) {
        let Some(Transition { from, to }) = transition else { return };
        let sink = &self.worker.name;
        match to {
            CircuitState::Open => warn!(%sink, %from, reason = reason.unwrap_or("ordered"), "circuit opened"),
            CircuitState::Closed => info!(%sink, %from, "circuit closed"),
            CircuitState::HalfOpen => debug!(%sink, %from, "circuit half open"),
        }
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
            actor.worker.cell.beat(Instant::now());
        });
        self.listen(ctx);
        self.step(ctx);
    }
}

/// One attempt: open if need be, lease, deliver, bury what is dead.
struct Attempt {
    worker: Arc<Worker>,
    context: SinkContext,
    sink: Option<Fenced>,
    incarnation: u64,
    opened: bool,
    limit: usize,
}

/// How an attempt went.
enum End {
    /// Everything that was lent arrived, or there was nothing and the sink is open.
    Arrived,
    /// The sink wants some of it again.
    Partly {
        arrived: usize,
    },
    /// An event was dead-lettered without asking the sink.
    Condemned,
    /// One of so many events is bad.
    Bad {
        among: usize,
    },
    Failed(DeliveryError),
    NotOpened(DeliveryError),
    Panicked(String),
}

impl Attempt {
    async fn run(mut self) -> (Option<Fenced>, bool, End) {
        let mut sink = match self.sink.take() {
            Some(sink) => sink,
            None => match Fenced::make(&self.worker.factory) {
                Ok(sink) => sink,
                Err(panic) => return (None, false, End::Panicked(panic)),
            },
        };
        let worker = self.worker.clone();
        if worker.poison_after > 0 && worker.buffer.crashes_of_oldest() >= worker.poison_after {
            self.condemn().await;
            return (Some(sink), self.opened, End::Condemned);
        }
        if !self.opened {
            let answer = timeout(worker.deliver_timeout, sink.open(&self.context)).await;
            match answer {
                Ok(Ok(Ok(()))) => self.opened = true,
                Ok(Ok(Err(error))) => return (Some(sink), false, End::NotOpened(error)),
                Ok(Err(panic)) => return (None, false, End::Panicked(panic)),
                Err(_) => {
                    let took = format!("opening took longer than {:?}", worker.deliver_timeout);
                    return (Some(sink), false, End::NotOpened(DeliveryError::unavailable(took)));
                }
            }
        }
        if !worker.batch.linger.is_zero() && !worker.is_told(Control::Drain) && !worker.buffer.is_empty() {
            let _ = timeout(worker.batch.linger, worker.buffer.filled(self.limit)).await;
        }
        let lease = worker.buffer.lease(self.incarnation, self.limit, worker.batch.max_size, Instant::now());
        let Some(mut lease) = lease else {
            return (Some(sink), true, End::Arrived);
        };
        let mut batch = Deliveries::new(std::mem::take(&mut lease.items));
        let size = batch.len();
        let answer = timeout(worker.deliver_timeout, sink.deliver(&mut batch)).await;
        let result = match answer {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => {
                // What it marked before did arrive; the rest is taken back by the supervisor.
                self.arrived(&lease, &batch.into_parts(false).1);
                return (None, false, End::Panicked(panic));
            }
            Err(_) => {
                let took = format!("no answer within {:?}", worker.deliver_timeout);
                Err(DeliveryError::unknown(took))
            }
        };
        let (items, mut marks) = batch.into_parts(result.is_ok());
        let open = marks.iter().filter(|mark| **mark == Mark::Open).count();
        if let Err(error) = &result
            && error.class() == ErrorClass::Rejected
            && open == 1
        {
            let reason = error.to_string();
            marks
                .iter_mut()
                .filter(|mark| **mark == Mark::Open)
                .for_each(|mark| *mark = Mark::Poison(reason.clone()));
        }
        let arrived = self.arrived(&lease, &marks);
        for (i, (mark, delivery)) in marks.iter().zip(&items).enumerate() {
            if let Mark::Poison(reason) = mark {
                self.bury(&lease, i, delivery, "poison", reason).await;
            }
        }
        worker.buffer.release(&lease, true);
        let end = match result {
            Ok(()) if marks.contains(&Mark::Retry) => End::Partly { arrived },
            Ok(())
                if arrived == 0 && size > 0 && marks.iter().all(|mark| matches!(mark, Mark::Poison(_))) =>
            {
                End::Condemned
            }
            Ok(()) => End::Arrived,
            Err(error) if error.class() == ErrorClass::Rejected && open <= 1 => End::Condemned,
            Err(error) if error.class() == ErrorClass::Rejected => End::Bad { among: open },
            Err(error) => {
                let class = error.class();
                let reopen = [ErrorClass::Unavailable, ErrorClass::Unknown, ErrorClass::Misconfigured];
                self.opened &= !reopen.contains(&class);
                End::Failed(error)
            }
        };
        (Some(sink), self.opened, end)
    }

    fn arrived(&self, lease: &Lease, marks: &[Mark]) -> usize {
        let arrived = self.worker.buffer.settle(lease, marks, Instant::now());
        if arrived > 0 {
            self.worker.cell.progress();
        }
        arrived
    }

    /// Dead-letters the oldest event, which has killed too many incarnations.
    async fn condemn(&self) {
        let worker = &self.worker;
        let lease = worker.buffer.lease(self.incarnation, 1, usize::MAX, Instant::now());
        let Some(mut lease) = lease else { return };
        let items = std::mem::take(&mut lease.items);
        if let Some(delivery) = items.first() {
            let reason = format!("the sink crashed {} times with this event alone", worker.poison_after);
            self.bury(&lease, 0, delivery, "panic", &reason).await;
        }
        worker.buffer.release(&lease, false);
    }

    /// Hands an event to the dead letters, for as long as it takes.
    async fn bury(
        &self,
        lease: &Lease,
        i: usize,
        delivery: &crate::event::Delivery,
        class: &'static str,
        reason: &str,
    ) {
        let worker = &self.worker;
        let tries = worker.buffer.tries(lease, i, Instant::now());
        let now = Timestamp::now();
        let first = i64::try_from(tries.first.unwrap_or_default().as_micros()).unwrap_or(0);
        let letter = DeadLetter {
            event: delivery.event.clone(),
            sink: worker.name.clone(),
            class,
            reason: reason.to_owned(),
            attempts: tries.attempts,
            first_attempt: Timestamp::from_micros(now.as_micros() - first),
            last_attempt: now,
        };
        let mut retry = Backoff::retries();
        while let Err(error) = worker.dead_letters.accept(&letter, Instant::now()) {
            warn!(sink = %worker.name, %error, "a dead letter waits");
            worker.publish(Some(format!("a dead letter waits: {error}")));
            sleep(retry.next()).await;
        }
        warn!(sink = %worker.name, event = %delivery.event.id(), reason, "dead-lettered");
        worker.buffer.bury(lease, i);
    }
}
