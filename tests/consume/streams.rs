//! Events as a stream: each is acknowledged when the next one is asked for.

use std::time::Duration;

use streamll::consume::{Consumer, ConsumerState, Events, Start};
use tokio_stream::StreamExt as _;

use crate::proxy::Proxy;
use crate::servers::{RabbitNode, RedisServer};
use crate::{STREAM, add_numbers, channel, json, number, pending, publish, run, wait_for};

#[test]
fn a_stream_yields_each_event_and_acknowledges_it_when_the_next_is_asked_for() {
    let server = RedisServer::start();
    add_numbers(&server, 0..100);
    run(async {
        let consumer = Consumer::connect(server.url(), STREAM).group("g").name("n");
        let mut events = consumer.filter("data.conversation_id", "conv_3").into_stream().unwrap();
        for n in 0..5 {
            assert_eq!(number(&events.next().await.unwrap()), 10 * n + 3);
        }
        // Four, and those that the filter left out.
        wait_for("what was passed by is acknowledged", || pending(&server, "g") == 6).await;
        events.close().await;
        wait_for("the last is handled, too", || pending(&server, "g") == 5).await;
        let again = Consumer::connect(server.url(), STREAM).group("g").name("n");
        let mut again = again.into_stream().unwrap();
        assert_eq!(number(&again.next().await.unwrap()), 53, "it goes on where the other ended");
        drop(again);
        wait_for("dropped, the last is not handled", || pending(&server, "g") == 5).await;
    });
}

#[test]
fn a_stream_ends_where_it_is_told_to_and_when_it_is_stopped() {
    let server = RedisServer::start();
    add_numbers(&server, 0..50);
    run(async {
        let whole = Consumer::connect(server.url(), STREAM).start(Start::Begin).until("+");
        let events: Vec<_> = whole.into_stream().unwrap().collect().await;
        assert!(events.iter().map(number).eq(0..50));
        let live = Consumer::connect(server.url(), STREAM).into_stream().unwrap();
        let handle = live.handle();
        handle.stop();
        assert_eq!(live.collect::<Vec<_>>().await.len(), 0);
        assert!(handle.status().balances());
    });
}

/// A stream that has a hundred events, of which its reader has had one, and which come again after a lost connection.
async fn come_again(node: &RabbitNode, vhost: &str) -> Events {
    let (_connection, channel) = channel(node, vhost).await;
    let proxy = Proxy::to(node.port());
    let url = node.url(vhost).replace(&format!(":{}/", node.port()), &format!(":{}/", proxy.port()));
    let consumer = Consumer::connect(url, STREAM).group("g").skip_duplicates(1000);
    let mut events = consumer.into_stream().unwrap();
    let handle = events.handle();
    wait_for("it consumes", || handle.status().state == ConsumerState::Consuming).await;
    publish(&channel, STREAM, "ai.rag.token", (0..100).map(|n| json(n, 10))).await;
    assert_eq!(number(&events.next().await.unwrap()), 0);
    wait_for("all are there", || handle.status().balance.received == 100).await;
    proxy.reset_peers();
    wait_for("they come again", || handle.status().balance.received >= 200).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    // It stays for as long as the test.
    std::mem::forget(proxy);
    events
}

#[test]
fn what_the_reader_has_not_had_yet_goes_back_when_the_stream_is_dropped() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        drop(come_again(node, &vhost).await);
        let messages = || node.ctl(&["list_queues", "-p", &vhost, "messages_ready"]);
        wait_for("all are in the queue", || messages().trim() == "100").await;
    });
}

#[test]
fn what_comes_again_before_the_reader_has_had_it_is_read_once() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let mut events = come_again(node, &vhost).await;
        for n in 1..100 {
            assert_eq!(number(&events.next().await.unwrap()), n);
        }
        let handle = events.handle();
        events.close().await;
        assert!(handle.status().balances(), "{:#?}", handle.status());
        let messages = || node.ctl(&["list_queues", "-p", &vhost, "messages"]);
        wait_for("all are acknowledged", || messages().trim() == "0").await;
    });
}
