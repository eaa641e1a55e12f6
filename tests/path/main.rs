//! The whole path as applications use it: from `emit` in any program to what arrives in sinks.

mod content;
mod context;
mod ending;
mod examples;
mod handle;
mod install;
mod names;
mod overload;
mod readme;
mod schema;
mod secrets;
#[cfg(unix)]
mod signals;
mod start;
mod wire;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use streamll::{Deliveries, DeliveryError, Drained, Handle, Sink, SinkSpec, Topology};

/// More time than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// What arrived in a sink, for as long as somebody asks.
#[derive(Clone, Default)]
struct Kept(Arc<(Mutex<Pages>, Condvar)>);

#[derive(Default)]
struct Pages {
    arrivals: Vec<Arrival>,
    /// How often the sink was closed.
    closed: usize,
    /// Deliveries wait while this is set.
    held: bool,
}

/// One event as a sink got it.
#[derive(Clone)]
struct Arrival {
    key: String,
    text: String,
    json: Value,
}

impl Arrival {
    fn kind(&self) -> &str {
        self.json["event_type"].as_str().unwrap_or_default()
    }

    fn n(&self) -> u64 {
        self.json["data"]["n"].as_u64().unwrap_or(u64::MAX)
    }
}

impl Kept {
    fn spec(&self) -> SinkSpec {
        let kept = self.clone();
        SinkSpec::new("", move || Keeping(kept.clone()))
    }

    fn arrivals(&self) -> Vec<Arrival> {
        self.pages().arrivals.clone()
    }

    fn kinds(&self) -> Vec<String> {
        self.pages().arrivals.iter().map(|arrival| arrival.kind().to_owned()).collect()
    }

    fn numbers(&self) -> Vec<u64> {
        self.pages().arrivals.iter().map(Arrival::n).collect()
    }

    /// Keeps the sink from delivering until [`let_go`](Self::let_go).
    fn hold(&self) {
        self.pages().held = true;
    }

    fn let_go(&self) {
        self.pages().held = false;
        self.0.1.notify_all();
    }

    /// Waits until the sink is closed.
    fn wait_until_closed(&self) {
        let closed = self.0.1.wait_timeout_while(self.pages(), LONG, |pages| pages.closed == 0);
        assert!(!closed.unwrap().1.timed_out(), "the sink is still open");
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Keeping(Kept);

impl Sink for Keeping {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        let Kept(kept) = &self.0;
        let mut pages = kept.1.wait_while(self.0.pages(), |pages| pages.held).unwrap();
        pages.arrivals.extend(batch.iter().map(|delivery| Arrival {
            key: delivery.key().to_string(),
            text: String::from_utf8(delivery.event.json().to_vec()).expect("JSON is UTF-8"),
            json: serde_json::from_slice(delivery.event.json()).expect("it is JSON"),
        }));
        Ok(())
    }

    async fn close(&mut self) {
        self.0.pages().closed += 1;
        self.0.0.1.notify_all();
    }
}

/// A topology with one sink that keeps what arrives.
fn topology() -> (Handle, Kept) {
    let kept = Kept::default();
    let handle = Topology::builder("rag-api").sink("kept", kept.spec()).start().expect("it starts");
    (handle, kept)
}

/// Ends a topology in which everything arrives, and checks its books.
#[track_caller]
fn end(handle: &Handle) -> Drained {
    let drained = end_anyhow(handle);
    assert!(drained.complete, "not everything arrived: {:#?}", drained.status);
    drained
}

/// Ends a topology that may have lost something, and checks its books.
#[track_caller]
fn end_anyhow(handle: &Handle) -> Drained {
    let drained = handle.shutdown_blocking(LONG);
    assert!(drained.status.balances(), "the numbers do not balance: {:#?}", drained.status);
    drained
}

/// Runs a future to its end, on this thread and with timers.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}
