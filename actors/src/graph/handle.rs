//! A handle on one sink of a running graph: its circuit by hand, its dead letters again, its status.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use super::member::Member;
use crate::event::{Decoder, Delivery, EventId, WireError};
use crate::sink::SinkStatus;
use crate::sink::breaker::Circuit;

/// A handle on one sink of a running graph.
#[derive(Clone)]
pub struct SinkHandle(pub(super) Arc<Member>);

impl SinkHandle {
    /// Opens the circuit, until [`force_close`](Self::force_close) or [`auto`](Self::auto) is called.
    pub fn force_open(&self) {
        self.order(|circuit| circuit.force_open(), Some("ordered by hand"));
    }

    /// Closes the circuit and keeps it closed, until [`force_open`](Self::force_open) or [`auto`](Self::auto) is
    /// called.
    pub fn force_close(&self) {
        self.order(|circuit| circuit.force_close(Instant::now()), None);
    }

    /// Lets the deliveries open and close the circuit again.
    pub fn auto(&self) {
        self.order(Circuit::auto, None);
    }

    fn order<T>(&self, order: impl FnOnce(&mut Circuit) -> T, reason: Option<&str>) {
        let worker = &self.0.worker;
        order(&mut worker.circuit());
        // Without its buffer it stays open, whatever the order.
        if !worker.buffer.awaits_disk() {
            worker.publish(reason.map(str::to_owned));
        }
        worker.cell.call();
    }

    /// Delivers an event of the sink's dead letters again, past router and processors. The event has exactly the same
    /// JSON and the same id, and is marked as attempt number `attempts + 1`. Returns `false` if the buffer has no room
    /// now.
    ///
    /// # Errors
    ///
    /// If the JSON is not an event.
    pub fn replay(&self, json: &[u8], attempts: u32) -> Result<bool, WireError> {
        let event = Decoder::default().restore(bytes::Bytes::copy_from_slice(json), None, false)?;
        let delivery = match &self.0.routing_key {
            Some(template) => {
                let key = template.render(&event).into();
                Delivery::new(event, key)
            }
            None => Delivery::by_topic(event),
        };
        Ok(self.0.worker.buffer.offer_again(delivery, attempts, Instant::now()))
    }

    /// Returns the ids of the events that wait in memory, the oldest first.
    #[must_use]
    pub fn waiting(&self) -> Vec<EventId> {
        self.0.worker.buffer.ids()
    }

    /// Returns the status of the sink.
    #[must_use]
    pub fn status(&self) -> SinkStatus {
        self.0.status(Instant::now())
    }
}

impl fmt::Debug for SinkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SinkHandle").field(&self.0.worker.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::graph::Plan;
    use crate::testkit::{Journal, Rig, run};

    /// Orders and deliveries tell of the circuit at the same time: what is told last is how it is.
    #[test]
    fn what_is_published_is_how_the_circuit_is_whoever_publishes() {
        const ROUNDS: u32 = 20_000;
        run(async {
            let rig = Rig::start(Plan::new("test").sink(Journal::new([]).spec("live", Duration::ZERO))).await;
            let Some(live) = rig.graph.sink("live") else { panic!("it has this sink") };
            let worker = &live.0.worker;
            let together = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        together.wait();
                        worker.publish(None);
                        together.wait();
                    }
                });
                let mut wrong = 0;
                for _ in 0..ROUNDS {
                    live.force_close();
                    together.wait();
                    live.force_open();
                    together.wait();
                    let is_open =
                        worker.buffer.is_open() && worker.cell.state().0 == crate::sink::SinkState::Open;
                    wrong += u32::from(!is_open);
                }
                assert_eq!(wrong, 0, "of {ROUNDS}");
            });
            rig.end().await;
        });
    }
}
