//! A whole graph: started from a plan, watched, changed while it runs, and drained.

mod assemble;
mod change;
mod drain;
mod failed;
mod flush;
mod handle;
mod member;
mod monitor;
mod place;
mod plan;
mod references;
mod section;
mod spine;
mod status;
mod takeover;

pub use drain::Drained;
pub use handle::SinkHandle;
pub use plan::{ActorFactory, Plan, SinkSpec, Stage, StartError};
pub use status::GraphStatus;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::prelude::{Actor as _, Addr};
use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ingress::{Emitter, Ledger, Pacer};
use crate::process::ProcessorState;
use crate::route::{Route, Subscription, Table, Taps};
use crate::sink::{Control, DeadLetters, SinkState, SinkStatus};
use crate::supervise::GraphSupervisor;
use assemble::statics;
use member::{Member, Own};
use monitor::Monitor;
use place::Place;
use references::{check, link};
use section::{Path as Between, Section};
use status::merge;

/// Returns the file of the dead letters of a sink, or of the `processors` that every event passes.
#[must_use]
pub fn dead_letter_file(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.join(format!("dead/{name}.ndjson"))
}

/// On which threads the actors of a graph run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Threads {
    /// The spine on its own thread, and each sink as its placement says.
    #[default]
    Several,
    /// Everything on the calling thread. For tests, which then run in the same way every time.
    One,
}

/// A running graph. It can be used from any thread, and clones are cheap. The graph runs until it is drained.
#[derive(Clone)]
pub struct GraphHandle(Arc<Shared>);

struct Shared {
    emitter: Emitter,
    table: Arc<Table>,
    taps: Arc<Taps>,
    ledger: Arc<Ledger>,
    relief: Arc<Notify>,
    dry: Arc<Notify>,
    supervisor: Addr<GraphSupervisor>,
    sinks: Mutex<Vec<Arc<Member>>>,
    /// Sinks that get no new events, and deliver the waiting ones.
    leaving: Mutex<Vec<Arc<Member>>>,
    /// The last status of each sink that was removed while the graph ran. Their numbers are in the report.
    removed: Mutex<Vec<SinkStatus>>,
    draining: AtomicBool,
    threads: Threads,
    spine: Arc<Place>,
    /// The stages between enricher and router.
    between: Between,
    /// Where the dead letters of these stages go.
    dead_letters: DeadLetters,
    /// The last sequence number.
    seq: Arc<AtomicU64>,
    plan: Plan,
}

impl GraphHandle {
    /// Starts a graph. Call it on a thread of an actix `System`, which must run until the graph is drained.
    ///
    /// A disk buffer that another process uses is not an error. Its sink is open, the events wait in memory, and the
    /// sink takes the buffer over when the other process ends.
    ///
    /// # Errors
    ///
    /// If the plan contradicts itself, a disk buffer cannot be opened, or no thread can be started.
    pub async fn start(plan: Plan, threads: Threads) -> Result<GraphHandle, StartError> {
        check(&plan)?;
        let relief = Arc::new(Notify::new());
        let ledger = Arc::new(Ledger::default());
        let emitter = Emitter::new(plan.ingress_capacity, relief.clone(), ledger.clone());
        let statics = Arc::new(statics(&plan));
        let table = Arc::new(Table {
            routing_key: plan.routing_key.clone(),
            classes: plan.classes.clone(),
            statics,
            routes: ArcSwap::default(),
        });
        let _ = emitter.ingress().pressure.set(table.clone());
        let several = threads == Threads::Several;
        let spine = Arc::new(Place::new(several));
        let dead_letters = DeadLetters::file(dead_letter_file(&plan.data_dir, "processors"));
        let between = Between::new(&plan.stages, several, emitter.ingress(), &dead_letters);
        let shared = Arc::new(Shared {
            emitter,
            table,
            taps: Arc::default(),
            ledger,
            relief,
            dry: Arc::new(Notify::new()),
            supervisor: GraphSupervisor::default().start(),
            sinks: Mutex::default(),
            leaving: Mutex::default(),
            removed: Mutex::default(),
            draining: AtomicBool::new(false),
            threads,
            spine,
            between,
            dead_letters,
            seq: Arc::new(AtomicU64::new(1)),
            plan,
        });
        let handle = GraphHandle(shared.clone());
        let members = shared.plan.sinks.iter().map(|spec| {
            let member = handle.member(spec);
            handle.put_on_disk(&member).map(|()| member)
        });
        let members = members.collect::<Result<Vec<_>, _>>()?;
        // A start that is refused leaves no thread behind.
        if several {
            Pacer::start(&shared.emitter).map_err(|e| StartError::Thread(e.to_string()))?;
        }
        link(&members);
        let routes = shared.plan.sinks.iter().zip(&members).map(|(spec, member)| handle.route(spec, member));
        handle.publish_routes(routes.collect());
        *lock(&shared.sinks) = members.clone();
        for member in &members {
            handle.employ(member).await;
        }
        handle.adopt_spine().await;
        Monitor::start(handle.clone());
        Ok(handle)
    }

    /// Returns the emitter of this graph.
    #[must_use]
    pub fn emitter(&self) -> &Emitter {
        &self.0.emitter
    }

    /// Returns the status. It returns at once, without waiting for a busy thread.
    #[must_use]
    pub fn status(&self) -> GraphStatus {
        let now = Instant::now();
        let status = |member: &Arc<Member>| member.status(now);
        let leaving = lock(&self.0.leaving);
        let mut removed = lock(&self.0.removed).clone();
        leaving.iter().map(status).for_each(|leaving| merge(&mut removed, leaving));
        drop(leaving);
        let members = lock(&self.0.sinks).clone();
        let sinks = members.iter().map(status).collect();
        let lanes = members.iter().filter_map(|member| Some(&member.lane.as_ref()?.section));
        let processors = self.0.between.sections.iter().chain(lanes).flat_map(Section::troubles).collect();
        GraphStatus::new(self.0.ledger.balance(), sinks, removed, processors)
    }

    /// Subscribes to the events that carry `value` under `key` (`data.conversation_id`, `tags.tenant`), from now on.
    #[must_use]
    pub fn subscribe(&self, key: &str, value: &str) -> Subscription {
        self.0.taps.subscribe(key, value)
    }

    /// Waits until every event that was emitted before has been delivered, shed or dead-lettered.
    ///
    /// It does not wait for a sink whose circuit is open, nor for a sink that has failed. It waits at most one second
    /// for a sink that is configured to drop events when its buffer is full. Returns how many events wait in the
    /// buffers of these sinks.
    pub async fn flush(&self) -> u64 {
        flush::flush(self).await
    }

    /// Returns a handle on one sink. `None` if there is no such sink.
    #[must_use]
    pub fn sink(&self, name: &str) -> Option<SinkHandle> {
        lock(&self.0.sinks).iter().find(|member| &*member.worker.name == name).cloned().map(SinkHandle)
    }

    /// Gives up threads that hang, and starts them again. Call it on a thread of the graph's `System`.
    fn watch(&self, patience: Duration) {
        self.0.between.sections.iter().for_each(|section| section.watch(patience, &self.0.supervisor));
        let leaving = lock(&self.0.leaving).clone();
        let members = lock(&self.0.sinks).clone();
        for member in members.iter().chain(&leaving) {
            let Some(Own { section, .. }) = &member.lane else { continue };
            section.watch(patience, &self.0.supervisor);
            // No sender waits for a processor that does not come back.
            let is_busy = section.troubles().iter().any(|processor| processor.state == ProcessorState::Busy);
            if let Some(front) = member.front().filter(|front| front.is_open() != is_busy) {
                front.set_state(if is_busy { SinkState::Open } else { SinkState::Closed });
            }
        }
    }

    async fn employ(&self, member: &Arc<Member>) {
        if member.worker.buffer.awaits_disk() {
            takeover::wait(self.clone(), member.clone());
            return;
        }
        self.adopt(member).await;
        if self.0.draining.load(Ordering::SeqCst) {
            // It came too late for the drain to see it.
            member.worker.control(Control::Stop);
        }
    }

    /// Ends the graph: takes no more events, runs the path empty in order, lets the sinks deliver the waiting events
    /// until the deadline, and stops them.
    ///
    /// Call it on a thread with a tokio runtime. Only the first call drains.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        drain::drain(self, after(deadline)).await
    }

    /// Call it with the lock on the sinks, so that no change is lost.
    fn publish_routes(&self, routes: Vec<Arc<Route>>) {
        self.0.table.routes.store(Arc::new(routes));
        // Somebody may have waited for a sink that is gone.
        self.0.relief.notify_waiters();
    }
}

impl fmt::Debug for GraphHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphHandle").field("service", &self.0.plan.service).finish_non_exhaustive()
    }
}

/// Returns the moment after this time. "For ever" is a month.
fn after(time: Duration) -> Instant {
    Instant::now() + time.min(Duration::from_secs(30 * 24 * 3600))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::{Abandon, Exit};
    use crate::testkit::{Act, Journal, Rig, run, settle};

    /// What the watchdog does, with an old incarnation that lives on: idle, or with a delivery under way.
    #[test]
    fn an_incarnation_that_was_given_up_delivers_nothing_more() {
        for script in [vec![], vec![Act::Deliver, Act::Hang]] {
            run(async move {
                let journal = Journal::new(script);
                let mut spec = journal.spec("live", Duration::from_millis(5));
                spec.deliver_timeout = Duration::from_secs(1);
                let rig = Rig::start(Plan::new("test").sink(spec)).await;
                for round in 0..10 {
                    rig.emit_all(round * 10..round * 10 + 10);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let exit = Exit::Failed("stuck".to_owned());
                    assert_eq!(rig.graph.0.supervisor.send(Abandon("live".into(), exit)).await, Ok(true));
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    settle().await;
                }
                let drained = rig.end().await;
                assert!(drained.complete);
                assert_eq!(journal.numbers(), (0..100).collect::<Vec<_>>());
                let live = drained.status.sink("live").map(|live| (live.restarts, live.balance.delivered));
                assert_eq!(live, Some((10, 100)));
                assert_eq!(journal.opened_and_closed(), (11, 1));
            });
        }
    }
}
