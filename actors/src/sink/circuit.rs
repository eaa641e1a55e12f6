//! The circuit breaker of one sink: whether to deliver, and how much. It reads no clock and does no I/O.

use std::fmt;
use std::mem;

use tokio::time::Instant;

use super::Cost;
use super::breaker::{Breaker, BreakerPolicy, Closed};

/// The name of a breaker's state, as status and logs have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CircuitState {
    /// Deliveries flow.
    Closed,
    /// Nothing flows.
    Open,
    /// One probe decides.
    HalfOpen,
}

impl CircuitState {
    /// `closed`, `open` or `half_open`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CircuitState::Closed => "closed",
            CircuitState::Open => "open",
            CircuitState::HalfOpen => "half_open",
        }
    }
}

impl fmt::Display for CircuitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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

#[cfg(test)]
#[path = "circuit_model.rs"]
mod model;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MIDDLE: f64 = 0.5;
    const FAILURE: Outcome = Outcome::Failure(Cost::Something);
    const REFUSED: Outcome = Outcome::Failure(Cost::Nothing);
    const POLICY: BreakerPolicy = BreakerPolicy {
        failure_threshold: 3,
        recovery_timeout: SECOND,
        recovery_max: Duration::from_secs(8),
    };

    #[track_caller]
    fn go(circuit: &mut Circuit, now: Instant) -> (usize, u64, bool) {
        match circuit.permit(now) {
            Permit::Go { limit, generation, probe } => (limit, generation, probe),
            wait => panic!("no permit: {wait:?}"),
        }
    }

    /// Asks for a permit and reports the outcome.
    #[track_caller]
    fn attempt(circuit: &mut Circuit, outcome: Outcome, now: Instant) -> Option<Transition> {
        let (_, generation, _) = go(circuit, now);
        circuit.record(generation, outcome, now, MIDDLE)
    }

    fn tripped(now: Instant) -> Circuit {
        let mut circuit = Circuit::new(POLICY);
        attempt(&mut circuit, Outcome::Trip, now);
        circuit
    }

    /// What a run of outcomes leads to, all at one moment.
    #[track_caller]
    fn outcomes(run: &str, expected: CircuitState, failures: u32) {
        let (mut circuit, now) = (Circuit::new(POLICY), Instant::now());
        for c in run.chars() {
            let outcome = match c {
                's' => Outcome::Success,
                'f' => FAILURE,
                'r' => REFUSED,
                _ => Outcome::Trip,
            };
            attempt(&mut circuit, outcome, now);
        }
        assert_eq!((circuit.state(), circuit.failures()), (expected, failures), "{run}");
    }

    #[test]
    fn only_failures_in_a_row_trip_it() {
        outcomes("", CircuitState::Closed, 0);
        outcomes("ff", CircuitState::Closed, 2);
        outcomes("fff", CircuitState::Open, 3);
        outcomes("ffsff", CircuitState::Closed, 2);
        outcomes("ffsfff", CircuitState::Open, 3);
        outcomes("rr", CircuitState::Closed, 2);
        outcomes("rrr", CircuitState::Open, 3);
        outcomes("frr", CircuitState::Open, 3);
        outcomes("rrsrr", CircuitState::Closed, 2);
        outcomes("t", CircuitState::Open, 1);
        outcomes("sst", CircuitState::Open, 1);
    }

    #[test]
    fn it_stays_open_until_its_time_has_come_and_then_lets_one_probe_through() {
        let now = Instant::now();
        let mut circuit = tripped(now);
        assert_eq!(circuit.permit(now), Permit::Wait(Some(now + SECOND)));
        assert_eq!(circuit.permit(now + SECOND - Duration::from_nanos(1)), Permit::Wait(Some(now + SECOND)));
        let (limit, _, probe) = go(&mut circuit, now + SECOND);
        assert_eq!((limit, probe, circuit.state()), (1, true, CircuitState::HalfOpen));
        assert_eq!(circuit.until(), None);
    }

    #[test]
    fn after_closing_batches_grow_from_one() {
        let now = Instant::now();
        let mut circuit = tripped(now);
        let closed = attempt(&mut circuit, Outcome::Success, now + SECOND);
        assert_eq!(closed, Some(Transition { from: CircuitState::HalfOpen, to: CircuitState::Closed }));
        let mut limits = vec![];
        for _ in 0..5 {
            limits.push(go(&mut circuit, now + SECOND).0);
            attempt(&mut circuit, Outcome::Success, now + SECOND);
        }
        assert_eq!(limits, [1, 2, 4, 8, 16]);
        for _ in 0..100 {
            attempt(&mut circuit, Outcome::Success, now + SECOND);
        }
        assert_eq!(go(&mut circuit, now + SECOND).0, usize::MAX);
    }

    #[test]
    fn a_fresh_start_is_at_full_speed_and_a_start_after_a_crash_is_not() {
        let now = Instant::now();
        assert_eq!(go(&mut Circuit::new(POLICY), now).0, usize::MAX);
        assert_eq!(go(&mut Circuit::cautious(POLICY), now).0, 1);
        let mut crashed = Circuit::new(POLICY);
        let (_, before, _) = go(&mut crashed, now);
        crashed.crashed();
        assert_eq!(crashed.record(before, Outcome::Trip, now, MIDDLE), None);
        assert_eq!((go(&mut crashed, now).0, crashed.state()), (1, CircuitState::Closed));
        assert_eq!((Closed::cautious().batch_limit(256), Closed::default().batch_limit(256)), (1, 256));
        assert_eq!(Closed::cautious().succeed().succeed().batch_limit(3), 3);
    }

    #[test]
    fn recovery_doubles_with_each_failed_probe_up_to_the_limit() {
        let (mut now, mut waits) = (Instant::now(), vec![]);
        let mut circuit = tripped(now);
        for _ in 0..6 {
            let until = circuit.until().unwrap();
            waits.push((until - now).as_secs());
            now = until;
            attempt(&mut circuit, FAILURE, now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 8, 8]);
    }

    /// The pauses, in milliseconds, that follow the failures of a run: `f` cost something, `r` nothing, `t` trips, and `s`
    /// is a probe that arrives, with three failures behind it.
    #[track_caller]
    fn pauses(recovery_timeout: Duration, run: &str, expected: &[u128]) {
        let policy = BreakerPolicy { recovery_timeout, recovery_max: 10 * recovery_timeout, ..POLICY };
        let (mut circuit, mut now, mut waits) = (Circuit::new(policy), Instant::now(), vec![]);
        for c in run.chars() {
            let outcome = match c {
                'f' => FAILURE,
                'r' => REFUSED,
                't' => Outcome::Trip,
                _ => Outcome::Success,
            };
            for _ in 0..3 {
                attempt(&mut circuit, outcome, now);
                if circuit.state() == CircuitState::Open {
                    break;
                }
            }
            if let Some(until) = circuit.until() {
                waits.push((until - now).as_millis());
                now = until;
            }
        }
        assert_eq!(waits, expected, "{run}");
    }

    #[test]
    fn a_broker_that_refuses_is_asked_again_within_seconds_for_as_long_as_it_does() {
        let half_a_minute = Duration::from_secs(30);
        pauses(half_a_minute, "rrrrrrrr", &[1000, 2000, 2000, 2000, 2000, 2000, 2000, 2000]);
        pauses(half_a_minute, "fff", &[30_000, 60_000, 120_000]);
        pauses(half_a_minute, "tt", &[30_000, 60_000]);
        // After each success it begins anew; what was refused before makes silence no dearer, nor the other way round.
        pauses(half_a_minute, "rrsrr", &[1000, 2000, 1000, 2000]);
        pauses(half_a_minute, "fsf", &[30_000, 60_000]);
        pauses(half_a_minute, "ffrrff", &[30_000, 60_000, 1000, 2000, 30_000, 60_000]);
        pauses(half_a_minute, "ffsrsf", &[30_000, 60_000, 1000, 30_000]);
        // A shorter time of recovery holds for both.
        pauses(Duration::from_millis(1500), "rrrf", &[1000, 1500, 1500, 1500]);
        pauses(Duration::from_millis(200), "rrrff", &[200, 200, 200, 200, 400]);
    }

    #[track_caller]
    fn relapse(after: Duration, expected_wait: Duration) {
        let start = Instant::now();
        let mut circuit = tripped(start);
        let closed_at = start + SECOND;
        attempt(&mut circuit, Outcome::Success, closed_at);
        attempt(&mut circuit, Outcome::Trip, closed_at + after);
        assert_eq!(circuit.until(), Some(closed_at + after + expected_wait));
    }

    #[test]
    fn a_relapse_soon_after_closing_stays_open_for_longer() {
        relapse(Duration::ZERO, 2 * SECOND);
        relapse(8 * SECOND, 2 * SECOND);
        relapse(8 * SECOND + Duration::from_nanos(1), SECOND);
    }

    #[track_caller]
    fn recovers(policy: (u64, u64), trips: u32, jitter: f64, expected_ms: u128) {
        let (first, max) = (Duration::from_secs(policy.0), Duration::from_secs(policy.1));
        let policy = BreakerPolicy { failure_threshold: 3, recovery_timeout: first, recovery_max: max };
        assert_eq!(policy.recovery(Cost::Something, trips, jitter).as_millis(), expected_ms);
    }

    #[test]
    fn recovery_has_twenty_percent_of_jitter_on_both_sides() {
        recovers((30, 300), 1, 0.0, 24_000);
        recovers((30, 300), 1, 0.5, 30_000);
        recovers((30, 300), 2, 0.5, 60_000);
        recovers((30, 300), 9, 0.5, 300_000);
        recovers((30, 300), u32::MAX, 0.0, 240_000);
        recovers((30, 300), 1, 7.0, 36_000);
        recovers((30, 300), 1, f64::NAN, 30_000);
        recovers((600, 300), 5, 0.5, 600_000);
        recovers((0, 0), 5, 0.5, 0);
        let free =
            |trips, jitter| BreakerPolicy::default().recovery(Cost::Nothing, trips, jitter).as_millis();
        assert_eq!([free(1, 0.0), free(1, 1.0), free(2, 0.5), free(u32::MAX, 1.0)], [800, 1200, 2000, 2400]);
    }

    #[test]
    fn no_recovery_time_is_too_long_to_compute() {
        let policy = BreakerPolicy { recovery_timeout: Duration::MAX, ..POLICY };
        let mut circuit = Circuit::new(policy);
        let now = Instant::now();
        attempt(&mut circuit, Outcome::Trip, now);
        assert_eq!(circuit.permit(now), Permit::Wait(None));
        circuit.unblock();
        assert!(go(&mut circuit, now).2);
    }

    #[test]
    fn a_threshold_of_zero_trips_at_the_first_failure() {
        let mut circuit = Circuit::new(BreakerPolicy { failure_threshold: 0, ..POLICY });
        attempt(&mut circuit, FAILURE, Instant::now());
        assert_eq!(circuit.state(), CircuitState::Open);
    }

    #[test]
    fn a_result_that_began_in_an_earlier_state_changes_nothing() {
        let now = Instant::now();
        let mut circuit = Circuit::new(POLICY);
        let (_, slow, _) = go(&mut circuit, now);
        circuit.trip(now, MIDDLE);
        circuit.unblock();
        for outcome in [Outcome::Success, FAILURE, REFUSED, Outcome::Trip] {
            assert_eq!(circuit.record(slow, outcome, now, MIDDLE), None);
            assert_eq!((circuit.state(), circuit.failures()), (CircuitState::HalfOpen, 0));
        }
    }

    #[test]
    fn forced_open_it_waits_for_its_operator() {
        let now = Instant::now();
        let mut circuit = Circuit::new(POLICY);
        let (_, before, _) = go(&mut circuit, now);
        assert!(circuit.force_open().is_some());
        assert_eq!(circuit.force_open(), None);
        assert_eq!(circuit.permit(now + 1_000_000 * SECOND), Permit::Wait(None));
        assert_eq!(circuit.unblock(), None);
        assert_eq!(circuit.record(before, Outcome::Success, now, MIDDLE), None);
        assert_eq!(circuit.auto(), Some(Transition { from: CircuitState::Open, to: CircuitState::HalfOpen }));
        assert!(go(&mut circuit, now).2);
    }

    #[test]
    fn forced_closed_it_counts_failures_but_does_not_trip() {
        let now = Instant::now();
        let mut circuit = tripped(now);
        assert!(circuit.force_close(now).is_some());
        for _ in 0..10 {
            assert_eq!(attempt(&mut circuit, FAILURE, now), None);
            assert_eq!(attempt(&mut circuit, REFUSED, now), None);
        }
        assert_eq!(attempt(&mut circuit, Outcome::Trip, now), None);
        assert_eq!(circuit.trip(now, MIDDLE), None);
        assert_eq!((circuit.state(), circuit.failures()), (CircuitState::Closed, 22));
        assert_eq!(circuit.auto(), None);
        assert!(attempt(&mut circuit, FAILURE, now).is_some());
    }

    #[test]
    fn an_unblocked_broker_is_probed_at_once() {
        let now = Instant::now();
        let mut circuit = Circuit::new(POLICY);
        assert!(circuit.trip(now, MIDDLE).is_some());
        assert!(circuit.unblock().is_some());
        assert!(go(&mut circuit, now).2);
        assert_eq!(circuit.unblock(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn recovery_never_shrinks_and_stays_near_its_limit(
            first in 0u64..100_000, max in 0u64..1_000_000, trips in 1u32..40, jitter in 0.0f64..1.0,
        ) {
            let policy = BreakerPolicy {
                recovery_timeout: Duration::from_millis(first),
                recovery_max: Duration::from_millis(max),
                ..POLICY
            };
            prop_assert!(policy.recovery(Cost::Something, trips, jitter) <= policy.recovery(Cost::Something, trips + 1, jitter));
            prop_assert!(policy.recovery(Cost::Something, trips, jitter) <= policy.longest().mul_f64(1.2));
            prop_assert!(policy.recovery(Cost::Something, trips, jitter) >= policy.recovery_timeout.mul_f64(0.799));
        }
    }
}
