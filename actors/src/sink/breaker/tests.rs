//! The circuit breaker, run by run.

use std::time::Duration;

use tokio::time::Instant;

use super::super::error::Cost;
use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const MIDDLE: f64 = 0.5;
const FAILURE: Outcome = Outcome::Failure(Cost::Something);
const REFUSED: Outcome = Outcome::Failure(Cost::Nothing);
const POLICY: BreakerPolicy =
    BreakerPolicy { failure_threshold: 3, recovery_timeout: SECOND, recovery_max: Duration::from_secs(8) };

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
    let free = |trips, jitter| BreakerPolicy::default().recovery(Cost::Nothing, trips, jitter).as_millis();
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
