//! Brokers that are frozen, full, slow, or refuse one thing alone: what a consumer does then, and how it goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use streamll::ErrorClass;
use streamll::consume::{Consumer, ConsumerState, ConsumerStatus, Start};
use tokio::time::{Instant, sleep};

use crate::proxy::Proxy;
use crate::servers::{RabbitNode, RedisServer};
use crate::{Running, STREAM, Seen, add, add_numbers, ask, channel, json, pending, publish, run, wait_for};

fn consuming(status: &ConsumerStatus) -> bool {
    status.state == ConsumerState::Consuming
}

fn says(words: &'static str) -> impl Fn(&ConsumerStatus) -> bool {
    move |status| status.reason.as_ref().is_some_and(|why| why.contains(words))
}

#[test]
fn a_user_that_may_not_acknowledge_is_no_busy_loop_and_goes_on_once_it_may() {
    let server = RedisServer::start();
    add_numbers(&server, 0..10);
    let _: String = ask(&server, "ACL SETUSER app on >x ~* +@all -xack");
    run(async {
        let url = server.url().replace("redis://", "redis://app:x@");
        let running = Running::start(Consumer::connect(url, STREAM).group("g").on("token", |_| ()));
        let is_told = |status: &ConsumerStatus| {
            says("+xack")(status) && status.class == Some(ErrorClass::Misconfigured)
        };
        running.until("it says what is missing", is_told).await;
        sleep(Duration::from_secs(5)).await;
        let status = running.status();
        assert!(status.connections <= 10, "{} connections in 5 s", status.connections);
        let _: String = ask(&server, "ACL SETUSER app +xack");
        wait_for("all are acknowledged", || pending(&server, "g") == 0).await;
        running.stop().await;
    });
}

#[test]
fn a_key_of_another_type_is_said_before_anything_is_read() {
    let server = RedisServer::start();
    let _: String = ask(&server, &format!("SET {STREAM} text"));
    run(async {
        let running = Running::start(Consumer::connect(server.url(), STREAM).on("token", |_| ()));
        running.until("it says so", says("holds no stream")).await;
        let status = running.stop().await;
        assert_eq!(status.connections, 0, "{status:#?}");
    });
}

#[test]
fn a_slow_link_with_large_entries_is_read_in_smaller_pieces() {
    let server = RedisServer::start();
    let text = "x".repeat(100_000);
    let large = |n| format!(r#"{{"event_type":"token","source":"s","seq":{n},"data":{{"token":"{text}"}}}}"#);
    add(&server, "event", (0..12).map(large));
    let proxy = Proxy::to(server.port());
    // All at once take 6 s, besides the look that comes before, and an answer is awaited for 6.
    proxy.bandwidth(200_000);
    run(async {
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        let seen = Seen::default();
        let consumer = Consumer::connect(url, STREAM).start(Start::Begin).prefetch(12);
        let running = Running::start(consumer.on("token", seen.handler()));
        running.until("all", |status| status.balance.handled == 12).await;
        running.stop().await;
        assert!(seen.numbers().into_iter().eq(0..12));
    });
}

#[test]
fn a_memory_alarm_and_a_dead_letter_do_not_keep_the_rest_from_being_acknowledged() {
    let node = RabbitNode::start();
    let vhost = node.vhost();
    run(async {
        let consumer = || Consumer::connect(node.url(&vhost), STREAM).group("g");
        let first = Running::start(consumer().on("token", |_| ()));
        first.until("the queue is there", consuming).await;
        first.stop().await;
        let (connection, channel) = channel(&node, &vhost).await;
        publish(&channel, STREAM, "ai.rag.token", ["not JSON".to_owned()]).await;
        publish(&channel, STREAM, "ai.rag.token", (0..3000).map(|n| json(n, 10))).await;
        drop((connection, channel));
        node.ctl(&["set_vm_memory_high_watermark", "0.0000001"]);
        let begun = Instant::now();
        let running = Running::start(consumer().on("token", |_| ()));
        running.until("the rest is handled", |status| status.balance.handled == 3000).await;
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        running.until("it says what is wrong", says("dead letters cannot be kept")).await;
        let messages = || node.ctl(&["list_queues", "-p", &vhost, "name", "messages"]);
        wait_for("the broker has heard", || messages().lines().any(|line| line.trim() == "g\t1")).await;
        assert_eq!(running.status().connections, 1, "{:#?}", running.status());
        node.ctl(&["set_vm_memory_high_watermark", "0.4"]);
        running.until("it is kept", |status| status.balance.dead_lettered == 1).await;
        running.stop().await;
        let messages = messages();
        assert!(messages.contains("g\t0") && messages.contains("g.dead\t1"), "{messages}");
    });
}

#[test]
fn a_group_that_is_destroyed_goes_on_where_it_was() {
    let server = RedisServer::start();
    add_numbers(&server, 0..20);
    run(async {
        let seen = Seen::default();
        let running =
            Running::start(Consumer::connect(server.url(), STREAM).group("g").on("token", seen.handler()));
        running.until("all", |status| status.balance.handled == 20).await;
        running.until("it has looked how things stand", |status| status.lag == Some(0)).await;
        let _: i64 = ask(&server, &format!("XGROUP DESTROY {STREAM} g"));
        add_numbers(&server, 20..25);
        wait_for("what came then", || seen.numbers().last() == Some(&24)).await;
        running.stop().await;
        assert!(seen.numbers().into_iter().eq(0..25), "each once: {:?}", seen.numbers());
    });
}

#[test]
fn a_user_that_may_not_write_dead_letters_is_told_what_is_missing_there() {
    let server = RedisServer::start();
    add(&server, "event", ["not JSON".to_owned()]);
    let _: String = ask(&server, "ACL SETUSER app on >x ~ai_events +@all");
    run(async {
        let url = server.url().replace("redis://", "redis://app:x@");
        let running = Running::start(Consumer::connect(url, STREAM).group("g").on("token", |_| ()));
        running.until("it says why", says("dead letters cannot be kept")).await;
        let status = running.status();
        assert!(says("allow it `+xadd ~ai_events.dead`")(&status), "{status:#?}");
        let _: String = ask(&server, "ACL SETUSER app ~ai_events.dead");
        running.until("it is kept", |status| status.balance.dead_lettered == 1).await;
        running.stop().await;
    });
}

#[test]
fn what_slow_handlers_have_done_is_known_before_they_have_done_all() {
    let server = RedisServer::start();
    add_numbers(&server, 0..60);
    run(async {
        let seen = Seen::default();
        let handler = seen.handler();
        let running =
            Running::start(Consumer::connect(server.url(), STREAM).group("g").on("token", move |event| {
                handler(event);
                std::thread::sleep(Duration::from_millis(20));
            }));
        running.until("some", |status| status.balance.handled >= 10).await;
        assert!(seen.len() < 60, "only once all were done");
        running.stop().await;
    });
}

#[test]
fn a_reader_knows_its_place_before_the_first_event() {
    let server = RedisServer::start();
    add_numbers(&server, 0..10);
    let last: Vec<(String, crate::Fields)> = ask(&server, &format!("XREVRANGE {STREAM} + - COUNT 1"));
    run(async {
        for (start, cursor) in [
            (Start::Now, last[0].0.as_str()),
            (Start::After("99999999999999-7".to_owned()), "99999999999999-7"),
        ] {
            let running =
                Running::start(Consumer::connect(server.url(), STREAM).start(start).on("token", |_| ()));
            running.until("it reads", consuming).await;
            assert_eq!(running.stop().await.cursor.as_deref(), Some(cursor));
        }
    });
}

#[test]
fn a_redis_server_that_is_frozen_is_noticed_and_read_on_when_it_moves_again() {
    let server = RedisServer::start();
    run(async {
        let seen = Seen::default();
        let running =
            Running::start(Consumer::connect(server.url(), STREAM).group("g").on("token", seen.handler()));
        running.until("it consumes", consuming).await;
        add_numbers(&server, 0..10);
        wait_for("the first", || seen.len() == 10).await;
        server.freeze();
        running.until("it noticed", |status| status.state == ConsumerState::Disconnected).await;
        assert_eq!(running.status().class, Some(ErrorClass::Unavailable), "{:#?}", running.status());
        server.thaw();
        add_numbers(&server, 10..20);
        wait_for("the rest", || seen.len() >= 20).await;
        running.stop().await;
        assert_eq!(pending(&server, "g"), 0);
    });
}

#[test]
fn a_rabbit_node_that_is_frozen_is_noticed_and_read_on_when_it_moves_again() {
    let node = RabbitNode::start();
    let vhost = node.vhost();
    run(async {
        let seen = Seen::default();
        let consumer = Consumer::connect(node.url(&vhost), STREAM).group("g").skip_duplicates(100);
        let running = Running::start(consumer.on("token", seen.handler()));
        running.until("it consumes", consuming).await;
        node.freeze();
        running.until("it noticed", |status| status.state == ConsumerState::Disconnected).await;
        node.thaw();
        let (_connection, channel) = channel(&node, &vhost).await;
        publish(&channel, STREAM, "ai.rag.token", (0..20).map(|n| json(n, 10))).await;
        wait_for("all", || seen.len() == 20).await;
        running.until("it consumes again", consuming).await;
        running.stop().await;
    });
}

#[test]
fn a_reader_that_may_not_read_is_told_before_it_counts_as_connected() {
    let server = RedisServer::start();
    let _: String = ask(&server, "ACL SETUSER app on >x ~other +@all");
    run(async {
        let url = server.url().replace("redis://", "redis://app:x@");
        let running = Running::start(Consumer::connect(url, STREAM).on("token", |_| ()));
        running.until("it says what is missing", says("allow it `+xread +xinfo ~ai_events`")).await;
        assert_eq!(running.stop().await.connections, 0);
    });
}

#[test]
fn however_late_others_are_to_be_taken_over_it_reads_at_once() {
    let server = RedisServer::start();
    run(async {
        let consumer = Consumer::connect(server.url(), STREAM).group("g").claim_after(Duration::MAX);
        let running = Running::start(consumer.on("token", |_| ()));
        running.until("it has looked", |status| status.lag.is_some()).await;
        sleep(Duration::from_millis(300)).await;
        assert_eq!(running.stop().await.connections, 1);
    });
}

#[test]
fn a_reader_that_may_not_look_reads_each_entry_once_and_is_told_what_it_needs_to_begin_now() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port());
    add_numbers(&server, 0..10);
    let _: String = ask(&server, &format!("ACL SETUSER app on >x ~{STREAM} +@all -xinfo"));
    run(async {
        let url = format!("redis://app:x@127.0.0.1:{}", proxy.port());
        let seen = Seen::default();
        let consumer = Consumer::connect(url.as_str(), STREAM).start(Start::Begin);
        let running = Running::start(consumer.on("token", seen.handler()));
        wait_for("the first", || seen.len() == 10).await;
        proxy.reset_peers();
        running.until("it is back", |status| status.connections == 2).await;
        add_numbers(&server, 10..12);
        wait_for("what came then", || seen.len() >= 12).await;
        // Long enough to have looked how much waits.
        sleep(Duration::from_millis(1500)).await;
        let status = running.stop().await;
        assert!(seen.numbers().into_iter().eq(0..12), "each once: {:?}", seen.numbers());
        assert_eq!((status.lag, status.cursor.is_some()), (None, true), "{status:#?}");
        let now = Running::start(Consumer::connect(url, STREAM).on("token", seen.handler()));
        now.until("it says what is missing", says("only `+xinfo` tells")).await;
        assert_eq!(now.stop().await.class, None);
        assert_eq!(seen.len(), 12, "nothing is read that was there before");
    });
}

#[test]
fn a_group_that_is_destroyed_while_all_hands_are_full_goes_on_where_it_was() {
    let server = RedisServer::start();
    add_numbers(&server, 0..20);
    run(async {
        let (seen, gate) = (Seen::default(), Arc::new(AtomicBool::new(false)));
        let (handler, waits) = (seen.handler(), gate.clone());
        let consumer = Consumer::connect(server.url(), STREAM).group("g").prefetch(4);
        let running = Running::start(consumer.on("token", move |event| {
            let waits = waits.clone();
            handler(event);
            async move {
                while !waits.load(Ordering::SeqCst) {
                    sleep(Duration::from_millis(5)).await;
                }
            }
        }));
        running.until("its hands are full", |status| status.balance.in_flight == 4).await;
        // It looks how things stand once a second: with its group, and without it.
        running.until("it has looked", |status| status.lag == Some(16)).await;
        let _: i64 = ask(&server, &format!("XGROUP DESTROY {STREAM} g"));
        sleep(Duration::from_millis(1500)).await;
        gate.store(true, Ordering::SeqCst);
        wait_for("the rest", || seen.numbers().last() == Some(&19)).await;
        running.stop().await;
        assert!(seen.numbers().into_iter().eq(0..20), "each once: {:?}", seen.numbers());
    });
}

#[test]
fn what_a_stopping_consumer_still_handles_is_not_taken_over() {
    let server = RedisServer::start();
    add_numbers(&server, [0]);
    run(async {
        let (first, second) = (Seen::default(), Seen::default());
        let consumer = || {
            let consumer = Consumer::connect(server.url(), STREAM).group("g");
            // More than a busy machine keeps a healthy process waiting.
            consumer.claim_after(Duration::from_secs(3)).stop_timeout(Duration::from_secs(30))
        };
        let handler = first.handler();
        let stopping = Running::start(consumer().on("token", move |event| {
            handler(event);
            sleep(Duration::from_secs(7))
        }));
        wait_for("it is under way", || first.len() == 1).await;
        let other = Running::start(consumer().on("token", second.handler()));
        other.until("it looks for the dead", |status| status.lag.is_some()).await;
        assert_eq!(stopping.stop().await.balance.handled, 1);
        other.stop().await;
        assert_eq!((second.len(), pending(&server, "g")), (0, 0));
    });
}

/// A handler that hangs, and one connection after the other: what comes again replaces what came before.
#[test]
fn what_waits_behind_a_handler_that_hangs_does_not_pile_up_with_each_connection() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    let proxy = Proxy::to(node.port());
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        let url = node.url(&vhost).replace(&node.port().to_string(), &proxy.port().to_string());
        let seen = Seen::default();
        let handler = seen.handler();
        let consumer = Consumer::connect(url, STREAM).group("g").prefetch(20).stop_timeout(Duration::ZERO);
        let running = Running::start(consumer.on("token", move |event| {
            handler(event);
            std::future::pending::<()>()
        }));
        running.until("it consumes", consuming).await;
        publish(&channel, STREAM, "ai.rag.token", (0..100).map(|n| json(n, 10))).await;
        for connections in 2..6 {
            running.until("its hands are full", |status| status.balance.in_flight >= 20).await;
            proxy.reset_peers();
            running
                .until("it is back, with as much in hand as before and what hangs", |status| {
                    status.connections >= connections
                        && status.balance.received >= 20 * connections
                        && status.balance.in_flight <= 21
                })
                .await;
        }
        assert_eq!(seen.len(), 1);
        running.stop().await;
    });
}
