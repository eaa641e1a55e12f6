//! Starts actors, notices how they end, and starts them again by policy. It knows neither sinks nor events.

mod backoff;
mod restart;

pub use backoff::Backoff;
pub use restart::{Exit, RestartPolicy, RestartTracker, Verdict};

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actix::prelude::{
    Actor, ActorContext as _, AsyncContext as _, Context, Handler, Message, MessageResult, StreamHandler,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tracing::{error, info, warn};

/// The name of one child.
pub(crate) type ChildId = Arc<str>;

/// One child: how to start it, and who is notified of its life.
#[derive(Clone)]
pub(crate) struct ChildSpec {
    pub(crate) id: ChildId,
    pub(crate) restart: RestartPolicy,
    /// Starts one incarnation, which owns the watch until its end.
    pub(crate) start: Arc<dyn Fn(DeathWatch) + Send + Sync>,
    pub(crate) observer: Arc<dyn Observer>,
}

/// Is notified of the events in one child's life.
pub(crate) trait Observer: Send + Sync {
    /// The child has ended. Take back everything that it held.
    fn ended(&self, exit: &Exit);
    /// Whether it did useful work since the last question. If so, earlier restarts are forgotten.
    fn progressed(&self) -> bool;
    /// A fresh incarnation follows after a delay.
    fn restarting(&self);
    /// It was given up.
    fn gave_up(&self, exit: &Exit);
}

/// Owned by every supervised actor. Its drop notifies the supervisor that, and how, the actor ended. It also notifies
/// if the end is an uncaught panic, or if the actor's thread is gone.
pub(crate) struct DeathWatch {
    id: ChildId,
    incarnation: u64,
    reports: mpsc::UnboundedSender<Ended>,
    exit: Option<Exit>,
}

impl DeathWatch {
    /// Sets how the actor is about to end. Only the first call counts.
    pub(crate) fn because(&mut self, exit: Exit) {
        self.exit.get_or_insert(exit);
    }

    /// Makes a watch that notifies the same supervisor about the same child, for children of several actors.
    pub(crate) fn another(&self) -> DeathWatch {
        DeathWatch {
            id: self.id.clone(),
            incarnation: self.incarnation,
            reports: self.reports.clone(),
            exit: None,
        }
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        let unsaid = || {
            if std::thread::panicking() { Exit::Panicked("in the actor itself".into()) } else { Exit::Lost }
        };
        let exit = self.exit.take().unwrap_or_else(unsaid);
        let _ = self.reports.send(Ended { id: self.id.clone(), incarnation: self.incarnation, exit });
    }
}

impl fmt::Debug for DeathWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeathWatch").field("id", &self.id).finish_non_exhaustive()
    }
}

struct Ended {
    id: ChildId,
    incarnation: u64,
    exit: Exit,
}

struct Child {
    spec: ChildSpec,
    tracker: RestartTracker,
    incarnation: u64,
}

/// The root of a graph. Each child is restarted alone, and has its own factory, restart policy and back-off.
pub(crate) struct GraphSupervisor {
    children: HashMap<ChildId, Child>,
    /// Numbers the incarnations of all children, so that a late report never meets another child of the same name.
    incarnations: u64,
    reports: mpsc::UnboundedSender<Ended>,
    inbox: Option<mpsc::UnboundedReceiver<Ended>>,
}

impl Default for GraphSupervisor {
    fn default() -> GraphSupervisor {
        let (reports, inbox) = mpsc::unbounded_channel();
        GraphSupervisor { children: HashMap::new(), incarnations: 0, reports, inbox: Some(inbox) }
    }
}

impl Actor for GraphSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        if let Some(inbox) = self.inbox.take() {
            ctx.add_stream(UnboundedReceiverStream::new(inbox));
        }
    }
}

impl GraphSupervisor {
    fn launch(&mut self, id: &ChildId) {
        if let Some(child) = self.children.get_mut(id) {
            self.incarnations += 1;
            child.incarnation = self.incarnations;
            let watch = DeathWatch {
                id: id.clone(),
                incarnation: child.incarnation,
                reports: self.reports.clone(),
                exit: None,
            };
            // A panic in there drops the watch, which reports it like any other end.
            let start = &child.spec.start;
            if catch_unwind(AssertUnwindSafe(|| start(watch))).is_err() {
                error!(child = %id, "panicked while it was started");
            }
        }
    }

    fn ended(&mut self, ended: Ended, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(&ended.id) else { return };
        // One report an incarnation: later ones come from its other actors, or from a thread that was given up.
        if child.incarnation != ended.incarnation {
            return;
        }
        self.incarnations += 1;
        child.incarnation = self.incarnations;
        let pending = child.incarnation;
        let (id, exit) = (ended.id, ended.exit);
        child.spec.observer.ended(&exit);
        let progressed = child.spec.observer.progressed();
        match child.tracker.decide(&exit, progressed, Instant::now()) {
            Verdict::RestartAfter(delay) => {
                warn!(child = %id, %exit, delay_ms = delay.as_millis(), "restarting");
                child.spec.observer.restarting();
                ctx.run_later(delay, move |supervisor, _| {
                    // Another child may have come under that name since.
                    if supervisor.children.get(&id).is_some_and(|child| child.incarnation == pending) {
                        supervisor.launch(&id);
                    }
                });
            }
            Verdict::LeaveDown => {
                info!(child = %id, "stopped");
                self.children.remove(&id);
            }
            Verdict::GiveUp => {
                error!(child = %id, %exit, restarts = child.tracker.recent(), "given up: too many restarts");
                child.spec.observer.gave_up(&exit);
            }
        }
    }
}

impl StreamHandler<Ended> for GraphSupervisor {
    fn handle(&mut self, ended: Ended, ctx: &mut Context<Self>) {
        self.ended(ended, ctx);
    }

    /// The supervisor holds a sender itself: the stream does not end before it does.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

/// Adds a child and starts it. A child of the same name is forgotten.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Adopt(pub(crate) ChildSpec);

impl Handler<Adopt> for GraphSupervisor {
    type Result = ();

    fn handle(&mut self, Adopt(spec): Adopt, _: &mut Context<Self>) {
        let id = spec.id.clone();
        let tracker = RestartTracker::new(spec.restart);
        self.children.insert(id.clone(), Child { spec, tracker, incarnation: 0 });
        self.launch(&id);
    }
}

/// Treats a child as ended although it reported nothing (its thread is stuck). Answers whether there was such a child.
#[derive(Message)]
#[rtype(result = "bool")]
pub(crate) struct Abandon(pub(crate) ChildId, pub(crate) Exit);

impl Handler<Abandon> for GraphSupervisor {
    type Result = MessageResult<Abandon>;

    fn handle(&mut self, Abandon(id, exit): Abandon, ctx: &mut Context<Self>) -> Self::Result {
        let Some(incarnation) = self.children.get(&id).map(|child| child.incarnation) else {
            return MessageResult(false);
        };
        self.ended(Ended { id, incarnation, exit }, ctx);
        MessageResult(true)
    }
}

/// Ends the supervisor, and with it all restarts.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Dismiss;

impl Handler<Dismiss> for GraphSupervisor {
    type Result = ();

    fn handle(&mut self, _: Dismiss, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}
