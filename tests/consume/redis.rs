//! Redis Streams: where a consumer begins, how it goes on, what it notices.

use std::time::Duration;

use streamll::ErrorClass;
use streamll::consume::{Consumer, ConsumerState, Start};

use crate::proxy::Proxy;
use crate::servers::{RedisServer, free_port};
use crate::{Running, STREAM, Seen, add_numbers, ask, client, pending, run, wait_for};

#[test]
fn a_group_is_made_reads_everything_in_order_and_acknowledges_it() {
    let server = RedisServer::start();
    add_numbers(&server, 0..3000);
    run(async {
        let seen = Seen::default();
        let consumer = Consumer::connect(server.url(), STREAM).group("g").on("token", seen.handler());
        let running = Running::start(consumer);
        wait_for("the old ones", || seen.len() == 3000).await;
        add_numbers(&server, 3000..3100);
        wait_for("the new ones", || seen.len() == 3100).await;
        running
            .until("nothing waits", |status| status.lag == Some(0) && status.balance.handled == 3100)
            .await;
        assert_eq!(running.status().to_string(), "consuming (nothing waits)");
        let status = running.stop().await;
        assert_eq!((status.state, status.gaps, status.connections), (ConsumerState::Stopped, 0, 1));
        assert!(seen.numbers().into_iter().eq(0..3100), "each once, in order");
        assert_eq!(pending(&server, "g"), 0);
        let consumers: Vec<::redis::Value> = ask(&server, &format!("XINFO CONSUMERS {STREAM} g"));
        assert!(consumers.is_empty(), "a name that was made up is given back: {consumers:?}");
        // The group knows where it was.
        add_numbers(&server, [9999]);
        let again = Seen::default();
        let running = Running::start(
            Consumer::connect(server.url(), STREAM)
                .group("g")
                .start(Start::Begin)
                .on("token", again.handler()),
        );
        wait_for("the last", || again.len() == 1).await;
        running.stop().await;
        assert_eq!(again.numbers(), [9999]);
    });
}

#[test]
fn a_consumer_waits_for_a_server_that_is_not_there_yet_and_says_why() {
    run(async {
        let server = RedisServer::start();
        server.kill9();
        let seen = Seen::default();
        let consumer = Consumer::connect(server.url(), STREAM).group("g");
        let running = Running::start(consumer.on("token", seen.handler()));
        running.until("it says why", |status| status.reason.is_some()).await;
        let status = running.status();
        assert_eq!(
            (status.state, status.class),
            (ConsumerState::Disconnected, Some(ErrorClass::Unavailable))
        );
        let (text, why) = (status.to_string(), format!("{}: connection refused", server.url()));
        assert!(text.starts_with("open (not receiving since ") && text.contains(&why), "{text}");
        server.restart();
        add_numbers(&server, [7]);
        wait_for("it has come", || seen.len() == 1).await;
        running.stop().await;
    });
}

#[test]
fn it_stops_at_once_while_it_waits_for_its_server_or_for_events() {
    run(async {
        let nobody = format!("redis://127.0.0.1:{}", free_port());
        let server = RedisServer::start();
        // A busy machine may be slow, but not each time; one that waits for its read would be.
        let mut took = Vec::new();
        for _ in 0..5 {
            let idle = Consumer::connect(server.url(), STREAM).group("g").on("token", |_| ());
            let idle = Running::start(idle);
            let nowhere = Running::start(Consumer::connect(nobody.clone(), STREAM).on("token", |_| ()));
            nowhere.until("it tries", |status| status.reason.is_some()).await;
            idle.until("it consumes", |status| status.state == ConsumerState::Consuming).await;
            let begun = tokio::time::Instant::now();
            nowhere.stop().await;
            idle.stop().await;
            took.push(begun.elapsed());
        }
        let less_than_a_read_may_block = Duration::from_millis(800);
        assert!(took.iter().any(|took| *took < less_than_a_read_may_block), "{took:?}");
    });
}

#[test]
fn without_a_group_it_begins_where_it_is_told_and_resumes_by_its_cursor() {
    let server = RedisServer::start();
    add_numbers(&server, 0..50);
    let from = |start| Consumer::connect(server.url(), STREAM).start(start);
    run(async {
        let (all, new) = (Seen::default(), Seen::default());
        let begin = Running::start(from(Start::Begin).on("token", all.handler()));
        let now = Running::start(from(Start::Now).on("token", new.handler()));
        now.until("it reads", |status| status.state == ConsumerState::Consuming).await;
        add_numbers(&server, 50..60);
        wait_for("both", || all.len() == 60 && new.len() == 10).await;
        assert!(all.numbers().into_iter().eq(0..60) && new.numbers().into_iter().eq(50..60));
        begin
            .until("the cursor follows", |status| status.cursor.is_some() && status.balance.in_flight == 0)
            .await;
        let cursor = begin.stop().await.cursor.unwrap();
        now.stop().await;
        add_numbers(&server, 60..65);
        let rest = Seen::default();
        let resumed = Running::start(from(Start::After(cursor)).on("token", rest.handler()));
        wait_for("the rest", || rest.len() == 5).await;
        resumed.stop().await;
        assert!(rest.numbers().into_iter().eq(60..65), "neither a repeat nor a hole");
    });
}

#[test]
fn a_cursor_never_passes_an_event_that_is_not_handled() {
    let server = RedisServer::start();
    add_numbers(&server, 0..100);
    run(async {
        // The conversation of number 3 hangs; nine others go on, but for those that share its worker.
        let consumer = Consumer::connect(server.url(), STREAM).start(Start::Begin).workers(64);
        let seen = Seen::default();
        let handler = seen.handler();
        let running = Running::start(consumer.stop_timeout(Duration::ZERO).on("token", move |event| {
            let hangs = crate::number(&event) == 3;
            if !hangs {
                handler(event);
            }
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
            }
        }));
        let first = || (0..3).all(|n| seen.numbers().contains(&n));
        wait_for("all that can", || seen.len() >= 50 && first()).await;
        let status = running.stop().await;
        let rest = Seen::default();
        let cursor = status.cursor.unwrap();
        let resumed = Consumer::connect(server.url(), STREAM).start(Start::After(cursor)).until("+");
        let ended = resumed.on("token", rest.handler()).run().await.unwrap();
        assert_eq!(rest.numbers()[0], 3, "{ended:#?}");
        assert!(status.balance.returned > 0);
    });
}

#[test]
fn it_ends_by_itself_where_it_is_told_however_long_that_takes() {
    let server = RedisServer::start();
    add_numbers(&server, 0..200);
    run(async {
        let seen = Seen::default();
        let handler = seen.handler();
        let consumer = Consumer::connect(server.url(), STREAM).start(Start::Begin).until("+");
        let slow = consumer.stop_timeout(Duration::from_millis(50)).on("token", move |event| {
            handler(event);
            async { tokio::time::sleep(Duration::from_millis(1)).await }
        });
        let ended = slow.run().await.unwrap();
        assert!(seen.len() == 200 && ended.balances() && ended.balance.handled == 200, "{ended:#?}");
    });
}

#[test]
fn the_end_is_where_it_was_at_the_beginning_whatever_comes_meanwhile() {
    let server = RedisServer::start();
    add_numbers(&server, 0..50);
    run(async {
        let consumer = Consumer::connect(server.url(), STREAM).start(Start::Begin).until("+");
        let again = std::sync::Mutex::new(client(&server));
        let copies = consumer.prefetch(10).on("token", move |event| {
            let mut add = ::redis::cmd("XADD");
            add.arg(STREAM).arg("*").arg("event").arg(&event.json()[..]).exec(&mut again.lock().unwrap())
        });
        let ended =
            tokio::time::timeout(Duration::from_secs(20), copies.run()).await.expect("it ends").unwrap();
        assert_eq!((ended.balance.handled, ask::<u64>(&server, &format!("XLEN {STREAM}"))), (50, 100));
        let nowhere = Consumer::connect(server.url(), "nowhere").start(Start::Begin).until("+");
        let ended = nowhere.on("token", |_| ()).run().await.unwrap();
        assert_eq!(ended.balance.received, 0);
    });
}

#[test]
fn what_was_trimmed_before_it_was_read_is_a_gap_and_what_was_read_before_is_none() {
    let server = RedisServer::start();
    add_numbers(&server, 0..100);
    run(async {
        for group in [None, Some("g")] {
            let _: i64 = ask(&server, &format!("XTRIM {STREAM} MAXLEN 0"));
            add_numbers(&server, 0..100);
            let consumer = |start| {
                let consumer = Consumer::connect(server.url(), STREAM).start(start);
                match group {
                    Some(group) => consumer.group(group),
                    None => consumer,
                }
            };
            let seen = Seen::default();
            let first = Running::start(consumer(Start::Begin).on("token", seen.handler()));
            wait_for("all", || seen.len() == 100).await;
            let before = first.status().gaps;
            // Trimmed after it was read: no gap. The group begins at 0, before what the other case has trimmed.
            let _: i64 = ask(&server, &format!("XTRIM {STREAM} MAXLEN 10"));
            add_numbers(&server, 100..150);
            wait_for("fifty more", || seen.len() == 150).await;
            let status = first.stop().await;
            assert_eq!(status.gaps, before, "{group:?}");
            let cursor = status.cursor.unwrap_or_default();
            // Of these hundred, ninety are gone before anybody reads them.
            add_numbers(&server, 150..250);
            let _: i64 = ask(&server, &format!("XTRIM {STREAM} MAXLEN 10"));
            let rest = Seen::default();
            let start = if group.is_some() { Start::Begin } else { Start::After(cursor) };
            let second = Running::start(consumer(start).on("token", rest.handler()));
            wait_for("the last ten", || rest.len() == 10).await;
            let status = second.stop().await;
            assert_eq!(status.gaps, 1, "{group:?}: {status:#?}");
            assert!(
                status.missed == 90 || (group.is_none() && status.missed >= 1),
                "{group:?}: {}",
                status.missed
            );
        }
    });
}

#[test]
fn a_server_that_is_killed_or_cut_off_is_read_again_and_nothing_is_missing() {
    let server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let proxy = Proxy::to(server.port());
    run(async {
        let seen = Seen::default();
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        let consumer = Consumer::connect(url, STREAM).group("g").skip_duplicates(10_000);
        let running = Running::start(consumer.on("token", seen.handler()));
        add_numbers(&server, 0..500);
        wait_for("the first", || seen.len() >= 500).await;
        server.kill9();
        running.until("it noticed", |status| status.state == ConsumerState::Disconnected).await;
        server.restart();
        add_numbers(&server, 500..1000);
        wait_for("behind the kill", || seen.len() >= 1000).await;
        proxy.reset_peers();
        add_numbers(&server, 1000..1500);
        wait_for("behind the reset", || seen.len() >= 1500).await;
        let status = running.stop().await;
        assert!(seen.numbers().into_iter().eq(0..1500), "all, once and in order");
        assert!(status.connections >= 3 && status.gaps == 0, "{status:#?}");
        assert_eq!(pending(&server, "g"), 0);
    });
}

#[test]
fn a_server_that_has_forgotten_everything_is_read_from_its_new_beginning() {
    let server = RedisServer::start();
    add_numbers(&server, 0..10);
    run(async {
        let (shared, own) = (Seen::default(), Seen::default());
        let connect = || Consumer::connect(server.url(), STREAM).start(Start::Now);
        let group = Running::start(connect().group("g").on("token", shared.handler()));
        let alone = Running::start(connect().on("token", own.handler()));
        for running in [&group, &alone] {
            running.until("it reads", |status| status.state == ConsumerState::Consuming).await;
        }
        server.restart();
        add_numbers(&server, 10..20);
        wait_for("what came after the loss", || shared.len() == 10 && own.len() == 10).await;
        group.stop().await;
        alone.stop().await;
    });
}

#[test]
fn a_wrong_type_and_a_missing_permission_are_said_and_mended_without_a_restart() {
    let server = RedisServer::start();
    let _: String = ask(&server, &format!("SET {STREAM} text"));
    let _: String = ask(&server, "ACL SETUSER app on >canary-77 +ping +client ~*");
    run(async {
        let seen = Seen::default();
        let url = server.url().replace("redis://", "redis://app:canary-77@");
        let running = Running::start(Consumer::connect(url, STREAM).group("g").on("token", seen.handler()));
        let says = |words: &'static str| {
            move |status: &streamll::consume::ConsumerStatus| {
                status.reason.as_ref().is_some_and(|why| why.contains(words) && !why.contains("canary"))
                    && status.class == Some(ErrorClass::Misconfigured)
            }
        };
        running.until("it says what is missing", says("allow it `+xreadgroup +xgroup +xack")).await;
        let _: String =
            ask(&server, "ACL SETUSER app +xreadgroup +xgroup +xack +xautoclaim +xclaim +xpending");
        running.until("it says what is there", says("the key `ai_events` holds no stream")).await;
        let _: i64 = ask(&server, &format!("DEL {STREAM}"));
        running.until("it reads", |status| status.state == ConsumerState::Consuming).await;
        add_numbers(&server, 0..10);
        wait_for("all", || seen.len() == 10).await;
        let status = running.stop().await;
        assert_eq!(status.lag, None, "it may not ask");
        let mut redis = client(&server);
        let left: i64 = ::redis::cmd("XLEN").arg(STREAM).query(&mut redis).unwrap();
        assert_eq!(left, 10);
    });
}
