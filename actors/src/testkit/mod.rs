//! Tests of sinks, processors and whole graphs: scripted sinks, virtual time, and a check of the numbers at the end.

#![allow(clippy::panic, reason = "a kit for tests fails them by panicking")]

mod scripted;
#[cfg(any(test, feature = "testkit"))]
mod virtual_time;

pub use scripted::{Act, Arrival, Journal, Scripted};
#[cfg(any(test, feature = "testkit"))]
pub use virtual_time::{Rig, run, settle};

use crate::event::{Delivery, Event, Step};
use crate::ingress::Tally;
use crate::process::{Output, Processor, Stage};
use crate::sink::{Deliveries, Sink, SinkContext};

/// Runs events through a processor, calls its `finish`, too, and returns the events that come out.
///
/// # Panics
///
/// If the processor does not release every event that it held.
pub fn drive(processor: impl Processor, events: impl IntoIterator<Item = Event>) -> Vec<Event> {
    let mut stage = Stage::new("driven".into(), Box::new(processor));
    let (mut passed, mut tally) = (Output::default(), Tally::default());
    for event in events {
        // A failure is counted, and told of below.
        let _ = stage.process(&event, &mut passed, &mut tally);
    }
    let mut out = passed.events;
    out.extend(stage.finish(&mut tally));
    let lost = tally.failed;
    assert!(lost == 0, "{lost} events were lost: the processor panicked, or held them to the end");
    out
}

/// Checks that a sink keeps its contract, as far as a test can see this. The sink must deliver every event, in order,
/// exactly once: for single events, for batches, after a second `open` on the same instance, and with a fresh instance.
/// `read` returns the JSON of all events that have arrived so far.
///
/// # Panics
///
/// If the sink breaks the contract.
pub async fn conformance<S: Sink>(make: impl Fn() -> S, read: impl Fn() -> Vec<Vec<u8>>) {
    let ctx = SinkContext::detached("conformance");
    let step = Step::new("Conformance");
    let mut sent: Vec<Vec<u8>> = read();
    let mut number = 0_u64;
    for (instance, sizes) in [[1, 100, 3], [7, 1, 256]].into_iter().enumerate() {
        let mut sink = make();
        for (turn, size) in sizes.into_iter().enumerate() {
            let opened = sink.open(&ctx).await;
            assert!(opened.is_ok(), "instance {instance}, open number {turn}: {opened:?}");
            let events = (0..size).map(|_| {
                number += 1;
                let event = Event::new(&step, "conformance")
                    .with("number", number)
                    .with("text", "a \"b\"\n\u{1b}[31m é");
                Delivery::new(event, "ai.conformance.conformance".into())
            });
            let mut batch = Deliveries::new(events.collect());
            sent.extend(batch.iter().map(|delivery| delivery.event.json().to_vec()));
            let delivered = sink.deliver(&mut batch).await;
            assert!(delivered.is_ok(), "instance {instance}, batch {turn} of {size}: {delivered:?}");
        }
        sink.close().await;
    }
    let arrived = read();
    assert!(arrived == sent, "{} events arrived of {}, or not in order", arrived.len(), sent.len());
}
