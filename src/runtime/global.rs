//! The default topology of the process: installed, started from its files, flushed and shut down.

use std::env;
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use streamll_actors::graph::Drained;
use tracing::{error, info, warn};

use super::{Handle, StartFailure};
use crate::topology::{Registry, Topology, TopologyError, chosen_environment};

/// The folder of the topologies, if `STREAMLL_TOPOLOGIES` names none.
const FOLDER: &str = "topologies";

/// The handle behind [`install`].
static DEFAULT: Mutex<Option<Handle>> = Mutex::new(None);

/// Held while the default is started, so that it is not started twice.
static STARTING: Mutex<()> = Mutex::new(());

/// Makes a topology the process-wide default for [`emit`](crate::emit()), and for scopes and token streams that name no
/// emitter. A later call replaces the default.
///
/// Libraries and tests should pass a handle around instead. A signal such as SIGTERM ends a program without draining,
/// unless the program handles the signal or calls [`drain_on_signals`](crate::drain_on_signals).
///
/// ```
/// let handle = streamll::Topology::builder("rag-api").sink("log", streamll::sinks::file("/dev/null")).start()?;
/// streamll::install(&handle);
/// streamll::emit(streamll::Event::new(&streamll::step("RagPipeline"), "start"));
/// # Ok::<(), streamll::StartFailure>(())
/// ```
pub fn install(handle: &Handle) {
    crate::emit::set_default(handle.emitter());
    *default() = Some(handle.clone());
}

/// Starts the topology that the environment selects, and makes it the process-wide default until the guard is dropped.
///
/// The file is `<STREAMLL_ENV>.yaml` in the folder `STREAMLL_TOPOLOGIES` (default: `topologies`). Without
/// `STREAMLL_ENV`, the file is `development.yaml` if the program runs in a terminal. The command `streamll` has the
/// same rules.
///
/// The guard drains when the program ends by itself. SIGTERM (which service managers send), SIGINT, SIGHUP and SIGQUIT
/// end a program **without draining**, unless the program handles them or calls
/// [`drain_on_signals`](crate::drain_on_signals).
///
/// ```no_run
/// fn main() -> Result<(), streamll::StartFailure> {
///     let _streamll = streamll::init()?;
///     // Besides, `streamll::drain_on_signals()` drains at SIGTERM and its like.
///     streamll::trace("answer").enter().emit("docs_found", serde_json::json!({ "count": 3 }));
///     Ok(())
/// } // delivers what waits, for the topology's `shutdown.timeout` at most
/// ```
///
/// # Errors
///
/// * Every mistake in the topology, each with its place.
/// * No environment is selected, and there is no terminal.
/// * The process already has a default that runs. In this case, [start](Topology::start) a second topology by itself
///   and pass its handle around.
pub fn init() -> Result<DrainGuard, StartFailure> {
    init_with(&Registry::default())
}

/// Like [`init`], with kinds of sinks and processors of your own.
///
/// # Errors
///
/// As [`init`].
pub fn init_with(kinds: &Registry) -> Result<DrainGuard, StartFailure> {
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if default().as_ref().is_some_and(|handle| !handle.has_ended()) {
        return Err(StartFailure::Installed);
    }
    let folder = env::var_os("STREAMLL_TOPOLOGIES").filter(|folder| !folder.is_empty());
    let folder = folder.map_or_else(|| PathBuf::from(FOLDER), PathBuf::from);
    let topology = Topology::load(&folder, &choose(None, &folder, "set STREAMLL_ENV")?, kinds)?;
    for warning in topology.warnings() {
        warn!("{}", warning.to_string().trim_end());
    }
    let handle = topology.start()?;
    info!(environment = topology.environment(), folder = %folder.display(), "topology started");
    install(&handle);
    Ok(DrainGuard(handle))
}

/// Returns the environment that the command runs: `named`, or else `STREAMLL_ENV`, or else `development` on a terminal.
#[cfg(feature = "cli")]
pub(crate) fn environment(named: Option<&str>, folder: &Path) -> Result<String, TopologyError> {
    choose(named, folder, "give `--env NAME` or set STREAMLL_ENV")
}

/// The same. `how` tells users without a choice how to choose.
fn choose(named: Option<&str>, folder: &Path, how: &str) -> Result<String, TopologyError> {
    let variable = env::var("STREAMLL_ENV").ok();
    let tty = io::stdin().is_terminal() || io::stdout().is_terminal();
    chosen_environment(named, variable.as_deref(), tty, folder, how)
}

/// Waits until every event that was emitted before has arrived, as [`Handle::flush`] does for the process-wide default.
///
/// Returns how many events wait for sinks that do not deliver, or 0 if nothing is installed.
pub async fn flush() -> u64 {
    let handle = default().clone();
    match handle {
        Some(handle) => handle.flush().await,
        None => 0,
    }
}

/// Ends the process-wide default: delivers the waiting events, for its `shutdown.timeout` at most. Returns the result,
/// and writes it to the log. Events that are emitted afterwards are shed and counted.
///
/// Returns `None` if nothing is installed.
pub async fn shutdown() -> Option<Drained> {
    let handle = default().clone()?;
    let ended = handle.has_ended();
    let drained = handle.shutdown(handle.shutdown_timeout()).await;
    tell_once(ended, &drained);
    Some(drained)
}

/// Like [`shutdown`], for code that does not await. Blocks its thread.
pub fn shutdown_blocking() -> Option<Drained> {
    let handle = default().clone()?;
    let ended = handle.has_ended();
    let drained = handle.shutdown_blocking(handle.shutdown_timeout());
    tell_once(ended, &drained);
    Some(drained)
}

fn default() -> MutexGuard<'static, Option<Handle>> {
    DEFAULT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The guard of [`init`]. When the guard is dropped, its topology delivers the waiting events, for `shutdown.timeout`
/// at most, and ends.
///
/// This blocks the thread, also in an `async fn main`. The topology can still deliver, because it runs on its own
/// threads. Events that did not arrive are reported in the log. If [`shutdown`] was called before, dropping the guard
/// does nothing.
#[must_use = "the topology ends when this goes; bind it to a name, for as long as the program runs"]
pub struct DrainGuard(Handle);

impl DrainGuard {
    /// The topology that was started.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.0
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        if !self.0.has_ended() {
            tell_once(false, &self.0.shutdown_blocking(self.0.shutdown_timeout()));
        }
    }
}

impl fmt::Debug for DrainGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DrainGuard").field(&self.0).finish()
    }
}

/// Logs which events did not arrive, unless this end was already reported.
fn tell_once(told: bool, drained: &Drained) {
    if told {
        return;
    }
    let numbers = drained.status.balance();
    if drained.complete {
        info!(received = numbers.received, "topology ended: everything arrived");
        return;
    }
    for sink in drained.status.sinks().iter().chain(drained.status.removed()) {
        let balance = &sink.balance;
        let (shed, dead_lettered, waiting) = (balance.shed, balance.dead_lettered, balance.in_memory());
        if shed + dead_lettered + waiting > 0 {
            error!(sink = %sink.name, shed, dead_lettered, waiting, state = %sink, "not everything arrived");
        }
    }
    if numbers.rejected + numbers.shed + numbers.failed > 0 {
        let (rejected, shed, failed) = (numbers.rejected, numbers.shed, numbers.failed);
        error!(rejected, shed, failed, "not everything reached the sinks");
    }
}
