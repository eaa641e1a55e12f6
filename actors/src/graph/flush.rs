//! Waits until emitted events have left the buffers, for sinks that empty them.

use tokio::time::{Instant, timeout_at};

use super::{GraphHandle, lock};
use crate::sink::{Buffer, FLUSH};

pub(super) async fn flush(graph: &GraphHandle) -> u64 {
    let shared = &graph.0;
    shared.emitter.routed().await;
    let members = lock(&shared.sinks).clone();
    let until = Instant::now() + FLUSH;
    let mut behind = 0;
    // What is in front of a sink's processors is in its buffer once it has passed them.
    let fronts = members.iter().filter_map(|member| Some(&**member.front()?));
    let buffers = members.iter().map(|member| &*member.worker.buffer);
    for step in [fronts.collect::<Vec<_>>(), buffers.collect()] {
        let tails: Vec<_> = step.into_iter().map(|buffer| (buffer, buffer.tail())).collect();
        for (buffer, tail) in tails {
            behind += passed(graph, buffer, tail, until).await;
        }
    }
    behind
}

/// Waits until every event before `tail` has left the buffer. If its sink does not empty the buffer, returns how many
/// events wait.
async fn passed(graph: &GraphHandle, buffer: &Buffer, tail: u64, until: Instant) -> u64 {
    loop {
        let change = graph.0.relief.notified();
        if buffer.has_passed(tail) {
            return 0;
        }
        let drops = buffer.drops_when_full();
        let is_left = buffer.is_open() || buffer.is_failed() || buffer.is_retired();
        if is_left || (drops && Instant::now() >= until) {
            return buffer.balance(Instant::now()).waiting;
        }
        if drops {
            let _ = timeout_at(until, change).await;
        } else {
            change.await;
        }
    }
}
