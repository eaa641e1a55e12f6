//! What is known of a sink from outside: published by its actor, never asked of it.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Buffer;
use super::breaker::CircuitState;
use crate::event::Timestamp;
use crate::supervise::Exit;

/// How many causes of restarts a status remembers.
const CAUSES: usize = 10;

/// The numbers of one sink, as of one moment:
/// `recovered + accepted = delivered + shed + dead_lettered + diverted + waiting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Balance {
    /// Found on disk at start.
    pub recovered: u64,
    /// Placed in its buffer, after its own processors.
    pub accepted: u64,
    /// Arrived.
    pub delivered: u64,
    /// Dropped under overload, counted and marked.
    pub shed: u64,
    /// Taken by the dead letters.
    pub dead_lettered: u64,
    /// Taken by the fallback.
    pub diverted: u64,
    /// In the buffer, those in flight included.
    pub waiting: u64,
    /// Those of them that are on disk, and survive the process.
    pub on_disk: u64,
    /// With the sink right now.
    pub in_flight: u64,
    /// Their size in bytes of JSON.
    pub waiting_bytes: u64,
    /// Gap markers and alerts that arrived; in none of the other numbers.
    pub notices: u64,
    /// How long the oldest of them waits.
    #[serde(skip)]
    pub oldest_waiting_age: Option<Duration>,
    /// How long ago the last delivery was.
    #[serde(skip)]
    pub last_delivered_age: Option<Duration>,
}

impl Balance {
    /// How many of the waiting events die with the process.
    #[must_use]
    pub fn in_memory(&self) -> u64 {
        self.waiting.saturating_sub(self.on_disk)
    }

    /// Adds the numbers of another sink.
    pub(crate) fn add(&mut self, other: &Balance) {
        self.recovered += other.recovered;
        self.accepted += other.accepted;
        self.delivered += other.delivered;
        self.shed += other.shed;
        self.dead_lettered += other.dead_lettered;
        self.diverted += other.diverted;
        self.waiting += other.waiting;
        self.on_disk += other.on_disk;
        self.waiting_bytes += other.waiting_bytes;
        self.notices += other.notices;
    }

    /// Whether the numbers balance.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.recovered + self.accepted
            == self.delivered + self.shed + self.dead_lettered + self.diverted + self.waiting
    }
}

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
    fn as_trouble(self) -> SinkState {
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

/// What the processors in front of one sink did:
/// `received + created = filtered + merged + failed + shed + passed + waiting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Processed {
    /// Came from the router.
    pub received: u64,
    /// Made.
    pub created: u64,
    /// Taken out.
    pub filtered: u64,
    /// Left inside another event.
    pub merged: u64,
    /// Lost to a panic or a hang, and dead-lettered.
    pub failed: u64,
    /// Dropped under overload in front of them, counted and marked; the numbers of the sink hold these, too.
    pub shed: u64,
    /// Given to the sink's buffer.
    pub passed: u64,
    /// With them, or in front of them.
    pub waiting: u64,
}

impl Processed {
    /// Whether the numbers balance.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.received + self.created
            == self.filtered + self.merged + self.failed + self.shed + self.passed + self.waiting
    }

    pub(crate) fn add(&mut self, other: &Processed) {
        self.received += other.received;
        self.created += other.created;
        self.filtered += other.filtered;
        self.merged += other.merged;
        self.failed += other.failed;
        self.shed += other.shed;
        self.passed += other.passed;
        self.waiting += other.waiting;
    }
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
    /// It ended as it was told, for good.
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

    pub(crate) fn take_signal(&self) -> Option<Signal> {
        self.signal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn signal(&self, signal: Signal) {
        *self.signal.lock().unwrap_or_else(PoisonError::into_inner) = Some(signal);
        self.call();
    }

    /// Forgets a block that the actor has not taken in.
    fn drop_block(&self) {
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

/// What a sink may tell the machine outside of a delivery, from any thread. Clones are cheap.
#[derive(Debug, Clone)]
pub struct SinkContext {
    name: Arc<str>,
    cell: Arc<StatusCell>,
    deliver_timeout: Duration,
}

impl SinkContext {
    pub(crate) fn new(name: Arc<str>, cell: Arc<StatusCell>, deliver_timeout: Duration) -> SinkContext {
        SinkContext { name, cell, deliver_timeout }
    }

    /// A context that nobody listens to, for a sink's own tests.
    #[must_use]
    pub fn detached(name: &str) -> SinkContext {
        SinkContext { name: name.into(), cell: StatusCell::new(), deliver_timeout: Duration::from_secs(30) }
    }

    /// The sink's name in the topology.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long one delivery may take before it is dropped, 30 s by default. A sink that settles many events one after
    /// the other stops in time, and says of the rest that they are `unsent`.
    #[must_use]
    pub fn deliver_timeout(&self) -> Duration {
        self.deliver_timeout
    }

    /// The broker asks to be left alone: the circuit opens, with this reason, until [`unblock`](Self::unblock), or
    /// until a probe arrives (an `unblock` can be lost with its connection).
    pub fn block(&self, reason: impl Into<String>) {
        self.cell.signal(Signal::Block(reason.into()));
    }

    /// The broker takes events again: the circuit probes at once.
    pub fn unblock(&self) {
        self.cell.signal(Signal::Unblock);
    }

    /// Publishes whether there is a connection. What a lost one was blocked for is no longer of account.
    pub fn connected(&self, connected: bool) {
        if !connected {
            self.cell.drop_block();
        }
        self.cell.lock().connected = Some(connected);
    }

    /// Publishes what was found on connecting that may hurt later, a sentence each, in place of what was found before:
    /// [`SinkStatus::warnings`].
    pub fn warnings(&self, found: Vec<String>) {
        self.cell.lock().warnings = found;
    }

    /// Says whether what fails now may be the trouble of single events alone. While it may, the probe of an open circuit
    /// is a whole batch instead of one event: others of it show whether the destination works.
    pub fn probe_widely(&self, wide: bool) {
        self.cell.wide_probe.store(wide, Ordering::Relaxed);
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

    #[test]
    fn a_block_that_nobody_has_taken_in_ends_with_its_connection() {
        let cell = StatusCell::new();
        let context = SinkContext::new("live".into(), cell.clone(), Duration::from_secs(1));
        context.block("no memory");
        context.connected(true);
        assert_eq!(cell.take_signal(), Some(Signal::Block("no memory".to_owned())));
        context.block("no memory");
        context.connected(false);
        assert_eq!(cell.take_signal(), None);
        context.unblock();
        context.connected(false);
        assert_eq!(cell.take_signal(), Some(Signal::Unblock));
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
