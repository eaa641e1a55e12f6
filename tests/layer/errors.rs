//! How a span ends that failed, and when its first event comes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use serde_json::json;
use streamll::{Event, TokenStream as _, step, trace};
use tokio_stream::StreamExt as _;
use tracing::field::Empty;
use tracing::info_span;

use super::{chat, data, names, only, seen};

#[test]
fn a_panic_inside_of_a_span_is_its_error() {
    let events = seen(|_| {
        let run = catch_unwind(AssertUnwindSafe(|| {
            let _inside = chat!().entered();
            panic!("scripted");
        }));
        assert!(run.is_err());
    });
    assert_eq!(names(&events), ["llm llm_start chat", "llm error chat"]);
    assert_eq!(data(&events[1])["error_type"], "Panic");
}

#[test]
fn a_tool_that_fails_ends_with_the_type_of_its_error() {
    let events = seen(|_| {
        let tool = info_span!(
            "t",
            gen_ai.operation.name = "execute_tool",
            gen_ai.tool.name = "add",
            gen_ai.tool.error.type = Empty,
            error.message = Empty
        );
        tool.record("gen_ai.tool.error.type", "timeout");
        tool.record("error.message", "took 30 s");
    });
    assert_eq!(names(&events), ["llm tool_start execute_tool", "llm error execute_tool"]);
    let expected = json!({"tool": "add", "error_type": "timeout", "error_message": "took 30 s"});
    assert_eq!(data(&events[1]), expected);
}

/// A call of which nothing is known yet.
fn unknown_chat() -> tracing::Span {
    info_span!(
        "chat",
        gen_ai.operation.name = "chat",
        gen_ai.request.model = Empty,
        gen_ai.response.time_to_first_chunk = Empty
    )
}

#[test]
fn the_first_event_waits_for_the_model_and_keeps_the_time_of_opening() {
    let events = seen(|handle| {
        let chat = unknown_chat();
        handle.emit(Event::new(&step("Other"), "meanwhile"));
        drop(chat.enter());
        chat.record("gen_ai.request.model", "gpt-test");
        handle.emit(Event::new(&step("Other"), "afterwards"));
    });
    let kinds: Vec<_> = events.iter().map(|event| event.kind()).collect();
    assert_eq!(kinds, ["meanwhile", "llm_start", "afterwards", "llm_end"]);
    let time = |i: usize| events[i].json["timestamp"].as_str().unwrap();
    assert!(time(1) <= time(0), "{} is later than {}", time(1), time(0));
    assert_eq!(data(&events[1])["model"], "gpt-test");
}

#[test]
fn the_first_event_waits_no_longer_than_to_the_first_sign_of_life() {
    type Sign = fn(&tracing::Span);
    let signs: [(&str, Sign); 4] = [
        ("a span inside", |chat| drop(info_span!(parent: chat, "t", gen_ai.operation.name = "execute_tool"))),
        ("a scope inside", |chat| chat.in_scope(|| drop(streamll::trace("inside").enter()))),
        ("a step inside", |chat| drop(chat.in_scope(|| step("Inside")))),
        ("a first piece of the answer", |chat| {
            chat.record("gen_ai.response.time_to_first_chunk", 0.1);
        }),
    ];
    for (sign, give) in signs {
        let events = seen(|handle| {
            let chat = unknown_chat();
            give(&chat);
            handle.emit(Event::new(&step("Other"), "afterwards"));
        });
        assert_eq!(events[0].kind(), "llm_start", "{sign}");
        assert!(events.iter().position(|event| event.kind() == "afterwards") > Some(0), "{sign}");
    }
}

#[test]
fn a_span_that_never_says_anything_has_both_events_at_its_end() {
    let events = seen(|_| drop(unknown_chat()));
    assert_eq!(names(&events), ["llm llm_start chat", "llm llm_end chat"]);
}

#[test]
fn a_retry_that_says_its_model_twice_starts_once() {
    let events = seen(|_| {
        let chat = unknown_chat();
        chat.record("gen_ai.request.model", "gpt-test");
        chat.record("gen_ai.request.model", "gpt-other");
    });
    assert_eq!(data(only(&events, "llm_start"))["model"], "gpt-test");
    assert_eq!(data(only(&events, "llm_end"))["model"], "gpt-other");
}

#[test]
fn a_call_that_is_dropped_with_its_stream_is_cancelled() {
    let events = seen(|handle| {
        let chat = chat!();
        let stream = tokio_stream::iter(["forty", "-two"]).map(move |word| chat.in_scope(|| word));
        let mut tokens = stream.tokens("answer", |word| Some(*word)).to(handle.emitter());
        assert_eq!(now(tokens.next()), Some("forty"));
        drop(tokens);
        drop(chat!());
    });
    let last = ["llm error chat", "answer error answer", "llm llm_start chat", "llm llm_end chat"];
    assert_eq!(names(&events)[3..], last, "{:?}", names(&events));
    let cancelled = (&json!("Cancelled"), &json!("dropped before it was done"));
    for error in &events[3..5] {
        let said = &error.json["data"];
        assert_eq!((&said["error_type"], &said["error_message"]), cancelled);
    }
}

#[test]
fn a_call_that_is_dropped_with_its_scope_is_cancelled_unless_it_is_complete() {
    let events = seen(|handle| {
        let whole = chat!();
        whole.record("gen_ai.usage.output_tokens", 18);
        let half = chat!();
        let ask = trace("ask").to(handle.emitter()).run(|_| async move {
            std::future::pending::<()>().await;
            drop((whole, half));
        });
        let mut ask = Box::pin(ask);
        assert!(ask.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(ask);
    });
    let last = ["llm llm_end chat", "llm error chat", "ask error ask"];
    let mut ends = names(&events)[3..].to_vec();
    ends[..2].sort_by_key(|name| name.contains("error"));
    assert_eq!(ends, last);
}

#[test]
fn what_is_read_to_its_end_is_not_cancelled() {
    let events = seen(|handle| {
        let chat = chat!();
        let stream = tokio_stream::iter(["forty-two"]).map(move |word| chat.in_scope(|| word));
        let mut tokens = stream.tokens("answer", |word| Some(*word)).to(handle.emitter());
        while now(tokens.next()).is_some() {}
        drop(tokens);
        now(trace("ask").to(handle.emitter()).run(|_| async { drop(chat!()) }));
    });
    assert!(!names(&events).iter().any(|name| name.contains("error")), "{:?}", names(&events));
}

#[test]
fn a_call_without_a_word_of_an_answer_says_so() {
    let events = seen(|_| {
        drop(chat!());
        chat!().record("gen_ai.usage.output_tokens", 18);
    });
    assert_eq!(
        (data(&events[1])["answered"].clone(), data(&events[3]).get("answered")),
        (json!(false), None)
    );
}

/// What a future gives that has nothing to wait for.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}
