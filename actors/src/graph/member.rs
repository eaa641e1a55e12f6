//! One sink of a running graph, with the processors in front of it.

use std::sync::Arc;

use tokio::time::Instant;

use super::failed::on_failed;
use super::place::Place;
use super::section::Section;
use crate::process::{Line, ProcessorFactory};
use crate::route::{Lane, Template};
use crate::sink::{Buffer, OnOpen, SinkStatus, Worker};

/// One sink of a running graph.
pub(super) struct Member {
    pub(super) worker: Arc<Worker>,
    /// The name of the sink that takes its dead letters.
    pub(super) dead_letter: Option<String>,
    /// The template of the key of its events at the broker, if that differs from the topic.
    pub(super) routing_key: Option<Template>,
    pub(super) place: Arc<Place>,
    /// Its own processors.
    pub(super) lane: Option<Own>,
}

/// The processors of one sink, and the section that runs them.
pub(super) struct Own {
    pub(super) line: Arc<Line<Lane>>,
    pub(super) section: Section,
}

impl Member {
    pub(super) fn status(&self, now: Instant) -> SinkStatus {
        let snapshot = || self.worker.cell.snapshot(&self.worker.buffer, now);
        let Some(own) = &self.lane else { return snapshot() };
        own.line.still(|lane| {
            let mut status = snapshot();
            lane.show(&mut status, now);
            status
        })
    }

    /// Returns the buffer in front of its processors.
    pub(super) fn front(&self) -> Option<&Arc<Buffer>> {
        self.lane.as_ref().map(|own| own.line.source().front())
    }

    pub(super) fn is(&self, name: &str) -> bool {
        *self.worker.name == *name
    }

    /// Whether its dead letters or diverted events go to `other`.
    pub(super) fn gives_to(&self, other: &Member) -> bool {
        let name = &*other.worker.name;
        self.dead_letter.as_deref() == Some(name)
            || matches!(self.worker.buffer.on_open(), OnOpen::Fallback(to) if **to == *name)
    }
}

impl Own {
    pub(super) fn new(
        processors: &[(String, ProcessorFactory)],
        worker: &Arc<Worker>,
        lane: Lane,
        own_thread: bool,
    ) -> Own {
        let processors = processors.iter().map(|(name, make)| {
            let on_failed = on_failed(worker.name.clone(), worker.dead_letters.clone());
            (name.as_str().into(), make.clone(), on_failed)
        });
        let line = Line::new(Some(worker.name.clone()), processors, lane);
        let section = Section::line(&format!("(processors of {})", worker.name), own_thread, line.clone());
        Own { line, section }
    }
}
