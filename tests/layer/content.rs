//! What was said to a model, and by it: left out, unless somebody asks.

use streamll::LayerExt as _;
use tracing::info_span;

use super::{again, seen, seen_by};

const VARIABLE: &str = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT";

/// A span with a canary in every place that may hold what was said.
fn telltale() {
    drop(info_span!(
        "chat",
        gen_ai.operation.name = "chat",
        gen_ai.request.model = "gpt-test",
        gen_ai.input.messages = "canary",
        gen_ai.output.messages = "canary",
        gen_ai.system_instructions = "canary",
        gen_ai.prompt = "canary",
        gen_ai.completion = "canary",
        gen_ai.tool.call.arguments = "canary",
        gen_ai.tool.call.result = "canary",
        gen_ai.tool.definitions = "canary",
        gen_ai.retrieval.query.text = "canary",
        gen_ai.retrieval.documents = "canary",
        gen_ai.something.new = "canary",
        my.own = "canary",
    ));
}

#[test]
fn what_was_said_is_left_out_unless_it_is_asked_for() {
    let silent = std::env::var_os(VARIABLE).is_none();
    let events = seen(|_| telltale());
    assert!(!silent || events.iter().all(|event| !event.json.to_string().contains("canary")), "{events:?}");
    let asked = seen_by(|layer| layer.capture_content(true), |_| telltale());
    assert!(asked[0].json["data"]["system_instructions"] == "canary");
    let refused = seen_by(|layer| layer.capture_content(false), |_| telltale());
    assert!(refused.iter().all(|event| !event.json.to_string().contains("canary")), "code has the last word");
}

#[test]
fn the_variable_of_opentelemetry_asks_for_it() {
    if std::env::var_os(VARIABLE).is_some() {
        assert!(seen(|_| telltale())[0].json["data"]["system_instructions"] == "canary");
        return;
    }
    again("content::the_variable_of_opentelemetry_asks_for_it", VARIABLE);
}
