//! What RabbitMQ does wrong, and what is done to it.

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions};
use lapin::types::FieldTable;

use super::*;

fn shared() -> Rabbit<'static> {
    Rabbit::on(RabbitNode::shared())
}

#[test]
fn the_network_swallows_everything() {
    super::the_network_swallows_everything(&shared());
}

#[test]
fn the_network_resets_everything_again_and_again() {
    super::the_network_resets_everything_again_and_again(&shared());
}

#[test]
fn the_network_cuts_inside_a_frame() {
    super::the_network_cuts_inside_a_frame(&shared());
}

#[test]
fn the_network_is_slow() {
    super::the_network_is_slow(&shared());
}

#[test]
fn it_closes_its_connections() {
    let rabbit = shared();
    let outage = Outage::of(&[&rabbit]);
    outage.flows();
    for _ in 0..3 {
        rabbit.node.ctl(&["close_all_connections", "--vhost", &rabbit.vhost, "test"]);
        outage.flows();
    }
    outage.ends(&Expected { losses: 3, ..ONE_LOSS });
}

#[test]
fn it_forbids_to_write_for_a_while() {
    let rabbit = shared();
    let outage = Outage::of(&[&rabbit]);
    outage.flows();
    rabbit.permit("^$");
    // A channel remembers what it was permitted.
    rabbit.node.ctl(&["close_all_connections", "--vhost", &rabbit.vhost, "test"]);
    outage.breaks("refused");
    outage.lasts(SECOND);
    rabbit.permit(".*");
    outage.recovers();
    outage.ends(&ONE_LOSS);
}

#[test]
fn its_exchange_has_another_type_at_first() {
    let rabbit = shared();
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declare = async |channel: &lapin::Channel| {
        let fanout = ExchangeKind::Fanout;
        channel.exchange_declare("events".into(), fanout, durable, FieldTable::default()).await
    };
    rabbit.admin(declare).expect("declared");
    let outage = Outage::of(&[&rabbit]);
    outage.breaks("fanout");
    outage.lasts(SECOND);
    let delete = async |channel: &lapin::Channel| {
        channel.exchange_delete("events".into(), ExchangeDeleteOptions::default()).await
    };
    rabbit.admin(delete).expect("deleted");
    outage.recovers();
    outage.ends(&NO_LOSS);
}

#[test]
fn its_queue_is_full_and_is_drained_later() {
    let full = ", max_length: 500, arguments: { x-overflow: reject-publish }";
    let rabbit = Rabbit::with(RabbitNode::shared(), full);
    let outage = Outage::of(&[&rabbit]);
    outage.breaks("full");
    outage.lasts(SECOND);
    while outage.load() < 1000 {
        rabbit.take();
    }
    outage.ends_while(&Expected { refuses_singly: true, ..NO_LOSS }, || rabbit.take());
}

#[test]
fn its_binding_is_gone_for_a_while() {
    // A sink that declares makes it anew at once.
    let rabbit = Rabbit::declared(RabbitNode::shared());
    let outage = Outage::of(&[&rabbit]);
    let since = outage.since();
    outage.flows();
    let (unbind, bind) = (FieldTable::default(), FieldTable::default());
    let gone = async |channel: &lapin::Channel| {
        channel.queue_unbind("all".into(), "events".into(), "#".into(), unbind).await
    };
    rabbit.admin(gone).expect("unbound");
    outage.buries(300);
    outage.never_broke(&since);
    let back = async |channel: &lapin::Channel| {
        let options = QueueBindOptions::default();
        channel.queue_bind("all".into(), "events".into(), "#".into(), options, bind).await
    };
    rabbit.admin(back).expect("bound");
    outage.recovers();
    outage.never_broke(&since);
    let right = Expected { refuses_singly: true, dead_letters: true, ..NO_LOSS };
    let letters = outage.ends(&right);
    assert!(!letters.is_empty(), "it was gone for long enough");
    let tries = |letter: &serde_json::Value| letter["attempts"].as_u64();
    assert!(tries(&letters[0]) >= Some(5), "it waited for a binding: {}", letters[0]);
    for letter in &letters {
        let reason = letter["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("events") && reason.contains("ai.producer"), "{letter}");
    }
    assert_eq!(letters.last().and_then(tries), Some(1), "no event waits once its key is known");
}

fn a_wrong_password_loses_nothing_and_fills_no_log(node: &RabbitNode) {
    let rabbit = Rabbit::on(node);
    let password = |password: &str| {
        node.ctl(&["change_password", &format!("{USER}-{}", rabbit.vhost), password]);
    };
    password("other");
    super::a_wrong_password(&rabbit, || password(PASSWORD));
}

/// One event of a hundred is longer than the node takes; another, which arrives, has a name that no property has room for.
fn poison(n: u64) -> Option<Odd> {
    match n % 100 {
        25 => Some(Odd::long_name()),
        50 => Some(Odd::too_long("x".repeat(70_000))),
        _ => None,
    }
}

/// What it is, and what happens.
type Fault = (&'static str, fn(&RabbitNode));

/// What a whole node suffers, one after the other: it takes long to start. In a process of its own, to count what is held.
fn one_by_one(test: &str, conf: &str, faults: &[Fault]) {
    alone(&format!("faults::rabbitmq::{test}"), || {
        let node = RabbitNode::start_with(conf);
        it_is_healthy(&Rabbit::on(&node));
        let before = Holdings::now();
        for (name, fault) in faults {
            println!("{name}");
            crate::outage::name_fault(&format!("rabbitmq::{name}"));
            fault(&node);
            before.are_back();
        }
    });
}

#[test]
fn its_node_is_killed_and_stopped() {
    one_by_one(
        "its_node_is_killed_and_stopped",
        "",
        &[
            ("both brokers appear after the start", both_appear_after_the_start),
            ("it is killed under load", it_is_killed_under_load),
            ("it stops for a while", it_stops_for_a_while),
        ],
    );
}

#[test]
fn its_node_freezes_and_runs_out_of_everything() {
    one_by_one(
        "its_node_freezes_and_runs_out_of_everything",
        "max_message_size = 65536",
        &[
            (
                "a wrong password loses nothing and fills no log",
                a_wrong_password_loses_nothing_and_fills_no_log,
            ),
            ("it freezes", it_freezes),
            ("it is out of memory", it_is_out_of_memory),
            ("it is out of disk", it_is_out_of_disk),
            ("one event of a hundred is too long for it", one_event_of_a_hundred_is_too_long_for_it),
        ],
    );
}

fn both_appear_after_the_start(node: &RabbitNode) {
    let (redis, rabbit) = (Redis::start(), Rabbit::on(node));
    redis.server.kill9();
    node.kill9();
    let outage = Outage::of(&[&redis, &rabbit]);
    assert!(outage.started_in < SECOND, "it took {:?}", outage.started_in);
    outage.breaks("refused");
    outage.says("open (not sending since ");
    redis.server.restart();
    node.restart();
    outage.recovers();
    outage.ends(&NO_LOSS);
}

fn it_is_killed_under_load(node: &RabbitNode) {
    let rabbit = Rabbit::on(node);
    let outage = Outage::of(&[&rabbit]);
    outage.flows();
    node.kill9();
    outage.breaks("");
    node.restart();
    outage.recovers();
    outage.ends(&ONE_LOSS);
}

fn it_freezes(node: &RabbitNode) {
    let rabbit = Rabbit::on(node);
    let proxy = Proxy::to(node.port());
    let outage = Outage::behind(proxy.port(), &rabbit, HASTY);
    outage.flows();
    let before = outage.beside_gets_in(2 * SECOND);
    node.freeze();
    outage.breaks("");
    assert!(before > 100, "{before}");
    outage.beside_keeps_half(before, 2 * SECOND);
    outage.lasts(2 * SECOND);
    node.thaw();
    outage.recovers();
    outage.ends(&losses(&proxy));
}

/// Whatever was under way when the node blocked is confirmed afterwards: nothing is published twice.
fn it_is_blocked(node: &RabbitNode, block: &[&str], unblock: &[&str], reason: &str) {
    let rabbit = Rabbit::on(node);
    let proxy = Proxy::to(node.port());
    let outage = Outage::behind(proxy.port(), &rabbit, PATIENT);
    outage.flows();
    node.ctl(block);
    outage.breaks(reason);
    outage.lasts(5 * SECOND);
    node.ctl(unblock);
    outage.recovers();
    assert_eq!(proxy.connections(), 1, "a blocked connection is kept");
    outage.ends(&NO_LOSS);
}

fn it_is_out_of_memory(node: &RabbitNode) {
    let watermark = "set_vm_memory_high_watermark";
    it_is_blocked(node, &[watermark, "0.00001"], &[watermark, "0.4"], "low on memory");
}

fn it_is_out_of_disk(node: &RabbitNode) {
    let limit = "set_disk_free_limit";
    it_is_blocked(node, &[limit, "900000GB"], &[limit, "50MB"], "low on disk");
}

fn it_stops_for_a_while(node: &RabbitNode) {
    let rabbit = Rabbit::on(node);
    let outage = Outage::of(&[&rabbit]);
    outage.flows();
    node.ctl(&["stop_app"]);
    outage.breaks("");
    outage.lasts(SECOND);
    node.ctl(&["start_app"]);
    outage.recovers();
    outage.ends(&ONE_LOSS);
}

fn one_event_of_a_hundred_is_too_long_for_it(node: &RabbitNode) {
    let rabbit = Rabbit::on(node);
    let outage = Outage::poisoned(&rabbit, poison);
    let since = outage.since();
    (0..6).for_each(|_| outage.flows());
    outage.never_broke(&since);
    // The first costs a channel, with all that is under way on it.
    let letters = outage.ends(&Expected { losses: 1, ..NO_LOSS });
    assert!(letters.len() >= 2, "{letters:?}");
    for letter in letters {
        assert!(letter["reason"].as_str().is_some_and(|why| why.contains("max_message_size")), "{letter}");
    }
}
