//! The faults that brokers really have, each through a whole topology under load: nothing is lost, repeats are few and
//! marked, the order holds, and the sink beside feels nothing.

use std::time::Duration;

use crate::alone::{Holdings, Logs, alone};
use crate::brokers::{Broker, PASSWORD, Rabbit, Redis, USER};
use crate::oracle::Odd;
use crate::outage::{Expected, HASTY, Outage, PATIENT};
use crate::proxy::Proxy;
use crate::servers::RabbitNode;

mod rabbitmq;
mod redis;

const SECOND: Duration = Duration::from_secs(1);

/// One connection is lost, with something under way.
const ONE_LOSS: Expected = Expected { losses: 1, refuses_singly: false, dead_letters: false };
const NO_LOSS: Expected = Expected { losses: 0, ..ONE_LOSS };

/// As many lost as the proxy has seen, but for the last.
fn losses(proxy: &Proxy) -> Expected {
    Expected { losses: proxy.connections().saturating_sub(1), ..ONE_LOSS }
}

/// Nothing happens to it. What a process acquires once and keeps, it has afterwards.
fn it_is_healthy(broker: &dyn Broker) {
    let outage = Outage::of(&[broker]);
    outage.flows();
    outage.ends(&NO_LOSS);
}

/// The way to the broker is cut off, and heals; nobody is told of either.
fn the_network_swallows_everything(broker: &dyn Broker) {
    let proxy = Proxy::to(broker.port());
    let outage = Outage::behind(proxy.port(), broker, HASTY);
    outage.flows();
    proxy.blackhole();
    outage.breaks("");
    outage.lasts(3 * SECOND);
    proxy.heal();
    outage.recovers();
    outage.ends(&losses(&proxy));
}

fn the_network_resets_everything_again_and_again(broker: &dyn Broker) {
    let proxy = Proxy::to(broker.port());
    let outage = Outage::behind(proxy.port(), broker, HASTY);
    outage.flows();
    for _ in 0..10 {
        outage.lasts(SECOND / 3);
        proxy.reset_peers();
    }
    outage.recovers();
    outage.ends(&losses(&proxy));
}

/// Cut inside a frame, at many places.
fn the_network_cuts_inside_a_frame(broker: &dyn Broker) {
    let proxy = Proxy::to(broker.port());
    let outage = Outage::behind(proxy.port(), broker, HASTY);
    outage.flows();
    for n in 0..20 {
        proxy.limit_data(1 + n * 397);
        outage.lasts(SECOND / 10);
    }
    proxy.heal();
    outage.recovers();
    outage.ends(&losses(&proxy));
}

fn the_network_is_slow(broker: &dyn Broker) {
    let proxy = Proxy::to(broker.port());
    let outage = Outage::behind(proxy.port(), broker, PATIENT);
    outage.flows();
    proxy.latency(SECOND / 20, SECOND / 30);
    outage.lasts(SECOND);
    proxy.bandwidth(200_000);
    outage.lasts(SECOND);
    proxy.heal();
    outage.recovers();
    assert_eq!(proxy.connections(), 1, "a slow network is no reason to connect anew");
    outage.ends(&NO_LOSS);
}

/// Starts with a password that the broker does not know, until `mend`. With the breaker's default times there would be
/// two tries in a minute; with 1 s at most there are more in less time, and more chances to log.
fn a_wrong_password(broker: &dyn Broker, mend: impl FnOnce()) {
    let (logs, begun) = (Logs::keep(), tokio::time::Instant::now());
    let proxy = Proxy::to(broker.port());
    let outage = Outage::behind(proxy.port(), broker, PATIENT);
    outage.breaks("password");
    outage.lasts(8 * SECOND);
    let (tries, took) = (proxy.connections(), begun.elapsed());
    // At once, 160, 320 and 640 ms later, and then each 800 ms at the earliest.
    let most = 5 + (took.as_millis() / 800) as usize;
    assert!((4..=most).contains(&tries), "{tries} tries in {took:?}");
    mend();
    outage.recovers();
    let tries = proxy.connections();
    assert_eq!(outage.ends(&NO_LOSS), Vec::<serde_json::Value>::new());
    let lines = logs.lines();
    let of_the_sink = lines.iter().filter(|line| line.contains(broker.name())).count();
    assert!(0 < of_the_sink && of_the_sink <= tries + 2, "{tries} tries: {lines:#?}");
    assert!(lines.len() < 10 * tries, "{tries} tries: {lines:#?}");
    assert!(!lines.iter().any(|line| line.contains(PASSWORD)), "the password shows: {lines:#?}");
}
