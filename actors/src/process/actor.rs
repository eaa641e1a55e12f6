//! The stage of the spine around one processor.

use std::sync::Arc;

use actix::prelude::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient,
    WrapFuture as _,
};

use super::Stage;
use crate::ingress::{Batch, Ingress, Tally};
use crate::supervise::{DeathWatch, Exit};

pub(crate) struct ProcessorActor {
    stage: Stage,
    ingress: Arc<Ingress>,
    incarnation: u64,
    next: Recipient<Batch>,
    watch: DeathWatch,
}

impl ProcessorActor {
    pub(crate) fn new(
        stage: Stage,
        ingress: Arc<Ingress>,
        next: Recipient<Batch>,
        watch: DeathWatch,
    ) -> ProcessorActor {
        let incarnation = ingress.incarnation();
        ProcessorActor { stage, ingress, incarnation, next, watch }
    }

    fn hand_on(&mut self, batch: Batch, ctx: &mut Context<Self>) {
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

impl Actor for ProcessorActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        if let Some(interval) = self.stage.interval() {
            ctx.run_interval(interval, |actor, ctx| {
                if actor.ingress.incarnation() != actor.incarnation {
                    // The rest of its spine is dead.
                    return ctx.stop();
                }
                let mut tally = Tally::default();
                let events = actor.stage.tick(&mut tally);
                if !events.is_empty() || tally != Tally::default() {
                    let mut batch = Batch::of(&actor.ingress, events);
                    batch.tally = tally;
                    actor.hand_on(batch, ctx);
                }
            });
        }
    }
}

impl Drop for ProcessorActor {
    fn drop(&mut self) {
        let mut tally = Tally::default();
        self.stage.abandon(&mut tally);
        self.ingress.ledger.add(&tally);
    }
}

impl Handler<Batch> for ProcessorActor {
    type Result = ();

    fn handle(&mut self, mut batch: Batch, ctx: &mut Context<Self>) {
        let events = std::mem::take(&mut batch.events);
        batch.events = self.stage.run(events, &mut batch.tally);
        if batch.is_last() {
            batch.events.extend(self.stage.finish(&mut batch.tally));
        }
        self.hand_on(batch, ctx);
    }
}
