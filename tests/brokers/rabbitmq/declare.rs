//! What is declared, and what is only looked for.

use super::*;
use streamll::sinks::rabbitmq::{Argument, ExchangeType, QueueType};

#[tokio::test]
async fn queues_of_every_type_are_declared_with_their_arguments() {
    let room = Room::shared();
    let yaml = serde_json::json!({
        "url": room.url(),
        "exchange": "kinds",
        "queues": {
            "classic_q": { "bind": ["ai.#"], "message_ttl": "1h", "max_length": 100, "dead_letter_exchange": "dead",
                "arguments": { "x-overflow": "reject-publish", "x-max-priority": 3 } },
            "quorum_q": { "bind": ["ai.#"], "type": "quorum", "arguments": { "x-delivery-limit": 5 } },
            "stream_q": { "bind": ["ai.#"], "type": "stream", "arguments": { "x-max-age": "1h" } },
        },
    });
    let config: RabbitMqConfig = serde_json::from_value(yaml).unwrap();
    let mut sink = opened(&config).await;
    sink.deliver(&mut batch(0..5)).await.unwrap();
    let listed = room.node.ctl(&["list_queues", "-p", &room.vhost, "name", "type", "durable", "arguments"]);
    for words in [
        &[
            "classic_q\t",
            "classic\t",
            "true",
            "x-message-ttl",
            "3600000",
            "x-max-length",
            "dead",
            "reject-publish",
        ][..],
        &["quorum_q\t", "quorum\t", "true", "x-delivery-limit"],
        &["stream_q\t", "stream\t", "true", "x-max-age", "1h"],
    ] {
        let line = listed.lines().find(|line| line.contains(words[0])).unwrap_or_else(|| panic!("{listed}"));
        assert!(words.iter().all(|word| line.contains(word)), "{line} lacks one of {words:?}");
    }
    assert_eq!(room.numbers("classic_q"), [0, 1, 2, 3, 4]);
    assert_eq!(room.numbers("quorum_q"), [0, 1, 2, 3, 4]);
    eventually("the stream has them", || {
        let lengths = room.node.ctl(&["list_queues", "-p", &room.vhost, "name", "messages"]);
        lengths.lines().any(|line| line == "stream_q\t5")
    })
    .await;
    // The same again changes nothing.
    opened(&config).await;
}

#[tokio::test]
async fn what_is_not_to_be_declared_must_be_there() {
    let room = Room::shared();
    let passive = room.sink().declare(false);
    let error = refused(&passive).await;
    says(
        &error,
        ErrorClass::Misconfigured,
        &["exchange `ai_events`", &room.vhost, "no exchange", "declare: true"],
    );
    room.with(async |channel| {
        let options = lapin::options::ExchangeDeclareOptions::default();
        let kind = lapin::ExchangeKind::Topic;
        channel.exchange_declare("ai_events".into(), kind, options, FieldTable::default()).await.unwrap();
    });
    let error = refused(&passive).await;
    says(&error, ErrorClass::Misconfigured, &["no queue 'all'"]);
    room.with(async |channel| {
        let options = lapin::options::QueueDeclareOptions::durable();
        channel.queue_declare("all".into(), options, FieldTable::default()).await.unwrap();
        let options = lapin::options::QueueBindOptions::default();
        let bound =
            channel.queue_bind("all".into(), "ai_events".into(), "#".into(), options, FieldTable::default());
        bound.await.unwrap();
    });
    // That they are not as they would be declared does not matter.
    opened(&passive).await.deliver(&mut batch([1])).await.unwrap();
    assert_eq!(room.numbers("all"), [1]);
}

#[tokio::test]
async fn an_exchange_of_another_type_is_for_a_person_to_mend() {
    let room = Room::shared();
    opened(&room.sink()).await;
    let error = refused(&room.sink().exchange_type(ExchangeType::Direct)).await;
    says(
        &error,
        ErrorClass::Misconfigured,
        &[
            "`ai_events`",
            &room.vhost,
            "received 'direct' but current is 'topic'",
            "delete it",
            "declare: false",
        ],
    );
    let error = refused(&room.sink().durable(false)).await;
    says(&error, ErrorClass::Misconfigured, &["received 'false' but current is 'true'"]);
    let quorum = QueueConfig::bound(["#"]).kind(QueueType::Quorum);
    let error = refused(&sinks::rabbitmq(room.url()).bind("all", quorum)).await;
    says(&error, ErrorClass::Misconfigured, &["queue 'all'", "'quorum'", "current is none"]);
    let wrong = QueueConfig::bound(["#"]).argument("x-max-length", Argument::Text("many".to_owned()));
    let error = refused(&sinks::rabbitmq(room.url()).bind("other", wrong)).await;
    says(&error, ErrorClass::Misconfigured, &["x-max-length"]);
}

#[tokio::test]
async fn everything_is_declared_anew_after_a_reconnect() {
    let room = Room::shared();
    let mut sink = opened(&room.sink()).await;
    room.with(async |channel| {
        channel.queue_delete("all".into(), Default::default()).await.unwrap();
        channel.exchange_delete("ai_events".into(), Default::default()).await.unwrap();
    });
    room.node.ctl(&["close_all_connections", "-p", &room.vhost, "test"]);
    let mut events = batch([1]);
    if sink.deliver(&mut events).await.is_err() {
        sink.open(&SinkContext::detached("records")).await.unwrap();
        sink.deliver(&mut again(&events)).await.unwrap();
    }
    assert_eq!(room.numbers("all"), [1]);
}
