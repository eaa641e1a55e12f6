//! The circuit breaker against a model of it, under random actions.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::super::Cost;
use super::*;

const MIDDLE: f64 = 0.5;
const OUTCOMES: [Outcome; 4] =
    [Outcome::Success, Outcome::Failure(Cost::Something), Outcome::Failure(Cost::Nothing), Outcome::Trip];

/// The same rules, written once more, flatly, in whole seconds.
#[derive(Debug, Default)]
struct Model {
    state: &'static str,
    force: &'static str,
    failures: u32,
    row: u32,
    until: Option<u64>,
    limit: u128,
    /// Trips in a row that cost something, and that cost nothing: one of the two is zero.
    trips: u32,
    refusals: u32,
    closed_at: Option<u64>,
}

/// Long enough that refusals are asked sooner.
const LONGER: BreakerPolicy = BreakerPolicy {
    failure_threshold: 3,
    recovery_timeout: Duration::from_secs(4),
    recovery_max: Duration::from_secs(16),
};

impl Model {
    fn new() -> Model {
        Model { state: "closed", force: "auto", limit: u128::from(u64::MAX), ..Model::default() }
    }

    fn open(&mut self, cost: Cost, now: u64) {
        if self.state == "closed" {
            self.refusals = 0;
            if self.closed_at.is_none_or(|at| now - at > 16) {
                self.trips = 0;
            }
        }
        let pause = match cost {
            Cost::Something => {
                (self.trips, self.refusals) = (self.trips + 1, 0);
                (4 * 2u64.pow(self.trips.min(10) - 1)).min(16)
            }
            Cost::Nothing => {
                (self.trips, self.refusals) = (0, self.refusals + 1);
                u64::from(self.refusals.min(2))
            }
        };
        (self.state, self.until) = ("open", Some(now + pause));
    }

    fn close(&mut self, now: u64) {
        (self.state, self.failures, self.limit, self.closed_at) = ("closed", 0, 1, Some(now));
    }

    fn permit(&mut self, now: u64) -> Option<(u128, bool)> {
        if self.state == "open" && self.force != "open" && self.until.is_some_and(|until| now >= until) {
            self.state = "half_open";
        }
        match self.state {
            "open" => None,
            "half_open" => Some((1, true)),
            _ => Some((self.limit, false)),
        }
    }

    fn record(&mut self, outcome: Outcome, now: u64) {
        self.row = if outcome == Outcome::Success { 0 } else { self.row + 1 };
        match (self.state, outcome) {
            ("half_open", Outcome::Success) => self.close(now),
            ("half_open", Outcome::Failure(cost)) => self.open(cost, now),
            ("half_open", Outcome::Trip) => self.open(Cost::Something, now),
            (_, Outcome::Success) => (self.failures, self.limit) = (0, (self.limit * 2).min(u64::MAX.into())),
            (_, outcome) => {
                self.failures += 1;
                let cost = if let Outcome::Failure(cost) = outcome { cost } else { Cost::Something };
                if self.force != "closed" && (outcome == Outcome::Trip || self.failures >= 3) {
                    self.open(cost, now);
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Action {
    Attempt(Outcome),
    Stale(Outcome),
    Pass(u64),
    Trip,
    Unblock,
    ForceOpen,
    ForceClose,
    Auto,
    Crash,
}

fn action() -> impl Strategy<Value = Action> {
    let outcome = || proptest::sample::select(&OUTCOMES[..]);
    prop_oneof![
        8 => outcome().prop_map(Action::Attempt),
        2 => outcome().prop_map(Action::Stale),
        4 => (0u64..24).prop_map(Action::Pass),
        1 => Just(Action::Trip),
        1 => Just(Action::Unblock),
        1 => Just(Action::ForceOpen),
        1 => Just(Action::ForceClose),
        2 => Just(Action::Auto),
        1 => Just(Action::Crash),
    ]
}

/// All that is neither an attempt nor time that passes.
fn order(action: &Action, model: &mut Model, circuit: &mut Circuit, now: u64, at: Instant) {
    match action {
        Action::Trip => {
            if model.force != "closed" && model.state != "open" {
                model.open(Cost::Something, now);
            }
            circuit.trip(at, MIDDLE);
        }
        Action::Unblock => {
            if model.force != "open" && model.state == "open" {
                model.state = "half_open"
            }
            circuit.unblock();
        }
        Action::ForceOpen => {
            if model.state == "closed" {
                (model.trips, model.refusals) = (0, 0)
            }
            (model.force, model.state) = ("open", "open");
            circuit.force_open();
        }
        Action::ForceClose => {
            model.force = "closed";
            if model.state != "closed" {
                model.close(now)
            }
            circuit.force_close(at);
        }
        Action::Auto => {
            if model.force == "open" {
                model.state = "half_open"
            }
            model.force = "auto";
            circuit.auto();
        }
        Action::Crash => {
            if model.state == "closed" {
                model.limit = 1
            }
            circuit.crashed();
        }
        Action::Attempt(_) | Action::Stale(_) | Action::Pass(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn it_agrees_with_its_model(actions in proptest::collection::vec(action(), 1..60)) {
        let (start, mut now) = (Instant::now(), 0u64);
        let (mut circuit, mut model) = (Circuit::new(LONGER), Model::new());
        let mut stale = None;
        for action in actions {
            let at = start + Duration::from_secs(now);
            let (state, generation) = (circuit.state(), circuit.generation());
            match action {
                Action::Attempt(outcome) => {
                    let expected = model.permit(now);
                    match circuit.permit(at) {
                        Permit::Go { limit, generation, probe } => {
                            prop_assert_eq!(Some((limit as u128, probe)), expected);
                            model.record(outcome, now);
                            circuit.record(generation, outcome, at, MIDDLE);
                            stale = Some(generation);
                        }
                        Permit::Wait(until) => {
                            prop_assert_eq!(None, expected);
                            let forced = model.force == "open";
                            let expected = model.until.filter(|_| !forced).map(|s| start + Duration::from_secs(s));
                            prop_assert_eq!(until, expected);
                            prop_assert!(until.is_none_or(|until| at < until), "it waits for what is past");
                        }
                    }
                }
                Action::Stale(outcome) => if let Some(old) = stale.filter(|old| *old != generation) {
                    let failures = circuit.failures();
                    prop_assert_eq!(circuit.record(old, outcome, at, MIDDLE), None);
                    prop_assert_eq!(circuit.failures(), failures);
                },
                Action::Pass(seconds) => now += seconds,
                other => order(&other, &mut model, &mut circuit, now, at),
            }
            prop_assert_eq!(circuit.state().as_str(), model.state);
            prop_assert_eq!(circuit.failures(), model.row);
            prop_assert!(circuit.generation() >= generation);
            prop_assert!(circuit.state() == state || circuit.generation() > generation);
            if circuit.force() == Force::Open { prop_assert_eq!(circuit.state(), CircuitState::Open) }
        }
        // Whatever happened: it sends again, at the latest when the time has come.
        circuit.auto();
        let late = circuit.until().unwrap_or(start + Duration::from_secs(now));
        prop_assert!(matches!(circuit.permit(late), Permit::Go { .. }), "it never comes back");
    }
}
