//! Brokers that take nothing for a while: what was sent is waited for, not sent again.

use super::*;
use crate::proxy::Proxy;

const ALARM: [&str; 2] = ["set_vm_memory_high_watermark", "0.0000001"];
const CALM: [&str; 2] = ["set_vm_memory_high_watermark", "0.4"];

#[tokio::test]
async fn a_blocked_connection_is_kept_and_nothing_is_sent_twice() {
    let node = RabbitNode::start();
    let room = Room::on(&node);
    let proxy = Proxy::to(node.port());
    let url = room.url_at(proxy.port());
    let mut sink = opened(&sinks::rabbitmq(&url).bind("all", QueueConfig::bound(["#"])).window(64)).await;
    sink.deliver(&mut batch(0..10)).await.unwrap();
    node.ctl(&ALARM);
    // The broker says so after the first message that it gets.
    let mut events = batch(10..2000);
    let error = sink.deliver(&mut events).await.unwrap_err();
    says(&error, ErrorClass::Overload, &["blocked by the broker: low on memory"]);
    let first = marks(&events);
    let sent = first.iter().filter(|mark| *mark != "Unsent").count();
    assert!(sent > 0 && sent <= 64, "{sent} were sent");
    // While it lasts nothing more is sent, neither these nor others, and opening does not connect anew.
    let mut retried = again(&events);
    let error = sink.deliver(&mut retried).await.unwrap_err();
    says(&error, ErrorClass::Overload, &["low on memory"]);
    assert_eq!(marks(&retried), all("Unsent", 1990));
    let error = sink.open(&SinkContext::detached("records")).await.unwrap_err();
    says(&error, ErrorClass::Overload, &["low on memory"]);
    // However long it lasts.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(90)).await;
    tokio::time::resume();
    node.ctl(&CALM);
    // A probe with one event, as the machine does, and then the rest.
    let mut probe = Deliveries::new(vec![events.as_slice()[0].clone()]);
    let mut probed = sink.deliver(&mut probe).await;
    for _ in 0..100 {
        if probed.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        probed = sink.deliver(&mut probe).await;
    }
    probed.unwrap();
    assert_eq!(marks(&probe), ["Delivered"]);
    let mut rest = Deliveries::new(events.as_slice()[1..].to_vec());
    sink.deliver(&mut rest).await.unwrap();
    assert_eq!(marks(&rest), all("Delivered", 1989));
    assert_eq!(proxy.connections(), 1, "one connection all the time");
    assert_eq!(room.numbers("all"), (0..2000).collect::<Vec<_>>());
}

#[tokio::test]
async fn closing_a_blocked_connection_ends() {
    let node = RabbitNode::start();
    let room = Room::on(&node);
    let mut sink = opened(&room.sink()).await;
    node.ctl(&ALARM);
    fails(&mut sink).await;
    tokio::time::timeout(Duration::from_secs(2), sink.close()).await.expect("within what the machine grants");
}

#[tokio::test]
async fn a_silent_broker_is_waited_for_and_nothing_is_sent_twice() {
    let room = Room::shared();
    let proxy = Proxy::to(room.node.port());
    let url = room.url_at(proxy.port());
    let mut sink = opened(&sinks::rabbitmq(&url).bind("all", QueueConfig::bound(["#"]))).await;
    sink.deliver(&mut batch([0])).await.unwrap();
    proxy.blackhole();
    let mut events = batch(1..300);
    // The clock of the sink runs ahead of that of the broker and the client.
    tokio::time::pause();
    let error = sink.deliver(&mut events).await.unwrap_err();
    says(&error, ErrorClass::Overload, &["has not confirmed 299 events", "majority", "not sent again"]);
    let mut retried = again(&events);
    let error = sink.deliver(&mut retried).await.unwrap_err();
    tokio::time::resume();
    says(&error, ErrorClass::Overload, &["has not confirmed 299 events"]);
    assert_eq!(marks(&retried), all("Unsent", 299), "they are waited for");
    proxy.heal();
    // More than was asked for before, in other batches than before.
    let mut rest = events.as_slice().to_vec();
    rest.extend((300..400).map(|number| under("ai.rag_pipeline.start", number)));
    for chunk in rest.chunks(130) {
        let mut chunk = Deliveries::new(chunk.to_vec());
        sink.deliver(&mut chunk).await.unwrap();
        assert_eq!(marks(&chunk), all("Delivered", chunk.len()));
    }
    assert_eq!(proxy.connections(), 1);
    assert_eq!(room.numbers("all"), (0..400).collect::<Vec<_>>());
}

#[tokio::test]
async fn after_a_minute_of_silence_the_connection_is_given_up() {
    let room = Room::shared();
    let proxy = Proxy::to(room.node.port());
    let url = room.url_at(proxy.port());
    let mut sink = opened(&sinks::rabbitmq(&url).bind("all", QueueConfig::bound(["#"]))).await;
    proxy.blackhole();
    let events = batch(0..100);
    tokio::time::pause();
    let mut classes = Vec::new();
    loop {
        let error = sink.deliver(&mut again(&events)).await.unwrap_err();
        classes.push(error.class());
        if error.class() != ErrorClass::Overload {
            says(&error, ErrorClass::Unknown, &["100 events", "60s", "given up"]);
            break;
        }
    }
    tokio::time::resume();
    assert_eq!(classes.len(), 6, "{classes:?}");
    proxy.heal();
    sink.open(&SinkContext::detached("records")).await.unwrap();
    sink.deliver(&mut again(&events)).await.unwrap();
    assert_eq!(proxy.connections(), 2);
    let mut arrived = room.numbers("all");
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_frozen_broker_ends_the_connection_by_its_heartbeat() {
    let node = RabbitNode::start();
    let room = Room::on(&node);
    let mut sink = opened(&room.sink().heartbeat(Duration::from_secs(1))).await;
    node.freeze();
    let mut events = batch(0..100);
    let error = sink.deliver(&mut events).await.unwrap_err();
    node.thaw();
    says(&error, ErrorClass::Unknown, &["127.0.0.1:", "heartbeat"]);
    assert_eq!(marks(&events), all("Open", 100));
    sink.open(&SinkContext::detached("records")).await.unwrap();
    sink.deliver(&mut again(&events)).await.unwrap();
    let mut arrived = room.numbers("all");
    assert!(arrived.len() <= 200, "at most one window is repeated");
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, (0..100).collect::<Vec<_>>());
}

/// The client's heartbeats run elsewhere.
#[tokio::test]
async fn a_thread_that_is_blocked_for_longer_than_the_heartbeat_costs_no_connection() {
    let room = Room::shared();
    let proxy = Proxy::to(room.node.port());
    let config = sinks::rabbitmq(room.url_at(proxy.port())).bind("all", QueueConfig::bound(["#"]));
    let mut sink = opened(&config.heartbeat(Duration::from_secs(3))).await;
    sink.deliver(&mut batch([1])).await.unwrap();
    std::thread::sleep(Duration::from_secs(10));
    sink.deliver(&mut batch([2])).await.unwrap();
    assert_eq!(proxy.connections(), 1);
    assert_eq!(room.numbers("all"), [1, 2]);
}

#[tokio::test]
async fn a_broker_that_is_killed_leaves_nothing_lost_and_at_most_a_window_twice() {
    let node = RabbitNode::start();
    let room = Room::on(&node);
    let mut sink = opened(&room.sink().window(256)).await;
    let mut events = batch(0..40_000);
    let killer = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        node.kill9();
    };
    let (result, ()) = tokio::join!(sink.deliver(&mut events), killer);
    let error = result.unwrap_err();
    assert!([ErrorClass::Unknown, ErrorClass::Unavailable].contains(&error.class()), "{error}");
    let error = sink.open(&SinkContext::detached("records")).await.unwrap_err();
    says(&error, ErrorClass::Unavailable, &["cannot connect to 127.0.0.1:", "refused"]);
    node.restart();
    sink.open(&SinkContext::detached("records")).await.unwrap();
    let marked = marks(&events);
    let open = marked.iter().filter(|mark| *mark == "Open").count();
    assert!(open <= 256 && marked.contains(&"Delivered".to_owned()), "{open} of unknown outcome");
    let rest = events.iter().zip(&marked).filter(|(_, mark)| *mark != "Delivered").map(|(d, _)| d.clone());
    sink.deliver(&mut Deliveries::new(rest.collect())).await.unwrap();
    let arrived = room.take("all");
    let mut unique = arrived.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique, (0..40_000).collect::<Vec<_>>());
    assert!(arrived.len() - unique.len() <= 256);
}

#[tokio::test]
async fn a_delivery_that_is_dropped_leaves_a_sink_that_can_be_opened() {
    let room = Room::shared();
    let mut sink = opened(&room.sink().window(100)).await;
    let events = batch(0..3000);
    for micros in [0, 50, 300, 1000, 3000, 10_000, 30_000] {
        let limit = Duration::from_micros(micros);
        let _ = tokio::time::timeout(limit, sink.deliver(&mut again(&events))).await;
        let ctx = SinkContext::detached("records");
        let _ = tokio::time::timeout(limit, sink.open(&ctx)).await;
    }
    sink.open(&SinkContext::detached("records")).await.unwrap();
    let mut last = again(&events);
    sink.deliver(&mut last).await.unwrap();
    assert_eq!(marks(&last), all("Delivered", 3000));
    let mut arrived = room.take("all");
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, (0..3000).collect::<Vec<_>>());
}
