//! What an example emits, as text that is the same in every run: for tests to compare with what they have kept.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Map, Value};

/// A topology with one sink, which keeps everything.
const TOPOLOGY: &str = "
service: golden
sinks:
  events: { type: file, path: '${GOLDEN_EVENTS}' }
";

/// What takes another time in every run.
const TIMES: [&str; 3] = ["duration", "time_to_first_token", "tokens_per_second"];
/// Tags that the enricher adds.
const PLACES: [&str; 3] = ["service", "environment", "host"];

/// The events that a program emits into the topology of its environment, in their order. What is written meanwhile goes
/// below `scratch`, where no other test may be.
///
/// # Panics
/// When the program fails, or what it emits is not what every program emits: each event with an id and a number of its own.
#[must_use]
pub fn events(program: &mut Command, scratch: &Path) -> Vec<Value> {
    let kept = scratch.join("events.ndjson");
    let _ = fs::remove_file(&kept);
    fs::create_dir_all(scratch).expect("a folder");
    fs::write(scratch.join("golden.yaml"), TOPOLOGY).expect("a topology");
    program
        .stdin(Stdio::null())
        .env("STREAMLL_TOPOLOGIES", scratch)
        .env("STREAMLL_ENV", "golden")
        .env("GOLDEN_EVENTS", &kept)
        .env_remove("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT");
    if program.get_envs().all(|(name, _)| name != "OPENAI_STUB_DELAY_MS") {
        program.env("OPENAI_STUB_DELAY_MS", "1");
    }
    let out = program.output().expect("it runs");
    let said = [out.stdout, out.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(out.status.success(), "{program:?}: {}\n{said}", out.status);

    let lines = fs::read_to_string(kept).unwrap_or_else(|error| panic!("no events: {error}\n{said}"));
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ids: HashSet<_> = events.iter().map(|event| event["event_id"].as_str()).collect();
    assert_eq!(ids.len(), events.len(), "each event has an id of its own");
    let numbers: Vec<_> = events.iter().map(|event| event["seq"].as_u64()).collect();
    assert!(
        numbers.is_sorted_by(|one, next| one < next),
        "each event comes after the one before: {numbers:?}"
    );
    events
}

/// One line for each event: its run and its step (`1.2`), the step around it (`in 1`), who it is of, what it is, and its
/// data. Runs and steps are numbered as they come; times are left out.
#[must_use]
pub fn story(events: &[Value]) -> String {
    let (mut runs, mut steps) = (Names::default(), Names::default());
    let mut story = String::new();
    for event in events {
        let text = |key: &str| event[key].as_str();
        let run = runs.number(text("execution_id").expect("a run"));
        let step = steps.number(text("span_id").expect("a step"));
        let _ = write!(story, "{run}.{step}");
        if let Some(around) = text("parent_id") {
            let _ = write!(story, " in {}", steps.number(around));
        }
        let who =
            [text("module_name"), text("method_name")].into_iter().flatten().collect::<Vec<_>>().join(".");
        let _ = write!(story, "  {who} {}", text("event_type").expect("a type"));
        if let Some(operation) = text("operation") {
            let _ = write!(story, " {operation}");
        }
        let of = |key: &str| event[key].as_object().cloned().unwrap_or_default();
        let (mut data, mut tags) = (of("data"), of("tags"));
        hide_times(&mut data);
        tags.retain(|key, _| !PLACES.contains(&key.as_str()));
        for (sign, values) in
            [("", data), ("tags ", tags)].into_iter().filter(|(_, values)| !values.is_empty())
        {
            let _ = write!(story, "  {sign}{}", Value::Object(values));
        }
        story.push('\n');
    }
    story
}

/// Times are there, whatever they are.
fn hide_times(values: &mut Map<String, Value>) {
    for (key, value) in values.iter_mut().filter(|(key, _)| TIMES.contains(&key.as_str())) {
        assert!(value.as_f64().is_some_and(|seconds| seconds >= 0.0), "{key} is {value}");
        *value = "…".into();
    }
}

/// Ids, and the numbers that stand for them.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn number(&mut self, id: &str) -> usize {
        let known = self.0.iter().position(|known| known == id);
        let place = known.unwrap_or_else(|| {
            self.0.push(id.to_owned());
            self.0.len() - 1
        });
        place + 1
    }
}
