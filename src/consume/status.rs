//! What is known of a consumer from outside: its state and the reason for it, how far behind it is, and numbers that balance.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use streamll_actors::event::Timestamp;
use streamll_actors::sink::{DeliveryError, ErrorClass};
use tokio::sync::watch;

/// The state of a consumer's connection to its broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerState {
    /// Not connected yet, or not any more. The consumer connects again by itself. In status and logs: `open`.
    Disconnected,
    /// Connected, and events come in.
    Consuming,
    /// No more events come in. Those in hand are being finished.
    Stopping,
    /// The consumer has ended.
    Stopped,
}

impl ConsumerState {
    /// The word for it in status and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ConsumerState::Disconnected => "open",
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
    /// Entries that came in. An entry that comes again counts again.
    pub received: u64,
    /// Events that all handlers have handled that wanted them.
    pub handled: u64,
    /// Events that no handler wanted, or that a filter left out.
    pub filtered: u64,
    /// Events that the duplicate filter knew.
    pub duplicate: u64,
    /// Entries that are dead letters now: they are no event, or a handler has given them up.
    pub dead_lettered: u64,
    /// The same entries of a consumer that keeps no dead letters.
    pub failed: u64,
    /// Events that were given back to the broker before they were handled. The broker delivers them again.
    pub returned: u64,
    /// Events in hand.
    pub in_flight: u64,
    /// How often a handler was called again after it had failed. This is part of none of the other numbers.
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

/// The status of a consumer at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// The state of its connection.
    pub state: ConsumerState,
    /// Why the consumer is not connected, or what else is wrong.
    pub reason: Option<String>,
    /// The class of the error that disconnected it. Sinks have the same classes; `misconfigured` needs a person.
    pub class: Option<ErrorClass>,
    /// When the consumer came into this state.
    pub since: Timestamp,
    /// How many connections the consumer had, the present one included.
    pub connections: u64,
    /// How many events wait at the broker for the consumer and its group. Events in hand are not counted. `None` if the broker
    /// does not tell.
    pub lag: Option<u64>,
    /// How often the consumer noticed that events were gone before it had read them.
    pub gaps: u64,
    /// How many events were gone. The number is a lower bound for a Redis stream, and an upper bound for a RabbitMQ stream
    /// queue.
    pub missed: u64,
    /// Where to continue later: everything up to this id of a Redis stream, or up to this offset of a RabbitMQ stream queue, is
    /// done. `None` with a Redis group and with other queues, because the broker itself knows.
    pub cursor: Option<String>,
    /// Why the last entry was given up: it is no event, or a handler has given it up.
    pub last_failure: Option<String>,
    /// When the last event came in.
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
            (ConsumerState::Disconnected, reason) => {
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
    /// The number of the connection: entries of earlier ones come again by themselves.
    epoch: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new() -> Shared {
        let status = ConsumerStatus {
            state: ConsumerState::Disconnected,
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

    /// Changes the state. If the connection had been lost before, the log says that it is back.
    pub(super) fn set_state(&self, state: ConsumerState) {
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

    /// The connection is lost, or could not be made. The log says so once for each reason.
    pub(super) fn disconnected(&self, error: &DeliveryError) {
        let reason = error.to_string();
        let status = &mut *self.lock();
        if status.state != ConsumerState::Disconnected {
            (status.state, status.since) = (ConsumerState::Disconnected, Timestamp::now());
        }
        if status.reason.as_ref() != Some(&reason) {
            tracing::warn!(class = error.class().as_str(), "not receiving: {reason}");
        }
        (status.reason, status.class) = (Some(reason), Some(error.class()));
    }

    /// Dead letters wait. The log says so once for each reason.
    pub(super) fn letters_wait(&self, why: &str) {
        let reason = format!("dead letters cannot be kept, and wait: {why}");
        let status = &mut *self.lock();
        if status.reason.as_ref() != Some(&reason) {
            tracing::warn!("{reason}");
        }
        status.reason = Some(reason);
    }

    /// A dead letter is kept. The log says so if letters had to wait before.
    pub(super) fn letters_kept(&self) {
        self.change(|status| {
            if status.state != ConsumerState::Disconnected && status.reason.take().is_some() {
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

    /// Waits until there is a later connection than this one.
    pub(super) async fn epoch_after(&self, epoch: u64) {
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
        shared.disconnected(&DeliveryError::unavailable("redis://h:1: connection refused"));
        let text = shared.status().to_string();
        assert!(
            text.starts_with("open (not receiving since ")
                && text.ends_with(": redis://h:1: connection refused)"),
            "{text}"
        );
        shared.set_state(ConsumerState::Consuming);
        assert_eq!(shared.status().to_string(), "consuming");
        shared.change(|status| status.lag = Some(1204));
        assert_eq!(shared.status().to_string(), "consuming (1,204 behind)");
    }

    #[test]
    fn a_new_reason_keeps_the_time_since_when_nothing_came() {
        let shared = Shared::new();
        let since = shared.status().since;
        shared.disconnected(&DeliveryError::unavailable("a"));
        shared.disconnected(&DeliveryError::misconfigured("b"));
        let status = shared.status();
        assert_eq!(
            (status.since, status.reason.as_deref(), status.class),
            (since, Some("b"), Some(ErrorClass::Misconfigured))
        );
    }
}
