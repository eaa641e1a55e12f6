//! Quorum queues count each way back of a message, also of one that nobody has tried: the queue judges, not we.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use streamll::consume::Consumer;

use crate::servers::RabbitNode;
use crate::{Running, Seen, channel, json, number, publish, run, wait_for};

async fn declare(channel: &lapin::Channel, name: &str, arguments: &[(&str, AMQPValue)]) {
    let mut table = FieldTable::default();
    for (key, value) in arguments {
        table.insert((*key).into(), value.clone());
    }
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), durable, table).await.unwrap();
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

#[test]
fn healthy_messages_that_went_back_untried_are_handled_however_often_that_was() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        declare(&channel, "audit", &[("x-queue-type", text("quorum"))]).await;
        publish(&channel, "", "audit", (0..10).map(|n| json(n, 10))).await;
        let consumer = || Consumer::connect(node.url(&vhost), "").group("audit");
        for _ in 0..7 {
            let hangs = consumer().stop_timeout(Duration::ZERO);
            let running = Running::start(hangs.on("token", |_| std::future::pending::<()>()));
            running.until("they are in hand", |status| status.balance.received == 10).await;
            running.stop().await;
        }
        let seen = Seen::default();
        let running = Running::start(consumer().on("token", seen.handler()));
        running
            .until("all are settled", |status| status.balance.received == 10 && status.balance.in_flight == 0)
            .await;
        let status = running.stop().await;
        assert_eq!((status.balance.handled, status.balance.dead_lettered), (10, 0), "{status:#?}");
    });
}

#[test]
fn the_limit_of_a_queue_ends_the_loop_of_what_ends_its_process() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        declare(&channel, "killers", &[]).await;
        let arguments = [
            ("x-queue-type", text("quorum")),
            ("x-delivery-limit", AMQPValue::LongInt(3)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text("killers")),
        ];
        declare(&channel, "audit", &arguments).await;
        publish(&channel, "", "audit", (0..10).map(|n| json(n, 10))).await;
        let seen = Seen::default();
        let mut lives = 0;
        while seen.len() < 9 {
            lives += 1;
            assert!(lives < 12, "it loops");
            let (handler, crashed) = (seen.handler(), Arc::new(AtomicBool::new(false)));
            let kills = crashed.clone();
            let consumer = Consumer::connect(node.url(&vhost), "").group("audit").prefetch(1);
            let running = Running::start(consumer.on("token", move |event| {
                let is_killer = number(&event) == 5;
                match is_killer {
                    true => kills.store(true, Ordering::SeqCst),
                    false => handler(event),
                }
                async move {
                    if is_killer {
                        std::future::pending::<()>().await;
                    }
                }
            }));
            wait_for("the end, or the next crash", || crashed.load(Ordering::SeqCst) || seen.len() == 9)
                .await;
            running.crash().await;
        }
        let get = async || channel.basic_get("killers".into(), Default::default()).await.unwrap();
        let letter = get().await.expect("the broker has kept it");
        assert_eq!(letter.delivery.data, json(5, 10).as_bytes());
        assert!(get().await.is_none(), "its neighbours were handled");
    });
}
