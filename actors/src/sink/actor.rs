//! The actor around one sink: leases from the buffer, delivers, and moves the breaker, whose states are its own.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, SpawnHandle, WrapFuture as _,
};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use super::attempt::{Attempt, Attempted, End, Instance};
use super::breaker::{Force, Outcome, Permit};
use super::cell::Signal;
use super::context::SinkContext;
use super::error::ErrorClass;
use super::queue::Ending;
use super::turn::{LastTries, Retries, Turn, Until};
use super::worker::{Control, Worker, seconds};
use crate::supervise::{DeathWatch, Exit};

/// How long `close` may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest pause before a sink that works gets again what it asked for again: when it has had enough of an event is its
/// own to say.
const AGAIN: Duration = Duration::from_millis(500);
/// How often an actor shows that its thread moves.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// One incarnation.
pub(crate) struct SinkActor {
    worker: Arc<Worker>,
    watch: DeathWatch,
    /// Which one, as the buffer counts them: once there is a later one, this one must not go on.
    incarnation: u64,
    context: SinkContext,
    turn: Turn,
    /// Numbers the turns.
    turns: u64,
    retries: Retries,
    /// Smaller batches, while a bad event is searched for.
    bisect: Option<usize>,
    last_tries: LastTries,
}

/// What an attempt says about the circuit.
struct Verdict {
    outcome: Outcome,
    reason: Option<String>,
}

impl SinkActor {
    pub(crate) fn new(worker: Arc<Worker>, watch: DeathWatch, incarnation: u64) -> SinkActor {
        let context = SinkContext::new(worker.name.clone(), worker.cell.clone(), worker.deliver_timeout);
        SinkActor {
            worker,
            watch,
            incarnation,
            context,
            turn: Turn::Nothing,
            turns: 0,
            retries: Retries::new(),
            bisect: None,
            last_tries: LastTries::default(),
        }
    }

    /// One turn: wait as the circuit says, or deliver.
    fn step(&mut self, mut instance: Option<Instance>, ctx: &mut Context<Self>) {
        self.turn = Turn::Nothing;
        if self.is_superseded() {
            return ctx.stop();
        }
        self.take_signal();
        let now = Instant::now();
        let draining = self.worker.has_order(Control::Drain);
        if self.worker.has_order(Control::Stop) || (draining && self.worker.buffer.is_empty()) {
            return self.finish(instance, ctx);
        }
        let before = self.worker.circuit().state();
        if draining || self.worker.has_order(Control::Outlast) {
            self.retries.hurry(now);
        }
        let permit = self.worker.circuit().permit(now);
        if before != self.worker.circuit().state() {
            self.worker.publish(None);
        }
        let is_opened = instance.as_ref().is_some_and(|instance| instance.is_opened);
        match permit {
            Permit::Wait(until) => self.wait(instance, until, now, ctx),
            Permit::Go { .. } if let Some(at) = self.retries.at.filter(|at| *at > now) => {
                self.idle(instance, Until::Moment(at), ctx)
            }
            Permit::Go { probe: false, .. } if is_opened && self.worker.buffer.is_empty() => {
                self.idle(instance, Until::Work, ctx)
            }
            Permit::Go { limit, generation, probe } => {
                // With nothing waiting, `open` is the probe.
                if let Some(instance) = &mut instance {
                    instance.is_opened &= !(probe && self.worker.buffer.is_empty());
                }
                let limit = if probe && self.worker.cell.probes_widely() { usize::MAX } else { limit };
                self.deliver(instance, limit, generation, ctx)
            }
        }
    }

    /// The circuit is open: waits for the next probe. At an end that comes at once, and then each second, for as long as
    /// the end waits for this sink.
    fn wait(
        &mut self,
        instance: Option<Instance>,
        until: Option<Instant>,
        now: Instant,
        ctx: &mut Context<Self>,
    ) {
        if self.worker.has_order(Control::Run) {
            return self.idle(instance, until.map_or(Until::Word, Until::Moment), ctx);
        }
        let is_held = self.worker.circuit().force() == Force::Open;
        let is_enough = is_held || (self.last_tries.have_begun && !self.worker.is_to_be_emptied());
        // What is on disk goes out at the next start.
        if is_enough && self.worker.has_order(Control::Drain) {
            return self.finish(instance, ctx);
        }
        if is_held {
            return self.idle(instance, Until::Word, ctx);
        }
        let next = self.last_tries.next(now);
        if next > now {
            let moment = until.map_or(next, |until| until.min(next));
            return self.idle(instance, Until::Moment(moment), ctx);
        }
        self.last_tries.have_begun = true;
        self.worker.circuit().unblock();
        self.worker.publish(None);
        self.step(instance, ctx);
    }

    fn is_superseded(&self) -> bool {
        self.worker.buffer.incarnation() != self.incarnation
    }

    fn idle(&mut self, instance: Option<Instance>, until: Until, ctx: &mut Context<Self>) {
        let worker = self.worker.clone();
        let wait = async move {
            match until {
                Until::Moment(until) => sleep_until(until).await,
                Until::Work => worker.buffer.filled(1).await,
                Until::Word => std::future::pending().await,
            }
        };
        let number = self.next_turn();
        let wait = wait.into_actor(self).map(move |(), actor, ctx| {
            if actor.turns == number
                && let Some((instance, _)) = actor.take_idle()
            {
                actor.step(instance, ctx);
            }
        });
        self.turn = Turn::Idle { instance, wait: ctx.spawn(wait) };
    }

    /// Ends an idle turn, if it is in one.
    fn take_idle(&mut self) -> Option<(Option<Instance>, SpawnHandle)> {
        match std::mem::replace(&mut self.turn, Turn::Nothing) {
            Turn::Idle { instance, wait } => Some((instance, wait)),
            turn => {
                self.turn = turn;
                None
            }
        }
    }

    /// A cancelled future that is ready in the same poll still runs to its end (actix 0.13.5): only the newest turn
    /// may go on.
    fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    fn deliver(
        &mut self,
        instance: Option<Instance>,
        limit: usize,
        generation: u64,
        ctx: &mut Context<Self>,
    ) {
        let number = self.next_turn();
        let attempt = Attempt {
            worker: self.worker.clone(),
            context: self.context.clone(),
            instance,
            incarnation: self.incarnation,
            limit: limit.min(self.worker.batch.max_events).min(self.bisect.unwrap_or(usize::MAX)).max(1),
        };
        let attempt = attempt.run().into_actor(self).map(move |attempted, actor, ctx| {
            if actor.turns == number {
                actor.finish_attempt(attempted, generation, ctx);
            }
        });
        self.turn = Turn::Busy(ctx.spawn(attempt));
    }

    fn finish_attempt(&mut self, attempted: Attempted, generation: u64, ctx: &mut Context<Self>) {
        if self.is_superseded() {
            return ctx.stop();
        }
        let now = Instant::now();
        self.last_tries.latest = Some(now);
        let verdict = match attempted.end {
            End::Arrived => {
                self.retries.reset();
                self.bisect =
                    self.bisect.map(|n| n.saturating_mul(2)).filter(|n| *n < self.worker.batch.max_events);
                Some(Verdict { outcome: Outcome::Success, reason: None })
            }
            End::Partly { arrived, why } => {
                // The sink works, so that a probe closes the circuit. With progress, what is left may not slow down what
                // comes behind it more and more.
                if arrived > 0 {
                    self.retries.reset();
                }
                self.retries.at = Some(now + self.retries.pause.next().min(AGAIN));
                Some(Verdict { outcome: Outcome::Success, reason: why })
            }
            End::Condemned => {
                self.retries.reset();
                self.worker.cell.passed();
                None
            }
            End::Bad { among, why } => {
                self.bisect = Some((among / 2).max(1));
                self.worker.publish(Some(why));
                None
            }
            End::Failed(error) if error.class() == ErrorClass::Fatal => {
                self.watch.because(Exit::Failed(error.to_string()));
                return ctx.stop();
            }
            End::Failed(error) => {
                self.retries.at = Some(now + self.retries.pause.next());
                let trips = error.class() == ErrorClass::Misconfigured;
                let outcome = if trips { Outcome::Trip } else { Outcome::Failure(error.cost()) };
                Some(Verdict { outcome, reason: Some(error.to_string()) })
            }
            End::Panicked(message) => {
                self.watch.because(Exit::Panicked(message));
                return ctx.stop();
            }
        };
        if let Some(verdict) = verdict {
            self.record(verdict, generation, now);
        }
        self.step(attempted.instance, ctx);
    }

    /// Moves the circuit by what an attempt says of it.
    fn record(&mut self, verdict: Verdict, generation: u64, now: Instant) {
        let Verdict { outcome, reason } = verdict;
        let transition = self.worker.circuit().record(generation, outcome, now, fastrand::f64());
        if outcome == Outcome::Success
            && let Some(crashing) = self.worker.cell.succeeded()
        {
            warn!(sink = %self.worker.name, after = %seconds(crashing), "works again after it was restarted");
        }
        if let Some(transition) = transition {
            debug!(sink = %self.worker.name, from = %transition.from, to = %transition.to, "circuit");
            self.retries.reset();
        }
        self.worker.publish(reason);
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
        let signalled = async move { worker.cell.signalled.notified().await };
        ctx.spawn(signalled.into_actor(self).map(|(), actor, ctx| {
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
        if let Some((instance, wait)) = self.take_idle() {
            ctx.cancel_future(wait);
            return self.step(instance, ctx);
        }
        // A sink between two turns, or with a delivery under way, looks by itself.
        if let Turn::Busy(attempt) = self.turn
            && self.worker.has_order(Control::Stop)
        {
            ctx.cancel_future(attempt);
            self.next_turn();
            self.worker.buffer.revoke(Ending::Other);
            self.watch.because(Exit::Stopped);
            ctx.stop();
        }
    }

    fn finish(&mut self, instance: Option<Instance>, ctx: &mut Context<Self>) {
        self.next_turn();
        let close = async move {
            if let Some(Instance { mut sink, .. }) = instance
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
            worker.dead_letters.log_others_in_time(&worker.name, now);
        });
        self.listen(ctx);
        self.step(None, ctx);
    }
}
