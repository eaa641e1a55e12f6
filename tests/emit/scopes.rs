//! Scopes: nested as the code is, and ended once, however it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};
use streamll::{Event, Handle, Trace, context, set_context, trace, with_context, with_context_sync};

use super::{Log, block_on, end, one, told, topology};

/// A scope that emits there.
fn there(handle: &Handle, operation: &str) -> Trace {
    trace(operation.to_owned()).to(handle.emitter())
}

#[test]
fn steps_are_nested_as_the_code_is_and_belong_to_one_run() {
    let (handle, kept) = topology();
    block_on(there(&handle, "answer").module("RagPipeline").run(|_| async {
        {
            let retrieval = trace("retrieval").module("Retriever").input("k", 3).enter();
            retrieval.emit("docs_found", json!({ "count": 3 }));
            trace("rerank").enter().output("kept", 2);
        }
        trace("llm_call").run(|call| async move { call.output("answer", "42") }).await;
        streamll::emit(Event::new(&streamll::step("Loose"), "note"));
    }));
    let events = end(&handle, &kept);
    assert_eq!(
        told(&events),
        [
            "start answer",
            "start retrieval",
            "docs_found retrieval",
            "start rerank",
            "end rerank",
            "end retrieval",
            "start llm_call",
            "end llm_call",
            "note answer",
            "end answer"
        ]
    );
    let start = |operation| one(&events, "start", operation);
    let root = start("answer");
    assert_eq!(root["parent_id"], Value::Null);
    for (inner, outer) in [("retrieval", "answer"), ("rerank", "retrieval"), ("llm_call", "answer")] {
        assert_eq!(start(inner)["parent_id"], start(outer)["span_id"], "{inner}");
        assert_eq!(start(inner)["span_id"], one(&events, "end", inner)["span_id"], "{inner}");
    }
    assert_eq!(one(&events, "note", "answer")["parent_id"], root["span_id"]);
    for event in &events {
        assert_eq!(event["execution_id"], root["execution_id"], "{event}");
    }
    let modules =
        ["answer", "retrieval", "rerank", "llm_call"].map(|name| start(name)["module_name"].clone());
    assert_eq!(modules, ["RagPipeline", "Retriever", "Retriever", "RagPipeline"]);
    assert_eq!(start("retrieval")["data"], json!({ "k": 3 }));
    assert_eq!(one(&events, "end", "llm_call")["data"]["answer"], "42");
    assert!(one(&events, "end", "answer")["data"]["duration"].is_f64());
}

#[test]
fn an_error_and_what_kind_of_it_is_the_end_of_a_scope_that_fails() {
    let (handle, kept) = topology();
    let failed: Result<(), std::num::ParseIntError> =
        block_on(there(&handle, "parse").try_run(|_| async { "x".parse::<u8>().map(drop) }));
    assert!(failed.is_err());
    let worked: Result<u8, String> = block_on(there(&handle, "fine").try_run(|_| async { Ok(1) }));
    assert_eq!(worked, Ok(1));
    let refused: Result<(), String> =
        block_on(there(&handle, "plain").try_run(|_| async { Err("no".into()) }));
    assert!(refused.is_err());
    there(&handle, "said").enter().fail("Timeout", "upstream took 30 s");
    // A response that somebody put into an error whole, and that no event could hold.
    there(&handle, "long").enter().fail("Refused", "ö".repeat(1 << 20));
    let events = end(&handle, &kept);
    let expected = [
        ("parse", "ParseIntError", "invalid digit found in string"),
        ("plain", "Error", "no"),
        ("said", "Timeout", "upstream took 30 s"),
    ];
    for (operation, error_type, message) in expected {
        let error = one(&events, "error", operation);
        assert_eq!(
            (&error["data"]["error_type"], &error["data"]["error_message"]),
            (&json!(error_type), &json!(message))
        );
        assert!(error["data"]["duration"].is_f64(), "{error}");
    }
    let long = one(&events, "error", "long")["data"]["error_message"].as_str().unwrap().to_owned();
    assert!(long.len() < 5000 && long.starts_with("öö") && long.ends_with('…'), "{}", long.len());
    one(&events, "end", "fine");
    assert_eq!(events.len(), 10, "each ends once: {:?}", told(&events));
}

#[test]
fn a_panic_goes_on_with_its_payload_and_is_told_apart_from_a_cancellation() {
    let (handle, kept) = topology();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        block_on(there(&handle, "future").run(|_| async {
            trace("inner").run(|_| async { std::panic::panic_any("out of ink".to_owned()) }).await
        }))
    }));
    assert_eq!(caught.unwrap_err().downcast_ref::<String>().map(String::as_str), Some("out of ink"));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _scope = there(&handle, "guard").enter();
        panic!("out of paper")
    }));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"out of paper"));
    block_on(async {
        let mut pending = Box::pin(there(&handle, "cancelled").run(|_| std::future::pending::<()>()));
        tokio::select! {
            biased;
            () = &mut pending => {}
            () = tokio::task::yield_now() => {}
        }
        drop(pending);
        drop(there(&handle, "never polled").run(|_| async {}));
    });
    assert!(streamll::current_context().is_empty(), "the thread is outside of everything again");
    let events = end(&handle, &kept);
    let why = |operation| {
        let data = &one(&events, "error", operation)["data"];
        (data["error_type"].as_str().unwrap().to_owned(), data["error_message"].as_str().unwrap().to_owned())
    };
    assert_eq!(why("future"), ("Panic".to_owned(), "out of ink".to_owned()));
    assert_eq!(why("inner"), ("Panic".to_owned(), "out of ink".to_owned()));
    assert_eq!(why("guard").0, "Panic");
    assert_eq!(why("cancelled"), ("Cancelled".to_owned(), "dropped before it was done".to_owned()));
    assert_eq!(events.len(), 8, "nothing of what never ran: {:?}", told(&events));
}

#[test]
fn set_context_is_on_what_comes_after_it_in_its_scope_and_on_nothing_outside() {
    let (handle, kept) = topology();
    {
        let _outer = there(&handle, "outer").enter();
        {
            let inner = trace("inner").enter();
            inner.emit("before", json!({}));
            set_context(&context! { user = "u1", tags.tenant = "acme" });
            inner.emit("after", json!({}));
            drop(trace("deeper").enter());
        }
        drop(trace("sibling").enter());
    }
    let events = end(&handle, &kept);
    let user = |kind, operation| one(&events, kind, operation)["data"]["user"].clone();
    for (kind, operation) in [("after", "inner"), ("start", "deeper"), ("end", "deeper"), ("end", "inner")] {
        assert_eq!(user(kind, operation), "u1", "{kind} {operation}");
        assert_eq!(one(&events, kind, operation)["tags"]["tenant"], "acme");
    }
    for (kind, operation) in [("start", "inner"), ("before", "inner"), ("start", "sibling"), ("end", "outer")]
    {
        assert_eq!(user(kind, operation), Value::Null, "{kind} {operation}");
    }
}

#[test]
fn set_context_outside_of_everything_warns_and_changes_nothing() {
    let log = Log::of(|| set_context(&context! { user = "u1" }));
    assert!(log.len() == 1 && log[0].contains("set_context changes nothing"), "{log:?}");
    assert!(streamll::current_context().is_empty());
    let log =
        Log::of(|| with_context_sync(&context! { user = "u1" }, || set_context(&context! { turn = 2 })));
    assert!(log.is_empty(), "{log:?}");
}

#[test]
fn a_scope_is_inside_of_what_is_around_it_when_it_begins() {
    let (handle, kept) = topology();
    block_on(async {
        // All three are made where nothing is around them.
        let innermost = trace("innermost").run(|scope| async move { scope.emit("note", json!({})) });
        let inner = with_context(context! { turn = 1 }, innermost);
        let run = there(&handle, "outer").run(|_| inner);
        with_context(context! { conversation_id = "c1" }, run).await;
    });
    let events = end(&handle, &kept);
    for event in &events {
        assert_eq!(event["data"]["conversation_id"], "c1", "{event}");
    }
    let innermost = one(&events, "start", "innermost");
    assert_eq!(innermost["parent_id"], one(&events, "start", "outer")["span_id"]);
    assert_eq!(one(&events, "note", "innermost")["data"]["turn"], 1);
}

#[test]
fn a_scope_made_in_another_one_belongs_to_it_also_in_a_task_of_its_own() {
    let (handle, kept) = topology();
    block_on(there(&handle, "outer").context(context! { user = "u1" }).run(|_| async {
        tokio::spawn(trace("task").run(|_| async {})).await.unwrap();
        let made = trace("thread");
        std::thread::spawn(move || drop(made.enter())).join().unwrap();
    }));
    let events = end(&handle, &kept);
    let outer = one(&events, "start", "outer");
    for operation in ["task", "thread"] {
        let start = one(&events, "start", operation);
        assert_eq!(start["parent_id"], outer["span_id"], "{operation}");
        assert_eq!(start["data"]["user"], "u1", "{operation}");
    }
}

#[test]
fn everything_in_a_scope_goes_where_it_does() {
    let ((first, first_kept), (second, second_kept)) = (topology(), topology());
    block_on(there(&first, "first").run(|_| async {
        there(&second, "second")
            .run(|_| async {
                trace("below").enter().emit("note", json!({}));
                streamll::emit(Event::new(&streamll::step("Loose"), "note"));
            })
            .await;
        drop(trace("beside").enter());
    }));
    let first = told(&end(&first, &first_kept));
    let second = told(&end(&second, &second_kept));
    assert_eq!(first, ["start first", "start beside", "end beside", "end first"]);
    assert_eq!(
        second,
        ["start second", "start below", "note below", "end below", "note second", "end second"]
    );
}
