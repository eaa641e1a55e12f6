//! What stays of an event without what was said, key by key; and that nothing else is touched.

use serde_json::{Value, json};
use streamll::processors::WithoutContent;
use streamll_actors::event::{Context, Event, Fields};
use streamll_actors::testkit;

use crate::{incoming, step};

#[track_caller]
fn left(event: Event) -> Event {
    let mut left = testkit::drive(WithoutContent::default(), [event]);
    assert_eq!(left.len(), 1);
    left.remove(0)
}

fn text(event: &Event) -> String {
    String::from_utf8(event.json().to_vec()).unwrap()
}

fn data(event: &Event) -> Value {
    serde_json::from_slice::<Value>(event.json()).unwrap()["data"].take()
}

/// One event in each form that data can have.
fn in_each_form(data: &Value) -> [Event; 3] {
    let mut fields = Fields::default();
    for (key, value) in data.as_object().unwrap() {
        fields.set(key.clone(), value.clone());
    }
    let step = step("x", "s");
    [
        Event::new(&step, "end").with_data(data.clone()),
        Event::with_fields(&step, "end", fields),
        incoming(&json!({ "event_type": "end", "data": data }).to_string()),
    ]
}

#[test]
fn each_key_stays_in_its_shape_and_in_no_other() {
    let long = "x".repeat(256);
    let (number, flag, name, names) = (json!(1.5), json!(true), json!("m"), json!(["a", "b"]));
    let (object, lines, long) = (json!({"secret": 1}), json!("two\nlines"), json!(long));
    let many = json!(["x".repeat(128), "y".repeat(128)]);
    let values = [&number, &flag, &name, &names, &object, &lines, &long, &Value::Null, &many];
    let table: [(&[&str], &[&Value]); 6] = [
        (
            &[
                "duration",
                "token_index",
                "merged",
                "temperature",
                "max_tokens",
                "top_p",
                "top_k",
                "seed",
                "choices",
                "dimensions",
                "frequency_penalty",
                "presence_penalty",
                "input_tokens",
                "output_tokens",
                "total_tokens",
                "cache_read_tokens",
                "cache_creation_tokens",
                "reasoning_tokens",
                "tool_use_tokens",
                "prompt_tokens",
                "completion_tokens",
                "tokens",
                "time_to_first_token",
                "tokens_per_second",
            ],
            &[&number],
        ),
        (&["stream", "answered"], &[&flag]),
        (
            &[
                "field",
                "provider",
                "model",
                "response_model",
                "tool",
                "tool_type",
                "outcome",
                "output_type",
                "finish_reason",
                "error_type",
            ],
            &[&name],
        ),
        (&["finish_reasons", "truncated", "encoding_formats"], &[&names]),
        (&["user_id", "tool_call_id", "response_id"], &[&number, &flag, &name]),
        (
            &[
                "output",
                "answer",
                "question",
                "value",
                "token",
                "error_message",
                "input_messages",
                "output_messages",
                "arguments",
                "result",
                "query",
                "documents",
                "system_instructions",
                "tool_definitions",
                "api_key",
                "Model",
                "models",
                "model_",
                "tokens_",
                "id",
                "the user said: my_id",
                "usage",
            ],
            &[],
        ),
    ];
    for (keys, stay) in table {
        for key in keys {
            for value in values {
                for event in in_each_form(&json!({ *key: value })) {
                    let expected = if stay.contains(&value) { json!({ *key: value }) } else { json!({}) };
                    assert_eq!(data(&left(event)), expected, "{key}: {value}");
                }
            }
        }
    }
}

#[test]
fn of_usage_the_numbers_stay() {
    let openai = json!({
        "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "cost": 0.01,
        "prompt_tokens_details": {"cached_tokens": 1}, "server_tool_use": {"web_search_requests": 2}
    });
    for (usage, stays) in [
        (openai.clone(), openai),
        (
            json!({"input_tokens": 3, "service_tier": "canary", "details": {"input_tokens": 1}, "tokens": null}),
            json!({"input_tokens": 3}),
        ),
        (
            json!({"tokens_details": {"cached_tokens": 1, "canary": 2, "tokens": "canary"}}),
            json!({"tokens_details": {"cached_tokens": 1}}),
        ),
        (json!({"promptTokenCount": 3, "a token of canary": 1}), json!({"promptTokenCount": 3})),
        (json!({"tokens": {"tokens": {"x": "canary"}}}), Value::Null),
        (json!({"canary": 1}), Value::Null),
        (json!({}), Value::Null),
        (json!([{"tokens": 1}]), Value::Null),
        (json!(7), Value::Null),
    ] {
        for event in in_each_form(&json!({ "usage": usage })) {
            assert_eq!(data(&left(event)).get("usage").unwrap_or(&Value::Null), &stays, "{usage}");
        }
    }
}

#[test]
fn an_event_from_which_nothing_is_taken_keeps_its_encoding() {
    let context = Context::empty().with("conversation_id", "c").with("shard", 7).tag("tenant", "acme");
    let call = step("x", "s").context(&context);
    for event in [
        Event::new(&call, "start"),
        Event::new(&call, "llm_end")
            .with("model", "m")
            .with("usage", json!({"input_tokens": 1}))
            .with("shard", 8),
        Event::token(&call, "answer", "", 3),
        incoming(r#"{"event_type":"x","data":{ "tokens":1.10 },"tags":{"t":"any text"},"trace_id":"a"}"#),
        incoming(r#"{"event_type":"token","data":{"field":"a","token":"","token_index":0,"user_id":1}}"#),
    ] {
        let encoding = event.json().as_ptr();
        assert_eq!(left(event.clone()).json().as_ptr(), encoding, "{event:?}");
    }
}

#[test]
fn what_stays_of_an_incoming_event_stays_to_the_letter() {
    let line = r#"{"event_type":"end","data":{"said":"canary", "price_id" : 18446744073709551617,"duration":1.10,"usage":{"n":"canary","cost":1E+2} },"beside":"canary","trace_id":1e2,"usage":{"tokens":2.50,"x":1}}"#;
    let text = text(&left(incoming(line)));
    assert!(
        text.contains(
            r#""data":{ "price_id" : 18446744073709551617,"duration":1.10,"usage":{"cost":1E+2} }"#
        ),
        "{text}"
    );
    assert!(text.ends_with(r#","trace_id":1e2,"usage":{"tokens":2.50}}"#), "{text}");
    let nothing = left(incoming(r#"{"event_type":"end","data":{"said":1},"beside":"canary"}"#));
    assert!(
        data(&nothing) == json!({}) && nothing.extra().is_none(),
        "{}",
        String::from_utf8_lossy(nothing.json())
    );
}

#[test]
fn a_token_keeps_its_field_and_its_place() {
    let call = step("x", "s");
    let token = left(Event::token(&call, "answer", "canary", 3));
    assert_eq!(data(&token), json!({"field": "answer", "token": "", "token_index": 3}));
    assert!(token.as_token().is_some(), "it can be merged as before");
    let mut merged = Event::token(&call, "answer", "canary", 3);
    merged.set_merged(5, "canary");
    assert_eq!(data(&left(merged))["merged"], 5);
    let line = r#"{"event_type":"token","data":{"field":"a","token":TEXT,"token_index":0,"logprob":-0.5,"user_id":"u"}}"#;
    for said in [r#""canary""#, r#"["canary"]"#, r#"{"canary":1}"#, "7"] {
        let token = left(incoming(&line.replace("TEXT", said)));
        assert_eq!(
            data(&token),
            json!({"field": "a", "token": "", "token_index": 0, "user_id": "u"}),
            "{said}"
        );
    }
    let long = "canary ".repeat(100);
    let token = left(Event::token(&call, long.as_str(), "canary", 3));
    assert_eq!(data(&token), json!({"token": "", "token_index": 3}));
}

#[test]
fn of_the_context_the_ids_stay_and_its_steps_are_shared() {
    let context = Context::empty()
        .with("conversation_id", "c")
        .with("plan", "free")
        .with("question", "canary ".repeat(100))
        .with("user", json!({"name": "canary"}))
        .tag("tenant", "acme");
    let call = step("x", "s").context(&context);
    let events = [Event::token(&call, "answer", "", 0), Event::new(&call, "end").with("plan", "paid")];
    let events = testkit::drive(WithoutContent::default(), events);
    assert_eq!(
        data(&events[0]),
        json!({"field": "answer", "token": "", "token_index": 0, "conversation_id": "c", "plan": "free"})
    );
    assert_eq!(data(&events[1]), json!({"plan": "paid", "conversation_id": "c"}), "its own value wins");
    assert!(events.iter().all(|event| event.tag("tenant") == Some("acme")));
    assert!(events[0].step().same(events[1].step()), "one step for all its events");
    assert_eq!(events[0].step().parts().span_id, call.parts().span_id);
}
