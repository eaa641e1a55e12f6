//! What is known of a sink from outside, for programs and for people.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::balance::{Balance, Processed};
use super::breaker::CircuitState;
use crate::event::Timestamp;

/// What a sink is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// Delivering.
    Closed,
    /// Not sending; events wait.
    Open,
    /// Trying with one event.
    HalfOpen,
    /// Given up: too many restarts without a delivery.
    Failed,
}

impl SinkState {
    /// `closed`, `open`, `half_open` or `failed`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SinkState::Closed => CircuitState::Closed.as_str(),
            SinkState::Open => CircuitState::Open.as_str(),
            SinkState::HalfOpen => CircuitState::HalfOpen.as_str(),
            SinkState::Failed => "failed",
        }
    }

    /// Half open is still the trouble that opened it.
    pub(super) fn as_trouble(self) -> SinkState {
        if self == SinkState::HalfOpen { SinkState::Open } else { self }
    }
}

/// What is known of one sink, as of one moment.
#[derive(Debug, Clone)]
pub struct SinkStatus {
    /// Its name in the topology.
    pub name: Arc<str>,
    /// Whether an actor works for it right now.
    pub running: bool,
    /// What it is doing.
    pub state: SinkState,
    /// Whether its circuit is open or half open.
    pub circuit_open: bool,
    /// What the sink says of its connection; `None` when it says nothing.
    pub connected: Option<bool>,
    /// Since when the state holds.
    pub since: Timestamp,
    /// Why, when it is not delivering; while closed, why its latest attempt failed, until one succeeds.
    pub reason: Option<String>,
    /// What the sink found when it last connected that may hurt later, although it works: a sentence each.
    pub warnings: Vec<String>,
    /// Failed attempts in a row.
    pub failures: u32,
    /// When the first of them failed.
    pub failing_since: Option<Timestamp>,
    /// How often a fresh incarnation was started.
    pub restarts: u32,
    /// How the last ten incarnations ended, oldest first.
    pub causes: Vec<String>,
    /// How long the oldest waiting event waits.
    pub oldest_waiting_age: Option<Duration>,
    /// When an event last arrived.
    pub last_delivered_at: Option<Timestamp>,
    /// Why its disk buffer cannot be written, while that is so; what comes in waits in memory.
    pub disk_trouble: Option<String>,
    /// Whether its disk buffer is still in use by another process, or was never to be written so far, as `disk_trouble` tells:
    /// until then, what comes in waits in memory and is not confirmed.
    pub awaits_disk: bool,
    /// Places of its disk buffer that could not be read, and were set aside.
    pub damaged: u64,
    /// Events of earlier processes that were in its disk buffer and that this one has not found there: with files that are
    /// missing, cut short or exchanged, or in places that could not be read. Counted by the process that finds it, once; in
    /// none of the other numbers, as they were never recovered. A gap marker stands in their place.
    pub missing: u64,
    /// Its numbers.
    pub balance: Balance,
    /// What its own processors did; all zero where it has none.
    pub processed: Processed,
}

/// For people: `open (not sending since 03:12 UTC: connection refused; 1,204 waiting)`, or `closed (no confirm within 10s,
/// 1 failure, retrying; 1,204 waiting)`.
impl fmt::Display for SinkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = grouped(self.balance.waiting);
        let disk =
            self.disk_trouble.as_ref().map(|why| format!("; its disk buffer cannot be written: {why}"));
        let mut disk = disk.unwrap_or_default();
        if self.processed.waiting > 0 {
            let _ = write!(disk, "; {} with its processors", grouped(self.processed.waiting));
        }
        if self.state == SinkState::Closed {
            let doing = self.reason.as_deref().unwrap_or("delivering");
            let doing = match self.failures {
                0 => doing.to_owned(),
                1 => format!("{doing}, 1 failure, retrying"),
                failures => format!("{doing}, {failures} failures, retrying"),
            };
            return match self.balance.waiting {
                0 => write!(f, "closed ({doing}{disk})"),
                _ => write!(f, "closed ({doing}; {waiting} waiting{disk})"),
            };
        }
        let since = self.since.for_people(Timestamp::now());
        let reason = self.reason.as_deref().unwrap_or("no reason known");
        write!(f, "{} (not sending since {since}: {reason}; {waiting} waiting{disk})", self.state.as_str())
    }
}

/// `1204` as `1,204`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
