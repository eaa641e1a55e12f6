//! What a model used: one vocabulary on the event that closes the step, whoever tells it.

use serde_json::{Value, json};
use streamll::{Event, Step, TokenStream as _, Usage, trace, usage};
use tokio_stream::StreamExt as _;

use super::{block_on, end, halting, one, told, topology};

/// Chunks as OpenAI streams them: the last one tells the usage.
fn chunks() -> Vec<Value> {
    let text = |text: &str| json!({ "choices": [{ "delta": { "content": text } }], "usage": null });
    let last = json!({ "choices": [], "usage": { "prompt_tokens": 6, "completion_tokens": 2 } });
    vec![text("forty"), text("-two"), last]
}

fn text(chunk: &Value) -> Option<&str> {
    chunk["choices"][0]["delta"]["content"].as_str()
}

/// What an event says of usage, in its order, and nothing else.
fn said(event: &Value) -> String {
    let mut data = event["data"].clone();
    let is_usage = |key: &str| key.ends_with("_tokens") || ["provider", "model"].contains(&key);
    data.as_object_mut().expect("an object").retain(|key, _| is_usage(key));
    data.to_string()
}

#[test]
fn a_scope_says_it_on_its_end_and_on_its_error() {
    let (handle, kept) = topology();
    let answer = json!({ "usage": { "prompt_tokens": 412, "completion_tokens": 27 } });
    let told = Usage::read(&answer["usage"]).map(|usage| usage.provider("openai").model("m"));
    let expected =
        r#"{"provider":"openai","model":"m","input_tokens":412,"output_tokens":27,"total_tokens":439}"#;
    trace("well").to(handle.emitter()).enter().usage(told.clone());
    let fails = trace("badly").to(handle.emitter()).enter();
    fails.usage(told);
    fails.fail("Timeout", "upstream took 30 s");
    drop(fails);
    trace("nothing").to(handle.emitter()).enter().usage(None);
    let events = end(&handle, &kept);
    assert_eq!(said(one(&events, "end", "well")), expected);
    assert_eq!(said(one(&events, "error", "badly")), expected);
    assert_eq!(said(one(&events, "end", "nothing")), "{}");
}

#[test]
fn of_what_a_scope_is_told_twice_the_last_counts_key_by_key() {
    let (handle, kept) = topology();
    let scope = trace("llm_call").to(handle.emitter()).enter();
    scope.usage(Usage::new(25, 1).cache_read(10));
    scope.usage(Usage::default().output(15).model("m"));
    drop(scope);
    let events = end(&handle, &kept);
    let expected = json!({ "model": "m", "input_tokens": 25, "output_tokens": 15, "total_tokens": 40, "cache_read_tokens": 10 });
    assert_eq!(said(one(&events, "end", "llm_call")), expected.to_string());
}

#[test]
fn code_inside_tells_it_to_the_step_that_it_is_in_and_outside_to_nobody() {
    let (handle, kept) = topology();
    usage(Usage::new(1, 1));
    let outer = trace("outer").to(handle.emitter()).enter();
    block_on(async {
        trace("inner").run(async |_| usage(Usage::new(2, 3))).await;
        let words = halting(["a", "b"]).map(|word| {
            usage(Usage::new(4, 5));
            word
        });
        words.tokens("words", |word| Some(*word)).collect::<Vec<_>>().await
    });
    usage(Usage::default().input(6));
    drop(outer);
    let events = end(&handle, &kept);
    let numbers = |operation: &str| said(one(&events, "end", operation));
    assert_eq!(numbers("inner"), r#"{"input_tokens":2,"output_tokens":3,"total_tokens":5}"#);
    assert_eq!(numbers("words"), r#"{"input_tokens":4,"output_tokens":5,"total_tokens":9}"#);
    assert_eq!(numbers("outer"), r#"{"input_tokens":6}"#);
}

#[test]
fn a_token_stream_says_its_model_on_both_ends_and_the_usage_of_its_last_chunk() {
    let (handle, kept) = topology();
    let stream = halting(chunks())
        .tokens("answer", text)
        .usage(|chunk| Usage::read(&chunk["usage"]))
        .errors(|chunk| chunk["error"].as_str())
        .provider("openai")
        .model("m")
        .to(handle.emitter());
    assert_eq!(block_on(stream.collect::<Vec<_>>()), chunks());
    let events = end(&handle, &kept);
    assert_eq!(one(&events, "start", "answer")["data"], json!({ "provider": "openai", "model": "m" }));
    let last = one(&events, "end", "answer");
    let expected = r#"{"provider":"openai","model":"m","input_tokens":6,"output_tokens":2,"total_tokens":8}"#;
    assert_eq!((said(last), &last["data"]["tokens"]), (expected.to_owned(), &json!(2)));
}

#[test]
fn a_token_stream_that_fails_or_is_dropped_says_what_it_has_used_so_far() {
    let (handle, kept) = topology();
    // As Anthropic streams it: input at first, output behind it, each time of all so far.
    let items = || {
        halting([
            json!({ "message": { "model": "m", "usage": { "input_tokens": 25, "output_tokens": 1 } } }),
            json!({ "usage": { "output_tokens": 9 } }),
            json!({ "error": "overloaded" }),
            json!({ "usage": { "output_tokens": 15 } }),
        ])
    };
    let stream = |field: &'static str| {
        let errors = |item: &'_ Value| item["error"].as_str().map(str::to_owned);
        let failed = items().map(move |item| match errors(&item) {
            Some(error) => Err(error),
            None => Ok(item),
        });
        failed
            .tokens(field, |_| None)
            .errors(|item| item.as_ref().err())
            .usage(|item| Usage::read(item.as_ref().ok()?))
            .to(handle.emitter())
    };
    block_on(stream("fails").collect::<Vec<_>>());
    let mut dropped = stream("dropped");
    block_on(async { (dropped.next().await, dropped.next().await) });
    drop(dropped);
    let events = end(&handle, &kept);
    let numbers = |operation: &str| said(one(&events, "error", operation));
    assert_eq!(numbers("fails"), r#"{"model":"m","input_tokens":25,"output_tokens":15,"total_tokens":40}"#);
    assert_eq!(numbers("dropped"), r#"{"model":"m","input_tokens":25,"output_tokens":9,"total_tokens":34}"#);
}

#[test]
fn what_is_known_before_a_stream_begins_is_said_also_where_its_start_came_from_elsewhere() {
    let (handle, kept) = topology();
    let yours = Step::new("Chat").operation("llm_call");
    handle.emit(Event::new(&yours, "start"));
    let stream = halting(["a"]).tokens("answer", |word| Some(*word)).of(&yours).input(100).output(1);
    let mut stream = stream.to(handle.emitter());
    block_on(stream.next());
    // It has begun, and what is told of it now counts all the same.
    block_on(stream.model("m").collect::<Vec<_>>());
    let events = end(&handle, &kept);
    assert_eq!(told(&events), ["start llm_call", "token llm_call", "end llm_call"]);
    assert_eq!(said(&events[2]), r#"{"model":"m","input_tokens":100,"output_tokens":1,"total_tokens":101}"#);
}

#[test]
fn other_names_that_an_application_gives_are_passed_on_as_they_are() {
    let (handle, kept) = topology();
    let given = json!({ "prompt_tokens": 6, "completion_tokens": 2 });
    trace("llm_call").to(handle.emitter()).enter().output("usage", given.clone());
    let events = end(&handle, &kept);
    let data = &one(&events, "end", "llm_call")["data"];
    assert_eq!((&data["usage"], said(&events[1])), (&given, "{}".to_owned()));
    assert_eq!(Usage::read(data), Some(Usage::new(6, 2)));
}
