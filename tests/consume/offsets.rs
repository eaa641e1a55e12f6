//! Queues of RabbitMQ that are streams: read from an offset, by everyone for himself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use streamll::consume::{Consumer, ConsumerState, ConsumerStatus, Start};

use crate::proxy::Proxy;
use crate::servers::RabbitNode;
use crate::{Running, Seen, channel, json, publish, run, wait_for};

/// A stream, and a channel to fill it.
async fn stream(node: &RabbitNode, vhost: &str) -> (lapin::Connection, lapin::Channel) {
    let (connection, channel) = channel(node, vhost).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("log".into(), durable, arguments).await.unwrap();
    (connection, channel)
}

async fn fill(channel: &lapin::Channel, numbers: std::ops::Range<u64>) {
    publish(channel, "", "log", numbers.map(|n| json(n, 10))).await;
}

fn from(url: String, start: Option<Start>, seen: &Seen) -> Running {
    let consumer = Consumer::connect(url, "").group("log").on_topic("#", seen.handler());
    Running::start(match start {
        Some(start) => consumer.start(start),
        None => consumer,
    })
}

#[test]
fn a_stream_is_read_from_an_offset_by_everyone_for_himself() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    let url = node.url(&vhost);
    run(async {
        let (_connection, channel) = stream(node, &vhost).await;
        fill(&channel, 0..100).await;
        let (first, second, new) = (Seen::default(), Seen::default(), Seen::default());
        let one = from(url.clone(), None, &first);
        let two = from(url.clone(), Some(Start::Begin), &second);
        let now = from(url.clone(), Some(Start::Now), &new);
        wait_for("each has all", || (first.len(), second.len()) == (100, 100)).await;
        now.until("it consumes", |status| status.state == ConsumerState::Consuming).await;
        let cursor = one.stop().await.cursor.expect("it has one");
        assert_eq!(cursor, "99");
        fill(&channel, 100..150).await;
        wait_for("the others go on", || (second.len(), new.len()) == (150, 50)).await;
        two.stop().await;
        now.stop().await;
        let again = from(url.clone(), Some(Start::After(cursor)), &first);
        wait_for("the rest", || first.len() == 150).await;
        let status = again.stop().await;
        assert_eq!((status.cursor.as_deref(), status.gaps), (Some("149"), 0), "{status:#?}");
        for seen in [&first, &second] {
            assert!(seen.numbers().into_iter().eq(0..150));
        }
        assert!(new.numbers().into_iter().eq(100..150));
    });
}

#[test]
fn a_lost_connection_goes_on_where_it_was() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    let proxy = Proxy::to(node.port());
    let url = node.url(&vhost).replace(&node.port().to_string(), &proxy.port().to_string());
    run(async {
        let (_connection, channel) = stream(node, &vhost).await;
        fill(&channel, 0..500).await;
        let seen = Seen::default();
        let consumer = Consumer::connect(url, "").group("log").prefetch(50).skip_duplicates(10_000);
        let handler = seen.handler();
        let running = Running::start(consumer.on("token", move |event| {
            handler(event);
            tokio::time::sleep(Duration::from_millis(1))
        }));
        for n in [100, 200, 300] {
            wait_for("some of it", || seen.len() >= n).await;
            let connections = running.status().connections;
            proxy.reset_peers();
            running.until("it is back", |status| status.connections > connections).await;
        }
        fill(&channel, 500..600).await;
        wait_for("all of it", || seen.len() == 600).await;
        let status = running.stop().await;
        assert!(status.connections >= 4 && status.gaps == 0, "{status:#?}");
        // At most what was in hand comes again, and not the whole stream.
        assert!(status.balance.duplicate <= 150, "{status:#?}");
        assert!(seen.numbers().into_iter().eq(0..600), "in order, each once");
        assert_eq!(status.cursor.as_deref(), Some("599"));
    });
}

/// A quorum queue counts each way back: nothing is taken from it in vain.
#[test]
fn another_queue_has_no_offset_and_says_so() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(1));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("log".into(), durable, arguments).await.unwrap();
        fill(&channel, 0..10).await;
        let seen = Seen::default();
        let running = from(node.url(&vhost), Some(Start::After("7".to_owned())), &seen);
        let told = |status: &ConsumerStatus| {
            status
                .reason
                .as_deref()
                .is_some_and(|reason| reason.contains("`log` is no stream and has no offset 7"))
        };
        running.until("it is told", told).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        running.until("it is still told", told).await;
        assert_eq!(running.status().connections, 0);
        running.stop().await;
        let running = from(node.url(&vhost), None, &seen);
        wait_for("all is still there", || seen.len() == 10).await;
        running.stop().await;
    });
}

/// One that we made would be no stream, and the sink that declares it would be refused.
#[test]
fn a_stream_that_is_deleted_is_not_made_anew_as_another_queue() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    let gone = |status: &ConsumerStatus| {
        status.reason.as_deref().is_some_and(|reason| reason.contains("`log` is gone, and is not made anew"))
    };
    run(async {
        let (_connection, channel) = stream(node, &vhost).await;
        fill(&channel, 0..10).await;
        let seen = Seen::default();
        let running = from(node.url(&vhost), None, &seen);
        wait_for("the first", || seen.len() == 10).await;
        channel.queue_delete("log".into(), Default::default()).await.unwrap();
        running.until("it says so", gone).await;
        let (_connection, channel) = stream(node, &vhost).await;
        fill(&channel, 10..30).await;
        wait_for("what comes behind its old place", || seen.numbers().last() == Some(&29)).await;
        running.stop().await;
        channel.queue_delete("log".into(), Default::default()).await.unwrap();
        let running = from(node.url(&vhost), Some(Start::After("7".to_owned())), &seen);
        running.until("it says so before there ever was one", gone).await;
        running.stop().await;
    });
}

/// The connection is lost while the first message is in hand.
#[test]
fn what_came_and_was_not_done_comes_again_also_where_it_began_now() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    let proxy = Proxy::to(node.port());
    let url = node.url(&vhost).replace(&node.port().to_string(), &proxy.port().to_string());
    run(async {
        let (_connection, channel) = stream(node, &vhost).await;
        fill(&channel, 0..10).await;
        let (seen, begun) = (Seen::default(), Seen::default());
        let consumer = Consumer::connect(url, "").group("log").start(Start::Now);
        let (handler, first) = (seen.handler(), begun.handler());
        let gate = Arc::new(AtomicBool::new(false));
        let opened = gate.clone();
        let running = Running::start(consumer.on("token", move |event: streamll::Event| {
            let is_first = event.seq() == Some(10);
            first(event.clone());
            handler(event);
            let opened = opened.clone();
            async move {
                while is_first && !opened.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }));
        running.until("it consumes", |status| status.state == ConsumerState::Consuming).await;
        fill(&channel, 10..15).await;
        wait_for("the first is in hand", || begun.len() == 1).await;
        proxy.reset_peers();
        running.until("it is back", |status| status.connections >= 2).await;
        gate.store(true, Ordering::SeqCst);
        fill(&channel, 15..20).await;
        wait_for("all since then", || seen.numbers().iter().filter(|n| **n == 19).count() == 1).await;
        let status = running.stop().await;
        let numbers: std::collections::BTreeSet<u64> = seen.numbers().into_iter().collect();
        assert!(numbers.into_iter().eq(10..20) && status.gaps == 0, "{status:#?} {:?}", seen.numbers());
    });
}

/// What retention dropped is a gap, and how much it is at most is told.
#[test]
fn what_a_stream_has_dropped_before_it_was_read_is_a_gap() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        for (limit, bytes) in [("x-max-length-bytes", 20_000), ("x-stream-max-segment-size-bytes", 10_000)] {
            arguments.insert(limit.into(), AMQPValue::LongLongInt(bytes));
        }
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("log".into(), durable, arguments).await.unwrap();
        for n in 0..20 {
            fill(&channel, n * 20..(n + 1) * 20).await;
        }
        let seen = Seen::default();
        let running = from(node.url(&vhost), Some(Start::After("1".to_owned())), &seen);
        wait_for("the last of it", || seen.numbers().last() == Some(&399)).await;
        let status = running.stop().await;
        let first = seen.numbers()[0];
        assert!(
            first > 2 && seen.numbers().into_iter().eq(first..400),
            "nothing was dropped: this shows nothing"
        );
        // The broker numbers things of its own, too.
        assert!(status.gaps == 1 && status.missed >= first - 2, "{status:#?}");
    });
}
