//! What arrives: messages with their properties, in order, by every type of exchange.

use super::*;
use streamll::sinks::rabbitmq::{ExchangeType, Ordering};
use streamll::{StepParts, testkit};

#[tokio::test]
async fn it_keeps_the_contract_of_sinks() {
    let room = Room::shared();
    let config = room.sink();
    opened(&config).await.close().await;
    testkit::conformance(
        || config.build().unwrap(),
        || room.read("all").into_iter().map(|message| message.data).collect(),
    )
    .await;
}

#[tokio::test]
async fn it_keeps_the_contract_of_sinks_with_strict_order_and_a_window_of_one() {
    let room = Room::shared();
    let config = room.sink().ordering(Ordering::Strict).window(1);
    opened(&config).await.close().await;
    testkit::conformance(
        || config.build().unwrap(),
        || room.read("all").into_iter().map(|message| message.data).collect(),
    )
    .await;
}

#[tokio::test]
async fn a_message_says_in_its_properties_what_it_is() {
    let room = Room::shared();
    let mut sink = opened(&room.sink()).await;
    let step = Step::new("RagPipeline").operation("llm_call");
    let mut first =
        Delivery::new(Event::new(&step, "start").with("number", 1), "ai.rag_pipeline.start".into());
    let mut second = first.clone();
    // The id of its run is none of a trace, so that it has no `traceparent`.
    let own = StepParts { execution_id: "run-7".into(), ..Step::new("Plain").parts().clone() };
    second.event = Event::token(&Step::from(own), "answer", "hi", 0);
    second.attempt = 3;
    let events = [first.event.clone(), second.event.clone()];
    first.attempt = 1;
    sink.deliver(&mut Deliveries::new(vec![first, second])).await.unwrap();
    let read = room.read("all");
    for (message, event) in read.iter().zip(&events) {
        let properties = &message.properties;
        let text = |text: &Option<lapin::types::ShortString>| text.as_ref().unwrap().to_string();
        assert_eq!(message.data, event.json().to_vec());
        assert_eq!(message.routing_key.as_str(), "ai.rag_pipeline.start");
        assert_eq!(message.exchange.as_str(), "ai_events");
        assert_eq!(text(properties.content_type()), "application/json");
        assert_eq!(text(properties.message_id()), event.id().to_string());
        assert_eq!(text(properties.kind()), event.kind().as_str());
        assert_eq!(text(properties.app_id()), "streamll");
        assert_eq!(*properties.delivery_mode(), Some(2));
        let seconds = u64::try_from(event.timestamp().as_micros() / 1_000_000).unwrap();
        assert_eq!(*properties.timestamp(), Some(seconds));
    }
    let headers = |i: usize| -> Vec<(String, String)> {
        let table = read[i].properties.headers().as_ref().unwrap();
        let shown = |value: &AMQPValue| match value {
            AMQPValue::LongString(text) => text.to_string(),
            other => format!("{other:?}"),
        };
        table.inner().iter().map(|(name, value)| (name.to_string(), shown(value))).collect()
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let StepParts { execution_id, span_id, .. } = step.parts();
    let traceparent = format!("00-{execution_id}-{span_id}-01");
    assert_eq!(
        headers(0),
        [
            pair("event_type", "start"),
            pair("module_name", "RagPipeline"),
            pair("operation", "llm_call"),
            pair("traceparent", &traceparent)
        ]
    );
    let attempt = pair("attempt", "LongUInt(3)");
    assert_eq!(headers(1), [attempt, pair("event_type", "token"), pair("module_name", "Plain")]);
}

#[tokio::test]
async fn every_type_of_exchange_routes_as_it_should() {
    let room = Room::shared();
    for (kind, yes, no) in [
        (ExchangeType::Topic, "ai.*.error", "ai.#.start"),
        (ExchangeType::Direct, "ai.m.error", "ai.m.errors"),
        (ExchangeType::Headers, "event_type=error, module_name=M", "event_type=start"),
    ] {
        let exchange = format!("{kind:?}");
        let config = sinks::rabbitmq(room.url())
            .exchange(&exchange)
            .exchange_type(kind)
            .bind(format!("{exchange}-yes"), QueueConfig::bound([yes]))
            .bind(format!("{exchange}-no"), QueueConfig::bound([no]));
        let mut sink = opened(&config).await;
        let error = Event::new(&Step::new("M"), "error").with("number", 7);
        sink.deliver(&mut Deliveries::new(vec![Delivery::new(error, "ai.m.error".into())])).await.unwrap();
        assert_eq!(room.numbers(&format!("{exchange}-yes")), [7], "{kind:?}");
        assert_eq!(room.numbers(&format!("{exchange}-no")), [0_u64; 0], "{kind:?}");
    }
    let fanout = sinks::rabbitmq(room.url())
        .exchange("f")
        .exchange_type(ExchangeType::Fanout)
        .bind("f1", QueueConfig::default())
        .bind("f2", QueueConfig::bound(["whatever"]));
    opened(&fanout).await.deliver(&mut batch([1])).await.unwrap();
    assert_eq!([room.numbers("f1"), room.numbers("f2")], [[1], [1]]);
}

#[tokio::test]
async fn one_queue_takes_everything_without_an_exchange() {
    let room = Room::shared();
    let mut sink = opened(&sinks::rabbitmq(room.url()).queue("simple")).await;
    sink.deliver(&mut batch(0..3)).await.unwrap();
    let read = room.read("simple");
    assert_eq!(read.iter().map(|message| number(&message.data)).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(
        read.iter()
            .all(|message| message.exchange.as_str().is_empty() && message.routing_key.as_str() == "simple")
    );
}

#[tokio::test]
async fn what_is_not_durable_is_not_persistent() {
    let room = Room::shared();
    let mut sink = opened(&room.sink().durable(false)).await;
    sink.deliver(&mut batch([1])).await.unwrap();
    assert_eq!(*room.read("all")[0].properties.delivery_mode(), Some(1));
}

#[tokio::test]
async fn a_batch_larger_than_the_window_arrives_in_order() {
    let room = Room::shared();
    for window in [1, 63, 64, 100, 1024] {
        let mut sink = opened(&room.sink().window(window)).await;
        // One after the other takes its time, of which a delivery has 15 s.
        let count = if window == 1 { 300 } else { 1500 };
        let mut events = batch(0..count);
        sink.deliver(&mut events).await.unwrap();
        assert_eq!(marks(&events), all("Delivered", count as usize));
        assert_eq!(room.take("all"), (0..count).collect::<Vec<_>>(), "window {window}");
    }
}
