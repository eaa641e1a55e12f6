//! Poison: the rest flows, the poison is found in the dead letters with its reason, and nothing loops.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use streamll::consume::{Consumer, ConsumerStatus, DeadLetters, Start};

use crate::servers::RedisServer;
use crate::{Running, STREAM, Seen, add, add_numbers, entries, field, json, number, pending, run, wait_for};

/// A hundred events with poison of every kind between them.
fn poisoned(server: &RedisServer) -> usize {
    let poison = [
        ("event", "not JSON".to_owned()),
        ("event", r#"{"event_type":"token","data":{"score":NaN}}"#.to_owned()),
        ("event", r#"{"data":{}}"#.to_owned()),
        ("event", "\u{0}".to_owned()),
        ("body", json(1, 10)),
        ("message", r#"{"event_type":7}"#.to_owned()),
        ("__data__", r#"{"data":"nothing"}"#.to_owned()),
    ];
    for (i, (name, value)) in poison.iter().enumerate() {
        add_numbers(server, (i as u64 * 10)..(i as u64 * 10 + 10));
        add(server, name, [value.clone()]);
    }
    add_numbers(server, 70..100);
    poison.len()
}

/// A handler that fails on one number, and panics on another.
fn picky(seen: &Seen) -> impl Fn(streamll::Event) -> Result<(), String> + Send + Sync + 'static {
    let seen = seen.handler();
    move |event| match number(&event) {
        33 => Err("the database says no".to_owned()),
        66 => panic!("index out of bounds"),
        _ => {
            seen(event);
            Ok(())
        }
    }
}

async fn settled(consumer: Consumer, received: u64) -> ConsumerStatus {
    let running = Running::start(consumer);
    running
        .until("all are settled", |status| {
            status.balance.received == received && status.balance.in_flight == 0
        })
        .await;
    running.stop().await
}

#[test]
fn poison_is_kept_as_it_came_and_the_rest_flows() {
    let server = RedisServer::start();
    let poison = poisoned(&server);
    run(async {
        let seen = Seen::default();
        let consumer =
            Consumer::connect(server.url(), STREAM).group("g").max_attempts(2).on("token", picky(&seen));
        let status = settled(consumer, 100 + poison as u64).await;
        assert_eq!((status.balance.handled, status.balance.dead_lettered), (98, poison as u64 + 2));
        assert!(seen.numbers().into_iter().eq((0..100).filter(|n| ![33, 66].contains(n))), "in order");
        assert_eq!(pending(&server, "g"), 0);
        let letters = entries(&server, "ai_events.dead");
        let reason_of = |name: &str, value: &str| {
            let letter = letters.iter().find(|letter| letter[0] == (name.to_owned(), value.to_owned()));
            field(letter.unwrap_or_else(|| panic!("{value} is missing: {letters:?}")), "reason").to_owned()
        };
        assert!(reason_of("event", "not JSON").contains("is no event"));
        assert!(reason_of("event", r#"{"event_type":"token","data":{"score":NaN}}"#).contains("bare `NaN`"));
        assert!(reason_of("event", r#"{"data":{}}"#).contains("`event_type` is missing"));
        assert!(reason_of("body", &json(1, 10)).contains("none of the fields `event`"));
        assert_eq!(reason_of("event", &json(33, 10)), "the database says no");
        assert_eq!(reason_of("event", &json(66, 10)), "the handler panicked: index out of bounds");
        let failed = letters.iter().find(|letter| letter[0].1 == json(33, 10)).unwrap();
        assert_eq!(
            (field(failed, "attempts"), field(failed, "stream"), field(failed, "group")),
            ("2", STREAM, "g")
        );
        let id: Vec<(String, crate::Fields)> =
            crate::ask(&server, &format!("XRANGE {STREAM} {0} {0}", field(failed, "id")));
        assert_eq!(id[0].1[0].1, json(33, 10), "the id leads back to the entry");
        // The dead letters are events again, where they were.
        let again = Seen::default();
        let dead = Consumer::connect(server.url(), "ai_events.dead").start(Start::Begin).until("+");
        dead.on("token", again.handler()).run().await.unwrap();
        let mut numbers = again.numbers();
        numbers.sort_unstable();
        assert_eq!(numbers, [33, 66]);
    });
}

#[test]
fn dead_letters_go_where_they_are_told_to() {
    let server = RedisServer::start();
    let poison = poisoned(&server) as u64;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead/alerts.ndjson");
    run(async {
        for (group, target) in
            [("a", DeadLetters::Stream("poison".to_owned())), ("b", DeadLetters::File(path.clone()))]
        {
            let consumer =
                Consumer::connect(server.url(), STREAM).group(group).dead_letters(target).max_attempts(1);
            let status = settled(consumer.on("token", picky(&Seen::default())), 100 + poison).await;
            assert_eq!(status.balance.dead_lettered, poison + 2);
        }
        assert_eq!(entries(&server, "poison").len() as u64, poison + 2);
        let lines = std::fs::read_to_string(&path).unwrap();
        let letters: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(letters.len() as u64, poison + 2);
        assert!(
            letters
                .iter()
                .any(|letter| letter["event"]["seq"] == 33 && letter["reason"] == "the database says no")
        );
        assert!(letters.iter().any(|letter| letter["payload"]["event"] == "not JSON"));
    });
}

#[test]
fn who_only_watches_keeps_no_letters_and_counts() {
    let server = RedisServer::start();
    let poison = poisoned(&server) as u64;
    run(async {
        let consumer = Consumer::connect(server.url(), STREAM).start(Start::Begin).until("+").max_attempts(1);
        let status = consumer.on("token", picky(&Seen::default())).run().await.unwrap();
        assert!(status.balances() && status.balance.failed == poison + 2, "{status:#?}");
        assert!(entries(&server, "ai_events.dead").is_empty());
    });
}

#[test]
fn dead_letters_that_cannot_be_kept_wait_and_nothing_is_acknowledged_without_them() {
    let server = RedisServer::start();
    let _: String = crate::ask(&server, "SET poison text");
    add(&server, "event", ["not JSON".to_owned()]);
    add_numbers(&server, 0..10);
    run(async {
        let target = DeadLetters::Stream("poison".to_owned());
        let running = Running::start(
            Consumer::connect(server.url(), STREAM).group("g").dead_letters(target).on("token", |_| ()),
        );
        let says = |status: &ConsumerStatus| {
            status.reason.as_ref().is_some_and(|why| why.contains("dead letters cannot be kept"))
        };
        running
            .until("it says so, and the rest is handled", |status| {
                says(status) && status.balance.handled == 10
            })
            .await;
        // An acknowledgement follows its handler.
        wait_for("only the letter is pending", || pending(&server, "g") == 1).await;
        let _: i64 = crate::ask(&server, "DEL poison");
        running.until("it is kept", |status| status.balance.dead_lettered == 1).await;
        assert_eq!(running.stop().await.reason, None);
        assert_eq!(pending(&server, "g"), 0);
    });
}

#[test]
fn a_letter_that_cannot_be_kept_holds_up_nobody_however_often_its_consumer_starts() {
    let server = RedisServer::start();
    let _: String = crate::ask(&server, "SET poison text");
    add(&server, "event", ["not JSON".to_owned()]);
    run(async {
        for life in 0..4 {
            add_numbers(&server, life * 10..life * 10 + 10);
            let seen = Seen::default();
            let consumer = Consumer::connect(server.url(), STREAM).group("g").name("one");
            let target = DeadLetters::Stream("poison".to_owned());
            let running = Running::start(consumer.dead_letters(target).on("token", seen.handler()));
            running.until("the rest is handled", |status| status.balance.handled == 10).await;
            wait_for("only the letter is pending", || pending(&server, "g") == 1).await;
            assert!(seen.numbers().into_iter().eq(life * 10..life * 10 + 10), "in life {life}");
            running.crash().await;
        }
    });
}

#[test]
fn an_event_that_ends_its_process_is_a_dead_letter_in_the_end_and_its_neighbours_are_handled() {
    let server = RedisServer::start();
    add_numbers(&server, 0..50);
    run(async {
        let (seen, crashes) = (Seen::default(), Arc::new(AtomicU64::new(0)));
        let mut lives = 0;
        let status = loop {
            lives += 1;
            assert!(lives < 12, "it loops");
            let (handler, crashes) = (seen.handler(), crashes.clone());
            let before = crashes.load(Ordering::SeqCst);
            let counted = crashes.clone();
            // One that hangs, and is then ended together with its process, as by an operator or for lack of memory.
            let consumer =
                Consumer::connect(server.url(), STREAM).group("g").name("only").on("token", move |event| {
                    let kills = number(&event) == 20;
                    match kills {
                        true => drop(counted.fetch_add(1, Ordering::SeqCst)),
                        false => handler(event),
                    }
                    async move {
                        if kills {
                            std::future::pending::<()>().await;
                        }
                    }
                });
            let running = Running::start(consumer);
            let crashed = || crashes.load(Ordering::SeqCst) > before;
            running
                .until("the end, or the next crash", |status| crashed() || status.balance.dead_lettered == 1)
                .await;
            if !crashed() {
                let distinct = || seen.numbers().into_iter().collect::<HashSet<_>>().len();
                running.until("all", |status| distinct() == 49 && status.balance.in_flight == 0).await;
                break running.stop().await;
            }
            running.crash().await;
        };
        assert_eq!(status.balance.dead_lettered, 1, "{status:#?}");
        let mut numbers = seen.numbers();
        numbers.sort_unstable();
        numbers.dedup();
        assert!(numbers.into_iter().eq((0..50).filter(|n| *n != 20)), "all its neighbours");
        let letters = entries(&server, "ai_events.dead");
        assert!(
            letters.len() == 1 && field(&letters[0], "reason").contains("does its handler end the process"),
            "{letters:?}"
        );
        assert_eq!(pending(&server, "g"), 0);
    });
}
