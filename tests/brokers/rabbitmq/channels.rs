//! The channels of a connection, of which a broker allows few: each refusal costs one, and none comes back.

use std::collections::BTreeSet;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use streamll::SinkState;
use streamll::consume::{Consumer, ConsumerStatus};

use super::*;
use crate::machine::Machine;
use crate::proxy::Proxy;
use support::wait_until;

/// A node of its own, whose limit of channels tests set.
fn node() -> &'static RabbitNode {
    static NODE: std::sync::OnceLock<RabbitNode> = std::sync::OnceLock::new();
    NODE.get_or_init(|| RabbitNode::start_with("max_message_size = 2000"))
}

/// How many channels a connection to it may have from now on.
fn allow(node: &RabbitNode, channels: u32) {
    node.ctl(&["eval", &format!("application:set_env(rabbit, channel_max, {channels}).")]);
}

/// How many channels the node has closed because of what was published on them.
fn refusals(node: &RabbitNode, vhost: &str) -> usize {
    let is_refusal = |line: &&str| line.contains("Channel error on connection") && line.contains(vhost);
    node.log().lines().filter(is_refusal).count()
}

/// One test for all limits: they hold for the whole node.
#[test]
fn a_connection_is_replaced_before_its_channels_end_however_few_they_are() {
    let node = node();
    for limit in [10, 2, 1, 2047] {
        allow(node, limit);
        println!("{limit} channels");
        a_sink_that_was_refused_for_long_goes_on(node);
        a_storm_of_refused_events_holds_up_no_others(node);
        a_consumer_makes_all_that_is_missing(node);
        if limit == 1 {
            refusals_that_slow_it_are_the_reason(node);
        }
    }
}

fn refusals_that_slow_it_are_the_reason(node: &RabbitNode) {
    let room = Room::on(node);
    let url = format!("url: \"{}\"", room.user("some", [".*"; 3]));
    let user = format!("some-{}", room.vhost);
    node.ctl(&["set_topic_permissions", "-p", &room.vhost, &user, "ai_events", "^ai\\.(?!secret)", ".*"]);
    let mut machine = Machine::start(&["type: rabbitmq", &url, "queues: { all: [\"#\"] }"]);
    for n in 0..60 {
        machine.emit("One");
        machine.emit(&format!("Secret{n}"));
    }
    machine.wait("it says why it is slow", |status| {
        status.state == SinkState::Closed
            && status.reason.as_deref().is_some_and(|why| why.contains("ends a channel for each"))
    });
    machine.settles();
    assert_eq!(machine.status().reason, None);
    assert_eq!(machine.ends().len(), 60);
}

fn a_sink_that_was_refused_for_long_goes_on(node: &RabbitNode) {
    let room = Room::on(node);
    let proxy = Proxy::to(node.port());
    let config = sinks::rabbitmq(room.url_at(proxy.port())).declare(false);
    run(async {
        let mut sink = config.build().unwrap();
        for _ in 0..30 {
            let error = sink.open(&SinkContext::detached("records")).await.unwrap_err();
            says(
                &error,
                ErrorClass::Misconfigured,
                &["exchange `ai_events`", "no exchange", "declare: true"],
            );
        }
        opened(&room.sink()).await;
        sink.open(&SinkContext::detached("records")).await.unwrap();
        sink.deliver(&mut batch(0..3)).await.unwrap();
    });
    assert_eq!(room.numbers("all"), [0, 1, 2]);
    assert!(proxy.connections() <= 32, "{} connections", proxy.connections());
}

fn a_storm_of_refused_events_holds_up_no_others(node: &RabbitNode) {
    let room = Room::on(node);
    let url = room.user("some", [".*"; 3]);
    let user = format!("some-{}", room.vhost);
    node.ctl(&["set_topic_permissions", "-p", &room.vhost, &user, "ai_events", "^ai\\.(?!secret)", ".*"]);
    let mut machine = Machine::start(&[
        "type: rabbitmq",
        &format!("url: \"{url}\""),
        "queues: { all: [\"#\"] }",
        "window: 64",
    ]);
    let long = Event::new(&Step::new("Long"), "start").with("text", "x".repeat(3000));
    let (mut good, mut bad) = (Vec::new(), BTreeSet::new());
    for n in 0..3000 {
        match n % 3 {
            0 => good.push(machine.emit(["One", "Two", "Three"][n / 3 % 3])),
            1 => drop(bad.insert(machine.send(long.clone()))),
            _ if n % 300 == 2 => drop(bad.insert(machine.emit(&format!("Secret{}", n / 300)))),
            _ => drop(bad.insert(machine.emit("Secret"))),
        }
    }
    machine.settles();
    let letters: Vec<u64> = machine.ends().into_iter().map(|(number, _)| number).collect();
    assert_eq!(letters.len(), bad.len(), "each is one dead letter");
    assert_eq!(letters.into_iter().collect::<BTreeSet<_>>(), bad);
    let arrived = room.take("all");
    assert_eq!(arrived.iter().copied().collect::<BTreeSet<_>>(), good.iter().copied().collect());
    assert!(arrived.len() <= good.len() + 64 * 4, "{} arrived of {}", arrived.len(), good.len());
    let refusals = refusals(node, &room.vhost);
    assert!((2..60).contains(&refusals), "{refusals} channels for {} refused events", bad.len());
}

/// Exchange, queue, and the queue of its dead letters.
fn a_consumer_makes_all_that_is_missing(node: &RabbitNode) {
    let room = Room::on(node);
    let consumer = Consumer::connect(room.url(), "fresh").group("readers").on("start", |_| ());
    let handle = consumer.handle();
    std::thread::scope(|scope| {
        scope.spawn(|| run(consumer.run()).unwrap());
        let reads = |what: &str, holds: &dyn Fn(&ConsumerStatus) -> bool| {
            wait_until(what, || {
                let status = handle.status();
                if holds(&status) { Ok(()) } else { Err(format!("{status:#?}")) }
            });
        };
        reads("it is connected", &|status| status.connections == 1);
        room.with(async |channel| {
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            channel
                .basic_publish("fresh".into(), "a".into(), options, b"no event", properties)
                .await
                .unwrap();
        });
        reads("it has buried what is no event", &|status| status.balance.dead_lettered == 1);
        handle.stop();
    });
    assert_eq!(room.read("readers.dead").len(), 1);
}
