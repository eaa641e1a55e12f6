//! Makes the parts of a graph from its plan, and gives them to the supervisor.

use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::member::{Member, Own};
use super::place::Place;
use super::plan::{Plan, SinkSpec};
use super::references::targets;
use super::{GraphHandle, SinkHandle, Threads, dead_letter_file, spine};
use crate::event::Statics;
use crate::route::{Lane, Route, RouterParts};
use crate::sink::breaker::Circuit;
use crate::sink::{Buffer, Control, DeadLetters, SinkActor, StatusCell, Worker};
use crate::supervise::{Adopt, ChildSpec, RestartPolicy};

impl GraphHandle {
    pub(super) fn member(&self, spec: &SinkSpec) -> Arc<Member> {
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

    pub(super) fn route(&self, spec: &SinkSpec, member: &Member) -> Arc<Route> {
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

    pub(super) async fn adopt(&self, member: &Arc<Member>) {
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

    pub(super) async fn adopt_spine(&self) {
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

pub(super) fn statics(plan: &Plan) -> Statics {
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
