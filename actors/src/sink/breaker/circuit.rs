//! The circuit breaker of one sink: whether to deliver, and how much. It reads no clock and does no I/O.

use std::mem;

use tokio::time::Instant;

use super::super::error::Cost;
use super::states::{Breaker, BreakerPolicy, CircuitState, Closed};

/// What an operator has ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Force {
    /// Open, whatever the deliveries say.
    Open,
    /// Closed: failures are counted but do not trip.
    Closed,
    /// Nothing: deliveries decide.
    #[default]
    Auto,
}

/// Whether a sink may deliver now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Deliver at most `limit` events (the sink's own maximum holds too), and report with this `generation`.
    Go {
        /// The most events of this batch; one for a probe, `usize::MAX` at full speed.
        limit: usize,
        /// To be handed to [`Circuit::record`].
        generation: u64,
        /// Whether the delivery decides between closed and open.
        probe: bool,
    },
    /// Ask again at this moment; `None`: only after `auto`, `unblock` or `force_close`.
    Wait(Option<Instant>),
}

/// How an attempt went. A poisonous event is none of these: it never moves the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Everything arrived.
    Success,
    /// It failed, at such a cost, and may go better next time.
    Failure(Cost),
    /// It failed so that trying again at once is pointless: opens at once.
    Trip,
}

/// A change of state, to be logged in one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: CircuitState,
    /// The state after.
    pub to: CircuitState,
}

/// A breaker with its policy and its orders; results that began in an earlier state do not count.
///
/// One attempt at a time: the owner asks for a permit only while nothing is in flight. An attempt that was given up
/// (shutdown, reload) is simply not recorded.
#[derive(Debug, Clone, Default)]
pub struct Circuit {
    state: Breaker,
    policy: BreakerPolicy,
    force: Force,
    generation: u64,
    failures: u32,
}

impl Circuit {
    /// Starts closed, at full speed.
    #[must_use]
    pub fn new(policy: BreakerPolicy) -> Circuit {
        Circuit { policy, ..Circuit::default() }
    }

    /// Starts closed, with batches that begin at one.
    #[must_use]
    pub fn cautious(policy: BreakerPolicy) -> Circuit {
        Circuit { state: Breaker::Closed(Closed::cautious()), policy, ..Circuit::default() }
    }

    /// Says whether to deliver now; an open circuit whose time has come becomes half-open here.
    pub fn permit(&mut self, now: Instant) -> Permit {
        let elapsed = match &self.state {
            Breaker::Open(open) => open.clone().elapse(now).ok(),
            _ => None,
        };
        if let Some(half_open) = elapsed {
            self.step(|_| Breaker::HalfOpen(half_open));
        }
        let generation = self.generation;
        match &self.state {
            Breaker::Closed(closed) => {
                Permit::Go { limit: closed.batch_limit(usize::MAX), generation, probe: false }
            }
            Breaker::HalfOpen(_) => Permit::Go { limit: 1, generation, probe: true },
            Breaker::Open(open) => Permit::Wait(open.until()),
        }
    }

    /// Takes in how the attempt of that `generation` went; one begun in an earlier state changes nothing.
    ///
    /// `jitter` is a random number in `[0, 1)`.
    pub fn record(
        &mut self,
        generation: u64,
        outcome: Outcome,
        now: Instant,
        jitter: f64,
    ) -> Option<Transition> {
        if generation != self.generation || matches!(self.state, Breaker::Open(_)) {
            return None;
        }
        self.failures = if outcome == Outcome::Success { 0 } else { self.failures.saturating_add(1) };
        let (policy, force) = (self.policy, self.force);
        self.step(|breaker| match (breaker, outcome) {
            (Breaker::Closed(closed), Outcome::Success) => Breaker::Closed(closed.succeed()),
            (Breaker::Closed(closed), _) if force == Force::Closed => Breaker::Closed(closed.count_failure()),
            (Breaker::Closed(closed), Outcome::Failure(cost)) => closed.fail(cost, now, jitter, &policy),
            (Breaker::Closed(closed), Outcome::Trip) => {
                Breaker::Open(closed.trip(Cost::Something, now, jitter, &policy))
            }
            (Breaker::HalfOpen(half_open), Outcome::Success) => Breaker::Closed(half_open.succeed(now)),
            (Breaker::HalfOpen(half_open), Outcome::Failure(cost)) => {
                Breaker::Open(half_open.fail(cost, now, jitter, &policy))
            }
            (Breaker::HalfOpen(half_open), Outcome::Trip) => {
                Breaker::Open(half_open.fail(Cost::Something, now, jitter, &policy))
            }
            (open @ Breaker::Open(_), _) => open,
        })
    }

    /// Opens at once for a reason outside any attempt (`connection.blocked`); inert while open or forced closed.
    pub fn trip(&mut self, now: Instant, jitter: f64) -> Option<Transition> {
        if self.force == Force::Closed {
            return None;
        }
        let policy = self.policy;
        self.step(|breaker| match breaker {
            Breaker::Closed(closed) => Breaker::Open(closed.trip(Cost::Something, now, jitter, &policy)),
            Breaker::HalfOpen(half_open) => {
                Breaker::Open(half_open.fail(Cost::Something, now, jitter, &policy))
            }
            open @ Breaker::Open(_) => open,
        })
    }

    /// The reason for being open is gone (`connection.unblocked`): probes at once, unless it is forced open.
    pub fn unblock(&mut self) -> Option<Transition> {
        if self.force == Force::Open { None } else { self.probe_now() }
    }

    /// An incarnation crashed: what it had in flight does not count, and batches begin at one again.
    pub fn crashed(&mut self) {
        self.generation = self.generation.saturating_add(1);
        if let Breaker::Closed(closed) = &mut self.state {
            closed.restrain();
        }
    }

    /// Opens until `force_close` or `auto`.
    pub fn force_open(&mut self) -> Option<Transition> {
        self.force = Force::Open;
        self.step(|breaker| match breaker {
            Breaker::Closed(closed) => Breaker::Open(closed.hold()),
            Breaker::Open(open) => Breaker::Open(open.hold()),
            Breaker::HalfOpen(half_open) => Breaker::Open(half_open.hold()),
        })
    }

    /// Closes, with a slow start if it was not closed, and stays so whatever fails, until `force_open` or `auto`.
    pub fn force_close(&mut self, now: Instant) -> Option<Transition> {
        self.force = Force::Closed;
        self.step(|breaker| match breaker {
            Breaker::Closed(closed) => Breaker::Closed(closed),
            Breaker::Open(open) => Breaker::Closed(open.probe_now().succeed(now)),
            Breaker::HalfOpen(half_open) => Breaker::Closed(half_open.succeed(now)),
        })
    }

    /// Lets deliveries decide again: from forced open it probes at once, from forced closed it stays closed.
    pub fn auto(&mut self) -> Option<Transition> {
        match mem::take(&mut self.force) {
            Force::Open => self.probe_now(),
            Force::Closed | Force::Auto => None,
        }
    }

    /// The state it is in; an open one stays open until somebody asks for a permit.
    #[must_use]
    pub fn state(&self) -> CircuitState {
        self.state.state()
    }

    /// What an operator has ordered.
    #[must_use]
    pub fn force(&self) -> Force {
        self.force
    }

    /// Failed attempts in a row, probes included; zero after a success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The moment of the next probe, while open; `None` otherwise, and while it is forced open.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        match &self.state {
            Breaker::Open(open) => open.until(),
            Breaker::Closed(_) | Breaker::HalfOpen(_) => None,
        }
    }

    /// Rises with every change of state, and with [`Circuit::crashed`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The state itself, for tests and diagnostics.
    #[must_use]
    pub fn breaker(&self) -> &Breaker {
        &self.state
    }

    fn probe_now(&mut self) -> Option<Transition> {
        self.step(|breaker| match breaker {
            Breaker::Open(open) => Breaker::HalfOpen(open.probe_now()),
            other => other,
        })
    }

    /// Makes one move, and a new generation if it changes the state.
    fn step(&mut self, make: impl FnOnce(Breaker) -> Breaker) -> Option<Transition> {
        let from = self.state();
        self.state = make(mem::take(&mut self.state));
        let to = self.state();
        if from == to {
            return None;
        }
        self.generation = self.generation.saturating_add(1);
        Some(Transition { from, to })
    }
}
