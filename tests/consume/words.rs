//! What a consumer and `tail` say when they are refused: in the words of a reader, and what would help; and what they make of
//! names that are wrong.

use std::process::Output;
use std::time::Duration;

use lapin::ExchangeKind;
use lapin::options::QueueBindOptions;
use streamll::ErrorClass;
use streamll::consume::{Consumer, ConsumerState, Start};

use crate::servers::{RabbitNode, RedisServer};
use crate::tail::{Following, ids, tail};
use crate::{Running, STREAM, Seen, add, ask, channel, exchange, json, publish, run, wait_for};

/// What belongs to sinks alone.
const OF_SINKS: [&str; 9] = [
    "`declare",
    "declare: ",
    "stream_key",
    "exchange: ",
    "max_len",
    "`cluster: ",
    "may not write",
    "may not declare",
    "Prolonging",
];

#[track_caller]
fn of_a_reader(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
    assert!(!OF_SINKS.iter().any(|word| said.contains(word)), "{said}");
}

/// Runs `tail` to its end, which must come by itself.
#[track_caller]
fn refused(args: &[&str], code: i32, words: &[&str]) {
    let Output { status, stderr, .. } = tail(args).output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(code), "{said}");
    of_a_reader(&said, words);
}

/// Starts a consumer, and sees why it does not receive: a person has to mend something.
async fn reason(consumer: Consumer, words: &[&str]) {
    reason_of(ErrorClass::Misconfigured, consumer, words).await;
}

async fn reason_of(class: ErrorClass, consumer: Consumer, words: &[&str]) {
    let running = Running::start(consumer.on("token", |_| ()));
    running.until("it says why", |status| status.class == Some(class)).await;
    let reason = running.status().reason;
    running.stop().await;
    of_a_reader(&reason.unwrap_or_default(), words);
}

#[test]
fn a_user_of_rabbitmq_that_may_not_read_is_told_so() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    let user = format!("reader-{vhost}");
    node.ctl(&["add_user", &user, "secret-31"]);
    node.ctl(&["set_permissions", "-p", &vhost, &user, "^kept$", "", ""]);
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        exchange(&channel, "events", ExchangeKind::Topic).await;
        channel.queue_declare("kept".into(), Default::default(), Default::default()).await.unwrap();
        let url = node.url(&vhost).replace("guest:guest", &format!("{user}:secret-31"));
        for group in ["kept", "other"] {
            let words = ["may not read from there", group, &vhost, "`read`", "set_permissions"];
            reason(Consumer::connect(url.clone(), "events").group(group), &words).await;
        }
        reason(
            Consumer::connect(url.clone(), "events").group("kept").topics(["#"]),
            &["may not read from there"],
        )
        .await;
        tokio::task::block_in_place(|| {
            refused(&[&url, "events"], 78, &["may not read from there", "set_permissions"]);
            refused(&[&url, "events", "--group", "kept"], 78, &["may not read from there", "`read`"]);
        });
    });
    node.ctl(&["delete_user", &user]);
}

#[test]
fn a_name_of_an_exchange_that_is_wrong_is_told_and_nothing_is_made() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    let url = node.url(&vhost);
    let words = ["there is no exchange `evnts`", "is that its name?"];
    refused(&[&url, "evnts"], 78, &words);
    refused(&[&url, "evnts", "--group", "g"], 78, &words);
    let made = node.ctl(&["list_exchanges", "-p", &vhost, "name"]);
    assert!(!made.contains("evnts"), "{made}");
    assert_eq!(node.ctl(&["list_queues", "-p", &vhost, "name"]).trim(), "");
    refused(&[&url, ""], 2, &["name the queue with `--group`"]);
    refused(&[&url, "evnts", "--field", "payload"], 2, &["--field is for Redis"]);
    refused(&[&url, "evnts", "--from", "begin"], 2, &["--from: ", "`--group`"]);
}

#[test]
fn a_queue_that_is_missing_or_of_another_kind_is_told_in_the_words_of_a_reader() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    let url = node.url(&vhost);
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        exchange(&channel, "events", ExchangeKind::Topic).await;
        channel.queue_declare("kept".into(), Default::default(), Default::default()).await.unwrap();
        let from = |group: &str| {
            Consumer::connect(url.clone(), "events").group(group).start(Start::After("5".to_owned()))
        };
        // 406: only a stream has offsets.
        reason(from("kept"), &["queue `kept` is no stream", "no offset 5", "leave out `start`"]).await;
        tokio::task::block_in_place(|| {
            let words = ["queue `kept` is no stream", "no offset 5", "leave out `--from`"];
            refused(&[&url, "events", "--group", "kept", "--from", "5"], 78, &words);
        });
        // 404: a stream that is missing is not made.
        let words = ["queue `none` is gone, and is not made anew", "`x-queue-type: stream`"];
        reason_of(ErrorClass::Unavailable, from("none"), &words).await;
    });
    assert!(!node.ctl(&["list_queues", "-p", &vhost, "name"]).contains("none"));
}

#[test]
fn of_a_direct_exchange_whole_keys_are_asked_for_and_other_kinds_are_shown() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    let url = node.url(&vhost);
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        for (name, kind) in [
            ("direct", ExchangeKind::Direct),
            ("fanout", ExchangeKind::Fanout),
            ("headers", ExchangeKind::Headers),
            ("topic", ExchangeKind::Topic),
        ] {
            exchange(&channel, name, kind).await;
        }
        tokio::task::block_in_place(|| {
            let words = ["exchange `direct` is direct", "whole keys", "`--topic`"];
            refused(&[&url, "direct"], 78, &words);
            refused(&[&url, "direct", "--topic", "orders.*"], 78, &words);
            refused(&[&url, "direct", "--group", "g"], 78, &words);
        });
        reason(Consumer::connect(url.clone(), "direct"), &["is direct", "`topics`"]).await;
        let watchers = || node.ctl(&["list_consumers", "-p", &vhost, "queue_name"]).contains("amq.gen");
        for (name, topic, key) in [
            ("direct", Some("orders"), "orders"),
            ("direct", Some("ai.rag_pipeline.token"), "ai.rag_pipeline.token"),
            ("fanout", None, "anything"),
            ("fanout", Some("ai.#"), "anything"),
            ("headers", None, "anything"),
            ("topic", Some("orders.*"), "orders.new"),
        ] {
            let mut args = vec![url.as_str(), name, "--json"];
            args.extend(topic.iter().flat_map(|topic| ["--topic", topic]));
            let mut following = Following::start(&args);
            wait_for("it watches", watchers).await;
            publish(&channel, name, key, [json(7, 10)]).await;
            assert_eq!(ids(&following.line()), ["e7"], "{name} {topic:?}");
            following.signal("INT");
            assert_eq!(following.ends().2, Some(0));
            wait_for("its queue is gone", || !watchers()).await;
        }
        // A queue that is there has bindings of its own.
        channel.queue_declare("bound".into(), Default::default(), Default::default()).await.unwrap();
        let options = QueueBindOptions::default();
        channel
            .queue_bind("bound".into(), "direct".into(), "orders".into(), options, Default::default())
            .await
            .unwrap();
        let seen = Seen::default();
        let running = Running::start(
            Consumer::connect(url.clone(), "direct").group("bound").on("token", seen.handler()),
        );
        running.until("it consumes", |status| status.state == ConsumerState::Consuming).await;
        publish(&channel, "direct", "orders", [json(8, 10)]).await;
        wait_for("it is seen", || seen.numbers() == [8]).await;
        running.stop().await;
    });
}

#[test]
fn what_redis_refuses_a_reader_is_told_in_the_words_of_one() {
    let server = RedisServer::start();
    add(&server, "event", [json(1, 10)]);
    let _: String = ask(&server, "SET text text");
    let _: String = ask(&server, "ACL SETUSER nobody on >secret-31 ~* +ping +client");
    let url = server.url();
    let nobody = url.replace("redis://", "redis://nobody:secret-31@");
    run(async {
        for group in [None, Some("g")] {
            let of = |url: &str, target: &str| match group {
                Some(group) => Consumer::connect(url, target).group(group),
                None => Consumer::connect(url, target),
            };
            reason(of(&url, "text"), &["the key `text` holds no stream"]).await;
            reason(of(&nobody, STREAM), &["may not read", "~ai_events", "allow it"]).await;
        }
    });
    refused(&[&url, "text"], 78, &["the key `text` holds no stream"]);
    refused(&[&url, "text", "--group", "g"], 78, &["the key `text` holds no stream"]);
    refused(&[&nobody], 78, &["may not read", "allow it"]);
    refused(&[&nobody, STREAM, "--group", "g"], 78, &["may not read", "~ai_events", "allow it"]);
    let _: String = ask(&server, "CONFIG SET requirepass canary-9");
    let words = ["asks for a password", "put user and password into url"];
    refused(&[&url], 78, &words);
    refused(&[&url, STREAM, "--group", "g"], 78, &words);
    run(async {
        reason(Consumer::connect(url.as_str(), STREAM), &words).await;
        reason(Consumer::connect(url.as_str(), STREAM).group("g"), &words).await;
    });
}

#[test]
fn a_name_of_a_stream_that_is_wrong_is_told_and_nothing_is_made() {
    let server = RedisServer::start();
    let following = Following::start(&[&server.url(), "ai_evnts"]);
    let waits = || server.cli(&["CLIENT", "LIST"]).contains("cmd=xread ");
    run(wait_for("it reads", waits));
    // It looks every second.
    std::thread::sleep(Duration::from_millis(2500));
    following.signal("INT");
    let (_, said, code) = following.ends();
    assert_eq!(code, Some(0));
    of_a_reader(&said, &["there is no stream `ai_evnts` yet: is that its name?"]);
    refused(
        &[&server.url(), "ai_evnts", "--group", "g"],
        78,
        &["there is no stream `ai_evnts`", "is that its name?"],
    );
    assert_eq!(server.cli(&["EXISTS", "ai_evnts"]).trim(), "0");
}

#[test]
fn the_field_of_a_sink_that_has_another_one_is_named_by_an_option() {
    let server = RedisServer::start();
    add(&server, "payload", [json(3, 10)]);
    let mut following = Following::start(&[&server.url(), "--from", "begin", "--field", "payload", "--json"]);
    assert_eq!(ids(&following.line()), ["e3"]);
    following.signal("INT");
    assert_eq!(following.ends().2, Some(0));
    let following = Following::start(&[&server.url(), "--from", "begin", "--group", "g"]);
    run(wait_for("it has read", || server.cli(&["EXISTS", "ai_events.dead"]).trim() == "1"));
    following.signal("INT");
    let (_, said, _) = following.ends();
    of_a_reader(&said, &["name the one with `--field`"]);
}
