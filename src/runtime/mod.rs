//! Runs topologies: each on threads of its own, from any program, with or without an async runtime.

mod global;
mod signals;

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::sync::mpsc as blocking;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use streamll_actors::event::Event;
use streamll_actors::graph::{
    Drained, GraphHandle, GraphStatus, Plan, SinkHandle, SinkSpec, StartError, Threads,
};
use streamll_actors::ingress::{Emitted, Emitter};
use streamll_actors::route::Subscription;
use streamll_actors::sink::{Placement, SinkStatus};
use tokio::sync::{mpsc, oneshot};

use crate::topology::{Builder, Topology, TopologyError};

#[cfg(feature = "cli")]
pub(crate) use global::environment;
pub use global::{DrainGuard, flush, init, init_with, install, shutdown, shutdown_blocking};
#[cfg(feature = "cli")]
pub(crate) use signals::Dispositions;
#[cfg(unix)]
pub use signals::drain_on_signals;

/// A running topology. Clones reach the same one. It runs until [`shutdown`](Self::shutdown); when all handles are
/// gone (the [installed](install) default is one) it ends in order by itself, behind the program's back.
#[derive(Clone)]
pub struct Handle {
    graph: GraphHandle,
    requests: mpsc::UnboundedSender<Request>,
    shutdown_timeout: Duration,
    /// Whether everything had arrived when it ended.
    ended: Arc<OnceLock<bool>>,
}

/// The files that the runtime of a thread holds open: its poll, its alarm, its signals; and one of a sink or a buffer.
const FILES_OF_A_THREAD: usize = 4;
/// Those of signals, and of the program around: a runtime, its input, a status file.
const FILES_OF_THE_PROCESS: usize = 16;

/// What must be done on the graph's own threads.
enum Request {
    Shutdown(Duration, Box<dyn FnOnce(Drained) + Send>),
    Add(Box<SinkSpec>, oneshot::Sender<Result<(), StartError>>),
    Remove(String, Duration, oneshot::Sender<Option<SinkStatus>>),
}

impl Topology {
    /// Starts it, and returns once events can be emitted. Sinks may still be connecting: a broker that is down does
    /// not keep a topology from starting.
    ///
    /// # Errors
    /// When unset variables were allowed on loading, or the machine has no thread to give.
    pub fn start(&self) -> Result<Handle, StartError> {
        let plan = self.plan().ok_or(StartError::Incomplete)?;
        start(plan.clone(), self.shutdown_timeout())
    }
}

impl Builder {
    /// Builds the topology and starts it.
    ///
    /// # Errors
    /// Everything that was wrong in the calls before, or what keeps it from starting.
    pub fn start(self) -> Result<Handle, StartFailure> {
        Ok(self.build()?.start()?)
    }
}

/// Why a topology does not run.
#[derive(thiserror::Error)]
pub enum StartFailure {
    /// It is wrong.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// It is right, but cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// [`init`] was called where the process has a default that runs.
    #[error(
        "a topology is installed and runs; end it with `streamll::shutdown` first, or start a second one by `Topology` and \
         pass its handle around"
    )]
    Installed,
}

/// The same as for people: it is what `fn main() -> Result<(), StartFailure>` shows.
impl fmt::Debug for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Starts a plan as it is; a [`Topology`] is the usual way to one.
///
/// # Errors
/// When the plan contradicts itself, or the machine has no thread to give.
pub fn start(plan: Plan, shutdown_timeout: Duration) -> Result<Handle, StartError> {
    has_room_for(&plan)?;
    let (started, starting) = blocking::channel();
    let (requests, mut inbox) = mpsc::unbounded_channel();
    let ended: Arc<OnceLock<bool>> = Arc::default();
    let last = ended.clone();
    let run = move || {
        actix_rt::System::new().block_on(async move {
            match GraphHandle::start(plan, Threads::Several).await {
                Ok(graph) => {
                    let _ = started.send(Ok(graph.clone()));
                    serve(&graph, &mut inbox, shutdown_timeout, &last).await;
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        });
    };
    let thread = thread::Builder::new().name("streamll".to_owned()).spawn(run);
    thread.map_err(|e| StartError::Thread(e.to_string()))?;
    let graph = starting.recv().map_err(|e| StartError::Thread(e.to_string()))??;
    Ok(Handle { graph, requests, shutdown_timeout, ended })
}

/// Whether the process may open as many files as the threads of a plan need. Their runtimes panic where it may not.
fn has_room_for(plan: &Plan) -> Result<(), StartError> {
    let own = plan.sinks.iter().filter(|sink| sink.placement == Placement::Own).count();
    let needed = FILES_OF_THE_PROCESS + FILES_OF_A_THREAD * (1 + own);
    let opened: Result<Vec<_>, _> = (0..needed).map(|_| File::open("/dev/null")).collect();
    match opened {
        // A system without that file has other limits.
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StartError::Thread(format!(
            "{error}: it needs about {needed} open files more; raise the limit (`ulimit -n`)"
        ))),
        _ => Ok(()),
    }
}

/// Does what is asked for, until the end.
async fn serve(
    graph: &GraphHandle,
    inbox: &mut mpsc::UnboundedReceiver<Request>,
    shutdown_timeout: Duration,
    ended: &OnceLock<bool>,
) {
    while let Some(request) = inbox.recv().await {
        let graph = graph.clone();
        match request {
            // The answer may have nobody left to hear it: what was asked for is done all the same.
            Request::Add(spec, answer) => {
                actix_rt::spawn(async move { answer.send(graph.add_sink(*spec).await) });
            }
            Request::Remove(name, deadline, answer) => {
                actix_rt::spawn(async move { answer.send(graph.remove_sink(&name, deadline).await) });
            }
            Request::Shutdown(deadline, answer) => {
                let drained = graph.drain(deadline).await;
                let _ = ended.set(drained.complete);
                return answer(drained);
            }
        }
    }
    // All handles are gone, and nobody can ask for an orderly end any more: deliver what can be delivered.
    graph.drain(shutdown_timeout).await;
}

impl Handle {
    /// Emits one event, with the ids of the [current context](crate::with_context). Never blocks.
    pub fn emit(&self, event: Event) -> Emitted {
        self.emitter().emit(crate::emit::in_context(event))
    }

    /// Hands events in, from any thread; also `send().await` and `send_confirmed().await`, which wait for room. It adds
    /// no context by itself: that is in the events' [`step`](crate::step).
    #[must_use]
    pub fn emitter(&self) -> &Emitter {
        self.graph.emitter()
    }

    /// All that is known of the graph and its sinks, at once and without asking anybody who is busy.
    ///
    /// ```
    /// # let handle = streamll::Topology::builder("doc").sink("live", streamll::sinks::file("/dev/null")).start()?;
    /// for sink in handle.status().sinks() {
    ///     println!("{} {}", sink.name, sink); // live open (not sending since 03:12 UTC: connection refused; 1,204 waiting)
    ///     println!("running {}, circuit open {}", sink.running, sink.circuit_open);
    ///     println!("{} failures in a row, {} waiting", sink.failures, sink.balance.waiting);
    /// }
    /// # Ok::<(), streamll::StartFailure>(())
    /// ```
    #[must_use]
    pub fn status(&self) -> GraphStatus {
        self.graph.status()
    }

    /// The events that carry `value` under `key` (`data.conversation_id`, `tags.tenant`), from now on.
    #[must_use]
    pub fn subscribe(&self, key: &str, value: &str) -> Subscription {
        self.graph.subscribe(key, value)
    }

    /// Waits until everything emitted before has arrived, or was shed or dead-lettered. Does not wait for a sink whose
    /// circuit is open, or that was given up, and for one that is told to drop what finds it full a second at most; returns
    /// how many events wait behind those.
    pub async fn flush(&self) -> u64 {
        self.graph.flush().await
    }

    /// One sink: its status, and its circuit to be forced.
    #[must_use]
    pub fn sink(&self, name: &str) -> Option<SinkHandle> {
        self.graph.sink(name)
    }

    /// Adds a sink while the topology runs; it gets what is routed from now on.
    ///
    /// # Errors
    /// When there is a sink of that name, one that it names is not there, or the topology is shutting down.
    pub async fn add_sink(&self, spec: SinkSpec) -> Result<(), StartError> {
        let (answer, answered) = oneshot::channel();
        let _ = self.requests.send(Request::Add(Box::new(spec), answer));
        answered.await.unwrap_or(Err(StartError::Draining))
    }

    /// Removes a sink while the topology runs: it gets nothing new, delivers what waits until the deadline, and stops.
    /// Returns its last status, or `None` when there is no such sink.
    pub async fn remove_sink(&self, name: &str, deadline: Duration) -> Option<SinkStatus> {
        let (answer, answered) = oneshot::channel();
        let _ = self.requests.send(Request::Remove(name.to_owned(), deadline, answer));
        answered.await.ok().flatten()
    }

    /// Ends the topology: takes no more events, delivers what waits until the deadline, and says how it went. Only the
    /// first call ends it; a later one gets the last status.
    pub async fn shutdown(&self, deadline: Duration) -> Drained {
        let (answer, answered) = oneshot::channel();
        self.ask_to_end(deadline, move |drained| {
            let _ = answer.send(drained);
        });
        answered.await.unwrap_or_else(|_| self.last())
    }

    /// Like [`shutdown`](Self::shutdown), for code that does not await. Blocks its thread, for the deadline at most.
    #[must_use]
    pub fn shutdown_blocking(&self, deadline: Duration) -> Drained {
        let (answer, answered) = blocking::channel();
        self.ask_to_end(deadline, move |drained| {
            let _ = answer.send(drained);
        });
        answered.recv().unwrap_or_else(|_| self.last())
    }

    /// The topology's `shutdown.timeout`; 25 s by default.
    #[must_use]
    pub fn shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }

    fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    fn ask_to_end(&self, deadline: Duration, answer: impl FnOnce(Drained) + Send + 'static) {
        let _ = self.requests.send(Request::Shutdown(deadline, Box::new(answer)));
    }

    /// The status as of now, and how it ended, when somebody else has ended it.
    fn last(&self) -> Drained {
        Drained { status: self.status(), complete: self.ended.get().is_some_and(|complete| *complete) }
    }
}

impl crate::emit::instrumented::Destination for Handle {
    fn emitter(&self) -> &Emitter {
        self.emitter()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.graph).finish()
    }
}
