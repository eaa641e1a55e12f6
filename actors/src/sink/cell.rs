//! Where a sink's actor publishes, and from where everybody reads: it is never asked of the actor.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::balance::{Balance, Processed};
use super::buffer::Buffer;
use super::status::{SinkState, SinkStatus};
use crate::event::Timestamp;
use crate::supervise::Exit;

/// How many causes of restarts a status remembers.
const CAUSES: usize = 10;

/// Where a sink's actor publishes, and from where everybody reads.
#[derive(Debug)]
pub(crate) struct StatusCell {
    published: Mutex<Published>,
    /// A block or unblock that the actor has not taken in yet.
    signal: Mutex<Option<Signal>>,
    pub(crate) signalled: Notify,
    progressed: AtomicBool,
    wide_probe: AtomicBool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signal {
    Block(String),
    Unblock,
}

#[derive(Debug)]
struct Published {
    running: bool,
    /// It ended as it was ordered, for good.
    stopped: bool,
    state: SinkState,
    connected: Option<bool>,
    since: Timestamp,
    since_instant: Instant,
    trouble: Trouble,
    warnings: Vec<String>,
    restarts: u32,
    causes: VecDeque<String>,
    beat: Option<Instant>,
}

/// What is wrong, until a delivery succeeds.
#[derive(Debug, Default)]
struct Trouble {
    reason: Option<String>,
    failures: u32,
    /// When the first of these failures was.
    since: Option<Timestamp>,
    /// When the first of the incarnations ended that delivered nothing.
    ended: Option<Instant>,
}

/// What a change of state means for whoever reads the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// It stopped sending.
    Opened(String),
    /// It sends again, after so long.
    Closed(Duration),
}

impl StatusCell {
    pub(crate) fn new() -> Arc<StatusCell> {
        Arc::new(StatusCell {
            published: Mutex::new(Published {
                running: false,
                stopped: false,
                state: SinkState::Closed,
                connected: None,
                since: Timestamp::now(),
                since_instant: Instant::now(),
                trouble: Trouble::default(),
                warnings: Vec::new(),
                restarts: 0,
                causes: VecDeque::new(),
                beat: None,
            }),
            signal: Mutex::default(),
            signalled: Notify::new(),
            progressed: AtomicBool::new(false),
            wide_probe: AtomicBool::new(false),
        })
    }

    pub(crate) fn set_state(
        &self,
        state: SinkState,
        reason: Option<String>,
        failures: u32,
    ) -> Option<Change> {
        let published = &mut *self.lock();
        // A probe that failed is no new beginning: it has not been sending since the circuit opened.
        let is_new = published.state.as_trouble() != state.as_trouble();
        let lasted = published.since_instant.elapsed();
        if is_new {
            published.since = Timestamp::now();
            published.since_instant = Instant::now();
            if state == SinkState::Closed {
                published.trouble = Trouble::default();
            }
        }
        published.state = state;
        let trouble = &mut published.trouble;
        trouble.failures = failures;
        if failures > 0 {
            trouble.since.get_or_insert_with(Timestamp::now);
        }
        if reason.is_some() {
            trouble.reason = reason;
        }
        is_new.then(|| match state {
            SinkState::Closed => Change::Closed(lasted),
            _ => Change::Opened(trouble.reason.clone().unwrap_or_default()),
        })
    }

    /// Something was delivered, or there was nothing to deliver and the sink works. Returns for how long it was crashing,
    /// if it was.
    pub(crate) fn succeeded(&self) -> Option<Duration> {
        std::mem::take(&mut self.lock().trouble).ended.map(|ended| ended.elapsed())
    }

    /// An attempt is over that neither failed nor delivered anything.
    pub(crate) fn passed(&self) {
        let trouble = &mut self.lock().trouble;
        if trouble.failures == 0 {
            trouble.reason = None;
        }
    }

    /// Gives a reason where there is none.
    pub(crate) fn explain(&self, reason: impl FnOnce() -> String) {
        self.lock().trouble.reason.get_or_insert_with(reason);
    }

    pub(crate) fn state(&self) -> (SinkState, Instant, Option<String>) {
        let published = self.lock();
        (published.state, published.since_instant, published.trouble.reason.clone())
    }

    pub(crate) fn started(&self) {
        let mut published = self.lock();
        published.running = true;
        published.beat = None;
    }

    pub(crate) fn ended(&self, exit: &Exit) {
        let mut published = self.lock();
        published.running = false;
        published.stopped = *exit == Exit::Stopped;
        published.connected = published.connected.map(|_| false);
        if *exit != Exit::Stopped {
            published.trouble.reason = Some(exit.to_string());
            published.trouble.ended.get_or_insert_with(Instant::now);
            if published.causes.len() == CAUSES {
                published.causes.pop_front();
            }
            published.causes.push_back(exit.to_string());
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    pub(crate) fn restarted(&self) {
        self.lock().restarts += 1;
    }

    pub(crate) fn beat(&self, now: Instant) {
        self.lock().beat = Some(now);
    }

    /// How long the thread of a running actor has not moved.
    pub(crate) fn silence(&self, now: Instant) -> Option<Duration> {
        let published = self.lock();
        published.beat.filter(|_| published.running).map(|beat| now.saturating_duration_since(beat))
    }

    pub(crate) fn progress(&self) {
        self.progressed.store(true, Ordering::Relaxed);
    }

    /// Whether something was delivered since the last question.
    pub(crate) fn take_progress(&self) -> bool {
        self.progressed.swap(false, Ordering::Relaxed)
    }

    /// Whether a probe may bring more than one event.
    pub(crate) fn probes_widely(&self) -> bool {
        self.wide_probe.load(Ordering::Relaxed)
    }

    pub(super) fn set_probes_widely(&self, wide: bool) {
        self.wide_probe.store(wide, Ordering::Relaxed);
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.lock().connected = Some(connected);
    }

    pub(super) fn set_warnings(&self, found: Vec<String>) {
        self.lock().warnings = found;
    }

    pub(crate) fn take_signal(&self) -> Option<Signal> {
        self.signal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn signal(&self, signal: Signal) {
        *self.signal.lock().unwrap_or_else(PoisonError::into_inner) = Some(signal);
        self.call();
    }

    /// Forgets a block that the actor has not taken in.
    pub(super) fn drop_block(&self) {
        self.signal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take_if(|signal| matches!(signal, Signal::Block(_)));
    }

    /// Makes the actor look: the one that listens now, be there another whose thread is stuck, or the next to come.
    pub(crate) fn call(&self) {
        self.signalled.notify_waiters();
        self.signalled.notify_one();
    }

    pub(crate) fn snapshot(&self, buffer: &Buffer, now: Instant) -> SinkStatus {
        let (disk_trouble, awaits_disk) = (buffer.disk_trouble(), buffer.awaits_disk());
        let (damaged, missing) = buffer.disk_damage();
        SinkStatus {
            disk_trouble,
            awaits_disk,
            damaged,
            missing,
            ..self.status(buffer.name(), buffer.balance(now))
        }
    }

    fn status(&self, name: &Arc<str>, balance: Balance) -> SinkStatus {
        let published = self.lock();
        let ago = |age: Duration| {
            let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            Timestamp::from_micros(Timestamp::now().as_micros().saturating_sub(micros))
        };
        SinkStatus {
            name: name.clone(),
            running: published.running,
            state: published.state,
            circuit_open: matches!(published.state, SinkState::Open | SinkState::HalfOpen),
            connected: published.connected,
            since: published.since,
            reason: published.trouble.reason.clone(),
            warnings: published.warnings.clone(),
            failures: published.trouble.failures,
            failing_since: published.trouble.since,
            restarts: published.restarts,
            causes: published.causes.iter().cloned().collect(),
            oldest_waiting_age: balance.oldest_waiting_age,
            last_delivered_at: balance.last_delivered_age.map(ago),
            disk_trouble: None,
            awaits_disk: false,
            damaged: 0,
            missing: 0,
            balance,
            processed: Processed::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_since_when_why_and_how_many() {
        let cell = StatusCell::new();
        cell.set_state(SinkState::Open, Some("connection refused".to_owned()), 3);
        let status =
            cell.status(&"live".into(), Balance { accepted: 1204, waiting: 1204, ..Balance::default() });
        let text = status.to_string();
        assert!(text.starts_with("open (not sending since "), "{text}");
        assert!(text.ends_with(": connection refused; 1,204 waiting)"), "{text}");
        assert!(status.balance.holds());
    }

    #[test]
    fn people_read_why_a_closed_sink_fails_until_it_delivers() {
        let cell = StatusCell::new();
        let shown = |waiting: u64| {
            let balance = Balance { accepted: waiting, waiting, ..Balance::default() };
            let status = cell.status(&"live".into(), balance);
            (status.to_string(), status.failing_since.is_some())
        };
        cell.set_state(SinkState::Closed, Some("no confirm within 10s".to_owned()), 1);
        let first = "closed (no confirm within 10s, 1 failure, retrying; 1,204 waiting)";
        assert_eq!(shown(1204), (first.to_owned(), true));
        cell.set_state(SinkState::Closed, Some("refused".to_owned()), 2);
        assert_eq!(shown(0), ("closed (refused, 2 failures, retrying)".to_owned(), true));
        cell.succeeded();
        cell.set_state(SinkState::Closed, None, 0);
        assert_eq!(shown(7), ("closed (delivering; 7 waiting)".to_owned(), false));
    }
}
