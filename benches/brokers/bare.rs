//! What lapin can do by itself: a loop that publishes persistent, mandatory messages and waits for their confirms.

use std::collections::VecDeque;

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use streamll::sinks::rabbitmq::RabbitMqConfig;
use streamll::{Event, Sink as _};

use super::{Clock, EXCHANGE, KEY, Rate, open, step, token};

/// Most unconfirmed messages.
const WINDOW: usize = 1024;
/// Publishes that are polled together.
const GROUP: usize = 64;

/// What a message has beside its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dress {
    /// Properties and headers like the sink's: they cost the broker time.
    Full,
    /// That it is JSON, and persistent.
    Scant,
}

/// Publishes so many events to what `config` declares.
pub(crate) async fn publish(url: &str, config: &RabbitMqConfig, events: usize, dress: Dress) -> Rate {
    let mut declared = config.build().expect("a sink");
    open(&mut declared).await;
    declared.close().await;
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let properties =
        BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let step = step();
    let mut headers = FieldTable::default();
    for (name, text) in [
        ("event_type", "token"),
        ("operation", "llm_call"),
        ("module_name", "RagPipeline"),
        ("traceparent", step.traceparent().unwrap_or_default()),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
    }
    let full =
        properties.clone().with_type("token".into()).with_app_id("streamll".into()).with_headers(headers);
    let dressed = |event: &Event| match dress {
        Dress::Scant => properties.clone(),
        Dress::Full => {
            let seconds = event.timestamp().as_micros().unsigned_abs() / 1_000_000;
            full.clone().with_message_id(event.id().to_string().into()).with_timestamp(seconds)
        }
    };
    let mut unconfirmed = VecDeque::with_capacity(WINDOW);
    let mut sent = 0;
    let clock = Clock::start();
    while sent < events || !unconfirmed.is_empty() {
        let group = GROUP.min(events - sent);
        if group > 0 && unconfirmed.len() + group <= WINDOW {
            let group_of: Vec<_> = (sent..sent + group).map(|index| token(&step, index)).collect();
            let publishes = group_of.iter().map(|event| {
                channel.basic_publish(EXCHANGE.into(), KEY.into(), options, event.json(), dressed(event))
            });
            unconfirmed.extend(join_all(publishes).await.into_iter().map(|sent| sent.expect("it is sent")));
            sent += group;
            continue;
        }
        if let Some(confirm) = unconfirmed.pop_front() {
            assert!(confirm.await.expect("a confirm").is_ack());
        }
    }
    let rate = clock.rate(events);
    connection.close(200, "done".into()).await.expect("it closes");
    rate
}
