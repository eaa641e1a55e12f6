//! What the layer makes of spans: event by event, and of which it makes nothing.

mod content;
mod errors;
mod libraries;
mod places;
mod quiet;
mod targets;
mod usage;

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use streamll::testkit::{Arrival, Journal};
use streamll::{Handle, LayerExt as _, SpanLayer, Topology};
use tracing::Dispatch;
use tracing_subscriber::Registry;
use tracing_subscriber::prelude::*;

/// A topology with one sink that keeps what arrives.
fn topology() -> (Handle, Journal) {
    let journal = Journal::new([]);
    let topology = Topology::builder("rag-api").sink("kept", journal.spec("kept", Duration::ZERO));
    (topology.start().expect("it starts"), journal)
}

/// Ends a topology in which everything arrives, and checks its books.
#[track_caller]
fn end(handle: &Handle, journal: &Journal) -> Vec<Arrival> {
    let drained = handle.shutdown_blocking(Duration::from_secs(60));
    assert!(drained.complete && drained.status.balances(), "{:#?}", drained.status);
    journal.arrivals()
}

/// A subscriber with the layer alone.
fn subscriber(handle: &Handle, options: impl FnOnce(SpanLayer<Registry>) -> SpanLayer<Registry>) -> Dispatch {
    Dispatch::new(tracing_subscriber::registry().with(options(streamll::layer().to(handle.emitter()))))
}

/// What arrives of what `code` does, with a layer as asked for.
#[track_caller]
fn seen_by(
    options: impl FnOnce(SpanLayer<Registry>) -> SpanLayer<Registry>,
    code: impl FnOnce(&Handle),
) -> Vec<Arrival> {
    let (handle, journal) = topology();
    tracing::dispatcher::with_default(&subscriber(&handle, options), || code(&handle));
    end(&handle, &journal)
}

#[track_caller]
fn seen(code: impl FnOnce(&Handle)) -> Vec<Arrival> {
    seen_by(|layer| layer, code)
}

/// The types of events, each with its module and its operation.
fn names(arrivals: &[Arrival]) -> Vec<String> {
    let text = |json: &Value| json.as_str().unwrap_or("-").to_owned();
    let name =
        |a: &Arrival| format!("{} {} {}", text(&a.json["module_name"]), a.kind(), text(&a.json["operation"]));
    arrivals.iter().map(name).collect()
}

/// The data of an event, without what differs from time to time.
fn data(arrival: &Arrival) -> Value {
    let mut data = arrival.json["data"].clone();
    if let Value::Object(map) = &mut data
        && let Some(duration) = map.remove("duration")
    {
        assert!(duration.as_f64().is_some_and(|seconds| seconds >= 0.0), "{duration}");
    }
    data
}

/// The event of that type; there must be one.
#[track_caller]
fn only<'a>(arrivals: &'a [Arrival], kind: &str) -> &'a Arrival {
    let mut of_kind = arrivals.iter().filter(|arrival| arrival.kind() == kind);
    match (of_kind.next(), of_kind.next()) {
        (Some(one), None) => one,
        _ => panic!("not one `{kind}` in {:?}", names(arrivals)),
    }
}

/// Runs one test once more, in a process of its own with this variable set to `true`.
#[track_caller]
fn again(test: &str, variable: &str) {
    let program = std::env::current_exe().expect("a program");
    let run = Command::new(program).args(["--exact", test]).env(variable, "true").output().expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

/// A call of a model whose name is known.
macro_rules! chat {
    ($($fields:tt)*) => {
        tracing::info_span!(
            "chat",
            gen_ai.operation.name = "chat",
            gen_ai.request.model = "gpt-test",
            gen_ai.usage.output_tokens = tracing::field::Empty,
            $($fields)*
        )
    };
}
pub(crate) use chat;
