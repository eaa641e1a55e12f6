//! A part of the graph that runs code of the user before the sinks: on its own thread, watched, and started again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Actor as _, Addr};
use tokio::time::Instant;

use super::Stage;
use super::failed::on_failed;
use super::place::Place;
use super::plan::StageKind;
use crate::ingress::{Inbox, Ingress};
use crate::process::{
    Between, Custom, CustomActor, Line, LineActor, OnFailed, ProcessorStatus, Source, Watched,
};
use crate::sink::DeadLetters;
use crate::supervise::{Abandon, ChildSpec, DeathWatch, Exit, GraphSupervisor, Observer, RestartPolicy};

/// A row of processors, or an actor of the user.
pub(super) struct Section {
    child: ChildSpec,
    place: Arc<Place>,
    watched: Arc<dyn Watched>,
}

impl Section {
    pub(super) fn line<S: Source>(id: &str, own: bool, line: Arc<Line<S>>) -> Section {
        let start = line.clone();
        let start = move |place: &Place, watch| {
            let (line, incarnation) = (start.clone(), start.incarnation());
            place.run(move || {
                LineActor::new(line, incarnation, watch).start();
            });
        };
        Section::new(id, own, line.clone(), line, start)
    }

    fn custom(id: &str, own: bool, custom: Arc<Custom>) -> Section {
        let start = custom.clone();
        let start = move |place: &Place, watch| {
            let (custom, incarnation) = (start.clone(), start.incarnation());
            place.run(move || {
                CustomActor::new(custom, incarnation, watch).start();
            });
        };
        Section::new(id, own, custom.clone(), custom, start)
    }

    fn new(
        id: &str,
        own: bool,
        watched: Arc<dyn Watched>,
        observer: Arc<dyn Observer>,
        start: impl Fn(&Place, DeathWatch) + Send + Sync + 'static,
    ) -> Section {
        let place = Arc::new(Place::new(own));
        let there = place.clone();
        let child = ChildSpec {
            id: id.into(),
            // Each of its ends costs an event at most, and hangs have a budget of their own: keep trying.
            restart: RestartPolicy { max: u32::MAX, within: Duration::from_secs(60) },
            start: Arc::new(move |watch| start(&there, watch)),
            observer,
        };
        Section { child, place, watched }
    }

    pub(super) fn child(&self) -> ChildSpec {
        self.child.clone()
    }

    /// Gives up a stuck thread, and starts another one. Call it on a thread of the graph's `System`.
    pub(super) fn watch(&self, patience: Duration, supervisor: &Addr<GraphSupervisor>) {
        if self.watched.condemn(patience, Instant::now()) {
            // First, as a thread that only awaits ends at once, and reports that.
            let abandon = Abandon(self.child.id.clone(), Exit::Failed("a processor hung".to_owned()));
            let abandoned = supervisor.send(abandon);
            self.place.abandon();
            actix_rt::spawn(async move { abandoned.await.unwrap_or_default() });
        }
    }

    pub(super) fn troubles(&self) -> Vec<ProcessorStatus> {
        self.watched.troubles(Instant::now())
    }

    /// Closes the section because its time is over. The events in it count as failed.
    pub(super) fn close(&self) {
        self.watched.close();
        self.place.close();
    }

    /// Ends its thread as soon as it moves.
    pub(super) fn leave(&self) {
        self.place.close();
    }
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Section").field(&self.child.id).finish()
    }
}

/// The stages between the enricher and the router, in order.
#[derive(Debug, Default)]
pub(super) struct Path {
    pub(super) sections: Vec<Section>,
    /// One inbox before each section, and one before the router.
    inboxes: Vec<Arc<Inbox>>,
}

impl Path {
    /// Makes the path. Processors in a row are one section, and each actor is one section.
    pub(super) fn new(
        stages: &[Stage],
        own: bool,
        ingress: &Arc<Ingress>,
        dead_letters: &DeadLetters,
    ) -> Path {
        let mut path = Path::default();
        if stages.is_empty() {
            return path;
        }
        let mut inbox = Arc::new(Inbox::default());
        path.inboxes.push(inbox.clone());
        let is_actor = |stage: &Stage| matches!(stage.kind, StageKind::Actor(_));
        for row in stages.chunk_by(|a, b| !is_actor(a) && !is_actor(b)) {
            let next = Arc::new(Inbox::default());
            path.inboxes.push(next.clone());
            let id = format!("({})", row.iter().map(|stage| &*stage.name).collect::<Vec<_>>().join(", "));
            let id = format!("{id} {}", path.sections.len() + 1);
            path.sections.push(section(row, &id, own, inbox, next.clone(), ingress, dead_letters));
            inbox = next;
        }
        path
    }

    /// Returns the inbox that the enricher fills, and the inbox that the router empties. `None` if there is no stage
    /// between them.
    pub(super) fn ends(&self) -> Option<(Arc<Inbox>, Arc<Inbox>)> {
        Some((self.inboxes.first()?.clone(), self.inboxes.last()?.clone()))
    }

    /// Closes the path because the time is over. Events on their way count as failed.
    pub(super) fn close(&self) {
        self.sections.iter().for_each(Section::close);
        for inbox in &self.inboxes {
            while let Some(batch) = inbox.take() {
                drop(batch);
            }
        }
    }
}

fn section(
    row: &[Stage],
    id: &str,
    own: bool,
    inbox: Arc<Inbox>,
    next: Arc<Inbox>,
    ingress: &Arc<Ingress>,
    dead_letters: &DeadLetters,
) -> Section {
    if let [Stage { name, kind: StageKind::Actor(start) }] = row {
        let on_failed = on_failed(name.clone(), dead_letters.clone());
        return Section::custom(id, own, Custom::new(name.clone(), start.clone(), inbox, next, on_failed));
    }
    let processors = row.iter().filter_map(|stage| match &stage.kind {
        StageKind::Processor(make) => {
            let on_failed: OnFailed = on_failed(stage.name.clone(), dead_letters.clone());
            Some((stage.name.clone(), make.clone(), on_failed))
        }
        StageKind::Actor(_) => None,
    });
    let between = Between { inbox, next, ingress: ingress.clone() };
    Section::line(id, own, Line::new(None, processors, between))
}
