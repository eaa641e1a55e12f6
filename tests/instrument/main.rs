//! What `#[instrument]` makes of a function: the events of its calls, and nothing else.

mod emitter;
mod endings;
mod errors;
mod fields;
mod functions;
mod hygiene;
mod impls;
mod inputs;
mod module;
mod nothing;
mod operation;
mod outputs;
mod signatures;
mod skip;
mod stream_fields;
mod streams;
mod ui;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use streamll::{Deliveries, DeliveryError, Handle, Sink, SinkSpec, Topology};

/// More time than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// All events of a topology, in order.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Value>>>);

impl Sink for Kept {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(batch.iter().map(|one| serde_json::from_slice::<Value>(one.event.json()).expect("JSON")));
        Ok(())
    }
}

/// A topology of the test's own. Others run at the same time, so none is installed.
struct Recorder {
    handle: Handle,
    kept: Kept,
}

impl Recorder {
    fn new() -> Recorder {
        let kept = Kept::default();
        let sink = kept.clone();
        let spec = SinkSpec::new("", move || sink.clone());
        let handle = Topology::builder("rag-api").sink("kept", spec).start().expect("it starts");
        Recorder { handle, kept }
    }

    /// Ends the topology, checks its books, and returns what it got.
    #[track_caller]
    fn events(self) -> Vec<Value> {
        let drained = self.handle.shutdown_blocking(LONG);
        assert!(drained.complete && drained.status.balances(), "{:#?}", drained.status);
        std::mem::take(&mut *self.kept.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is emitted while `run` runs in a scope named `test`, without the events of that scope.
#[track_caller]
fn record<T>(run: impl FnOnce() -> T) -> (T, Vec<Value>) {
    let recorder = Recorder::new();
    let scope = streamll::trace("test").to(recorder.handle.emitter()).enter();
    let value = run();
    drop(scope);
    let mut events = recorder.events();
    events.retain(|event| event["operation"] != "test");
    (value, events)
}

/// Like [`record`], for a future; its tasks may run on two threads.
#[track_caller]
fn record_async<T>(run: impl Future<Output = T>) -> (T, Vec<Value>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let runtime = runtime.expect("a runtime");
    record(|| runtime.block_on(run))
}

/// The events without what differs from run to run: `start search {"question":"why"}`.
fn lines(events: &[Value]) -> Vec<String> {
    let line = |event: &Value| {
        let mut data = event["data"].clone();
        if let Some(data) = data.as_object_mut() {
            for timing in ["duration", "time_to_first_token", "tokens_per_second"] {
                data.shift_remove(timing);
            }
        }
        let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        format!("{} {} {data}", word("event_type"), word("operation"))
    };
    events.iter().map(line).collect()
}

/// The only `start` among the events.
#[track_caller]
fn start(events: &[Value]) -> &Value {
    only(events, "start")
}

/// The only `end` among the events.
#[track_caller]
fn end(events: &[Value]) -> &Value {
    only(events, "end")
}

/// The only `error` among the events.
#[track_caller]
fn error(events: &[Value]) -> &Value {
    only(events, "error")
}

#[track_caller]
fn only<'a>(events: &'a [Value], kind: &str) -> &'a Value {
    let of_kind: Vec<_> = events.iter().filter(|event| event["event_type"] == kind).collect();
    assert_eq!(of_kind.len(), 1, "not one `{kind}` in {:#?}", lines(events));
    of_kind[0]
}

/// Runs a future to its end, on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}
