//! The states of a circuit breaker, each a type of its own, and how long it stays open. No clock is read here.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::super::error::Cost;

/// The first pause after a failure that cost nothing.
const FREE_FIRST: Duration = Duration::from_secs(1);
/// The longest: a broker that returns is to be in use within three seconds, however long it was away.
const FREE_MAX: Duration = Duration::from_secs(2);

/// When a breaker trips, and how long it stays open.
///
/// After failures that cost something (no answer, overload, misconfigured) it stays open for `recovery_timeout` and
/// then twice as long each time, up to `recovery_max`. After those that cost nothing (refused, reset, no such name) for
/// one second, then two each time; a `recovery_timeout` below that holds for them, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Consecutive failures that trip it: 3 by default; zero counts as one.
    pub failure_threshold: u32,
    /// How long it stays open after a failure that cost something, ±20 % at random: 30 s by default. Doubles with each
    /// trip in a row.
    pub recovery_timeout: Duration,
    /// Where the doubling ends (before the ±20 %): 5 minutes by default. A larger `recovery_timeout` wins.
    pub recovery_max: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> BreakerPolicy {
        BreakerPolicy {
            failure_threshold: 3,
            recovery_timeout: Duration::from_secs(30),
            recovery_max: Duration::from_secs(300),
        }
    }
}

impl BreakerPolicy {
    pub(super) fn longest(&self) -> Duration {
        self.recovery_max.max(self.recovery_timeout)
    }

    /// How long to stay open at trip number `trips` in a row of such a cost; `jitter` in `[0, 1)` makes it 0.8 to 1.2
    /// times that.
    #[must_use]
    pub fn recovery(&self, cost: Cost, trips: u32, jitter: f64) -> Duration {
        let (first, longest) = match cost {
            Cost::Something => (self.recovery_timeout, self.longest()),
            Cost::Nothing => (FREE_FIRST, FREE_MAX.min(self.recovery_timeout)),
        };
        let doublings = 1u32.checked_shl(trips.saturating_sub(1)).unwrap_or(u32::MAX);
        let nominal = first.saturating_mul(doublings).min(longest);
        let jitter = if jitter.is_nan() { 0.5 } else { jitter.clamp(0.0, 1.0) };
        Duration::try_from_secs_f64(nominal.as_secs_f64() * (0.8 + 0.4 * jitter)).unwrap_or(nominal)
    }
}

/// The state of one breaker: each has its own type, and only the legal moves exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breaker {
    /// Deliveries flow.
    Closed(Closed),
    /// Nothing flows until its time has come.
    Open(Open),
    /// One probe decides.
    HalfOpen(HalfOpen),
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker::Closed(Closed::default())
    }
}

impl Breaker {
    pub(super) fn state(&self) -> CircuitState {
        match self {
            Breaker::Closed(_) => CircuitState::Closed,
            Breaker::Open(_) => CircuitState::Open,
            Breaker::HalfOpen(_) => CircuitState::HalfOpen,
        }
    }
}

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

/// Deliveries flow; consecutive failures are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    failures: u32,
    limit: usize,
    /// The trips before it closed that cost something, and when it closed: a relapse soon after stays open for longer.
    relapse: Option<(u32, Instant)>,
}

/// A fresh start: no failures, no limit on the batch.
impl Default for Closed {
    fn default() -> Closed {
        Closed { failures: 0, limit: usize::MAX, relapse: None }
    }
}

impl Closed {
    /// A slow start: batches begin at one event and double with each success.
    #[must_use]
    pub fn cautious() -> Closed {
        Closed { limit: 1, ..Closed::default() }
    }

    /// The most events to deliver at once, at most `max`.
    #[must_use]
    pub fn batch_limit(&self, max: usize) -> usize {
        self.limit.min(max)
    }

    /// Consecutive failures so far.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// A delivery arrived: the count begins again, the next batch may be twice as large.
    #[must_use]
    pub fn succeed(self) -> Closed {
        Closed { failures: 0, limit: self.limit.saturating_mul(2), ..self }
    }

    /// A delivery failed: one more, and open once there are too many in a row.
    #[must_use]
    pub fn fail(self, cost: Cost, now: Instant, jitter: f64, policy: &BreakerPolicy) -> Breaker {
        let closed = self.count_failure();
        if closed.failures < policy.failure_threshold {
            return Breaker::Closed(closed);
        }
        Breaker::Open(closed.trip(cost, now, jitter, policy))
    }

    /// Opens at once: misconfigured, blocked by the broker, or too many failures in a row.
    ///
    /// A trip that cost something within `recovery_max` of closing continues the row, so that a flapping broker is left
    /// alone for longer and longer; after that, the row begins again.
    #[must_use]
    pub fn trip(self, cost: Cost, now: Instant, jitter: f64, policy: &BreakerPolicy) -> Open {
        let trips = match self.relapse {
            Some((trips, at)) if now.saturating_duration_since(at) <= policy.longest() => trips,
            _ => 0,
        };
        Row { cost: Cost::Something, trips }.trip(cost, now, jitter, policy)
    }

    /// Opens until somebody says otherwise.
    #[must_use]
    pub fn hold(self) -> Open {
        Open { until: None, row: Row::default() }
    }

    /// Batches begin at one again.
    pub(super) fn restrain(&mut self) {
        self.limit = 1;
    }

    pub(super) fn count_failure(self) -> Closed {
        Closed { failures: self.failures.saturating_add(1), ..self }
    }
}

/// Trips in a row, failed probes among them, that all cost the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Row {
    cost: Cost,
    trips: u32,
}

impl Row {
    /// One more. Of another cost it begins a row of its own: a broker that is refused now is not the one that was silent.
    fn trip(self, cost: Cost, now: Instant, jitter: f64, policy: &BreakerPolicy) -> Open {
        let earlier = if cost == self.cost { self.trips } else { 0 };
        let row = Row { cost, trips: earlier.saturating_add(1) };
        Open { until: now.checked_add(policy.recovery(cost, row.trips, jitter)), row }
    }
}

/// Nothing flows: neither deliveries nor attempts to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    until: Option<Instant>,
    row: Row,
}

impl Open {
    /// The moment of the next probe; `None`: not before somebody says so.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Trips in a row of the same cost, this one included; zero if it was only ever opened by hand.
    #[must_use]
    pub fn trips(&self) -> u32 {
        self.row.trips
    }

    /// Becomes half-open once its time has come.
    ///
    /// # Errors
    /// Itself, unchanged, while it has not.
    pub fn elapse(self, now: Instant) -> Result<HalfOpen, Open> {
        if self.until.is_some_and(|until| now >= until) { Ok(self.probe_now()) } else { Err(self) }
    }

    /// Becomes half-open at once: the broker unblocked, or somebody asked for it.
    #[must_use]
    pub fn probe_now(self) -> HalfOpen {
        HalfOpen { row: self.row }
    }

    /// Stays open until somebody says otherwise.
    #[must_use]
    pub fn hold(self) -> Open {
        Open { until: None, ..self }
    }
}

/// One probe decides: the oldest waiting event, or connecting while nothing waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HalfOpen {
    row: Row,
}

impl HalfOpen {
    /// The probe arrived: closed, with a slow start.
    #[must_use]
    pub fn succeed(self, now: Instant) -> Closed {
        let relapse = Some((self.row.trips, now)).filter(|_| self.row.cost == Cost::Something);
        Closed { relapse, ..Closed::cautious() }
    }

    /// The probe failed: open again.
    #[must_use]
    pub fn fail(self, cost: Cost, now: Instant, jitter: f64, policy: &BreakerPolicy) -> Open {
        self.row.trip(cost, now, jitter, policy)
    }

    /// Opens until somebody says otherwise.
    #[must_use]
    pub fn hold(self) -> Open {
        Open { until: None, row: self.row }
    }
}
