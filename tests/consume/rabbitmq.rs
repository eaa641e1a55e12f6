//! RabbitMQ: queues made and found, bindings, prefetch, what happens when the broker goes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use streamll::ErrorClass;
use streamll::consume::{Consumer, ConsumerState, ConsumerStatus, DeadLetters};
use tokio_stream::StreamExt as _;

use crate::servers::RabbitNode;
use crate::{Running, Seen, channel, json, number, publish, run, wait_for};

const EXCHANGE: &str = "ai_events";

fn events_of(numbers: impl IntoIterator<Item = u64>) -> impl Iterator<Item = String> {
    numbers.into_iter().map(|n| json(n, 10))
}

fn consuming(status: &ConsumerStatus) -> bool {
    status.state == ConsumerState::Consuming
}

#[test]
fn a_group_is_a_durable_queue_that_is_made_and_bound_and_then_shared() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    let consumer = || Consumer::connect(node.url(&vhost), EXCHANGE).group("alerts");
    run(async {
        let seen = Seen::default();
        let errors = || consumer().on_topic("ai.*.error", seen.handler());
        let first = Running::start(errors());
        first.until("it consumes", consuming).await;
        let (_connection, channel) = channel(node, &vhost).await;
        publish(&channel, EXCHANGE, "ai.rag.token", events_of([0])).await;
        publish(&channel, EXCHANGE, "ai.rag.error", events_of([1, 2])).await;
        // The events name a topic of their own, which is not an error's.
        first.until("what is bound has come", |status| status.balance.filtered == 2).await;
        let status = first.stop().await;
        assert_eq!(status.balance.received, 2, "the token was not routed: {status:#?}");
        // The queue goes on without a consumer.
        let error = r#"{"event_type":"error","source":"s","seq":3}"#.to_owned();
        publish(&channel, EXCHANGE, "ai.rag.error", [error]).await;
        let second = Running::start(errors());
        wait_for("what came meanwhile", || seen.len() == 1).await;
        second.until("nothing waits", |status| status.lag == Some(0)).await;
        second.stop().await;
        assert_eq!(seen.numbers(), [3], "without a topic of its own the key is it");
    });
}

#[test]
fn a_queue_that_is_there_is_taken_as_it_is() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("audit".into(), durable, quorum).await.unwrap();
        let seen = Seen::default();
        let consumer = || Consumer::connect(node.url(&vhost), EXCHANGE).group("audit");
        let running = Running::start(consumer().on_topic("#", seen.handler()));
        running.until("it consumes", consuming).await;
        // The exchange was made; the queue is somebody else's, and is not bound.
        publish(&channel, EXCHANGE, "ai.rag.token", events_of([0])).await;
        publish(&channel, "", "audit", events_of([1])).await;
        wait_for("what was sent to it", || seen.len() == 1).await;
        running.stop().await;
        // Unless topics are asked for.
        let running = Running::start(consumer().topics(["ai.#"]).on_topic("#", seen.handler()));
        running.until("it consumes", consuming).await;
        publish(&channel, EXCHANGE, "ai.rag.token", events_of([2])).await;
        wait_for("what is bound now", || seen.len() == 2).await;
        running.stop().await;
        assert_eq!(seen.numbers(), [1, 2]);
        // The default exchange: a queue alone.
        let alone = Consumer::connect(node.url(&vhost), "").group("audit").on_topic("#", seen.handler());
        let running = Running::start(alone);
        publish(&channel, "", "audit", events_of([3])).await;
        wait_for("the last", || seen.len() == 3).await;
        running.stop().await;
    });
}

#[test]
fn without_a_group_everyone_sees_everything_from_now_on() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let (one, other) = (Seen::default(), Seen::default());
        let watch = |seen: &Seen| {
            Running::start(Consumer::connect(node.url(&vhost), EXCHANGE).on("token", seen.handler()))
        };
        let (first, second) = (watch(&one), watch(&other));
        for running in [&first, &second] {
            running.until("it consumes", consuming).await;
        }
        let (_connection, channel) = channel(node, &vhost).await;
        publish(&channel, EXCHANGE, "ai.rag.token", events_of(0..50)).await;
        wait_for("both", || one.len() == 50 && other.len() == 50).await;
        assert!(one.numbers().into_iter().eq(0..50));
        first.stop().await;
        second.stop().await;
        let queues = || node.ctl(&["list_queues", "-p", &vhost, "name"]);
        wait_for("their queues are gone", || queues().trim().is_empty()).await;
    });
}

#[test]
fn what_is_done_behind_a_slow_event_is_acknowledged_and_prefetch_bounds_what_is_in_hand() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        let consumer = Consumer::connect(node.url(&vhost), EXCHANGE).group("g").prefetch(40).workers(64);
        let running = Running::start(consumer.stop_timeout(Duration::ZERO).on("token", |event| {
            let hangs = number(&event) == 0;
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
            }
        }));
        running.until("it consumes", consuming).await;
        publish(&channel, EXCHANGE, "ai.rag.token", events_of(0..200)).await;
        // Those that share a worker with the first fill the hand in the end.
        running.until("others are handled", |status| status.balance.handled > 30).await;
        assert!(running.status().balance.in_flight <= 40);
        let unacknowledged = || {
            let list = node.ctl(&["list_queues", "-p", &vhost, "messages_unacknowledged"]);
            list.trim().parse::<u64>().unwrap()
        };
        let handled = running.status().balance.handled;
        wait_for("the broker has heard", || unacknowledged() <= 40).await;
        let status = running.stop().await;
        assert!(status.balance.returned > 0 && status.balance.handled >= handled, "{status:#?}");
        let left_over = 200 - status.balance.handled;
        let left =
            Running::start(Consumer::connect(node.url(&vhost), EXCHANGE).group("g").on("token", |_| ()));
        left.until("the rest", |status| status.balance.handled >= left_over).await;
        assert_eq!(left.stop().await.balance.received, left_over, "what was handled was acknowledged");
    });
}

#[test]
fn poison_is_kept_in_a_queue_beside_or_by_an_exchange_and_an_unbound_one_loses_nothing() {
    let node = RabbitNode::shared();
    run(async {
        for exchange in [None, Some("poison")] {
            let vhost = node.vhost();
            let (_connection, channel) = channel(node, &vhost).await;
            let seen = Seen::default();
            let handler = seen.handler();
            let consumer = Consumer::connect(node.url(&vhost), EXCHANGE).group("g").max_attempts(1);
            let consumer = match exchange {
                Some(name) => consumer.dead_letters(DeadLetters::Exchange(name.to_owned())),
                None => consumer,
            };
            let running = Running::start(consumer.on("token", move |event| match number(&event) {
                3 => Err("no"),
                _ => {
                    handler(event);
                    Ok(())
                }
            }));
            running.until("it consumes", consuming).await;
            let bodies = events_of(0..10)
                .chain(["not JSON".to_owned(), r#"{"event_type":"x","data":{"n":NaN}}"#.to_owned()]);
            publish(&channel, EXCHANGE, "ai.rag.token", bodies).await;
            let queue = match exchange {
                None => "g.dead",
                Some(exchange) => {
                    let unrouted = |status: &ConsumerStatus| {
                        status
                            .reason
                            .as_ref()
                            .is_some_and(|why| why.contains("has no binding for key `ai.rag.token`"))
                    };
                    running.until("it says that nobody takes them", unrouted).await;
                    let (options, arguments) = (QueueDeclareOptions::default(), FieldTable::default());
                    channel.queue_declare("dead".into(), options, arguments.clone()).await.unwrap();
                    let options = QueueBindOptions::default();
                    channel
                        .queue_bind("dead".into(), exchange.into(), "#".into(), options, arguments)
                        .await
                        .unwrap();
                    "dead"
                }
            };
            running.until("they are kept", |status| status.balance.dead_lettered == 3).await;
            let status = running.stop().await;
            assert_eq!(status.balance.handled, 9, "{status:#?}");
            assert!(seen.numbers().into_iter().eq((0..10).filter(|n| *n != 3)));
            let mut reasons = Vec::new();
            while let Some(letter) =
                channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap()
            {
                let headers = letter.delivery.properties.headers().clone().unwrap();
                let Some(AMQPValue::LongString(reason)) = headers.inner().get("reason").cloned() else {
                    panic!("{headers:?}")
                };
                reasons.push((String::from_utf8(letter.delivery.data.clone()).unwrap(), reason.to_string()));
            }
            reasons.sort();
            let holds = |body: &str, why: &str| {
                reasons.iter().any(|(its, reason)| its == body && reason.contains(why))
            };
            assert!(
                reasons.len() == 3 && holds("not JSON", "is no event") && holds(&json(3, 10), "no"),
                "{reasons:?}"
            );
            assert!(reasons.iter().any(|(_, reason)| reason.contains("bare `NaN`")));
        }
    });
}

#[test]
fn a_broker_that_comes_late_is_killed_and_comes_back_is_read_to_the_end() {
    let node = RabbitNode::start();
    let vhost = node.vhost();
    node.kill9();
    run(async {
        let seen = Seen::default();
        let consumer = Consumer::connect(node.url(&vhost), EXCHANGE).group("g").skip_duplicates(10_000);
        let running = Running::start(consumer.on("token", seen.handler()));
        running.until("it says why", |status| status.reason.is_some()).await;
        let status = running.status();
        assert!(status.reason.as_ref().unwrap().contains("cannot connect to 127.0.0.1:"), "{status:#?}");
        assert_eq!(status.class, Some(ErrorClass::Unavailable));
        node.restart();
        running.until("it consumes", consuming).await;
        let (_connection, first) = channel(&node, &vhost).await;
        publish(&first, EXCHANGE, "ai.rag.token", events_of(0..300)).await;
        wait_for("some", || seen.len() >= 10).await;
        node.kill9();
        running.until("it noticed", |status| status.state == ConsumerState::Disconnected).await;
        node.restart();
        let (_connection, second) = channel(&node, &vhost).await;
        publish(&second, EXCHANGE, "ai.rag.token", events_of(300..600)).await;
        let all = || {
            let seen: std::collections::HashSet<u64> = seen.numbers().into_iter().collect();
            (0..600).all(|n| seen.contains(&n))
        };
        wait_for("all", all).await;
        let status = running.stop().await;
        assert_eq!(seen.len(), 600, "each once: {status:#?}");
        assert!(status.connections >= 2);
    });
}

#[test]
fn a_queue_that_is_deleted_is_made_again_and_a_login_that_is_refused_says_so() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let seen = Seen::default();
        let running = Running::start(
            Consumer::connect(node.url(&vhost), EXCHANGE).group("g").on("token", seen.handler()),
        );
        running.until("it consumes", consuming).await;
        let (_connection, channel) = channel(node, &vhost).await;
        channel.queue_delete("g".into(), Default::default()).await.unwrap();
        running.until("it is back", |status| status.connections >= 2 && consuming(status)).await;
        assert_eq!(running.status().gaps, 1, "what was in it is gone");
        publish(&channel, EXCHANGE, "ai.rag.token", events_of([1])).await;
        wait_for("what came then", || seen.len() == 1).await;
        running.stop().await;
        let url = node.url(&vhost).replace("guest:guest", "guest:canary-31");
        let refused = Running::start(Consumer::connect(url, EXCHANGE).group("g").on("token", |_| ()));
        refused.until("it says so", |status| status.class == Some(ErrorClass::Misconfigured)).await;
        let status = refused.stop().await;
        assert!(!format!("{status:?}").contains("canary"), "{status:#?}");
    });
}

#[test]
fn an_event_under_way_when_the_connection_is_lost_is_not_acknowledged_on_the_next() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        let proxy = crate::proxy::Proxy::to(node.port());
        let url = node.url(&vhost).replace(&format!(":{}/", node.port()), &format!(":{}/", proxy.port()));
        let (seen, gate) = (Seen::default(), Arc::new(AtomicBool::new(false)));
        let (handler, waits) = (seen.handler(), gate.clone());
        let running = Running::start(Consumer::connect(url, EXCHANGE).group("g").on("token", move |event| {
            handler(event);
            let waits = waits.clone();
            async move {
                while !waits.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }));
        running.until("it consumes", consuming).await;
        publish(&channel, EXCHANGE, "ai.rag.token", events_of(0..10)).await;
        wait_for("the first is under way", || seen.len() == 1).await;
        running.until("all are in hand", |status| status.balance.received == 10).await;
        proxy.reset_peers();
        running.until("it is back", |status| status.connections >= 2 && status.balance.received >= 20).await;
        gate.store(true, Ordering::SeqCst);
        running
            .until("all are handled", |status| status.balance.in_flight == 0 && status.balance.handled >= 10)
            .await;
        let status = running.stop().await;
        // The first was seen twice; the others of the first connection were not begun.
        assert_eq!((status.balance.handled, status.balance.returned), (11, 9), "{status:#?}");
        let list = node.ctl(&["list_queues", "-p", &vhost, "messages"]);
        assert_eq!(list.trim(), "0");
    });
}

#[test]
fn a_letter_that_no_queue_takes_does_not_hold_up_those_that_one_does() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        let dead = DeadLetters::Exchange("poison".to_owned());
        // What is published to its queue itself has the queue's name as its key, and by that its letter goes on.
        for (key, source) in [("ai.rag.error", EXCHANGE), ("g", "")] {
            let consumer = Consumer::connect(node.url(&vhost), EXCHANGE).group("g");
            let running = Running::start(consumer.dead_letters(dead.clone()).on("token", |_| ()));
            running.until("it consumes", consuming).await;
            publish(&channel, EXCHANGE, "ai.rag.token", ["no queue takes it".to_owned()]).await;
            let unkept = |status: &ConsumerStatus| {
                status.reason.as_ref().is_some_and(|why| why.contains("has no binding for key"))
            };
            running.until("its letter waits", unkept).await;
            let (options, arguments) = (QueueDeclareOptions::default(), FieldTable::default());
            channel.queue_declare("dead".into(), options, arguments.clone()).await.unwrap();
            let options = QueueBindOptions::default();
            channel.queue_bind("dead".into(), "poison".into(), key.into(), options, arguments).await.unwrap();
            publish(&channel, source, key, ["one does".to_owned()]).await;
            running.until("the other is kept", |status| status.balance.dead_lettered == 1).await;
            let options = BasicGetOptions { no_ack: true };
            let letter = channel.basic_get("dead".into(), options).await.unwrap().expect("it is there");
            assert_eq!(letter.delivery.data, b"one does");
            running.crash().await;
            channel.queue_purge("g".into(), Default::default()).await.unwrap();
        }
    });
}

#[test]
fn a_stream_of_events_is_of_all_topics_whatever_its_handlers_want() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        let consumer = Consumer::connect(node.url(&vhost), EXCHANGE).group("g");
        let mut events = consumer.on_topic("ai.*.error", |_| ()).into_stream().unwrap();
        let handle = events.handle();
        wait_for("it consumes", || consuming(&handle.status())).await;
        publish(&channel, EXCHANGE, "ai.rag.token", events_of([7])).await;
        let next = tokio::time::timeout(crate::LONG, events.next()).await.expect("it comes");
        assert_eq!(number(&next.unwrap()), 7);
        events.close().await;
    });
}
