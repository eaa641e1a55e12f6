//! Brokers that are frozen, full, slow, or refuse one thing alone: what a consumer does then, and how it goes on.

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
        running.until("it says what is missing", says("+xack")).await;
        sleep(Duration::from_secs(5)).await;
        let status = running.status();
        assert!(status.connections <= 10, "{} connections in 5 s", status.connections);
        assert_eq!(status.class, Some(ErrorClass::Misconfigured));
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
        // It looks how things stand once a second.
        sleep(Duration::from_millis(1500)).await;
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
        wait_for("some", || seen.len() >= 20).await;
        let status = running.status();
        assert!(status.balance.handled >= 10, "{status:#?}");
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
        running.until("it noticed", |status| status.state == ConsumerState::Open).await;
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
        running.until("it noticed", |status| status.state == ConsumerState::Open).await;
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
