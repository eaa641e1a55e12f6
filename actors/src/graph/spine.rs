//! The spine: ingress, enricher and router, started together and restarted together. No code of the user runs in it.

use std::sync::Arc;

use actix::prelude::{Actor as _, Recipient};
use tracing::error;

use crate::enrich::{Classes, Enricher, EnricherActor};
use crate::ingress::{Batch, Emitter, Inbox, IngressActor, Inlet, Outlet};
use crate::route::{RouterActor, RouterParts};
use crate::supervise::{DeathWatch, Exit, Observer};

/// The name of the spine among the children. No sink can have this name.
pub(crate) const ID: &str = "(spine)";

/// The parts of the spine.
#[derive(Clone)]
pub(crate) struct Spine {
    pub(crate) emitter: Emitter,
    /// The first and the last inbox of the stages between enricher and router, if there are any.
    pub(crate) between: Option<(Arc<Inbox>, Arc<Inbox>)>,
    pub(crate) router: RouterParts,
}

impl Spine {
    /// Starts its actors on the calling thread, from the last to the first.
    pub(crate) fn start(&self, watch: DeathWatch) {
        let ingress = self.emitter.ingress();
        let mut next: Recipient<Batch> =
            RouterActor::new(self.router.clone(), watch.another()).start().recipient();
        if let Some((first, last)) = &self.between {
            Outlet::new(last.clone(), ingress.clone(), next, watch.another()).start();
            next = Inlet(first.clone()).start().recipient();
        }
        let table = &self.router.table;
        // The router tells it anyway; who drops events before must not drop what is to be kept.
        let is_asked = self.between.is_some() && !table.classes.is_empty();
        let classes = is_asked.then(|| table.clone() as Arc<dyn Classes>);
        let enricher = Enricher::new(table.statics.clone(), classes);
        let next = EnricherActor { enricher, next, watch: watch.another() }.start().recipient();
        IngressActor::new(&self.emitter, Arc::clone(&self.router.seq), next, watch).start();
    }
}

/// Takes nothing back. The events in the batches of a dead spine are counted where the batches are dropped.
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
