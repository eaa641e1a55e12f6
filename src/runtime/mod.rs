//! Runs topologies: each on its own threads, from any program, with or without an async runtime.

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

/// A running topology. Clones are the same topology.
///
/// It runs until [`shutdown`](Self::shutdown) is called. When the last handle is dropped (the [installed](install)
/// default is a handle, too), the topology drains and ends by itself in the background.
#[derive(Clone)]
pub struct Handle {
    graph: GraphHandle,
    requests: mpsc::UnboundedSender<Request>,
    shutdown_timeout: Duration,
    /// Whether everything had arrived when it ended.
    ended: Arc<OnceLock<bool>>,
}

/// The files that the runtime of one thread holds open: poll, timer, signals, and one of a sink or a buffer.
const FILES_OF_A_THREAD: usize = 4;
/// Files of signals and of the program around: its runtime, its input, a status file.
const FILES_OF_THE_PROCESS: usize = 16;

/// What must be done on the graph's own threads.
enum Request {
    Shutdown(Duration, Box<dyn FnOnce(Drained) + Send>),
    Add(Box<SinkSpec>, oneshot::Sender<Result<(), StartError>>),
    Remove(String, Duration, oneshot::Sender<Option<SinkStatus>>),
}

impl Topology {
    /// Starts the topology, and returns once events can be emitted.
    ///
    /// Sinks may still be connecting then: a broker that is down does not stop a topology from starting.
    ///
    /// # Errors
    ///
    /// If the topology was loaded with unset variables allowed, or if the machine has no thread to give.
    pub fn start(&self) -> Result<Handle, StartError> {
        let plan = self.plan().ok_or(StartError::Incomplete)?;
        start(plan.clone(), self.shutdown_timeout())
    }
}

impl Builder {
    /// Builds the topology and starts it.
    ///
    /// # Errors
    ///
    /// Every mistake in the calls before, or the reason why the topology cannot start.
    pub fn start(self) -> Result<Handle, StartFailure> {
        Ok(self.build()?.start()?)
    }
}

/// Why a topology does not run.
#[derive(thiserror::Error)]
pub enum StartFailure {
    /// The topology is wrong.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The topology is right, but cannot start.
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

/// Starts a plan as it is. The usual way to a plan is a [`Topology`].
///
/// # Errors
///
/// If the plan contradicts itself, or if the machine has no thread to give.
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

/// Checks whether the process may open as many files as the threads of a plan need. Without them, the runtimes of the
/// threads panic.
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

/// Does what the requests ask for, until the end.
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

    /// Returns the emitter of this topology. It takes events from any thread. Its `send().await` and
    /// `send_confirmed().await` wait for room.
    ///
    /// The emitter itself adds no context. The context is in the [`step`](crate::step) of an event.
    #[must_use]
    pub fn emitter(&self) -> &Emitter {
        self.graph.emitter()
    }

    /// Returns the status of the graph and its sinks. It returns at once, without waiting for a busy thread.
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

    /// Subscribes to the events that carry `value` under `key` (`data.conversation_id`, `tags.tenant`), from now on.
    #[must_use]
    pub fn subscribe(&self, key: &str, value: &str) -> Subscription {
        self.graph.subscribe(key, value)
    }

    /// Waits until every event that was emitted before has been delivered, shed or dead-lettered.
    ///
    /// It does not wait for a sink whose circuit is open, nor for a sink that has failed. It waits at most one second
    /// for a sink that is configured to drop events when its buffer is full. Returns how many events wait in the
    /// buffers of these sinks.
    pub async fn flush(&self) -> u64 {
        self.graph.flush().await
    }

    /// Returns one sink: its status, and its circuit breaker, which can be forced. `None` if there is no such sink.
    #[must_use]
    pub fn sink(&self, name: &str) -> Option<SinkHandle> {
        self.graph.sink(name)
    }

    /// Adds a sink while the topology runs. The sink gets the events that are routed from now on.
    ///
    /// # Errors
    ///
    /// If there is a sink of that name, if a sink that it refers to is missing, or if the topology is shutting down.
    pub async fn add_sink(&self, spec: SinkSpec) -> Result<(), StartError> {
        let (answer, answered) = oneshot::channel();
        let _ = self.requests.send(Request::Add(Box::new(spec), answer));
        answered.await.unwrap_or(Err(StartError::Draining))
    }

    /// Removes a sink while the topology runs. The sink gets no new events, delivers the waiting events until the
    /// deadline, and stops.
    ///
    /// Returns its last status, or `None` if there is no such sink.
    pub async fn remove_sink(&self, name: &str, deadline: Duration) -> Option<SinkStatus> {
        let (answer, answered) = oneshot::channel();
        let _ = self.requests.send(Request::Remove(name.to_owned(), deadline, answer));
        answered.await.ok().flatten()
    }

    /// Ends the topology: takes no more events, delivers the waiting events until the deadline, and returns the result.
    /// Only the first call ends the topology. A later call returns the last status.
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

    /// Returns the topology's `shutdown.timeout`. Default: 25 s.
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

    /// Returns the status of this moment, and how the topology ended if another call has ended it.
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
