//! The end of a graph: the intake stops, the path runs dry in order, the sinks deliver what waits, and stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use super::{GraphHandle, GraphStatus, Member, lock};
use crate::sink::{Control, Pace, SinkState};
use crate::supervise::Dismiss;

/// How often the log says who is still delivering.
const PROGRESS: Duration = Duration::from_secs(5);
/// What a sink gets beyond the deadline to let go.
const GRACE: Duration = Duration::from_millis(500);
/// What the disk gets to write what is in memory.
const CLOSE: Duration = Duration::from_secs(5);

/// How a graph ended.
#[derive(Debug, Clone)]
pub struct Drained {
    /// All that is known of it, for the last time.
    pub status: GraphStatus,
    /// Whether everything that was taken in, and all that was to be found on disk, arrived, is kept on disk, was filtered, or
    /// wanted by nobody.
    pub complete: bool,
}

impl Drained {
    /// Whether a disk buffer was in use by another process to the end, and all that is lost is what waited for it in memory.
    #[must_use]
    pub fn lacks_only_locks(&self) -> bool {
        let mut sinks = self.status.sinks().iter().chain(self.status.removed());
        sinks.any(|sink| sink.awaits_disk) && !self.status.has_losses(|sink| !sink.awaits_disk)
    }
}

pub(super) async fn drain(graph: &GraphHandle, deadline: Instant) -> Drained {
    let shared = &graph.0;
    if !shared.draining.swap(true, Ordering::SeqCst) {
        shared.emitter.ingress().close();
        if timeout_at(deadline, shared.dry.notified()).await.is_err() {
            warn!("the path did not run dry before the deadline");
        }
        shared.emitter.ingress().end();
        let members = lock(&shared.sinks).clone();
        let mut left = members.clone();
        while !left.is_empty() {
            // Dead letters and diverted events of some go to others: those are later.
            let is_target = |member: &Arc<Member>| {
                left.iter().any(|other| !Arc::ptr_eq(other, member) && other.gives_to(member))
            };
            let (later, now): (Vec<_>, Vec<_>) = left.iter().cloned().partition(is_target);
            let (later, now) = if now.is_empty() { (now, later) } else { (later, now) };
            later.iter().for_each(|member| member.worker.control(Control::Outlast));
            stop(&now, deadline).await;
            left = later;
        }
        members.iter().for_each(|member| member.place.close());
        shared.spine.close();
        let _ = shared.supervisor.send(Dismiss).await;
    }
    let status = graph.status();
    let complete = !status.has_losses(|_| true);
    Drained { status, complete }
}

/// Lets sinks deliver what waits until the deadline, and stops them.
pub(super) async fn stop(members: &[Arc<Member>], deadline: Instant) {
    for member in members {
        member.worker.control(Control::Drain);
    }
    let began = Instant::now();
    let mut next_word = began + PROGRESS;
    let mut paces: Vec<_> = members.iter().map(|member| Pace::of(&member.worker.buffer, began)).collect();
    loop {
        let ends: Vec<_> = members.iter().map(|member| Box::pin(member.worker.ended.notified())).collect();
        let busy: Vec<_> = members.iter().filter(|member| is_busy(member)).collect();
        if busy.is_empty() {
            break;
        }
        let now = Instant::now();
        if now >= deadline {
            for member in &busy {
                explain(member, now);
                member.worker.control(Control::Stop);
            }
            if now >= deadline + GRACE {
                break;
            }
        }
        if now >= next_word {
            next_word = now + PROGRESS;
            for member in &busy {
                let waiting = member.worker.buffer.balance(now).waiting;
                info!(sink = %member.worker.name, waiting, "draining");
            }
        }
        let mut limit = if now >= deadline { deadline + GRACE } else { next_word.min(deadline) };
        for (member, pace) in members.iter().zip(&mut paces).filter(|(member, _)| is_busy(member)) {
            match pace.until(&member.worker.buffer, now) {
                // It is told to drop, so that nobody waits for it.
                Some(until) if until <= now => member.worker.control(Control::Stop),
                Some(until) => limit = limit.min(until),
                None => {}
            }
        }
        tokio::select! {
            _ = futures_util::future::select_all(ends) => {}
            () = sleep_until(limit) => {}
        }
    }
    let closed = members.iter().map(|member| async move {
        let buffer = &member.worker.buffer;
        buffer.retire();
        if timeout(CLOSE, buffer.close()).await.is_err() {
            warn!(sink = %member.worker.name, "the buffer on disk does not close: its disk hangs");
        }
    });
    futures_util::future::join_all(closed).await;
}

/// Says of a sink with events that are left why they are, where nothing else does.
fn explain(member: &Member, now: Instant) {
    let numbers = member.worker.buffer.balance(now);
    if numbers.waiting > 0 {
        member.worker.cell.explain(|| match numbers.in_flight {
            0 => "the deadline of the end came before they were sent".to_owned(),
            under_way => format!("no answer for {under_way} of them before the deadline of the end"),
        });
    }
}

fn is_busy(member: &Member) -> bool {
    let cell = &member.worker.cell;
    cell.state().0 != SinkState::Failed && !cell.is_stopped()
}
