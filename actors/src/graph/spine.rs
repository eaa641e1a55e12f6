//! The spine: ingress, enricher, processors and router, started together and restarted together.

use std::sync::Arc;

use actix::prelude::{Actor as _, Recipient};
use tracing::error;

use super::plan::StageKind;
use super::{Stage, on_failed};
use crate::enrich::{Classes, Enricher, EnricherActor};
use crate::ingress::{Batch, Emitter, IngressActor};
use crate::process::{self, ProcessorActor};
use crate::route::{RouterActor, RouterParts};
use crate::sink::DeadLetters;
use crate::supervise::{DeathWatch, Exit, Observer};

/// The name of the spine among the children; no sink can have it.
pub(crate) const ID: &str = "(spine)";

/// All that the spine is made of.
#[derive(Clone)]
pub(crate) struct Spine {
    pub(crate) emitter: Emitter,
    pub(crate) stages: Vec<Stage>,
    pub(crate) router: RouterParts,
    pub(crate) dead_letters: DeadLetters,
}

impl Spine {
    /// Starts its actors on the calling thread, from the end to the beginning.
    pub(crate) fn start(&self, watch: DeathWatch) {
        let ingress = self.emitter.ingress();
        let router = RouterActor::new(self.router.clone(), watch.another()).start();
        let mut next: Recipient<Batch> = router.recipient();
        for stage in self.stages.iter().rev() {
            next = match &stage.kind {
                StageKind::Actor(start) => start(next),
                StageKind::Processor(make) => {
                    let on_failed = on_failed(stage.name.clone(), self.dead_letters.clone());
                    let stage = process::Stage::make(stage.name.clone(), make, on_failed);
                    ProcessorActor::new(stage, ingress.clone(), next, watch.another()).start().recipient()
                }
            };
        }
        let table = &self.router.table;
        // The router tells it anyway; who drops events before must not drop what is to be kept.
        let is_asked = !self.stages.is_empty() && !table.classes.is_empty();
        let classes = is_asked.then(|| table.clone() as Arc<dyn Classes>);
        let enricher = Enricher::new(table.statics.clone(), classes);
        let next = EnricherActor { enricher, next, watch: watch.another() }.start().recipient();
        IngressActor::new(&self.emitter, Arc::clone(&self.router.seq), next, watch).start();
    }
}

/// Nothing to take back: what was in a dead spine's batches is counted where they are dropped.
pub(crate) struct SpineObserver(pub(crate) Emitter);

impl Observer for SpineObserver {
    fn ended(&self, exit: &Exit) {
        if *exit != Exit::Stopped {
            error!(%exit, "the spine died; what was in its batches is counted as failed");
            self.0.ingress().disown_reader();
        }
    }

    fn progressed(&self) -> bool {
        false
    }

    fn restarting(&self) {}

    fn gave_up(&self, _: &Exit) {}
}
