//! What is known of a consumer from outside: its state and why, how far behind it is, and numbers that balance.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use streamll_actors::event::Timestamp;
use streamll_actors::sink::{DeliveryError, ErrorClass};
use tokio::sync::watch;

/// How a consumer stands with its broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerState {
    /// Not connected yet, or not any more; it tries again by itself.
    Open,
    /// Connected, and events come in.
    Consuming,
    /// No more events come in; those in hand are being finished.
    Stopping,
    /// At its end.
    Stopped,
}

impl ConsumerState {
    /// The word for it in status and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ConsumerState::Open => "open",
            ConsumerState::Consuming => "consuming",
            ConsumerState::Stopping => "stopping",
            ConsumerState::Stopped => "stopped",
        }
    }
}

/// The numbers of one consumer, as of one moment:
/// `received = handled + filtered + duplicate + dead_lettered + failed + returned + in_flight`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConsumerBalance {
    /// Entries that came in; one that comes again counts again.
    pub received: u64,
    /// All handlers that wanted it have taken it.
    pub handled: u64,
    /// No handler wanted it, or a filter was against it.
    pub filtered: u64,
    /// The duplicate filter knew it.
    pub duplicate: u64,
    /// No event, or one that a handler could not take, kept by the dead letters.
    pub dead_lettered: u64,
    /// The same, where there are no dead letters.
    pub failed: u64,
    /// Given back to the broker before it was handled, which delivers it again.
    pub returned: u64,
    /// In hand.
    pub in_flight: u64,
    /// How often a handler was called again after it had failed; in none of the other numbers.
    pub retried: u64,
}

impl ConsumerBalance {
    /// Whether the numbers balance.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.received
            == self.handled
                + self.filtered
                + self.duplicate
                + self.dead_lettered
                + self.failed
                + self.returned
                + self.in_flight
    }
}

/// A consumer at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// How it stands with its broker.
    pub state: ConsumerState,
    /// Why it is open, or what else is wrong.
    pub reason: Option<String>,
    /// The class of that error, as sinks have it: `misconfigured` needs a person.
    pub class: Option<ErrorClass>,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// How many connections it had, the present one included.
    pub connections: u64,
    /// How many events wait at the broker for it and its group, those in hand not counted; `None` where the broker does
    /// not tell.
    pub lag: Option<u64>,
    /// How often it noticed that events were gone before it had read them.
    pub gaps: u64,
    /// How many events those were: at least, of a Redis stream, and at most, of a queue that is a stream.
    pub missed: u64,
    /// Where to go on: everything up to this id of a Redis stream, or this offset of a RabbitMQ queue that is a stream,
    /// is done. `None` with a group of Redis and with other queues, which keep it themselves.
    pub cursor: Option<String>,
    /// Why an entry was given up last: it is no event, or a handler could not take it.
    pub last_failure: Option<String>,
    /// When an event came in last.
    pub last_received_at: Option<Timestamp>,
    /// The numbers.
    pub balance: ConsumerBalance,
}

impl ConsumerStatus {
    /// Whether the numbers balance.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.balance.holds()
    }
}

/// For people: `open (not receiving since 03:12 UTC: connection refused)`, `consuming (1,204 behind)`.
impl fmt::Display for ConsumerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.state.as_str())?;
        let since = self.since.for_people(Timestamp::now());
        match (self.state, &self.reason) {
            (ConsumerState::Open, reason) => {
                write!(f, " (not receiving since {since}: {})", reason.as_deref().unwrap_or("connecting"))
            }
            (_, Some(reason)) => write!(f, " ({reason})"),
            (ConsumerState::Consuming, None) => match self.lag {
                Some(0) => f.write_str(" (nothing waits)"),
                Some(lag) => write!(f, " ({} behind)", grouped(lag)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
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

/// What a consumer, its workers and its handles share.
#[derive(Debug)]
pub(super) struct Shared {
    status: Mutex<ConsumerStatus>,
    stop: watch::Sender<bool>,
    /// Entries of earlier connections than this come again by themselves.
    epoch: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new() -> Shared {
        let status = ConsumerStatus {
            state: ConsumerState::Open,
            reason: None,
            class: None,
            since: Timestamp::now(),
            connections: 0,
            lag: None,
            gaps: 0,
            missed: 0,
            cursor: None,
            last_failure: None,
            last_received_at: None,
            balance: ConsumerBalance::default(),
        };
        Shared { status: Mutex::new(status), stop: watch::Sender::new(false), epoch: watch::Sender::new(0) }
    }

    pub(super) fn status(&self) -> ConsumerStatus {
        self.lock().clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut ConsumerStatus)) {
        change(&mut self.lock());
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.lock().balance.in_flight
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut ConsumerBalance)) {
        change(&mut self.lock().balance);
    }

    /// Where the connection had been lost before, the log hears that it is back.
    pub(super) fn turn(&self, state: ConsumerState) {
        self.change(|status| {
            if state == ConsumerState::Consuming && status.reason.is_some() {
                let after = format!("{:.1}s", Timestamp::now().since(status.since).as_secs_f64());
                tracing::warn!(%after, "receiving again");
            }
            status.state = state;
            status.since = Timestamp::now();
            (status.reason, status.class) = (None, None);
        });
    }

    /// The connection is lost; says so once for each reason.
    pub(super) fn lost(&self, error: &DeliveryError) {
        let reason = error.to_string();
        let status = &mut *self.lock();
        if status.state != ConsumerState::Open {
            (status.state, status.since) = (ConsumerState::Open, Timestamp::now());
        }
        if status.reason.as_ref() != Some(&reason) {
            tracing::warn!(class = error.class().as_str(), "not receiving: {reason}");
        }
        (status.reason, status.class) = (Some(reason), Some(error.class()));
    }

    /// Dead letters wait; says so once for each reason.
    pub(super) fn unkept(&self, why: &str) {
        let reason = format!("dead letters cannot be kept, and wait: {why}");
        let status = &mut *self.lock();
        if status.reason.as_ref() != Some(&reason) {
            tracing::warn!("{reason}");
        }
        status.reason = Some(reason);
    }

    /// A dead letter is kept; says so where others had to wait.
    pub(super) fn kept(&self) {
        self.change(|status| {
            if status.state != ConsumerState::Open && status.reason.take().is_some() {
                tracing::warn!("dead letters are kept again");
            }
        });
    }

    /// Events are gone before they were read.
    pub(super) fn gap(&self, missed: u64, why: &str) {
        tracing::warn!(missed, "{why}");
        self.change(|status| {
            status.gaps += 1;
            status.missed += missed;
        });
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    pub(super) async fn stopped(&self) {
        // The sender lives as long as `self`.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    pub(super) fn set_epoch(&self, epoch: u64) {
        self.epoch.send_replace(epoch);
    }

    pub(super) fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    /// Waits until entries of this connection come again.
    pub(super) async fn outlived(&self, epoch: u64) {
        // The sender lives as long as `self`.
        let _ = self.epoch.subscribe().wait_for(|now| epoch < *now).await;
    }

    fn lock(&self) -> MutexGuard<'_, ConsumerStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_since_when_and_why() {
        let shared = Shared::new();
        shared.lost(&DeliveryError::unavailable("redis://h:1: connection refused"));
        let text = shared.status().to_string();
        assert!(
            text.starts_with("open (not receiving since ")
                && text.ends_with(": redis://h:1: connection refused)"),
            "{text}"
        );
        shared.turn(ConsumerState::Consuming);
        assert_eq!(shared.status().to_string(), "consuming");
        shared.change(|status| status.lag = Some(1204));
        assert_eq!(shared.status().to_string(), "consuming (1,204 behind)");
    }

    #[test]
    fn a_new_reason_keeps_the_time_since_when_nothing_came() {
        let shared = Shared::new();
        let since = shared.status().since;
        shared.lost(&DeliveryError::unavailable("a"));
        shared.lost(&DeliveryError::misconfigured("b"));
        let status = shared.status();
        assert_eq!(
            (status.since, status.reason.as_deref(), status.class),
            (since, Some("b"), Some(ErrorClass::Misconfigured))
        );
    }
}
