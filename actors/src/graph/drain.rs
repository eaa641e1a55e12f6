//! The end of a graph: the ingress stops, the path runs empty in order, the sinks deliver the waiting events, and stop.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use super::monitor::patience;
use super::section::Section;
use super::{GraphHandle, GraphStatus, Member, Own, lock};
use crate::sink::{Control, Pace, SinkState, SinkStatus};
use crate::supervise::Dismiss;

/// How often the log names the sinks that are still delivering.
const PROGRESS: Duration = Duration::from_secs(5);
/// The time that a sink gets after the deadline to stop.
const GRACE: Duration = Duration::from_millis(500);
/// How often the events that are still in the processors are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The time that the disk gets to write the events in memory.
const CLOSE: Duration = Duration::from_secs(5);

/// How a graph ended.
#[derive(Debug, Clone)]
pub struct Drained {
    /// The last status of the graph.
    pub status: GraphStatus,
    /// Whether nothing was lost: every event that was accepted, or found on disk, was delivered, is kept on disk, was
    /// filtered, or was wanted by no sink.
    pub complete: bool,
}

impl Drained {
    /// Returns whether a disk buffer was in use by another process to the end, and only the events that waited for it
    /// in memory are lost.
    #[must_use]
    pub fn lacks_only_locks(&self) -> bool {
        let mut sinks = self.status.sinks().iter().chain(self.status.removed());
        let is_locked = |sink: &SinkStatus| sink.awaits_disk && sink.disk_trouble.is_none();
        sinks.any(is_locked) && !self.status.has_losses(|sink| !is_locked(sink))
    }
}

pub(super) async fn drain(graph: &GraphHandle, deadline: Instant) -> Drained {
    let shared = &graph.0;
    if !shared.draining.swap(true, Ordering::SeqCst) {
        shared.emitter.ingress().close();
        if !watching(graph, deadline, shared.dry.notified()).await {
            for processor in graph.status().processors() {
                warn!(%processor, "holds up the end");
            }
            warn!("the path did not run dry before the deadline");
            shared.between.close();
            shared.taps.close();
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
            stop(graph, &now, deadline).await;
            left = later;
        }
        members.iter().for_each(|member| member.place.close());
        shared.between.sections.iter().for_each(Section::leave);
        shared.spine.close();
        let _ = shared.supervisor.send(Dismiss).await;
    }
    let status = graph.status();
    let complete = !status.has_losses(|_| true);
    Drained { status, complete }
}

/// Waits until the deadline for something that processors may delay. A processor that does not return for half of the
/// time is given up, so that the stages behind it have the other half.
async fn watching(graph: &GraphHandle, deadline: Instant, done: impl Future<Output = ()>) -> bool {
    let half = deadline.saturating_duration_since(Instant::now()) / 2;
    let patience = patience(graph).min(half);
    let mut done = std::pin::pin!(done);
    loop {
        graph.watch(patience);
        let look = deadline.min(Instant::now() + LOOK.min(half));
        match timeout_at(look, &mut done).await {
            Ok(()) => return true,
            Err(_) if Instant::now() >= deadline => return false,
            Err(_) => {}
        }
    }
}

/// Lets the processors of one sink run empty. Then the sink delivers the waiting events.
async fn run_dry(graph: GraphHandle, member: Arc<Member>, deadline: Instant) {
    if let Some(Own { line, section }) = &member.lane {
        line.source().end();
        if watching(&graph, deadline, line.source().ended()).await {
            section.leave();
        } else {
            for processor in section.troubles() {
                warn!(%processor, "holds up the end of its sink");
            }
            section.close();
        }
    }
    if Instant::now() < deadline {
        member.worker.control(Control::Drain);
    }
}

/// Lets sinks deliver the waiting events until the deadline, and stops them.
pub(super) async fn stop(graph: &GraphHandle, members: &[Arc<Member>], deadline: Instant) {
    let mut dry = Vec::new();
    for member in members {
        match &member.lane {
            None => member.worker.control(Control::Drain),
            // None of them waits for another's processors.
            Some(_) => {
                member.worker.control(Control::Outlast);
                dry.push(actix_rt::spawn(run_dry(graph.clone(), member.clone(), deadline)));
            }
        }
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
    // Where a sink was given up, nobody has waited for its processors yet.
    futures_util::future::join_all(dry).await;
    let closed = members.iter().map(|member| async move {
        let buffer = &member.worker.buffer;
        buffer.retire();
        if timeout(CLOSE, buffer.close()).await.is_err() {
            warn!(sink = %member.worker.name, "the buffer on disk does not close: its disk hangs");
        }
    });
    futures_util::future::join_all(closed).await;
}

/// Sets the reason why events are left at a sink, if there is no other reason.
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
