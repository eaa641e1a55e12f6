//! Contexts: on every event below them, wherever its code runs.

use serde_json::{Value, json};
use streamll::{Event, Handle, TokenStream as _, capture, carry, context, trace, with_context};
use tokio_stream::StreamExt as _;

use super::{block_on, end, halting, one, told, topology};

fn note(handle: &Handle, operation: &str) {
    handle.emit(Event::new(&streamll::step("Chat").operation(operation), "note"));
}

#[test]
fn a_context_is_on_every_event_below_it_tokens_included() {
    let (handle, kept) = topology();
    let context = context! { conversation_id = "c1", tags.tenant = "acme" };
    block_on(with_context(context, async {
        trace("answer")
            .to(handle.emitter())
            .run(|scope| async move {
                scope.emit("docs_found", json!({ "count": 1 }));
                let tokens = halting(["forty", "-two"]).tokens("text", |item: &&'static str| Some(*item));
                assert_eq!(tokens.collect::<Vec<_>>().await.len(), 2);
                streamll::emit(Event::token(&scope.step(), "aside", "x", 0));
            })
            .await;
        note(&handle, "by handle");
    }));
    let events = end(&handle, &kept);
    assert_eq!(
        told(&events),
        [
            "start answer",
            "docs_found answer",
            "start text",
            "token text",
            "token text",
            "end text",
            "token answer",
            "end answer",
            "note by handle"
        ]
    );
    for event in &events {
        assert_eq!(event["data"]["conversation_id"], "c1", "{event}");
        assert_eq!(event["tags"]["tenant"], "acme", "{event}");
    }
}

#[test]
fn a_task_of_its_own_has_the_context_where_it_is_carried() {
    let (handle, kept) = topology();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(with_context(context! { conversation_id = "c1" }, async {
        let outer = trace("outer").to(handle.emitter());
        outer
            .run(|_| async {
                let carried = carry(async {
                    tokio::task::yield_now().await;
                    drop(trace("carried").enter());
                });
                tokio::spawn(carried).await.unwrap();
                let bare = handle.clone();
                tokio::spawn(async move { note(&bare, "bare") }).await.unwrap();
            })
            .await;
    }));
    let events = end(&handle, &kept);
    let carried = one(&events, "start", "carried");
    assert_eq!(carried["data"]["conversation_id"], "c1");
    assert_eq!(carried["parent_id"], one(&events, "start", "outer")["span_id"]);
    let bare = one(&events, "note", "bare");
    assert_eq!((&bare["data"]["conversation_id"], &bare["parent_id"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_thread_has_what_was_captured_for_it_and_only_meanwhile() {
    let (handle, kept) = topology();
    let scope = trace("outer").to(handle.emitter()).context(context! { conversation_id = "c1" }).enter();
    let here = capture();
    let from_thread = handle.clone();
    let thread = std::thread::spawn(move || {
        here.run(|| drop(trace("inside").enter()));
        block_on(here.carry(async {
            tokio::task::yield_now().await;
            drop(trace("awaited").enter());
        }));
        note(&from_thread, "afterwards");
    });
    thread.join().unwrap();
    drop(scope);
    let events = end(&handle, &kept);
    for operation in ["inside", "awaited"] {
        let start = one(&events, "start", operation);
        assert_eq!(start["data"]["conversation_id"], "c1", "{operation}");
        assert_eq!(start["parent_id"], one(&events, "start", "outer")["span_id"], "{operation}");
    }
    let afterwards = one(&events, "note", "afterwards");
    assert_eq!(
        (&afterwards["data"]["conversation_id"], &afterwards["parent_id"]),
        (&Value::Null, &Value::Null)
    );
}
