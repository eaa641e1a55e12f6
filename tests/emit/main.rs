//! What applications call: scopes, contexts, token streams, and the topology of the whole process.

mod concurrency;
mod contexts;
mod global;
mod leaks;
mod scopes;
mod tokens;
mod traceparent;
mod usage;

use std::fmt::{self, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::Value;
use streamll::testkit::Journal;
use streamll::{Handle, Topology};
use tokio_stream::Stream;

/// More time than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// A topology with one sink that keeps what arrives.
fn topology() -> (Handle, Journal) {
    let kept = Journal::new([]);
    let spec = kept.spec("kept", Duration::ZERO);
    let handle = Topology::builder("rag-api").sink("kept", spec).start().expect("it starts");
    (handle, kept)
}

/// Ends a topology in which everything arrives, checks its books, and returns what arrived.
#[track_caller]
fn end(handle: &Handle, kept: &Journal) -> Vec<Value> {
    let drained = handle.shutdown_blocking(LONG);
    assert!(drained.status.balances(), "the numbers do not balance: {:#?}", drained.status);
    assert!(drained.complete, "not everything arrived: {:#?}", drained.status);
    kept.arrivals().into_iter().map(|arrival| arrival.json).collect()
}

/// The type and the operation of each event: `start answer`.
fn told(events: &[Value]) -> Vec<String> {
    let word = |event: &Value, key: &str| event[key].as_str().unwrap_or("-").to_owned();
    events.iter().map(|event| format!("{} {}", word(event, "event_type"), word(event, "operation"))).collect()
}

/// The only event of that type and operation.
#[track_caller]
fn one<'a>(events: &'a [Value], kind: &str, operation: &str) -> &'a Value {
    let is = |event: &&Value| event["event_type"] == kind && event["operation"] == operation;
    let mut found = events.iter().filter(is);
    let first = found.next().unwrap_or_else(|| panic!("no {kind} of {operation} in {:?}", told(events)));
    assert!(found.next().is_none(), "two {kind} of {operation}");
    first
}

/// Runs a future to its end, on this thread and with timers.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

/// Items of which only every other poll finds one.
struct Halting<T> {
    items: std::vec::IntoIter<T>,
    ready: bool,
}

fn halting<T>(items: impl IntoIterator<Item = T>) -> Halting<T> {
    Halting { items: items.into_iter().collect::<Vec<_>>().into_iter(), ready: false }
}

impl<T> Unpin for Halting<T> {}

impl<T> Stream for Halting<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.ready = !self.ready;
        if self.ready {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.items.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

/// What the code of one thread logs as a warning or an error, a line each.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn of(run: impl FnOnce()) -> Vec<String> {
        let log = Log::default();
        // With one subscriber alone, whether anybody listens to a line of the code would be asked on the thread that gets
        // there first, which may be that of another test.
        let _second = tracing::Dispatch::new(log.clone());
        tracing::subscriber::with_default(log.clone(), run);
        log.0.lock().unwrap().clone()
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, about: &tracing::Metadata<'_>) -> bool {
        *about.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                let _ = write!(self.0, "{}={value:?} ", field.name());
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
