//! Batches between two threads of the path. They outlive the actors on both sides.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::prelude::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient,
    ResponseFuture, WrapFuture as _,
};
use tokio::sync::Notify;

use super::{Batch, Ingress};
use crate::supervise::{DeathWatch, Exit};

/// When this many batches wait, the sender waits.
const ROOM: usize = 2;

/// Batches that wait for one part of the path, in order.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    batches: Mutex<VecDeque<Batch>>,
    changed: Notify,
}

impl Inbox {
    /// Adds a batch. It never waits, and the batch is safe. After this, the sender takes no more batches until there is
    /// [room](Self::has_room).
    pub(crate) fn put(&self, batch: Batch) {
        self.lock().push_back(batch);
        self.changed.notify_waiters();
    }

    pub(crate) fn take(&self) -> Option<Batch> {
        let batch = self.lock().pop_front();
        if batch.is_some() {
            self.changed.notify_waiters();
        }
        batch
    }

    pub(crate) fn has_room(&self) -> bool {
        self.lock().len() < ROOM
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(crate) async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            if self.has_room() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until there is a batch here, and room in `next`.
    pub(crate) async fn passable(&self, next: &Inbox) {
        loop {
            let (here, there) = (self.changed.notified(), next.changed.notified());
            if !self.is_empty() && next.has_room() {
                return;
            }
            tokio::select! {
                () = here => {}
                () = there => {}
            }
        }
    }

    async fn filled(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.is_empty() {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Batch>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts batches into an inbox. Its answer waits for room.
pub(crate) struct Inlet(pub(crate) Arc<Inbox>);

impl Actor for Inlet {
    type Context = Context<Self>;
}

impl Handler<Batch> for Inlet {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, batch: Batch, _: &mut Context<Self>) -> Self::Result {
        self.0.put(batch);
        let inbox = self.0.clone();
        Box::pin(async move { inbox.room().await })
    }
}

/// Takes batches out of an inbox and sends them to an actor, one at a time.
pub(crate) struct Outlet {
    inbox: Arc<Inbox>,
    ingress: Arc<Ingress>,
    incarnation: u64,
    next: Recipient<Batch>,
    watch: DeathWatch,
}

impl Outlet {
    pub(crate) fn new(
        inbox: Arc<Inbox>,
        ingress: Arc<Ingress>,
        next: Recipient<Batch>,
        watch: DeathWatch,
    ) -> Outlet {
        let incarnation = ingress.incarnation();
        Outlet { inbox, ingress, incarnation, next, watch }
    }

    fn turn(&mut self, ctx: &mut Context<Self>) {
        if self.ingress.incarnation() != self.incarnation {
            // The rest of its spine is dead.
            return ctx.stop();
        }
        let Some(batch) = self.inbox.take() else {
            let inbox = self.inbox.clone();
            let filled = async move { inbox.filled().await };
            ctx.wait(filled.into_actor(self).map(|(), outlet, ctx| outlet.turn(ctx)));
            return;
        };
        let last = batch.is_last();
        ctx.wait(self.next.send(batch).into_actor(self).map(move |sent, outlet, ctx| match sent {
            Ok(()) if !last => outlet.turn(ctx),
            _ => {
                outlet.watch.because(if last {
                    Exit::Stopped
                } else {
                    Exit::Failed("the next stage is gone".into())
                });
                ctx.stop();
            }
        }));
    }
}

impl Actor for Outlet {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.turn(ctx);
    }
}
