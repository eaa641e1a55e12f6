//! What arrives: entries as they were written, in their streams, in order.

use std::time::Duration;

use streamll::sinks::redis::Ordering;
use streamll::testkit::conformance;

use super::*;

#[test]
fn it_keeps_the_contract_of_a_sink() {
    for ordering in [Ordering::Strict, Ordering::Pipelined] {
        let server = RedisServer::start();
        let read =
            || entries(&server, "ai_events").into_iter().map(|fields| fields[0].1.clone().into_bytes());
        run(conformance(|| sink(&server).ordering(ordering).build().unwrap(), || read().collect()));
    }
}

#[test]
fn an_entry_is_the_event_and_a_repeat_says_so() {
    let server = RedisServer::start();
    run(async {
        let mut sink = open(&sink(&server)).await.unwrap();
        let mut first = batch([7]);
        sink.deliver(&mut first).await.unwrap();
        sink.deliver(&mut again(&again(&first))).await.unwrap();
        let json = String::from_utf8(first.as_slice()[0].event.json().to_vec()).unwrap();
        let event = ("event".to_owned(), json);
        let attempt = ("attempt".to_owned(), "3".to_owned());
        assert_eq!(entries(&server, "ai_events"), [vec![event.clone()], vec![event, attempt]]);
    });
}

#[test]
fn the_field_and_the_database_are_those_that_are_named() {
    let server = RedisServer::start();
    run(async {
        let config =
            sinks::redis(format!("{}/3", server.url())).field("message").stream_key("prod_ai_events");
        open(&config).await.unwrap().deliver(&mut batch([1])).await.unwrap();
    });
    let read = server.cli(&["-n", "3", "XRANGE", "prod_ai_events", "-", "+"]);
    assert!(read.lines().any(|line| line == "message"), "{read}");
    assert_eq!(server.cli(&["-n", "0", "DBSIZE"]), "0");
}

#[test]
fn every_conversation_has_a_stream_that_expires() {
    let server = RedisServer::start();
    run(async {
        let chat = |id: &str, number| event(number).with("conversation_id", id);
        let config = sink(&server)
            .stream_key("chat:{data.conversation_id}:{module_name}")
            .expire(Duration::from_secs(3600));
        let mut sink = open(&config).await.unwrap();
        let events = [chat("a", 1), chat("b", 2), chat("a", 3), event(4), chat("x y{1}", 5)];
        sink.deliver(&mut batch_of(events)).await.unwrap();
    });
    for (key, expected) in [("a", &[1, 3][..]), ("b", &[2]), ("unknown", &[4]), ("x%20y%7B1%7D", &[5])] {
        let key = format!("chat:{key}:rag_pipeline");
        assert_eq!(numbers(&server, &key), expected, "{key}");
        let left: i64 = ask(&server, &format!("TTL {key}"));
        assert!((3500..=3600).contains(&left), "{key}: {left}");
    }
    assert_eq!(ask::<i64>(&server, "DBSIZE"), 4);
}

#[test]
fn a_stream_without_expire_stays() {
    let server = RedisServer::start();
    run(async { open(&sink(&server)).await.unwrap().deliver(&mut batch([1])).await.unwrap() });
    assert_eq!(ask::<i64>(&server, "TTL ai_events"), -1);
}

#[test]
fn a_long_stream_is_trimmed_to_about_its_length() {
    let server = RedisServer::start();
    run(async {
        let mut sink = open(&sink(&server).max_len(500)).await.unwrap();
        for n in 0..5 {
            sink.deliver(&mut batch(n * 1000..(n + 1) * 1000)).await.unwrap();
        }
    });
    let left = numbers(&server, "ai_events");
    // Whole nodes of a hundred entries are trimmed.
    assert!((500..700).contains(&left.len()), "{}", left.len());
    assert_eq!(left.last(), Some(&4999));
}

#[test]
fn pipelined_transactions_keep_the_order() {
    let server = RedisServer::start();
    run(async {
        let mut sink = open(&sink(&server).ordering(Ordering::Pipelined)).await.unwrap();
        for n in 0..5 {
            let mut batch = batch(n * 1100..(n + 1) * 1100);
            sink.deliver(&mut batch).await.unwrap();
            assert_eq!(marks(&batch), "Delivered");
        }
    });
    assert_eq!(numbers(&server, "ai_events"), (0..5500).collect::<Vec<u64>>());
}

#[test]
fn a_batch_is_one_transaction_strict_and_several_pipelined() {
    let server = RedisServer::start();
    let transactions = || {
        let stats = server.cli(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_exec:calls=")).unwrap_or("0");
        line.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    run(async {
        let mut strict = open(&sink(&server)).await.unwrap();
        let before = transactions();
        strict.deliver(&mut batch(0..1024)).await.unwrap();
        assert_eq!(transactions() - before, 1);
        let mut pipelined = open(&sink(&server).ordering(Ordering::Pipelined)).await.unwrap();
        let before = transactions();
        pipelined.deliver(&mut batch(0..1024)).await.unwrap();
        assert!(transactions() - before > 2, "{}", transactions() - before);
    });
}

#[test]
fn a_user_with_the_least_permissions_is_enough() {
    let server = RedisServer::start();
    let url = user(&server, "+xadd +multi +exec ~ai_events");
    run(async { open(&sinks::redis(url)).await.unwrap().deliver(&mut batch([1, 2])).await.unwrap() });
    assert_eq!(numbers(&server, "ai_events"), [1, 2]);
}
