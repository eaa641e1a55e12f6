//! The stage of the spine that runs the [`Enricher`].

use actix::prelude::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient,
    WrapFuture as _,
};

use super::Enricher;
use crate::ingress::Batch;
use crate::supervise::{DeathWatch, Exit};

pub(crate) struct EnricherActor {
    pub(crate) enricher: Enricher,
    pub(crate) next: Recipient<Batch>,
    pub(crate) watch: DeathWatch,
}

impl Actor for EnricherActor {
    type Context = Context<Self>;
}

impl Handler<Batch> for EnricherActor {
    type Result = ();

    fn handle(&mut self, mut batch: Batch, ctx: &mut Context<Self>) {
        batch.events.iter_mut().for_each(|event| self.enricher.enrich(event));
        let last = batch.is_last();
        let sent = self.next.send(batch);
        ctx.wait(sent.into_actor(self).map(move |sent, actor, ctx| {
            if last || sent.is_err() {
                actor.watch.because(if last {
                    Exit::Stopped
                } else {
                    Exit::Failed("the next stage is gone".into())
                });
                ctx.stop();
            }
        }));
    }
}
