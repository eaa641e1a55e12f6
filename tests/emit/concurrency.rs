//! Many requests at once, on few threads: nothing of one ever reaches the events of another, and each is in order.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use streamll::{Handle, TokenStream as _, context, set_context, trace, with_context};
use tokio_stream::StreamExt as _;

use super::{end, halting, topology};

const REQUESTS: u64 = 1000;
/// Of two calls at a time in each request, and of both together.
const TOKENS: u64 = 50;

/// One request: two calls of a model side by side, one of them in a task of its own.
async fn request(handle: Handle, id: u64) {
    let ids = context! { request_id = id, conversation_id = format!("conv_{id}"), tags.tenant = id % 7 };
    let run = trace("answer").module("RagPipeline").to(handle.emitter()).input("mine", id);
    let run = run.run(|scope| async move {
        scope.emit("docs_found", json!({ "mine": id }));
        let planned = tokio::spawn(streamll::carry(call("plan", id)));
        tokio::join!(call("draft", id), async { planned.await.unwrap() });
        // What came so far has arrived: the way in never holds so much that it sheds tokens.
        handle.flush().await;
        set_context(&context! { late = id });
        call("final", id).await;
        scope.output("mine", id);
    });
    with_context(ids, run).await;
}

/// Half of a request's tokens in the last call, a quarter in each of the others; each says whose it is.
async fn call(name: &'static str, id: u64) {
    let tokens = if name == "final" { TOKENS / 2 } else { TOKENS / 4 };
    let words: Vec<_> = (0..tokens).map(|n| format!("{id}/{name}/{n} ")).collect();
    let scope = trace(name).input("mine", id);
    scope
        .run(|scope| async move {
            let said: Vec<_> = halting(words).tokens("text", |word: &String| Some(word)).collect().await;
            assert_eq!(said.len() as u64, tokens);
            scope.output("mine", id);
        })
        .await;
}

/// Whose event it is, by what it says itself: not by any id.
fn owner(event: &Value) -> Option<u64> {
    let data = &event["data"];
    let text = data["token"].as_str().or_else(|| data["text"].as_str());
    data["mine"].as_u64().or_else(|| text?.split('/').next()?.parse().ok())
}

#[test]
fn a_thousand_interleaved_requests_on_two_threads_keep_their_ids_apart_and_their_order() {
    let (handle, kept) = topology();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let all: Vec<_> = (0..REQUESTS).map(|id| tokio::spawn(request(handle.clone(), id))).collect();
        for one in all {
            one.await.unwrap();
        }
    });
    let events = end(&handle, &kept);

    let mut runs: HashMap<u64, HashSet<&str>> = HashMap::new();
    let mut steps: HashMap<&str, Vec<&Value>> = HashMap::new();
    for event in &events {
        let id = event["data"]["request_id"].as_u64().unwrap();
        // A token stream's start says nothing of its own.
        assert_eq!(owner(event).unwrap_or(id), id, "{event}");
        assert_eq!(event["data"]["conversation_id"], format!("conv_{id}"), "{event}");
        assert_eq!(event["tags"]["tenant"], (id % 7).to_string(), "{event}");
        assert!(event["data"].get("late").is_none_or(|late| *late == id), "{event}");
        runs.entry(id).or_default().insert(event["execution_id"].as_str().unwrap());
        steps.entry(event["span_id"].as_str().unwrap()).or_default().push(event);
    }
    assert_eq!(runs.len() as u64, REQUESTS);
    assert!(runs.values().all(|run| run.len() == 1), "a request is one run");
    assert_eq!(runs.values().flatten().collect::<HashSet<_>>().len() as u64, REQUESTS, "each its own");
    // The request, three calls, and what each streams.
    assert_eq!(steps.len() as u64, REQUESTS * 7);

    let mut tokens = 0;
    for events in steps.values() {
        let (first, last) = (events[0], events[events.len() - 1]);
        assert_eq!(
            (&first["event_type"], &last["event_type"]),
            (&json!("start"), &json!("end")),
            "{events:#?}"
        );
        let between = &events[1..events.len() - 1];
        let id = &first["data"]["request_id"];
        assert!(
            events
                .iter()
                .all(|event| event["data"]["request_id"] == *id && event["parent_id"] == first["parent_id"])
        );
        if first["operation"] != "text" {
            let others = if first["operation"] == "answer" { 1 } else { 0 };
            assert_eq!(between.len(), others, "{events:#?}");
            continue;
        }
        let mut whole = String::new();
        for (index, token) in between.iter().enumerate() {
            assert_eq!(
                (&token["event_type"], &token["data"]["token_index"]),
                (&json!("token"), &json!(index))
            );
            whole += token["data"]["token"].as_str().unwrap();
        }
        assert_eq!(last["data"]["text"], whole);
        let parent = steps[first["parent_id"].as_str().unwrap()][0];
        assert_eq!(whole.split('/').nth(1), parent["operation"].as_str(), "each call streams below itself");
        tokens += between.len() as u64;
    }
    assert_eq!(tokens, REQUESTS * (TOKENS / 4 * 2 + TOKENS / 2));
}
