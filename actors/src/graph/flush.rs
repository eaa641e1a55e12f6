//! Waiting until what was emitted has left the buffers, as far as somebody empties them.

use tokio::time::{Instant, timeout_at};

use super::{GraphHandle, lock};
use crate::sink::FLUSH;

pub(super) async fn flush(graph: &GraphHandle) -> u64 {
    let shared = &graph.0;
    shared.emitter.routed().await;
    let members = lock(&shared.sinks).clone();
    let tails: Vec<_> = members.iter().map(|member| (member, member.worker.buffer.tail())).collect();
    let until = Instant::now() + FLUSH;
    let mut behind = 0;
    for (member, tail) in tails {
        let buffer = &member.worker.buffer;
        loop {
            let change = shared.relief.notified();
            if buffer.has_passed(tail) {
                break;
            }
            let drops = buffer.drops_when_full();
            let is_left = buffer.is_open() || buffer.is_failed() || buffer.is_retired();
            if is_left || (drops && Instant::now() >= until) {
                behind += buffer.balance(Instant::now()).waiting;
                break;
            }
            if drops {
                let _ = timeout_at(until, change).await;
            } else {
                change.await;
            }
        }
    }
    behind
}
