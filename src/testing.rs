//! Tests of applications and topologies with one call each: what code emits, and where a topology sends it.
//!
//! [`record`] runs code and returns the events that it emitted. [`rehearse`] runs a topology with its real processors,
//! topics and keys, and with sinks that keep the events that arrive. Neither touches the process-wide default, so tests
//! can run in parallel.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streamll_actors::event::Event;
use streamll_actors::graph::{GraphStatus, Plan, StartError};
use streamll_actors::sink::{DynSink, Placement};

pub use streamll_actors::testkit::{Act, Arrival, Journal};

use crate::emit;
use crate::runtime::{self, Handle};
use crate::topology::Topology;

/// How long emitted events may take to arrive. Nothing leaves the process.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a future, and returns its output and every event that it emitted, in order.
///
/// These are the events of its scopes, token streams, instrumented functions and [`emit`](crate::emit()), also on other
/// threads if they are [carried](crate::carry) there. An event whose code names an emitter itself
/// ([`Trace::to`](crate::Trace::to)) goes to that emitter, and is not recorded.
///
/// ```
/// # async fn answer(_: &str) -> &'static str { streamll::trace("answer").run(|_| async { "42" }).await }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (said, events) = streamll::testing::record(answer("What is six times seven?")).await;
/// assert_eq!(said, "42");
/// let kinds: Vec<_> = events.iter().map(|event| event.kind()).collect();
/// assert_eq!(kinds, ["start", "end"]);
/// assert_eq!(events[0].json["operation"], "answer");
/// # }
/// ```
///
/// # Panics
///
/// If no topology can be started, or if not every emitted event arrived.
pub async fn record<F: Future>(future: F) -> (F::Output, Vec<Arrival>) {
    let (handle, kept) = recorder();
    let output = emit::to(handle.emitter(), future).await;
    let drained = handle.shutdown(PATIENCE).await;
    assert!(drained.complete, "not everything that was emitted arrived: {:?}", drained.status);
    (output, kept.arrivals())
}

/// Like [`record`], for code that does not await.
///
/// # Panics
///
/// As [`record`].
pub fn record_sync<T>(run: impl FnOnce() -> T) -> (T, Vec<Arrival>) {
    let (handle, kept) = recorder();
    let output = emit::to_sync(handle.emitter(), run);
    let drained = handle.shutdown_blocking(PATIENCE);
    assert!(drained.complete, "not everything that was emitted arrived: {:?}", drained.status);
    (output, kept.arrivals())
}

#[allow(clippy::panic, reason = "a kit for tests fails them by panicking")]
fn recorder() -> (Handle, Journal) {
    let kept = Journal::new([]);
    let mut plan = Plan::new("test");
    plan.sinks.push(kept.spec("kept", Duration::ZERO));
    match runtime::start(plan, PATIENCE) {
        Ok(handle) => (handle, kept),
        Err(error) => panic!("nothing can be recorded: {error}"),
    }
}

/// Sends events through a topology whose sinks are replaced by [`Journal`]s, and returns the events that each sink got.
///
/// Processors, classes, topics and routing keys are those of the topology. Addresses are not used, nothing leaves the
/// process, and buffers are in memory.
///
/// ```
/// use streamll::{Event, Topology, sinks, testing};
///
/// let topology = Topology::builder("rag-api").sink("live", sinks::file("/var/log/rag-api.ndjson")).build()?;
/// let chat = streamll::step("Chat");
/// let rehearsal = testing::rehearse(&topology, [Event::new(&chat, "start"), Event::new(&chat, "end")])?;
/// let keys: Vec<_> = rehearsal.at("live").iter().map(|event| &*event.key).collect();
/// assert_eq!(keys, ["ai.chat.start", "ai.chat.end"]);
/// # Ok::<(), streamll::StartFailure>(())
/// ```
///
/// # Errors
/// As [`Topology::start`].
///
/// # Panics
///
/// If the numbers of the topology do not balance at the end.
pub fn rehearse(
    topology: &Topology,
    events: impl IntoIterator<Item = Event>,
) -> Result<Rehearsal, StartError> {
    let mut plan = topology.plan().ok_or(StartError::Incomplete)?.clone();
    let data = Scratch::new();
    plan.data_dir.clone_from(&data.0);
    let mut journals = BTreeMap::new();
    for sink in &mut plan.sinks {
        let journal = Journal::new([]);
        journals.insert(sink.name.clone(), journal.clone());
        sink.factory = Arc::new(move || Box::new(journal.sink(Duration::ZERO)) as Box<dyn DynSink>);
        sink.placement = Placement::Spine;
        sink.buffer.disk = None;
    }
    let handle = runtime::start(plan, PATIENCE)?;
    send(&handle, events.into_iter().collect())?;
    let drained = handle.shutdown_blocking(PATIENCE);
    assert!(drained.status.balances(), "the numbers do not balance: {:?}", drained.status);
    let arrivals = journals.into_iter().map(|(name, journal)| (name, journal.arrivals())).collect();
    Ok(Rehearsal { arrivals, status: drained.status })
}

/// Sends events one by one, because many at once would overrun the ingress. It uses its own thread, because the caller
/// may be inside an async runtime.
fn send(handle: &Handle, events: Vec<Event>) -> Result<(), StartError> {
    let failed = |error: std::io::Error| StartError::Thread(error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(failed)?;
    let all = async {
        for event in events {
            handle.emitter().send(event).await;
        }
    };
    std::thread::scope(|threads| {
        let sender = std::thread::Builder::new().spawn_scoped(threads, || runtime.block_on(all));
        sender.map(|sender| sender.join().unwrap_or_default())
    })
    .map_err(failed)
}

/// The result of [`rehearse`].
#[derive(Debug)]
pub struct Rehearsal {
    arrivals: BTreeMap<String, Vec<Arrival>>,
    status: GraphStatus,
}

impl Rehearsal {
    /// Returns the events that arrived at a sink, in order.
    ///
    /// # Panics
    ///
    /// If the topology has no sink of that name.
    #[must_use]
    #[track_caller]
    #[allow(clippy::panic, reason = "a kit for tests fails them by panicking")]
    pub fn at(&self, sink: &str) -> &[Arrival] {
        match self.arrivals.get(sink) {
            Some(arrivals) => arrivals,
            None => {
                let there: Vec<_> = self.arrivals.keys().collect();
                panic!("the topology has no sink `{sink}`; it has {there:?}")
            }
        }
    }

    /// Returns the numbers at the end: how many events were filtered, merged, unrouted or dead-lettered.
    #[must_use]
    pub fn status(&self) -> &GraphStatus {
        &self.status
    }
}

/// A folder for dead letters that is removed with the rehearsal. It is made when the first dead letter is written.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("streamll-rehearsal-{}-{number}", std::process::id());
        Scratch(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scratch").field(&self.0).finish()
    }
}
