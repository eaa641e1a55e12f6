//! The actor that feeds an actor of the user, one batch at a time, and shows that the thread of both moves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actix::prelude::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient,
    ResponseFuture, WrapFuture as _,
};

use super::custom::{Custom, HEARTBEAT, Superseded};
use crate::ingress::Batch;
use crate::supervise::{DeathWatch, Exit};

/// What the actor hands on to.
struct Onward(Arc<Custom>, u64);

impl Actor for Onward {
    type Context = Context<Self>;
}

impl Handler<Batch> for Onward {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, batch: Batch, _: &mut Context<Self>) -> Self::Result {
        self.0.arrived(self.1, batch);
        let custom = self.0.clone();
        Box::pin(async move { custom.room().await })
    }
}

/// Starts one incarnation, and gives it its batches: the next one when it has handled the one before.
pub(crate) struct CustomActor {
    custom: Arc<Custom>,
    incarnation: u64,
    actor: Option<Recipient<Batch>>,
    /// It has the last batch.
    over: bool,
    watch: DeathWatch,
}

impl CustomActor {
    pub(crate) fn new(custom: Arc<Custom>, incarnation: u64, watch: DeathWatch) -> CustomActor {
        CustomActor { custom, incarnation, actor: None, over: false, watch }
    }

    fn begin(&mut self, ctx: &mut Context<Self>) -> Result<bool, Superseded> {
        self.custom.beat(self.incarnation)?;
        if let Some(start) = self.custom.factory() {
            let next = Onward(self.custom.clone(), self.incarnation).start().recipient();
            match catch_unwind(AssertUnwindSafe(|| start(next))) {
                Ok(actor) => self.actor = Some(actor),
                Err(panic) => {
                    self.watch.because(Exit::Panicked(super::panic_message(&*panic)));
                    ctx.stop();
                    return Ok(false);
                }
            }
        }
        ctx.run_interval(HEARTBEAT, |feeder, ctx| {
            if feeder.custom.beat(feeder.incarnation).is_err() {
                return ctx.stop();
            }
            // It may end when there is nothing more to give it, and still have something.
            if !feeder.over && feeder.is_gone() {
                feeder.watch.because(Exit::Failed("the actor is gone".to_owned()));
                ctx.stop();
            }
        });
        Ok(true)
    }

    fn is_gone(&self) -> bool {
        self.actor.as_ref().is_some_and(|actor| !actor.connected())
    }

    fn turn(&mut self, ctx: &mut Context<Self>) {
        if self.is_gone() {
            // What comes next waits for the next incarnation.
            self.watch.because(Exit::Failed("the actor is gone".to_owned()));
            return ctx.stop();
        }
        match self.custom.lend(self.incarnation) {
            Err(Superseded) => ctx.stop(),
            Ok(None) => {
                let custom = self.custom.clone();
                let ready = async move {
                    tokio::task::yield_now().await;
                    custom.ready().await;
                };
                ctx.spawn(ready.into_actor(self).map(|(), feeder, ctx| feeder.turn(ctx)));
            }
            Ok(Some((number, copy))) => {
                let Some(actor) = &self.actor else { return ctx.stop() };
                let last = copy.last;
                let sent = actor.send(copy);
                ctx.spawn(sent.into_actor(self).map(move |sent, feeder, ctx| {
                    if sent.is_err() {
                        feeder.watch.because(Exit::Failed("the actor is gone".to_owned()));
                        return ctx.stop();
                    }
                    match feeder.custom.handled(feeder.incarnation, number) {
                        Ok(()) if !last => feeder.turn(ctx),
                        // What it hands on still passes.
                        Ok(()) => {
                            feeder.over = true;
                            feeder.watch.because(Exit::Stopped);
                        }
                        Err(Superseded) => ctx.stop(),
                    }
                }));
            }
        }
    }
}

impl Actor for CustomActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        match self.begin(ctx) {
            Ok(true) => self.turn(ctx),
            Ok(false) | Err(Superseded) => ctx.stop(),
        }
    }
}

impl Drop for CustomActor {
    fn drop(&mut self) {
        self.custom.gone(self.incarnation);
    }
}
