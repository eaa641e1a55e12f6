//! Watches sinks and processors from outside: alerts the other sinks to lasting trouble, and gives up threads that do
//! not move.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::{Actor, ActorContext as _, AsyncContext as _, Context, WrapFuture as _};
use serde_json::{Map, Value};
use tokio::time::Instant;
use tracing::{error, info};

use super::{GraphHandle, Member, lock};
use crate::event::{Event, Timestamp};
use crate::sink::SinkState;
use crate::supervise::{Abandon, Exit};

/// The shortest time after which a thread is given up. Threads of sinks show once a second that they move.
const WATCHDOG_MIN: Duration = Duration::from_secs(3);

pub(super) struct Monitor {
    graph: GraphHandle,
    /// The state of each sink that was sent to the other sinks.
    told: HashMap<Arc<str>, SinkState>,
}

impl Monitor {
    pub(super) fn start(graph: GraphHandle) {
        actix::Actor::start(Monitor { graph, told: HashMap::new() });
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        if self.graph.0.draining.load(Ordering::SeqCst) {
            // It watches itself.
            return ctx.stop();
        }
        self.graph.watch(patience(&self.graph));
        let members = lock(&self.graph.0.sinks).clone();
        self.told.retain(|name, _| members.iter().any(|member| member.worker.name == *name));
        for member in &members {
            self.alert(member);
            self.watch(member, ctx);
        }
    }

    fn alert(&mut self, member: &Member) {
        let name = &member.worker.name;
        let (state, since, reason) = member.worker.cell.state();
        let now = Instant::now();
        let open = matches!(state, SinkState::Open | SinkState::HalfOpen);
        let lasts = now.duration_since(since) >= self.graph.0.plan.alert_after;
        let kind = match (self.told.get(name), state) {
            (told, SinkState::Failed) if told != Some(&SinkState::Failed) => "sink_failed",
            (None, _) if open && lasts => "sink_open",
            (Some(_), SinkState::Closed) => "sink_recovered",
            _ => return,
        };
        let remembered = if state == SinkState::Failed { state } else { SinkState::Open };
        match kind {
            "sink_recovered" => self.told.remove(name),
            _ => self.told.insert(name.clone(), remembered),
        };
        let mut data = Map::new();
        data.insert("sink".to_owned(), Value::from(&**name));
        data.insert("reason".to_owned(), reason.clone().into());
        data.insert("since".to_owned(), ago(now.duration_since(since)).to_string().into());
        data.insert("waiting".to_owned(), member.worker.buffer.balance(now).waiting.into());
        info!(sink = %name, kind, reason, "told the other sinks");
        self.graph.0.table.alert(Event::system(kind, data), name, now);
    }

    fn watch(&self, member: &Member, ctx: &mut Context<Self>) {
        let patience = patience(&self.graph);
        let silence = member.worker.cell.silence(Instant::now()).filter(|silence| *silence > patience);
        let Some(silence) = silence else { return };
        let name = member.worker.name.clone();
        error!(sink = %name, ?silence, "its thread does not move: given up");
        // On the spine's thread nothing could be started either.
        if !Arc::ptr_eq(&member.place, &self.graph.0.spine) {
            member.place.abandon();
        }
        let exit = Exit::Failed(format!("its thread has not moved for {} s", silence.as_secs()));
        let abandoned = self.graph.0.supervisor.send(Abandon(name, exit));
        ctx.spawn(
            async move {
                let _ = abandoned.await;
            }
            .into_actor(self),
        );
    }
}

/// Returns how long a thread may stand still.
pub(super) fn patience(graph: &GraphHandle) -> Duration {
    graph.0.plan.watchdog.max(WATCHDOG_MIN)
}

fn ago(age: Duration) -> Timestamp {
    let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(Timestamp::now().as_micros().saturating_sub(micros))
}

impl Actor for Monitor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let interval =
            (self.graph.0.plan.alert_after / 4).clamp(Duration::from_millis(50), Duration::from_secs(1));
        ctx.run_interval(interval, |monitor, ctx| monitor.look(ctx));
    }
}
