//! A whole graph: started from a plan, watched, changed while it runs, and drained.

mod drain;
mod flush;
mod member;
mod monitor;
mod place;
mod plan;
mod section;
mod spine;
mod status;
mod takeover;

pub use drain::Drained;
pub use plan::{ActorFactory, Plan, SinkSpec, Stage, StartError};
pub use status::GraphStatus;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::prelude::{Actor as _, Addr};
use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::event::{Decoder, Delivery, Event, EventId, Statics, Timestamp, WireError};
use crate::ingress::{Emitter, Ledger, Pacer};
use crate::process::{OnFailed, ProcessorState};
use crate::route::{Lane, Route, RouterParts, Subscription, Table, Taps};
use crate::sink::breaker::Circuit;
use crate::sink::{
    Buffer, Control, DeadLetter, DeadLetters, OnOpen, SinkActor, SinkState, SinkStatus, StatusCell, Worker,
};
use crate::supervise::{Adopt, ChildSpec, GraphSupervisor, RestartPolicy};
use member::{Member, Own};
use monitor::Monitor;
use place::Place;
use section::{Path as Between, Section};

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

    /// Adds a sink while the graph runs. The sink gets the events that are routed from now on.
    ///
    /// # Errors
    ///
    /// If there is a sink of that name, if a sink that it refers to is missing, or if the graph drains.
    pub async fn add_sink(&self, spec: SinkSpec) -> Result<(), StartError> {
        if self.0.draining.load(Ordering::SeqCst) {
            return Err(StartError::Draining);
        }
        let check = |sinks: &[Arc<Member>]| {
            if sinks.iter().any(|member| member.is(&spec.name)) {
                return Err(StartError::TwoOfAName(spec.name.clone()));
            }
            check_references(&spec, |name| sinks.iter().any(|member| member.is(name)))
        };
        check(&lock(&self.0.sinks))?;
        let member = self.member(&spec);
        self.put_on_disk(&member)?;
        let member = {
            let mut sinks = lock(&self.0.sinks);
            check(&sinks)?;
            sinks.push(member.clone());
            // Others may have pointed at an earlier sink of that name.
            link(&sinks);
            let routes = self.0.table.routes.load();
            let with = routes.iter().cloned().chain([self.route(&spec, &member)]).collect();
            self.publish_routes(with);
            member
        };
        self.employ(&member).await;
        Ok(())
    }

    /// Removes a sink while the graph runs. The sink gets the events that were emitted before this call, and no later
    /// ones. It delivers the waiting events until the deadline, and stops. Its numbers stay in the report.
    ///
    /// Returns its last status, or `None` if there is no sink of that name.
    pub async fn remove_sink(&self, name: &str, deadline: Duration) -> Option<SinkStatus> {
        let deadline = after(deadline);
        self.sink(name)?;
        let _ = timeout_at(deadline, self.0.emitter.routed()).await;
        let member = {
            let mut sinks = lock(&self.0.sinks);
            let place = sinks.iter().position(|member| member.is(name))?;
            let member = sinks.remove(place);
            let routes = self.0.table.routes.load();
            self.publish_routes(routes.iter().filter(|route| &*route.name != name).cloned().collect());
            lock(&self.0.leaving).push(member.clone());
            member
        };
        self.dismiss(&member, deadline).await;
        Some(SinkHandle(member).status())
    }

    /// Replaces the sink of the same name, or adds the sink if there is none.
    ///
    /// Every event goes to one of the two. The new sink gets the events from now on. It begins to deliver when the old
    /// sink has stopped, at the deadline at the latest.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::add_sink`]. If the disk buffer of the new sink cannot be opened, the sink runs all the
    /// same, with a buffer in memory.
    pub async fn replace_sink(&self, spec: SinkSpec, deadline: Duration) -> Result<(), StartError> {
        if self.sink(&spec.name).is_none() {
            return self.add_sink(spec).await;
        }
        if self.0.draining.load(Ordering::SeqCst) {
            return Err(StartError::Draining);
        }
        let member = self.member(&spec);
        let old = {
            let mut sinks = lock(&self.0.sinks);
            check_references(&spec, |name| sinks.iter().any(|member| member.is(name)))?;
            let old = sinks.iter_mut().find(|old| old.is(&spec.name));
            let old = old.map(|old| std::mem::replace(old, member.clone()));
            lock(&self.0.leaving).extend(old.clone());
            link(&sinks);
            let new = self.route(&spec, &member);
            let routes = self.0.table.routes.load();
            let place = |route: &Arc<Route>| if *route.name == *new.name { &new } else { route }.clone();
            self.publish_routes(routes.iter().map(place).collect());
            old
        };
        if let Some(old) = old {
            self.dismiss(&old, after(deadline)).await;
        }
        // Only now the old one has let go of the folder, unless its disk hangs.
        let on_disk = self.put_on_disk(&member);
        if let Err(error) = &on_disk {
            member.worker.buffer.stay_in_memory(error.to_string());
        }
        self.employ(&member).await;
        on_disk
    }

    /// Ends a sink that gets no new events.
    async fn dismiss(&self, member: &Arc<Member>, deadline: Instant) {
        // The router has let go of it once something new has come through.
        let _ = timeout_at(deadline, self.0.emitter.routed()).await;
        drain::stop(self, std::slice::from_ref(member), deadline).await;
        if !Arc::ptr_eq(&member.place, &self.0.spine) {
            member.place.close();
        }
        let mut leaving = lock(&self.0.leaving);
        leaving.retain(|other| !Arc::ptr_eq(other, member));
        merge(&mut lock(&self.0.removed), SinkHandle(member.clone()).status());
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

    fn member(&self, spec: &SinkSpec) -> Arc<Member> {
        let name: Arc<str> = spec.name.as_str().into();
        let buffer = Buffer::new(name.clone(), spec.buffer, spec.on_open.clone(), self.0.relief.clone());
        let dead_letters = DeadLetters::file(dead_letter_file(&self.0.plan.data_dir, &name));
        let dead_letter = spec.dead_letter.as_ref().or(self.0.plan.dead_letter.as_ref());
        let dead_letter = dead_letter.filter(|to| **to != spec.name).cloned();
        let own = self.0.threads == Threads::Several && spec.placement == crate::sink::Placement::Own;
        let place = if own { Arc::new(Place::new(true)) } else { self.0.spine.clone() };
        let worker = Arc::new(Worker {
            name,
            factory: spec.factory.clone(),
            buffer,
            cell: StatusCell::new(),
            circuit: Mutex::new(Circuit::new(spec.breaker)),
            batch: spec.batch,
            deliver_timeout: spec.deliver_timeout,
            poison_after: spec.poison_after,
            dead_letters,
            restart: spec.restart,
            control: AtomicU8::new(Control::Run as u8),
            ended: Notify::new(),
        });
        let routing_key = spec.routing_key.clone();
        let lane = (!spec.processors.is_empty()).then(|| self.own_processors(spec, &worker));
        Arc::new(Member { worker, dead_letter, routing_key, place, lane })
    }

    fn own_processors(&self, spec: &SinkSpec, worker: &Arc<Worker>) -> Own {
        let shared = &self.0;
        let (table, seq) = (shared.table.clone(), shared.seq.clone());
        let lane = Lane::new(&worker.buffer, shared.relief.clone(), spec.routing_key.clone(), table, seq);
        Own::new(&spec.processors, worker, lane, shared.threads == Threads::Several)
    }

    fn route(&self, spec: &SinkSpec, member: &Member) -> Arc<Route> {
        let everything = || crate::route::TopicPattern::parse("#").into_iter().collect();
        let topics = match &spec.topics {
            Some(topics) => Some(topics.clone()),
            None if targets(&self.0.plan).contains(&&*spec.name) => None,
            None => Some(everything()),
        };
        let worker = &member.worker;
        Arc::new(Route {
            name: worker.name.clone(),
            topics,
            except: spec.except.clone(),
            routing_key: spec.routing_key.clone(),
            front: member.front().cloned(),
            buffer: worker.buffer.clone(),
        })
    }

    /// Call it with the lock on the sinks, so that no change is lost.
    fn publish_routes(&self, routes: Vec<Arc<Route>>) {
        self.0.table.routes.store(Arc::new(routes));
        // Somebody may have waited for a sink that is gone.
        self.0.relief.notify_waiters();
    }

    async fn adopt(&self, member: &Arc<Member>) {
        let (worker, place) = (member.worker.clone(), member.place.clone());
        let start = Arc::new(move |watch| {
            let worker = worker.clone();
            let incarnation = worker.buffer.incarnation();
            place.run(move || {
                actix::Actor::start(SinkActor::new(worker, watch, incarnation));
            });
        });
        let spec = ChildSpec {
            id: member.worker.name.clone(),
            restart: member.worker.restart,
            start,
            observer: member.worker.clone(),
        };
        let _ = self.0.supervisor.send(Adopt(spec)).await;
        if let Some(own) = &member.lane {
            let _ = self.0.supervisor.send(Adopt(own.section.child())).await;
        }
    }

    async fn adopt_spine(&self) {
        let shared = &self.0;
        let target = shared.plan.dead_letter.as_ref().and_then(|to| self.sink(to));
        shared.dead_letters.set_target(target.map(|SinkHandle(target)| target.worker.buffer.clone()));
        for section in &shared.between.sections {
            let _ = shared.supervisor.send(Adopt(section.child())).await;
        }
        let spine = spine::Spine {
            emitter: shared.emitter.clone(),
            between: shared.between.ends(),
            router: RouterParts {
                table: shared.table.clone(),
                taps: shared.taps.clone(),
                ingress: shared.emitter.ingress().clone(),
                seq: shared.seq.clone(),
                dry: shared.dry.clone(),
            },
        };
        let place = shared.spine.clone();
        let start = Arc::new(move |watch| {
            let spine = spine.clone();
            place.run(move || spine.start(watch));
        });
        let spec = ChildSpec {
            id: spine::ID.into(),
            // A spine that dies is a bug of ours, or of an actor in it: keep trying for as long as the process lives.
            restart: RestartPolicy { max: u32::MAX, within: Duration::from_secs(60) },
            start,
            observer: Arc::new(spine::SpineObserver(shared.emitter.clone())),
        };
        let _ = shared.supervisor.send(Adopt(spec)).await;
    }
}

impl fmt::Debug for GraphHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphHandle").field("service", &self.0.plan.service).finish_non_exhaustive()
    }
}

/// A handle on one sink of a running graph.
#[derive(Clone)]
pub struct SinkHandle(Arc<Member>);

impl SinkHandle {
    /// Opens the circuit, until [`force_close`](Self::force_close) or [`auto`](Self::auto) is called.
    pub fn force_open(&self) {
        self.order(|circuit| circuit.force_open(), Some("ordered by hand"));
    }

    /// Closes the circuit and keeps it closed, until [`force_open`](Self::force_open) or [`auto`](Self::auto) is
    /// called.
    pub fn force_close(&self) {
        self.order(|circuit| circuit.force_close(Instant::now()), None);
    }

    /// Lets the deliveries open and close the circuit again.
    pub fn auto(&self) {
        self.order(Circuit::auto, None);
    }

    fn order<T>(&self, order: impl FnOnce(&mut Circuit) -> T, reason: Option<&str>) {
        let worker = &self.0.worker;
        order(&mut worker.circuit());
        // Without its buffer it stays open, whatever the order.
        if !worker.buffer.awaits_disk() {
            worker.publish(reason.map(str::to_owned));
        }
        worker.cell.call();
    }

    /// Delivers an event of the sink's dead letters again, past router and processors. The event has exactly the same
    /// JSON and the same id, and is marked as attempt number `attempts + 1`. Returns `false` if the buffer has no room
    /// now.
    ///
    /// # Errors
    ///
    /// If the JSON is not an event.
    pub fn replay(&self, json: &[u8], attempts: u32) -> Result<bool, WireError> {
        let event = Decoder::default().restore(bytes::Bytes::copy_from_slice(json), None, false)?;
        let delivery = match &self.0.routing_key {
            Some(template) => {
                let key = template.render(&event).into();
                Delivery::new(event, key)
            }
            None => Delivery::by_topic(event),
        };
        Ok(self.0.worker.buffer.offer_again(delivery, attempts, Instant::now()))
    }

    /// Returns the ids of the events that wait in memory, the oldest first.
    #[must_use]
    pub fn waiting(&self) -> Vec<EventId> {
        self.0.worker.buffer.ids()
    }

    /// Returns the status of the sink.
    #[must_use]
    pub fn status(&self) -> SinkStatus {
        self.0.status(Instant::now())
    }
}

impl fmt::Debug for SinkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SinkHandle").field(&self.0.worker.name).finish()
    }
}

/// Returns the moment after this time. "For ever" is a month.
fn after(time: Duration) -> Instant {
    Instant::now() + time.min(Duration::from_secs(30 * 24 * 3600))
}

/// Adds the status of a removed sink to the status of earlier sinks of its name.
fn merge(removed: &mut Vec<SinkStatus>, mut latest: SinkStatus) {
    match removed.iter_mut().find(|earlier| earlier.name == latest.name) {
        Some(earlier) => {
            latest.balance.add(&earlier.balance);
            latest.processed.add(&earlier.processed);
            latest.restarts += earlier.restarts;
            latest.damaged += earlier.damaged;
            latest.missing += earlier.missing;
            *earlier = latest;
        }
        None => removed.push(latest),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn references(spec: &SinkSpec) -> impl Iterator<Item = (&'static str, &str)> {
    let fallback = match &spec.on_open {
        OnOpen::Fallback(to) => Some(&**to),
        OnOpen::Buffer | OnOpen::Drop => None,
    };
    spec.dead_letter
        .as_deref()
        .map(|to| ("dead_letter", to))
        .into_iter()
        .chain(fallback.map(|to| ("fallback", to)))
}

/// Returns the sinks that are named as dead-letter or fallback sinks.
fn targets(plan: &Plan) -> Vec<&str> {
    plan.sinks.iter().flat_map(references).map(|(_, to)| to).chain(plan.dead_letter.as_deref()).collect()
}

fn check(plan: &Plan) -> Result<(), StartError> {
    for (place, spec) in plan.sinks.iter().enumerate() {
        if plan.sinks.iter().take(place).any(|other| other.name == spec.name) {
            return Err(StartError::TwoOfAName(spec.name.clone()));
        }
    }
    let known = |name: &str| plan.sinks.iter().any(|spec| spec.name == name);
    plan.sinks.iter().try_for_each(|spec| check_references(spec, known))?;
    match plan.dead_letter.as_deref().filter(|to| !known(to)) {
        Some(to) => Err(missing("the topology", "dead_letter", to)),
        None => Ok(()),
    }
}

fn check_references(spec: &SinkSpec, known: impl Fn(&str) -> bool) -> Result<(), StartError> {
    let unknown = references(spec).find(|(_, to)| !known(to));
    unknown.map_or(Ok(()), |(role, to)| Err(missing(&spec.name, role, to)))
}

fn missing(from: &str, role: &'static str, to: &str) -> StartError {
    StartError::NoSuchSink { from: from.into(), to: to.into(), role }
}

/// Gives every sink the buffers of its fallback and its dead-letter sink.
fn link(members: &[Arc<Member>]) {
    let find = |name: &str| members.iter().find(|other| other.is(name));
    for member in members {
        let worker = &member.worker;
        if let OnOpen::Fallback(to) = worker.buffer.on_open()
            && let Some(target) = find(to)
        {
            worker.buffer.set_fallback(&target.worker.buffer);
        }
        let target = member.dead_letter.as_deref().and_then(find);
        // Letters that would come back to their sender go to its file.
        let target = target.filter(|target| {
            let next = |at: &Arc<Member>| at.dead_letter.as_deref().and_then(find).cloned();
            let mut chain = std::iter::successors(Some((*target).clone()), next).take(members.len());
            !chain.any(|at| Arc::ptr_eq(&at, member))
        });
        worker.dead_letters.set_target(target.map(|target| target.worker.buffer.clone()));
    }
}

fn statics(plan: &Plan) -> Statics {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = host.or_else(|| std::env::var("HOSTNAME").ok()).map(|host| host.trim().to_owned());
    let own = [
        ("service", Some(plan.service.clone())),
        ("environment", Some(plan.environment.clone())),
        ("host", host),
    ];
    let own =
        own.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.filter(|v| !v.is_empty())?)));
    // A tag of the plan wins over ours of the same name.
    let own = own.filter(|(key, _)| !plan.tags.iter().any(|(tag, _)| tag == key));
    let tags = own.chain(plan.tags.iter().cloned());
    // Among as many processes as there ever are, none bears the name of another: readers leave out repeats by it.
    let source = format!("{}-{:012x}", plan.service, fastrand::u64(..) >> 16);
    let tags = tags.map(|(key, value)| (key.into(), value.into()));
    Statics::new(&plan.service, &plan.environment, tags).of_source(source)
}

/// Handles an event that a processor could not take.
fn on_failed(name: Arc<str>, dead_letters: DeadLetters) -> OnFailed {
    Arc::new(move |event: &Event, why: &str| {
        let now = Timestamp::now();
        let letter = DeadLetter {
            event: event.clone(),
            sink: name.clone(),
            class: "processor",
            reason: why.to_owned(),
            attempts: 1,
            first_attempt: now,
            last_attempt: now,
        };
        if let Err(error) = dead_letters.accept(&letter, Instant::now()) {
            tracing::error!(
                event = %letter.event.id(),
                %error,
                "an event is lost: its processor failed, and its dead letter cannot be kept"
            );
        }
    })
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

    /// Orders and deliveries tell of the circuit at the same time: what is told last is how it is.
    #[test]
    fn what_is_published_is_how_the_circuit_is_whoever_publishes() {
        const ROUNDS: u32 = 20_000;
        run(async {
            let rig = Rig::start(Plan::new("test").sink(Journal::new([]).spec("live", Duration::ZERO))).await;
            let Some(live) = rig.graph.sink("live") else { panic!("it has this sink") };
            let worker = &live.0.worker;
            let together = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        together.wait();
                        worker.publish(None);
                        together.wait();
                    }
                });
                let mut wrong = 0;
                for _ in 0..ROUNDS {
                    live.force_close();
                    together.wait();
                    live.force_open();
                    together.wait();
                    let is_open = worker.buffer.is_open() && worker.cell.state().0 == SinkState::Open;
                    wrong += u32::from(!is_open);
                }
                assert_eq!(wrong, 0, "of {ROUNDS}");
            });
            rig.end().await;
        });
    }
}
