//! Streams that are to end: each is told when, also where that failed at first.

use std::time::Duration;

use streamll::ErrorClass::{Misconfigured, Unavailable};

use crate::proxy::Proxy;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

#[track_caller]
fn ends(server: &RedisServer, key: &str) {
    let left: i64 = ask(server, &format!("TTL {key}"));
    assert!((3500..=3600).contains(&left), "{key}: {left}");
}

#[test]
fn a_user_who_may_not_say_when_is_told_on_connecting() {
    let server = RedisServer::start();
    run(async {
        let url = user(&server, "+xadd +multi +exec ~ai_events ~chat:*");
        let config = sinks::redis(url).expire(HOUR);
        for (config, words) in [
            (config.clone(), "allow it `+pexpire ~ai_events`, or leave out expire"),
            (config.clone().stream_key("chat:{data.id}"), "allow it `+pexpire ~*`"),
        ] {
            assert_told(told(open(&config).await.unwrap_err()), Misconfigured, words);
        }
        server.cli(&["ACL", "SETUSER", "app", "+pexpire"]);
        assert!(open(&config).await.is_ok());
        assert!(open(&config.stream_key("chat:{data.id}")).await.is_ok());
        assert_eq!(ask::<i64>(&server, "DBSIZE"), 0, "nothing came of it");
    });
}

#[test]
fn what_was_not_permitted_is_done_first_once_it_is() {
    let server = RedisServer::start();
    run(async {
        let config = sinks::redis(user(&server, "+@all ~*")).expire(HOUR).stream_key("chat:{data.id}");
        let mut sink = open(&config).await.unwrap();
        server.cli(&["ACL", "SETUSER", "app", "-pexpire"]);
        let mut first = batch_of([event(1).with("id", "a"), event(2).with("id", "b")]);
        let (class, text) = refused(&mut sink, &mut first).await;
        assert!(!text.contains("sent again"), "{text}");
        assert_told((class, text), Misconfigured, "events arrived, but the expiry of their streams (expire)");
        assert_eq!(marks(&first), "Delivered");
        let mut next = batch_of([event(3).with("id", "c")]);
        assert_told(refused(&mut sink, &mut next).await, Misconfigured, "`+pexpire");
        assert_eq!(marks(&next), "Unsent");
        server.cli(&["ACL", "SETUSER", "app", "+pexpire"]);
        // No event comes to these streams any more.
        sink.open(&SinkContext::detached("live")).await.unwrap();
        ends(&server, "chat:a");
        ends(&server, "chat:b");
        sink.deliver(&mut next).await.unwrap();
        ends(&server, "chat:c");
    });
}

#[test]
fn a_connection_that_is_cut_between_the_events_and_their_end_is_made_up_for() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port());
    run(async {
        let mut sink =
            open(&sinks::redis(format!("redis://127.0.0.1:{}", proxy.port())).expire(HOUR)).await.unwrap();
        let mut one = batch([1]);
        let json = String::from_utf8(one.as_slice()[0].event.json().to_vec()).unwrap();
        let bytes = |command: &[&str]| {
            let words = command.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
            format!("*{}\r\n{}", command.len(), words.collect::<String>()).len()
        };
        let transaction =
            bytes(&["MULTI"]) + bytes(&["XADD", "ai_events", "*", "event", &json]) + bytes(&["EXEC"]);
        proxy.limit_data(transaction + 1);
        let (class, text) = refused(&mut sink, &mut one).await;
        assert!(!text.contains("sent again"), "{text}");
        assert_told((class, text), Unavailable, "events arrived, but the expiry of their streams (expire)");
        assert_eq!(marks(&one), "Delivered");
        assert_eq!(ask::<i64>(&server, "TTL ai_events"), -1, "it was cut where it should be");
        sink.open(&SinkContext::detached("live")).await.unwrap();
        ends(&server, "ai_events");
    });
    assert_eq!(numbers(&server, "ai_events"), [1]);
}

#[test]
fn what_arrived_of_a_batch_that_failed_in_part_has_its_end() {
    let server = RedisServer::start();
    run(async {
        let config = sink(&server).expire(HOUR).stream_key("{module_name}");
        let mut sink = open(&config).await.unwrap();
        for key in ["b", "c"] {
            ask::<()>(&server, &format!("SET {key} text"));
        }
        let of = |module: &str, number: u64| Event::new(&Step::new(module), "start").with("number", number);
        let mut part = batch_of([of("A", 1), of("B", 2), of("C", 3)]);
        // Keys of the events' own, beside one that works.
        sink.deliver(&mut part).await.unwrap();
        let marks = marks(&part);
        assert!(
            marks.starts_with("Delivered Poison") && marks.matches("holds no stream").count() == 2,
            "{marks}"
        );
        sink.open(&SinkContext::detached("live")).await.unwrap();
        ends(&server, "a");
    });
}
