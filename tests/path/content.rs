//! `content: off`: of what was said nothing arrives, whichever way it came in; ids, times, usage and models do.

use serde_json::json;
use streamll::processors::{RedactConfig, WithoutContent};
use streamll::topology::LoadOptions;
use streamll::{Event, Handle, Registry, Stage, TokenStream as _, Topology, context, step, trace};
use tokio_stream::StreamExt as _;

use super::{Arrival, Kept, block_on, end};

/// What was said, wherever somebody can say it.
const CANARY: &str = "canary-9d2e";

#[streamll::instrument(emitter = emitter)]
fn answers(emitter: &Handle, question: &str) -> String {
    question.to_owned()
}

#[streamll::instrument(emitter = emitter)]
fn fails(emitter: &Handle, question: &str) -> Result<(), std::io::Error> {
    Err(std::io::Error::other(question.to_owned()))
}

fn instrumented(handle: &Handle) {
    answers(handle, CANARY);
    fails(handle, CANARY).unwrap_err();
}

fn scopes(handle: &Handle) {
    let scope = trace("answer").to(handle.emitter()).input("question", CANARY).enter();
    scope.emit("docs_found", json!({ "count": 3, "best": { "text": CANARY }, "model": "embedder" }));
    scope.emit("said", CANARY);
    scope.emit("listed", json!([CANARY]));
    scope.output("answer", CANARY);
    scope.output("input_tokens", 12);
    drop(scope);
    trace("answer").to(handle.emitter()).enter().fail("Refused", format!("not {CANARY}"));
}

fn streams(handle: &Handle) {
    let items = [Ok(CANARY), Ok(CANARY), Err(CANARY)];
    let stream = tokio_stream::iter(items)
        .tokens("answer", |item: &Result<&'static str, &str>| item.ok())
        .errors(|item| item.as_ref().err())
        .to(handle.emitter());
    assert_eq!(block_on(stream.collect::<Vec<_>>()), items, "the application reads on as before");
}

#[cfg(feature = "tracing")]
fn spans(handle: &Handle) {
    use streamll::LayerExt as _;
    use tracing_subscriber::prelude::*;

    let layer = streamll::layer().to(handle.emitter()).capture_content(true).targets(["content"]);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        let messages = format!(r#"[{{"role":"user","content":"{CANARY}"}}]"#);
        drop(tracing::info_span!(
            "chat",
            gen_ai.operation.name = "chat",
            gen_ai.request.model = "gpt-test",
            gen_ai.usage.input_tokens = 12,
            gen_ai.response.finish_reasons = "[\"stop\"]",
            gen_ai.input.messages = messages,
            gen_ai.output.messages = messages,
            gen_ai.system_instructions = CANARY,
            gen_ai.tool.definitions = CANARY,
            error.type = "timeout",
            error.message = CANARY,
        ));
        drop(tracing::info_span!(
            "execute_tool",
            gen_ai.operation.name = "execute_tool",
            gen_ai.tool.name = "search",
            gen_ai.tool.call.id = "call_1",
            gen_ai.tool.call.arguments = CANARY,
            gen_ai.tool.call.result = CANARY,
        ));
        drop(tracing::info_span!(target: "content", "own", question = CANARY, input_tokens = 3));
    });
}

fn events(handle: &Handle) {
    let chat = step("Chat").context(&context! { conversation_id = "conv_1", tags.tenant = "acme" });
    handle.emit(Event::new(&chat, "start").with("question", CANARY).with("api_key", CANARY));
    handle.emit(Event::token(&chat, "answer", CANARY, 0));
    let wrong = json!({ "secret": CANARY });
    handle.emit(
        Event::new(&chat, "llm_end")
            .with("model", wrong.clone())
            .with("usage", json!({ "input_tokens": 12, CANARY: 1, "note": CANARY }))
            .with("input_tokens", CANARY)
            .with("user_id", wrong)
            .with("finish_reasons", json!(["stop", { "text": CANARY }]))
            .with("provider", format!("{CANARY} ").repeat(40)),
    );
    handle.emit(Event::new(&chat, "end").with("answer", CANARY));
}

/// Says the canary in every way there is.
fn say(handle: &Handle) {
    for way in [instrumented, scopes, streams, events] {
        way(handle);
    }
    #[cfg(feature = "tracing")]
    spans(handle);
}

#[track_caller]
fn hold_no_canary(arrivals: &[Arrival]) {
    assert!(!arrivals.is_empty());
    for Arrival { key, text, .. } in arrivals {
        assert!(!text.contains(CANARY) && !key.contains(CANARY), "{key}: {text}");
    }
}

fn data<'a>(
    arrivals: &'a [Arrival],
    kind: &'a str,
    key: &'a str,
) -> impl Iterator<Item = &'a serde_json::Value> {
    arrivals.iter().filter(move |arrival| arrival.kind() == kind).filter_map(move |a| a.json["data"].get(key))
}

#[test]
fn what_was_said_arrives_nowhere_and_what_it_cost_does() {
    let (all, one) = (Kept::default(), Kept::default());
    // Whoever renders a key from content gets what is left of it.
    let handle = Topology::builder("rag-api")
        .without_content()
        .routing_key("{data.question}.{data.answer}.{event_type}");
    let mut keyed = one.spec();
    keyed.routing_key = Some(streamll::Template::parse("{data.question}.{data.token}").unwrap());
    // An event that a processor could not take would be missing.
    let handle =
        handle.sink("all", all.spec()).sink("keyed", keyed).stage(Stage::closure("own", |event: Event| {
            assert!(!String::from_utf8_lossy(event.json()).contains(CANARY), "no processor sees it");
            Some(event)
        }));
    let handle = handle.start().expect("it starts");
    say(&handle);
    end(&handle);
    let arrivals = all.arrivals();
    hold_no_canary(&arrivals);
    hold_no_canary(&one.arrivals());
    assert!(data(&arrivals, "end", "duration").all(|duration| duration.is_f64()));
    assert!(data(&arrivals, "end", "input_tokens").any(|tokens| *tokens == 12));
    assert!(data(&arrivals, "end", "conversation_id").any(|id| *id == "conv_1"));
    assert!(data(&arrivals, "llm_end", "usage").any(|usage| *usage == json!({ "input_tokens": 12 })));
    assert!(data(&arrivals, "docs_found", "model").all(|model| *model == "embedder"));
    let tokens: Vec<_> = data(&arrivals, "token", "token").collect();
    assert_eq!(tokens, ["", "", ""]);
    assert!(data(&arrivals, "error", "tokens").any(|tokens| *tokens == 2));
    assert!(data(&arrivals, "error", "error_type").any(|name| *name == "Refused"));
    assert!(arrivals.iter().any(|arrival| arrival.json["tags"]["tenant"] == "acme"));
    #[cfg(feature = "tracing")]
    {
        assert!(data(&arrivals, "error", "model").any(|model| *model == "gpt-test"));
        assert!(data(&arrivals, "error", "finish_reasons").any(|reasons| *reasons == json!(["stop"])));
        assert!(data(&arrivals, "tool_end", "tool").any(|tool| *tool == "search"));
        assert!(data(&arrivals, "tool_end", "tool_call_id").any(|id| *id == "call_1"));
    }
}

#[test]
fn one_sink_has_it_and_the_other_has_not() {
    let (with, without) = (Kept::default(), Kept::default());
    let mut spec = without.spec();
    spec.processors.push(("content".to_owned(), std::sync::Arc::new(|| Box::new(WithoutContent::default()))));
    let builder = Topology::builder("rag-api").routing_key("ai.{data.question}.{event_type}");
    let handle = builder.sink("with", with.spec()).sink("without", spec).start().expect("it starts");
    say(&handle);
    end(&handle);
    hold_no_canary(&without.arrivals());
    let (with, without) = (with.arrivals(), without.arrivals());
    assert_eq!(with.len(), without.len(), "no event is missing");
    let said = with.iter().filter(|arrival| arrival.text.contains(CANARY)).count();
    assert!(said > with.len() / 2, "{said} of {}", with.len());
    assert!(with.iter().any(|arrival| arrival.key.contains(CANARY)), "its own key may show it");
    let ids = |arrivals: &[Arrival]| arrivals.iter().map(|a| a.json["event_id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&with), ids(&without));
    let numbers = |arrivals: &[Arrival]| arrivals.iter().map(|a| a.json["seq"].clone()).collect::<Vec<_>>();
    assert_eq!(numbers(&with), numbers(&without));
}

#[test]
fn what_a_processor_of_a_sink_takes_out_does_not_show_in_its_topic() {
    let (with, without) = (Kept::default(), Kept::default());
    let redact = RedactConfig { fields: vec!["tags.user".to_owned()], replacement: None };
    let mut spec = without.spec();
    spec.processors
        .push(("redact".to_owned(), std::sync::Arc::new(move || Box::new(redact.build().unwrap()))));
    let builder = Topology::builder("rag-api").routing_key("ai.{tags.user}.{event_type}");
    let handle = builder.sink("with", with.spec()).sink("without", spec).start().expect("it starts");
    handle.emit(Event::new(&step("Chat").context(&context! { tags.user = CANARY }), "start"));
    handle.emit(Event::new(&step("Chat"), "end"));
    end(&handle);
    hold_no_canary(&without.arrivals());
    assert_eq!(with.arrivals()[0].key, format!("ai.{CANARY}.start"));
    assert_eq!(with.arrivals()[1].key, without.arrivals()[1].key);
}

/// From YAML, with a disk buffer behind a sink that is not there.
#[test]
fn neither_disk_buffers_nor_dead_letters_hold_it() {
    for top in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display();
        let off = |is_here: bool| if is_here { "off" } else { "on" };
        let (top, one) = if top { ("off", "off") } else { (off(false), off(true)) };
        let yaml = format!(
            "data_dir: {place}/state\ncontent: {top}\nshutdown: {{ timeout: 1s }}\nsinks:\n  live:\n    type: file\n    path: {place}/none/live.ndjson\n    content: {one}\n    buffer: {{ type: disk }}\n  broken:\n    type: broken\n    content: {one}\n"
        );
        std::fs::write(folder.path().join("none"), "a file where a folder should be").unwrap();
        std::fs::write(folder.path().join("env.yaml"), yaml).unwrap();
        let kinds = Registry::default().sink("broken", |_: Nothing| Broken);
        let topology = Topology::load_with(folder.path(), "env", &kinds, &LoadOptions::default()).unwrap();
        let handle = topology.start().expect("it starts");
        say(&handle);
        let drained = handle.shutdown_blocking(std::time::Duration::from_secs(1));
        assert!(drained.status.balances(), "{:#?}", drained.status);
        let files = files(&folder.path().join("state"));
        let held = |text: &str| files.iter().filter(|(_, bytes)| holds(bytes, text)).count();
        assert!(
            held("conv_1") >= 2,
            "in the buffer and in the letters: {:?}",
            files.iter().map(|(p, b)| (p, b.len())).collect::<Vec<_>>()
        );
        assert_eq!(held(CANARY), 0);
    }
}

#[derive(serde::Deserialize)]
struct Nothing {}

/// A sink that can take no event at all.
struct Broken;

impl streamll::Sink for Broken {
    async fn deliver(&mut self, batch: &mut streamll::Deliveries) -> Result<(), streamll::DeliveryError> {
        for place in 0..batch.len() {
            batch.poison(place, "it takes none");
        }
        Ok(())
    }
}

fn files(folder: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push((path.clone(), std::fs::read(path).unwrap())),
        }
    }
    found
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
