//! What reaches a handler: by type, topic and filter; again when it failed, once where duplicates are left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streamll::consume::{Consumer, Start};

use crate::servers::RedisServer;
use crate::{Running, STREAM, Seen, add, add_numbers, json, pending, run, wait_for};

fn consumer(server: &RedisServer) -> Consumer {
    Consumer::connect(server.url(), STREAM).group("g")
}

fn of(kind: &str, topic: &str, data: &str) -> String {
    format!(
        r#"{{"event_type":"{kind}","module_name":"RagPipeline","topic":"{topic}","data":{data},"tags":{{"tenant":"acme"}}}}"#
    )
}

#[test]
fn handlers_get_what_they_want_and_the_rest_is_counted() {
    let server = RedisServer::start();
    add(
        &server,
        "event",
        [
            of("error", "ai.rag_pipeline.error", r#"{"conversation_id":"a"}"#),
            of("end", "ai.rag_pipeline.end", r#"{"conversation_id":"a"}"#),
            of("error", "ai.tool.error", r#"{"conversation_id":"b"}"#),
            of("error", "ai.tool.error", r#"{"conversation_id":"a","n":1}"#),
            // Without a topic it has the usual one.
            r#"{"event_type":"end","module_name":"RAGPipeline","data":{"conversation_id":"a"}}"#.to_owned(),
            of("start", "ai.rag_pipeline.start", "{}"),
        ],
    );
    run(async {
        let (errors, of_the_pipeline) = (Seen::default(), Seen::default());
        let consumer = consumer(&server)
            .filter("data.conversation_id", "a")
            .on("error", errors.handler())
            .on_topic("ai.rag_pipeline.*", of_the_pipeline.handler());
        let running = Running::start(consumer);
        running
            .until("all are settled", |status| status.balance.received == 6 && status.balance.in_flight == 0)
            .await;
        let status = running.stop().await;
        assert_eq!((errors.len(), of_the_pipeline.len()), (2, 3));
        assert_eq!((status.balance.handled, status.balance.filtered), (4, 2));
        assert_eq!(pending(&server, "g"), 0, "what nobody wants is acknowledged");
    });
}

#[test]
fn topics_and_tags_narrow_what_any_handler_gets() {
    let server = RedisServer::start();
    add(&server, "event", [of("error", "ai.a.error", "{}"), of("error", "ai.b.error", "{}")]);
    run(async {
        let seen = Seen::default();
        let narrow = || consumer(&server).topics(["ai.a.*"]).on("error", seen.handler());
        let running = Running::start(narrow().filter("tags.tenant", "acme"));
        running.until("both are settled", |status| status.balance.received == 2).await;
        assert_eq!(running.stop().await.balance.handled, 1);
        let topic = seen.events()[0].topic().cloned();
        assert_eq!(topic.as_deref(), Some("ai.a.error"));
    });
}

#[test]
fn a_handler_that_fails_or_panics_is_tried_again_and_those_that_succeeded_are_not() {
    let server = RedisServer::start();
    add_numbers(&server, 0..20);
    run(async {
        let (calls, first) = (Arc::new(AtomicU64::new(0)), Seen::default());
        let counted = calls.clone();
        let consumer = consumer(&server).on("token", first.handler()).on("token", move |event| {
            let call = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                match (crate::number(&event), call % 2) {
                    (5, _) if call < 7 => Err("not yet"),
                    (10, _) if call < 13 => panic!("not yet either"),
                    _ => Ok(()),
                }
            }
        });
        let running = Running::start(consumer);
        running.until("all are handled", |status| status.balance.handled == 20).await;
        let status = running.stop().await;
        assert_eq!(status.balance.retried, calls.load(Ordering::SeqCst) - 20);
        assert!(status.balance.retried >= 3 && status.balance.dead_lettered == 0, "{status:#?}");
        assert!(first.numbers().into_iter().eq(0..20), "the first handler saw each once");
    });
}

#[test]
fn repeats_are_left_out_within_the_window_and_first_deliveries_never() {
    let server = RedisServer::start();
    // A retry of a sink: the same events again, behind their neighbours, and some for the first time so late.
    add_numbers(&server, (0..40).chain(60..100).chain(40..150).chain([3, 149]));
    run(async {
        let seen = Seen::default();
        let running =
            Running::start(consumer(&server).workers(4).skip_duplicates(1000).on("token", seen.handler()));
        running
            .until("all are settled", |status| {
                status.balance.received == 192 && status.balance.in_flight == 0
            })
            .await;
        let status = running.stop().await;
        assert_eq!((status.balance.handled, status.balance.duplicate), (150, 42));
        let mut numbers = seen.numbers();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..150));
        // Without the filter they come as often as they are there.
        let all = Consumer::connect(server.url(), STREAM).start(Start::Begin).until("+").on("token", |_| ());
        assert_eq!(all.run().await.unwrap().balance.handled, 192);
    });
}

/// Without a run and a conversation nothing leads a repeat to the worker that had it before.
#[test]
fn a_repeat_that_another_worker_meets_is_left_out() {
    let server = RedisServer::start();
    let all = || (0..50).map(|n| format!(r#"{{"event_type":"token","event_id":"e{n}"}}"#));
    add(&server, "event", all());
    run(async {
        let running = Running::start(consumer(&server).workers(8).skip_duplicates(1000).on("token", |_| ()));
        running.until("all", |status| status.balance.handled == 50).await;
        add(&server, "event", all());
        running.until("all again", |status| status.balance.received == 100).await;
        let status = running.stop().await;
        assert_eq!((status.balance.handled, status.balance.duplicate), (50, 50));
    });
}

#[test]
fn a_repeat_of_what_was_not_handled_is_no_duplicate() {
    let server = RedisServer::start();
    add_numbers(&server, [1, 1]);
    run(async {
        let calls = Arc::new(AtomicU64::new(0));
        let counted = calls.clone();
        let consumer = consumer(&server).max_attempts(1).skip_duplicates(10).on("token", move |_| {
            if counted.fetch_add(1, Ordering::SeqCst) == 0 { Err("the first time") } else { Ok(()) }
        });
        let running = Running::start(consumer);
        running
            .until("both", |status| status.balance.handled == 1 && status.balance.dead_lettered == 1)
            .await;
        running.stop().await;
    });
}

#[test]
fn what_is_in_hand_when_it_stops_is_finished_or_given_back() {
    let server = RedisServer::start();
    add_numbers(&server, 0..100);
    run(async {
        let seen = Seen::default();
        let handler = seen.handler();
        let slow = consumer(&server).on("token", move |event| {
            handler(event);
            async { tokio::time::sleep(Duration::from_millis(2)).await }
        });
        let running = Running::start(slow);
        wait_for("some", || seen.len() >= 5).await;
        let status = running.stop().await;
        assert_eq!(status.balance.handled as usize, seen.len(), "{status:#?}");
        assert_eq!(status.balance.returned, 0);
        add_numbers(&server, 100..200);
        let hanging = consumer(&server).name("h").stop_timeout(Duration::from_millis(50));
        let running = Running::start(hanging.on("token", |_| std::future::pending::<()>()));
        running.until("they are in hand", |status| status.balance.in_flight > 0).await;
        let status = running.stop().await;
        assert_eq!(status.balance.returned, status.balance.received);
        assert_eq!(pending(&server, "g"), status.balance.returned, "nobody has acknowledged them");
    });
}

#[test]
fn an_event_reads_as_it_was_sent() {
    let server = RedisServer::start();
    add_numbers(&server, [17]);
    run(async {
        let seen = Seen::default();
        let running = Running::start(consumer(&server).on_topic("#", seen.handler()));
        wait_for("it", || seen.len() == 1).await;
        running.stop().await;
        let event = &seen.events()[0];
        let (sent, read): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&json(17, 10)).unwrap(), serde_json::from_slice(event.json()).unwrap());
        for (key, value) in sent.as_object().unwrap() {
            assert_eq!(&read[key], value, "{key}");
        }
        assert_eq!(event.data("conversation_id").unwrap().as_str(), Some("conv_7"));
    });
}
