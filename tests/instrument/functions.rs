//! Functions and methods: what their events say, and how calls nest.

use serde_json::json;
use streamll::instrument;

use super::{end, lines, record, record_async, start};

struct RagPipeline {
    top_k: usize,
}

impl RagPipeline {
    #[instrument]
    async fn forward(&self, question: &str) -> String {
        let documents = self.retrieve(question);
        generate(&documents).await
    }

    #[instrument]
    fn retrieve(&self, question: &str) -> Vec<String> {
        vec![question.to_uppercase(); self.top_k]
    }
}

#[instrument]
async fn generate(documents: &[String]) -> String {
    tokio::task::yield_now().await;
    documents.join("+")
}

#[test]
fn a_call_starts_with_its_inputs_and_ends_with_its_output_and_duration() {
    let (given, events) = record(|| RagPipeline { top_k: 2 }.retrieve("why"));
    assert_eq!(given, ["WHY", "WHY"]);
    let (start, end) = (start(&events), end(&events));
    assert_eq!(start["data"], json!({ "question": "why" }));
    assert_eq!(end["data"]["output"], json!(["WHY", "WHY"]));
    assert!(end["data"]["duration"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{end}");
    for event in [start, end] {
        assert_eq!(event["module_name"], "RagPipeline");
        assert_eq!(event["method_name"], "retrieve");
        assert_eq!(event["operation"], "retrieve");
        assert_eq!(event["span_id"], start["span_id"]);
    }
}

#[test]
fn calls_inside_of_a_call_are_its_children_also_behind_an_await() {
    let (given, events) = record_async(async { RagPipeline { top_k: 1 }.forward("why").await });
    assert_eq!(given, "WHY");
    assert_eq!(
        lines(&events),
        [
            r#"start forward {"question":"why"}"#,
            r#"start retrieve {"question":"why"}"#,
            r#"end retrieve {"output":["WHY"]}"#,
            r#"start generate {"documents":["WHY"]}"#,
            r#"end generate {"output":"WHY"}"#,
            r#"end forward {"output":"WHY"}"#,
        ]
    );
    let forward = &events[0];
    for child in &events[1..5] {
        assert_eq!(child["parent_id"], forward["span_id"], "{child}");
        assert_eq!(child["execution_id"], forward["execution_id"], "{child}");
    }
    assert_ne!(events[1]["span_id"], events[3]["span_id"]);
}

#[test]
fn a_call_outside_of_every_scope_is_the_root_of_a_run() {
    let recorder = super::Recorder::new();
    let handle = recorder.handle.clone();
    #[instrument(emitter = handle, inputs = false)]
    fn root(handle: &streamll::Handle) {}
    root(&handle);
    root(&handle);
    let events = recorder.events();
    assert_eq!(events[0]["parent_id"], serde_json::Value::Null);
    assert_ne!(events[0]["execution_id"], events[2]["execution_id"]);
}

#[test]
fn set_context_inside_of_a_call_reaches_the_rest_of_it_and_no_further() {
    #[instrument]
    fn sets() {
        streamll::set_context(&streamll::context! { conversation_id = "c1" });
    }
    let ((), events) = record(|| {
        sets();
        sets();
    });
    let ids: Vec<_> = events.iter().map(|event| event["data"]["conversation_id"].as_str()).collect();
    assert_eq!(ids, [None, Some("c1"), None, Some("c1")]);
}
