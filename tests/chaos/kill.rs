//! Killed at random moments, what was acknowledged is never missing, and the order of its source holds.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use super::command::{Source, deliver_the_rest};
use crate::brokers::{Broker, Rabbit, Redis};
use crate::servers::RabbitNode;
use support::wait_until;

/// How often each process is killed.
/// Some before anything was done, some in the middle of their end: ten have all of these. `tests/run --full` does thirty.
fn kills() -> usize {
    if std::env::var_os("STREAMLL_TEST_FULL").is_some() { 30 } else { 10 }
}

const MOMENT: Duration = Duration::from_millis(300);

/// What the broker is like meanwhile.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meanwhile {
    Healthy,
    /// `trouble` began before the first process, and ends behind the last.
    Troubled,
}

fn killed(broker: &dyn Broker, meanwhile: Meanwhile, trouble: impl Fn(), mend: impl Fn()) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display();
    // Small, so that segments begin and end all the time; with the broker away there must be room.
    let max_size = if meanwhile == Meanwhile::Healthy { "1MiB" } else { "1GiB" };
    let yaml = format!(
        "service: chaos\ndata_dir: {path}/data\nsinks:\n  live:\n{}    buffer: {{ type: disk, max_size: {max_size} }}\n    \
         circuit_breaker: {{ recovery_timeout: 200ms, recovery_max: 1s }}\n    deliver_timeout: 3s\nshutdown: {{ \
         timeout: 60s }}\n",
        broker.keys(broker.port())
    );
    fs::write(folder.path().join("chaos.yaml"), yaml).expect("a file");
    if meanwhile == Meanwhile::Troubled {
        trouble();
    }
    let source = Source::default();
    let kills = kills();
    for round in 0..kills {
        let before = source.acked();
        let process = source.feed(folder.path());
        // Some are killed before they have done anything.
        if round % 3 > 0 {
            wait_until("some are acknowledged", || {
                let acked = source.acked() - before;
                if acked > 100 { Ok(()) } else { Err(format!("{acked} so far")) }
            });
        }
        if round % 5 == 4 {
            // In the middle of its end.
            process.signal("TERM");
            thread::sleep(MOMENT.mul_f64(fastrand::f64() / 10.0));
        } else {
            thread::sleep(MOMENT.mul_f64(fastrand::f64()));
        }
        process.kill9();
    }
    if meanwhile == Meanwhile::Troubled {
        mend();
    }
    // Each has a minute; a slow broker may need several.
    let waits = (0..10).map(|_| {
        let report = deliver_the_rest(folder.path());
        assert_eq!(report["balanced"], true, "{report:#}");
        report["sinks"]["live"].clone()
    });
    let last = waits.take_while(|live| live["waiting"] != 0).last();
    assert!(last.is_none() || deliver_the_rest(folder.path())["sinks"]["live"]["waiting"] == 0, "{last:?}");
    let (acked, next) = source.end();
    let arrived = broker.arrived();
    let mut first: BTreeMap<u64, usize> = BTreeMap::new();
    let (mut last, mut repeats, mut unmarked) = (None, 0, 0);
    for (place, copy) in arrived.iter().enumerate() {
        let event: serde_json::Value = serde_json::from_slice(&copy.json).expect("whole JSON");
        let n = event["seq"].as_u64().expect("a number");
        assert!(n < next, "{n} was never sent");
        assert_eq!(event["data"]["text"].as_str().map(str::len), Some((n % 300) as usize), "{n} is altered");
        if first.contains_key(&n) {
            repeats += 1;
            unmarked += usize::from(copy.attempt < 2);
            continue;
        }
        assert!(last.is_none_or(|last| n > last), "{n} came behind {last:?}");
        last = Some(n);
        first.insert(n, place);
    }
    let missing: Vec<_> = acked.iter().filter(|n| !first.contains_key(n)).collect();
    assert!(
        missing.is_empty(),
        "{} of {} were acknowledged and are missing: {missing:?}",
        missing.len(),
        acked.len()
    );
    assert_eq!(unmarked, 0, "of {repeats} repeats");
    assert!(acked.len() > kills * 50, "{} acknowledged", acked.len());
    eprintln!(
        "killed {kills} times, {} {meanwhile:?}: {} acknowledged, {} arrived, {repeats} repeats, none missing",
        broker.name(),
        acked.len(),
        first.len()
    );
}

#[test]
fn with_redis_healthy_nothing_acknowledged_is_lost() {
    killed(&Redis::start(), Meanwhile::Healthy, || {}, || {});
}

#[test]
fn with_redis_down_nothing_acknowledged_is_lost() {
    let redis = Redis::start();
    killed(&redis, Meanwhile::Troubled, || redis.server.kill9(), || redis.server.restart());
}

#[test]
fn with_redis_frozen_nothing_acknowledged_is_lost() {
    let redis = Redis::start();
    killed(&redis, Meanwhile::Troubled, || redis.server.freeze(), || redis.server.thaw());
}

#[test]
fn with_rabbitmq_healthy_nothing_acknowledged_is_lost() {
    killed(&Rabbit::on(RabbitNode::shared()), Meanwhile::Healthy, || {}, || {});
}

#[test]
fn with_rabbitmq_frozen_nothing_acknowledged_is_lost() {
    let node = RabbitNode::start();
    let rabbit = Rabbit::on(&node);
    killed(&rabbit, Meanwhile::Troubled, || node.freeze(), || node.thaw());
}

#[test]
fn with_rabbitmq_down_nothing_acknowledged_is_lost() {
    let node = RabbitNode::start();
    let rabbit = Rabbit::on(&node);
    killed(&rabbit, Meanwhile::Troubled, || node.kill9(), || node.restart());
}
