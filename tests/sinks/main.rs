//! The sinks that need no broker, and the processors.

mod coalesce;
mod content;
mod file;
mod filter;
mod redact;
mod sample;
mod terminal;

use std::future::Future;

use streamll_actors::event::{Context, Decoder, Delivery, Event, Step, StepParts, Timestamp};
use streamll_actors::sink::{Deliveries, DeliveryError, Sink};

/// A step whose ids are given; `name` is its operation.
fn step(name: &str, span_id: &str) -> Step {
    Step::from(StepParts {
        module_name: "RagPipeline".into(),
        method_name: Some("forward".into()),
        operation: Some(name.into()),
        execution_id: "run".into(),
        span_id: span_id.into(),
        parent_id: None,
        context: Context::empty(),
    })
}

/// A moment of the one day on which everything happens.
fn at(time: &str) -> Timestamp {
    Timestamp::parse(&format!("2026-11-21T{time}Z")).unwrap()
}

/// An event as it comes in on standard input.
fn incoming(line: &str) -> Event {
    Decoder::default().decode(line.as_bytes()).unwrap()
}

fn batch(events: impl IntoIterator<Item = Event>) -> Deliveries {
    Deliveries::new(events.into_iter().map(|event| Delivery::new(event, "ai.key".into())).collect())
}

fn deliver(sink: &mut impl Sink, events: impl IntoIterator<Item = Event>) -> Result<(), DeliveryError> {
    run(sink.deliver(&mut batch(events)))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}
