//! A sink that follows a script, and records the events that arrive.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::graph::SinkSpec;
use crate::sink::{Deliveries, DeliveryError, Placement, Sink, SinkContext};

/// What a scripted sink does at one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Act {
    /// All events arrive.
    Deliver,
    /// This many events arrive. Then the broker is away.
    Unavailable(usize),
    /// This many events arrive. Then the outcome is unknown.
    Unknown(usize),
    /// This many events arrive, but the answer is lost, so that the sink does not know that they arrived.
    Cut(usize),
    /// The broker refuses for now, because it is overloaded.
    Overload,
    /// The password is wrong.
    Misconfigured,
    /// One event of the batch is bad.
    Rejected,
    /// The sink is broken.
    Fatal,
    /// The sink panics, after this many events have arrived.
    Panic(usize),
    /// The delivery never returns.
    Hang,
}

/// One event that arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The time since the journal was made.
    pub at: Duration,
    /// The key of the event.
    pub key: String,
    /// The number of the attempt.
    pub attempt: u32,
    /// The event as JSON.
    pub json: serde_json::Value,
}

impl Arrival {
    /// Returns the number under `data.n`.
    #[must_use]
    pub fn n(&self) -> Option<u64> {
        self.json.get("data")?.get("n")?.as_u64()
    }

    /// Returns the number under `seq`.
    #[must_use]
    pub fn seq(&self) -> Option<u64> {
        self.json.get("seq")?.as_u64()
    }

    /// Returns the number under one key of `data`, for example `count`, `from_seq` and `to_seq` of a gap marker.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.json.get("data")?.get(key)?.as_u64()
    }

    /// Returns the type of the event.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.json.get("event_type").and_then(|kind| kind.as_str()).unwrap_or_default()
    }
}

/// Records what happens to a scripted sink, over all its incarnations.
#[derive(Clone)]
pub struct Journal(Arc<Mutex<Pages>>);

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("arrivals", &self.pages().arrivals.len()).finish_non_exhaustive()
    }
}

/// Acts for batches that hold an event with a matching number.
type Whims = Vec<(Box<dyn Fn(u64) -> bool + Send>, Act)>;

struct Pages {
    began: Instant,
    whims: Whims,
    script: VecDeque<Act>,
    opens: VecDeque<Act>,
    arrivals: Vec<Arrival>,
    batches: Vec<usize>,
    opened: usize,
    closed: usize,
}

impl Journal {
    /// Makes a sink that follows `script`, with one act for each delivery. After the end of the script it delivers
    /// everything.
    #[must_use]
    pub fn new(script: impl IntoIterator<Item = Act>) -> Journal {
        Journal(Arc::new(Mutex::new(Pages {
            began: Instant::now(),
            whims: Vec::new(),
            script: script.into_iter().collect(),
            opens: VecDeque::new(),
            arrivals: Vec::new(),
            batches: Vec::new(),
            opened: 0,
            closed: 0,
        })))
    }

    /// Sets what the next calls of `open` do. After that, `open` works.
    #[must_use]
    pub fn opening(self, acts: impl IntoIterator<Item = Act>) -> Journal {
        self.pages().opens.extend(acts);
        self
    }

    /// Plays `act` at every delivery that holds an event whose `data.n` matches, whatever the script says.
    #[must_use]
    pub fn whenever(self, n: impl Fn(u64) -> bool + Send + 'static, act: Act) -> Journal {
        self.pages().whims.push((Box::new(n), act));
        self
    }

    /// Adds acts at the end of the script.
    pub fn play(&self, acts: impl IntoIterator<Item = Act>) {
        self.pages().script.extend(acts);
    }

    /// Makes the sink itself. Each delivery takes the time `takes`.
    #[must_use]
    pub fn sink(&self, takes: Duration) -> Scripted {
        Scripted { journal: self.clone(), takes }
    }

    /// Makes the spec of the sink, which runs on the thread of the spine.
    #[must_use]
    pub fn spec(&self, name: &str, takes: Duration) -> SinkSpec {
        let journal = self.clone();
        let mut spec = SinkSpec::new(name, move || journal.sink(takes));
        spec.placement = Placement::Spine;
        spec
    }

    /// Returns the events that arrived, in order.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.pages().arrivals.clone()
    }

    /// Returns the numbers under `data.n` of the events that arrived, in order. Events without this number are left
    /// out.
    #[must_use]
    pub fn numbers(&self) -> Vec<u64> {
        self.pages().arrivals.iter().filter_map(Arrival::n).collect()
    }

    /// Returns the types of the events that arrived, in order.
    #[must_use]
    pub fn kinds(&self) -> Vec<String> {
        self.pages().arrivals.iter().map(|arrival| arrival.kind().to_owned()).collect()
    }

    /// Returns the sizes of the batches that the sink got, in order.
    #[must_use]
    pub fn batches(&self) -> Vec<usize> {
        self.pages().batches.clone()
    }

    /// Returns how often the sink was opened, and how often it was closed.
    #[must_use]
    pub fn opened_and_closed(&self) -> (usize, usize) {
        let pages = self.pages();
        (pages.opened, pages.closed)
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One incarnation of a scripted sink.
pub struct Scripted {
    journal: Journal,
    takes: Duration,
}

impl Scripted {
    async fn play(&self, act: Act) -> Result<(), DeliveryError> {
        match act {
            Act::Deliver => Ok(()),
            Act::Unavailable(_) => Err(DeliveryError::unavailable("connection refused")),
            Act::Unknown(_) | Act::Cut(_) => Err(DeliveryError::unknown("connection lost")),
            Act::Overload => Err(DeliveryError::overload("out of memory")),
            Act::Misconfigured => Err(DeliveryError::misconfigured("wrong password")),
            Act::Rejected => Err(DeliveryError::rejected("bad event")),
            Act::Fatal => Err(DeliveryError::fatal("broken")),
            Act::Panic(_) => std::panic::panic_any("scripted panic"),
            Act::Hang => std::future::pending().await,
        }
    }
}

impl Sink for Scripted {
    async fn open(&mut self, _: &SinkContext) -> Result<(), DeliveryError> {
        let act = {
            let mut pages = self.journal.pages();
            pages.opened += 1;
            pages.opens.pop_front()
        };
        self.play(act.unwrap_or(Act::Deliver)).await
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        let (act, arrived) = {
            let mut pages = self.journal.pages();
            pages.batches.push(batch.len());
            let holds = |n: &dyn Fn(u64) -> bool| {
                batch.iter().filter_map(|delivery| delivery.event.data("n")?.as_u64()).any(n)
            };
            let whim = pages.whims.iter().find(|(n, _)| holds(n)).map(|(_, act)| *act);
            let act = whim.or_else(|| pages.script.pop_front()).unwrap_or(Act::Deliver);
            let arrived = match act {
                Act::Deliver => batch.len(),
                Act::Unavailable(n) | Act::Unknown(n) | Act::Cut(n) | Act::Panic(n) => n.min(batch.len()),
                _ => 0,
            };
            let at = pages.began.elapsed();
            pages.arrivals.extend(batch.iter().take(arrived).map(|delivery| Arrival {
                at,
                key: delivery.key().to_string(),
                attempt: delivery.attempt,
                json: serde_json::from_slice(delivery.event.json()).unwrap_or_default(),
            }));
            (act, arrived)
        };
        let known = if matches!(act, Act::Cut(_)) { 0 } else { arrived };
        (0..known).for_each(|i| batch.delivered(i));
        self.play(act).await
    }

    async fn close(&mut self) {
        self.journal.pages().closed += 1;
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").finish_non_exhaustive()
    }
}
