//! What lapin can do by itself: a loop that publishes persistent, mandatory messages and waits for their confirms.

use std::collections::VecDeque;

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use streamll::sinks::rabbitmq::RabbitMqConfig;
use streamll::{Sink as _, SinkContext};

use super::{Clock, EXCHANGE, KEY, Rate, step, token};

/// Most unconfirmed messages.
const WINDOW: usize = 1024;
/// Publishes that are polled together.
const GROUP: usize = 64;

/// Publishes so many events to what `config` declares.
pub(crate) async fn publish(url: &str, config: &RabbitMqConfig, events: usize) -> Rate {
    let mut declared = config.build().expect("a sink");
    declared.open(&SinkContext::detached("bench")).await.expect("it opens");
    declared.close().await;
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let properties =
        BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let step = step();
    let body = |index| token(&step, index).json().clone();
    let mut unconfirmed = VecDeque::with_capacity(WINDOW);
    let mut sent = 0;
    let clock = Clock::start();
    while sent < events || !unconfirmed.is_empty() {
        let group = GROUP.min(events - sent);
        if group > 0 && unconfirmed.len() + group <= WINDOW {
            let bodies: Vec<_> = (sent..sent + group).map(body).collect();
            let publishes = bodies.iter().map(|body| {
                channel.basic_publish(EXCHANGE.into(), KEY.into(), options, body, properties.clone())
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
