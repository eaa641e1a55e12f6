//! What can be known to be wrong without a broker is refused at once, with a way out and without a password.

use std::time::Duration;

use streamll::consume::{ConsumeError, Consumer, DeadLetters, Start};

use crate::run;

#[track_caller]
fn refused(consumer: Consumer, words: &str) {
    let handled = |consumer: Consumer| consumer.on_topic("#", |_| ());
    let error = run(async { tokio::time::timeout(Duration::from_secs(5), handled(consumer).run()).await });
    let error = error.expect("it needs no broker").expect_err(words).to_string();
    assert!(error.contains(words) && !error.contains("canary"), "{error}");
}

#[test]
fn what_cannot_be_right_is_refused_with_a_way_out() {
    let redis = || Consumer::connect("redis://:canary@127.0.0.1:1", "ai_events");
    let rabbit = || Consumer::connect("amqp://guest:canary@127.0.0.1:1", "ai_events");
    refused(Consumer::connect("http://u:canary@h", "x"), "url: must begin with `redis://`");
    refused(Consumer::connect("canary", "x"), "url: must begin with");
    refused(Consumer::connect("redis://:canary@h:port", "x"), "url: the port must be a number");
    refused(Consumer::connect("amqp://u:canary@h:99999", "x"), "url: is not an address");
    refused(Consumer::connect("redis://127.0.0.1:1", ""), "target: the stream has no name");
    refused(redis().on_topic("ai.rag*", |_| ()), "try `ai.*`");
    refused(redis().topics(["ai..x"]), "has an empty word");
    refused(redis().filter("conversation_id", "a"), "filter: `conversation_id` is no key");
    refused(redis().key("user"), "key: `user` is no key");
    refused(redis().start(Start::After("yesterday".to_owned())), "`yesterday` is no id");
    refused(redis().until("x"), "`x` is no id");
    refused(redis().group("g").until("+"), "until: a group has no end");
    refused(redis().dead_letters(DeadLetters::Exchange("x".to_owned())), "name a stream or a file");
    refused(rabbit().dead_letters(DeadLetters::Stream("x".to_owned())), "name an exchange or a file");
    let own = || "ai_events".to_owned();
    refused(
        redis().group("g").dead_letters(DeadLetters::Stream(own())),
        "dead_letters: `ai_events` is what is read",
    );
    refused(
        rabbit().group("g").dead_letters(DeadLetters::Exchange(own())),
        "dead_letters: `ai_events` is what is read",
    );
    refused(rabbit().start(Start::Begin), "name one with `group`");
    refused(rabbit().group("g").start(Start::After("1-1".to_owned())), "no offset of a stream queue");
    refused(rabbit().start(Start::After("1".to_owned())), "name one with `group`");
    refused(rabbit().until("+"), "until: a queue has no ids");
    refused(Consumer::connect("amqp://127.0.0.1:1", ""), "name the queue with `group`");
    refused(rabbit().group("g".repeat(256)), "longer than the 255 bytes");
}

#[test]
fn without_a_handler_there_is_nothing_to_do() {
    let error = run(Consumer::connect("redis://127.0.0.1:1", "ai_events").run()).unwrap_err();
    assert!(matches!(error, ConsumeError::NoHandler) && error.to_string().contains(".on("), "{error}");
}

#[test]
fn a_debug_print_holds_no_password() {
    let consumer = Consumer::connect("redis://:canary@h", "ai_events").group("g").on("error", |_| ());
    assert!(!format!("{consumer:?} {:?}", consumer.handle()).contains("canary"));
}
