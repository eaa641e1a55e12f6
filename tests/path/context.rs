//! Nothing of one request ever reaches the events of another.

use std::collections::HashMap;

use streamll::{Event, Handle, TokenStream as _, context, with_context, with_context_sync};
use tokio_stream::StreamExt as _;

use super::{LONG, end, topology};

const REQUESTS: u64 = 1000;
const STEPS: u64 = 50;

/// One request: sets its ids, and emits from wherever its task happens to run.
async fn request(handle: Handle, request_id: u64) {
    let conversation_id = format!("conv_{request_id}");
    let context = context! { conversation_id, request_id, tags.tenant = request_id % 7 };
    with_context(context, async move {
        let step = streamll::step("Chat");
        for n in 0..STEPS {
            tokio::task::yield_now().await;
            // Three ways to emit: with a step made here, with a step made before any context, by a token.
            let event = match n % 3 {
                0 => Event::new(&step, "progress"),
                1 => Event::new(&streamll::step("Tool"), "progress"),
                _ => Event::token(&step, "answer", "x", n),
            };
            handle.emit(event.with("n", n).with("mine", request_id));
        }
    })
    .await;
}

#[test]
fn interleaved_requests_on_two_threads_keep_their_ids_apart() {
    let (handle, kept) = topology();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let all: Vec<_> = (0..REQUESTS).map(|id| tokio::spawn(request(handle.clone(), id))).collect();
        for one in all {
            one.await.unwrap();
        }
    });
    end(&handle);
    let mut per_request: HashMap<u64, Vec<u64>> = HashMap::new();
    for arrival in kept.arrivals() {
        let (data, tags) = (&arrival.json["data"], &arrival.json["tags"]);
        let mine = data["mine"].as_u64().unwrap();
        assert_eq!(data["request_id"], mine, "{}", arrival.text);
        assert_eq!(data["conversation_id"], format!("conv_{mine}"), "{}", arrival.text);
        assert_eq!(tags["tenant"], (mine % 7).to_string(), "{}", arrival.text);
        per_request.entry(mine).or_default().push(arrival.n());
    }
    assert_eq!(per_request.len() as u64, REQUESTS);
    for (id, numbers) in per_request {
        assert_eq!(numbers, (0..STEPS).collect::<Vec<_>>(), "request {id} lost its order");
    }
}

#[test]
fn an_inner_context_adds_to_the_outer_one_and_an_event_has_the_last_word() {
    let (handle, kept) = topology();
    let step = streamll::step("Chat");
    with_context_sync(&context! { user = "u1", turn = 1, tags.tenant = "acme" }, || {
        with_context_sync(&context! { turn = 2, tags.region = "eu" }, || {
            handle.emit(Event::new(&step, "start").with("n", 0));
            handle.emit(Event::new(&step, "start").with("turn", 3));
        });
        handle.emit(Event::new(&step, "start"));
    });
    handle.emit(Event::new(&step, "start"));
    end(&handle);
    let arrivals = kept.arrivals();
    let seen: Vec<_> = arrivals.iter().map(|arrival| &arrival.json["data"]).collect();
    assert_eq!(*seen[0], serde_json::json!({ "n": 0, "user": "u1", "turn": 2 }));
    assert_eq!(*seen[1], serde_json::json!({ "turn": 3, "user": "u1" }));
    assert_eq!(*seen[2], serde_json::json!({ "user": "u1", "turn": 1 }));
    assert_eq!(*seen[3], serde_json::json!({}));
    let tags: Vec<_> = arrivals
        .iter()
        .map(|a| (a.json["tags"]["tenant"].as_str(), a.json["tags"]["region"].as_str()))
        .collect();
    assert_eq!(
        tags,
        [(Some("acme"), Some("eu")), (Some("acme"), Some("eu")), (Some("acme"), None), (None, None)]
    );
}

#[test]
fn a_task_that_is_spawned_starts_without_and_can_be_given_the_context() {
    let (handle, kept) = topology();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(with_context(context! { conversation_id = "c1" }, async {
        let (without, with) = (handle.clone(), handle.clone());
        let emit = |handle: Handle| async move { handle.emit(Event::new(&streamll::step("Task"), "start")) };
        tokio::spawn(emit(without)).await.unwrap();
        tokio::spawn(with_context(streamll::current_context(), emit(with))).await.unwrap();
    }));
    end(&handle);
    let ids: Vec<_> = kept.arrivals().iter().map(|a| a.json["data"]["conversation_id"].clone()).collect();
    assert_eq!(ids, [serde_json::Value::Null, "c1".into()]);
}

#[test]
fn a_response_body_that_is_polled_after_its_handler_is_gone_carries_the_handlers_ids() {
    let (handle, kept) = topology();
    super::block_on(async {
        let body = with_context(context! { conversation_id = "c1" }, async {
            tokio_stream::iter(["forty", "-two"])
                .tokens("answer", |item: &&'static str| Some(*item))
                .to(handle.emitter())
        })
        .await;
        with_context(context! { conversation_id = "c2" }, body.collect::<Vec<_>>()).await;
    });
    let drained = handle.shutdown_blocking(LONG);
    assert!(drained.status.balances());
    let ids: Vec<_> = kept.arrivals().iter().map(|a| a.json["data"]["conversation_id"].clone()).collect();
    assert_eq!(kept.kinds(), ["start", "token", "token", "end"]);
    assert_eq!(ids, ["c1"; 4]);
}
