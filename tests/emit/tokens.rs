//! Token streams: items pass through untouched, every one that holds text is an event, and the step ends with the stream.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};
use streamll::{Event, TokenStream as _, context, set_context, trace, with_context};
use tokio_stream::{Stream, StreamExt as _};

use super::{block_on, end, halting, one, told, topology};

/// Items that can be neither cloned nor compared by accident, with errors among them.
#[derive(Debug, PartialEq)]
struct Chunk(Box<str>);

fn items() -> Vec<Result<Chunk, String>> {
    let text = |n: u64| match n % 4 {
        0 => Err(format!("cut at {n}")),
        1 => Ok(Chunk("".into())),
        _ => Ok(Chunk(format!("tok{n}").into())),
    };
    (0..100).map(text).collect()
}

/// The text of an item: none in an error, and none worth an event in an empty chunk.
fn text(item: &Result<Chunk, String>) -> Option<&str> {
    item.as_ref().ok().map(|chunk| &*chunk.0).filter(|text| !text.is_empty())
}

fn itself<'a>(item: &'a &'static str) -> Option<&'a str> {
    Some(item)
}

#[test]
fn items_errors_and_size_hints_pass_through_untouched_and_indexes_have_no_holes() {
    let (handle, kept) = topology();
    let mut tokens = halting(items()).tokens("answer", text).to(handle.emitter());
    assert_eq!(tokens.size_hint(), (100, Some(100)));
    let through = block_on(async {
        let first = tokens.next().await;
        assert_eq!(tokens.size_hint(), (99, Some(99)));
        let rest: Vec<_> = tokens.collect().await;
        first.into_iter().chain(rest).collect::<Vec<_>>()
    });
    assert_eq!(through, items());

    let events = end(&handle, &kept);
    let [start, tokens @ .., last] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&start["event_type"], &last["event_type"]), (&json!("start"), &json!("end")));
    let expected: Vec<_> = items().iter().filter_map(|item| Some(text(item)?.to_owned())).collect();
    let texts: Vec<_> = tokens.iter().map(|token| token["data"]["token"].as_str().unwrap()).collect();
    assert_eq!(texts, expected);
    for (index, token) in tokens.iter().enumerate() {
        assert_eq!(token["data"]["token_index"], index, "{token}");
        assert_eq!(token["data"]["field"], "answer");
        assert_eq!(token["span_id"], start["span_id"]);
    }
    assert_eq!(last["data"]["answer"], expected.concat());
    assert_eq!(last["data"]["tokens"], expected.len());
}

#[test]
fn the_closing_event_has_the_text_the_count_and_the_times() {
    let (handle, kept) = topology();
    block_on(async {
        let words = halting(["forty", "-", "two"]).throttle(std::time::Duration::from_millis(2));
        tokio::pin!(words);
        let tokens = words.tokens("answer", itself).operation("llm_call").to(handle.emitter());
        assert_eq!(tokens.collect::<Vec<_>>().await, ["forty", "-", "two"]);
    });
    let events = end(&handle, &kept);
    let data = &one(&events, "end", "llm_call")["data"];
    assert_eq!((&data["answer"], &data["tokens"]), (&json!("forty-two"), &json!(3)));
    let number = |key: &str| data[key].as_f64().unwrap_or_else(|| panic!("no {key} in {data}"));
    let (first, whole) = (number("time_to_first_token"), number("duration"));
    assert!(0.0 < first && first < whole, "{data}");
    // Two tokens behind the first, in less than the rest of the time.
    assert!(number("tokens_per_second") > 2.0 / (whole - first), "{data}");
    assert_eq!(data.as_object().unwrap().len(), 5, "{data}");
}

#[test]
fn without_outputs_the_text_is_in_the_tokens_alone() {
    let (handle, kept) = topology();
    block_on(
        halting(["a", "b"]).tokens("answer", itself).outputs(false).to(handle.emitter()).collect::<Vec<_>>(),
    );
    let events = end(&handle, &kept);
    let data = &one(&events, "end", "answer")["data"];
    assert_eq!((data.get("answer"), &data["tokens"]), (None, &json!(2)));
}

#[test]
fn a_text_that_is_too_long_is_cut_between_characters_and_marked() {
    let (handle, kept) = topology();
    // Three bytes each, and 64 KiB are no multiple of three.
    let piece = "€".repeat(1000);
    let pieces: Vec<_> = (0..30).map(|_| piece.clone()).collect();
    block_on(
        halting(pieces).tokens("answer", |item: &String| Some(item)).to(handle.emitter()).collect::<Vec<_>>(),
    );
    let events = end(&handle, &kept);
    let data = &one(&events, "end", "answer")["data"];
    assert_eq!(data["answer"].as_str().unwrap(), "€".repeat((64 << 10) / 3));
    assert_eq!((&data["truncated"], &data["tokens"]), (&json!(["answer"]), &json!(30)));
}

#[test]
fn a_stream_that_is_dropped_early_was_cancelled_and_says_what_was_said() {
    let (handle, kept) = topology();
    let mut words = halting(["a", "b", "c"]).tokens("answer", itself).to(handle.emitter());
    assert_eq!(block_on(async { (words.next().await, words.next().await) }), (Some("a"), Some("b")));
    drop(words);
    drop(halting(["a"]).tokens("never polled", itself).to(handle.emitter()));
    let events = end(&handle, &kept);
    assert_eq!(told(&events), ["start answer", "token answer", "token answer", "error answer"]);
    let data = &events[3]["data"];
    assert_eq!(
        (&data["error_type"], &data["answer"], &data["tokens"]),
        (&json!("Cancelled"), &json!("ab"), &json!(2))
    );
}

#[test]
fn a_stream_that_panics_ends_with_the_panic_which_goes_on() {
    let (handle, kept) = topology();
    let words = halting(["a", "b"]).map(|word| if word == "b" { panic!("out of ink") } else { word });
    let tokens = words.tokens("answer", itself).to(handle.emitter());
    let caught = catch_unwind(AssertUnwindSafe(|| block_on(tokens.collect::<Vec<_>>())));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"out of ink"));
    let events = end(&handle, &kept);
    assert_eq!(told(&events), ["start answer", "token answer", "error answer"]);
    let data = &events[2]["data"];
    assert_eq!((&data["error_type"], &data["error_message"]), (&json!("Panic"), &json!("out of ink")));
    assert_eq!(data["answer"], "a");
}

#[test]
fn an_item_that_is_an_error_fails_the_step_whether_the_stream_goes_on_or_not() {
    let (handle, kept) = topology();
    let broken = || {
        halting([Ok("a"), Err("9x".parse::<u8>().unwrap_err()), Ok("b"), Err("".parse::<u8>().unwrap_err())])
    };
    let tap = |operation: &'static str| {
        let tokens = broken().tokens("answer", |item: &Result<&'static str, _>| item.as_ref().ok().copied());
        tokens.errors(|item| item.as_ref().err()).operation(operation).to(handle.emitter())
    };
    let mut left = tap("left");
    block_on(async {
        assert_eq!(tap("to its end").collect::<Vec<_>>().await.len(), 4);
        while let Some(Ok(_)) = left.next().await {}
        drop(left);
    });
    let events = end(&handle, &kept);
    for (operation, said) in [("to its end", "ab"), ("left", "a")] {
        let data = &one(&events, "error", operation)["data"];
        let why = (&data["error_type"], &data["error_message"]);
        assert_eq!(why, (&json!("ParseIntError"), &json!("invalid digit found in string")), "{operation}");
        assert_eq!(data["answer"], said, "{operation}");
    }
}

#[test]
fn a_step_of_the_callers_is_closed_and_not_begun() {
    let (handle, kept) = topology();
    let step = streamll::step("Chat").operation("llm_call").context(&context! { turn = 1 });
    let stream = || halting(["a"]).tokens("answer", itself).of(&step).to(handle.emitter());
    handle.emit(Event::new(&step, "start"));
    block_on(with_context(context! { conversation_id = "not yours" }, stream().collect::<Vec<_>>()));
    drop(stream());
    let events = end(&handle, &kept);
    assert_eq!(told(&events), ["start llm_call", "token llm_call", "end llm_call", "error llm_call"]);
    for event in &events {
        assert_eq!(event["span_id"], *step.parts().span_id, "{event}");
        assert_eq!(
            (&event["data"]["turn"], event["data"].get("conversation_id")),
            (&json!(1), None),
            "{event}"
        );
    }
    // As the enricher measures it, from the caller's start.
    assert!(events[2]["data"]["duration"].is_f64() && events[2]["data"]["time_to_first_token"].is_f64());
    assert_eq!(events[3]["data"]["error_type"], "Cancelled");
}

#[test]
fn a_stream_is_the_child_of_the_scope_in_which_it_was_made_and_has_the_ids_of_that_moment() {
    let (handle, kept) = topology();
    let body = block_on(with_context(context! { conversation_id = "c1" }, async {
        let handler = trace("handler").module("Chat").to(handle.emitter());
        handler
            .run(|_| async {
                let body = halting(["forty", "-two"]).tokens("answer", itself);
                set_context(&context! { too_late = true });
                body
            })
            .await
    }));
    // A web framework polls the body when the handler is gone, and here in the middle of another request.
    let other =
        trace("other").to(handle.emitter()).context(context! { conversation_id = "c2", other = true });
    block_on(other.run(|_| body.collect::<Vec<_>>()));
    let events = end(&handle, &kept);
    let handler = one(&events, "start", "handler");
    let stream: Vec<_> = events.iter().filter(|event| event["operation"] == "answer").collect();
    assert_eq!(stream.len(), 4, "{:?}", told(&events));
    for event in stream {
        assert_eq!(event["parent_id"], handler["span_id"], "{event}");
        assert_eq!(event["execution_id"], handler["execution_id"]);
        assert_eq!(event["module_name"], "Chat");
        let data = &event["data"];
        assert_eq!(data["conversation_id"], "c1");
        assert_eq!((data.get("too_late"), data.get("other")), (None, None), "{event}");
    }
    assert_eq!(one(&events, "end", "other")["data"]["conversation_id"], "c2");
}

#[test]
fn what_a_stream_emits_itself_is_below_its_step() {
    let (handle, kept) = topology();
    let words = halting(["a", "b"]).map(|word| {
        set_context(&context! { word });
        drop(trace("tool").enter());
        word
    });
    block_on(words.tokens("answer", itself).to(handle.emitter()).collect::<Vec<_>>());
    assert!(streamll::current_context().is_empty());
    let events = end(&handle, &kept);
    let tool = "start tool,end tool,token answer,".repeat(2);
    assert_eq!(told(&events).join(","), format!("start answer,{tool}end answer"));
    let start = &events[0];
    let parents: Vec<_> =
        events.iter().filter(|event| event["operation"] == "tool").map(|e| &e["parent_id"]).collect();
    assert_eq!(parents, [&start["span_id"]; 4]);
    let words: Vec<_> =
        events.iter().filter(|event| event["event_type"] == "token").map(|e| &e["data"]["word"]).collect();
    assert_eq!(words, ["a", "b"], "what is set inside is on the tokens, too");
}

#[test]
fn a_stream_that_goes_on_after_its_end_has_no_second_one() {
    let (handle, kept) = topology();
    let mut answers = [Some("a"), None, Some("b"), None].into_iter();
    let endless = futures_util::stream::poll_fn(move |_| std::task::Poll::Ready(answers.next().flatten()));
    let mut tokens = endless.tokens("answer", itself).to(handle.emitter());
    block_on(async {
        for expected in [Some("a"), None, Some("b"), None] {
            assert_eq!(tokens.next().await, expected);
        }
    });
    drop(tokens);
    assert_eq!(told(&end(&handle, &kept)), ["start answer", "token answer", "end answer"]);
}

#[test]
fn two_streams_side_by_side_are_two_steps() {
    let (handle, kept) = topology();
    let stream = |field: &str| halting(["a", "b", "c"]).tokens(field.to_owned(), itself).to(handle.emitter());
    let (mut reasoning, mut answer) = (stream("reasoning"), stream("answer"));
    block_on(async { while reasoning.next().await.is_some() | answer.next().await.is_some() {} });
    let events = end(&handle, &kept);
    for field in ["reasoning", "answer"] {
        let of_field: Vec<_> = events.iter().filter(|event| event["operation"] == field).collect();
        let indexes: Vec<_> = of_field.iter().map(|event| event["data"]["token_index"].as_u64()).collect();
        assert_eq!(indexes, [None, Some(0), Some(1), Some(2), None], "{field}");
        assert!(of_field.iter().all(|event| event["span_id"] == of_field[0]["span_id"]), "{field}");
    }
    assert_ne!(one(&events, "start", "answer")["span_id"], one(&events, "start", "reasoning")["span_id"]);
}

#[test]
fn one_stream_may_be_read_for_two_fields() {
    let (handle, kept) = topology();
    let deltas = halting([(Some("hm"), None), (Some("…"), Some("forty")), (None, Some("-two"))]);
    let deltas = deltas
        .tokens("reasoning", |delta: &(Option<&'static str>, Option<&'static str>)| delta.0)
        .to(handle.emitter())
        .tokens("answer", |delta| delta.1)
        .to(handle.emitter());
    block_on(deltas.collect::<Vec<_>>());
    let events = end(&handle, &kept);
    let said = |field: &str| one(&events, "end", field)["data"][field].clone();
    assert_eq!((said("reasoning"), said("answer")), (json!("hm…"), json!("forty-two")));
    assert!(events.iter().all(|event| event["parent_id"] == Value::Null), "{events:?}");
}

/// A stream stays as it was in what the compiler knows of it.
#[test]
fn a_stream_that_can_be_sent_still_can() {
    fn sendable<S: Stream<Item = &'static str> + Send + Unpin + 'static>(stream: S) -> S {
        stream
    }
    let (handle, kept) = topology();
    let tokens = sendable(halting(["a"]).tokens("answer", itself).to(handle.emitter()));
    std::thread::spawn(move || block_on(tokens.collect::<Vec<_>>())).join().unwrap();
    // Nor does it ask for more: what cannot be sent, streams where it is.
    let own = std::rc::Rc::new("b");
    let tokens =
        halting([own]).tokens("own", |item: &std::rc::Rc<&'static str>| Some(item)).to(handle.emitter());
    block_on(tokens.collect::<Vec<_>>());
    assert_eq!(end(&handle, &kept).len(), 6);
}
