//! The event that closes a call names the model and the provider, and says what was used, whatever names a library has.

use serde_json::json;
use streamll::{Usage, usage};
use tracing::info_span;

use super::{chat, data, only, seen};

#[test]
fn the_closing_event_names_model_and_provider_also_where_the_answer_alone_does() {
    let events = seen(|_| {
        let chat = info_span!(
            "chat",
            gen_ai.operation.name = "chat",
            gen_ai.provider.name = tracing::field::Empty,
            gen_ai.response.model = tracing::field::Empty,
            error.type = tracing::field::Empty,
        );
        chat.record("gen_ai.response.model", "gpt-test-2026-01-01");
        chat.record("gen_ai.provider.name", "openai");
        chat.record("error.type", "timeout");
    });
    let last = data(only(&events, "error"));
    assert_eq!(
        (&last["provider"], &last["model"], &last["response_model"]),
        (&json!("openai"), &json!("gpt-test-2026-01-01"), &json!("gpt-test-2026-01-01"))
    );
    let events = seen(|_| drop(chat!(gen_ai.response.model = "gpt-test-2026-01-01")));
    let last = data(only(&events, "llm_end"));
    assert_eq!(
        (&last["model"], &last["response_model"]),
        (&json!("gpt-test"), &json!("gpt-test-2026-01-01"))
    );
}

#[test]
fn every_name_of_a_number_is_one_key() {
    for (name, key) in [
        ("prompt_tokens", "input_tokens"),
        ("completion_tokens", "output_tokens"),
        ("total_tokens", "total_tokens"),
        ("cache_read.input_tokens", "cache_read_tokens"),
        ("cache_read_input_tokens", "cache_read_tokens"),
        ("cached_tokens", "cache_read_tokens"),
        ("cache_creation.input_tokens", "cache_creation_tokens"),
        ("cache_creation_input_tokens", "cache_creation_tokens"),
        ("reasoning.output_tokens", "reasoning_tokens"),
        ("thinking_tokens", "reasoning_tokens"),
    ] {
        // A name of a field is one of the program, so the table is written out where it is recorded.
        let events = seen(|_| {
            let chat = info_span!(
                "chat",
                gen_ai.operation.name = "chat",
                gen_ai.request.model = "m",
                gen_ai.usage.prompt_tokens = tracing::field::Empty,
                gen_ai.usage.completion_tokens = tracing::field::Empty,
                gen_ai.usage.total_tokens = tracing::field::Empty,
                gen_ai.usage.cache_read.input_tokens = tracing::field::Empty,
                gen_ai.usage.cache_read_input_tokens = tracing::field::Empty,
                gen_ai.usage.cached_tokens = tracing::field::Empty,
                gen_ai.usage.cache_creation.input_tokens = tracing::field::Empty,
                gen_ai.usage.cache_creation_input_tokens = tracing::field::Empty,
                gen_ai.usage.reasoning.output_tokens = tracing::field::Empty,
                gen_ai.usage.thinking_tokens = tracing::field::Empty,
            );
            chat.record(format!("gen_ai.usage.{name}").as_str(), 7);
        });
        assert_eq!(data(only(&events, "llm_end")), json!({ "model": "m", key: 7 }), "{name}");
    }
}

#[test]
fn code_inside_of_a_span_tells_usage_that_the_library_does_not() {
    let events = seen(|_| {
        let chat = chat!();
        chat.in_scope(|| usage(Usage::new(10, 18).provider("openai")));
        chat.record("gen_ai.usage.output_tokens", 3);
    });
    let expected = json!({
        "model": "gpt-test", "output_tokens": 18, "provider": "openai", "input_tokens": 10, "total_tokens": 28,
    });
    assert_eq!(data(only(&events, "llm_end")), expected);
}
