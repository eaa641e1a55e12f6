//! Brokers that are killed and started again, over and over, with all settings as they are by default: they are in use
//! soon after they are back, and nothing is missing.

use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::brokers::{Broker, Rabbit, Redis};
use crate::outage::{Expected, Outage};
use crate::servers::RabbitNode;
use support::wait_until;

/// Half of the returns have to be faster than this.
const SOON: Duration = Duration::from_secs(3);
/// The longest time for which a broker stays away; one that starts slowly is away for longer.
const AWAY: Duration = Duration::from_secs(4);
const MOMENT: Duration = Duration::from_millis(500);
/// A broker is killed again only when fewer events wait for it: a fifth of what a buffer holds, so that a machine on which
/// brokers start slowly sheds none.
const FEW: u64 = 20_000;

/// How often each broker is killed; a RabbitMQ needs several seconds to start.
fn rounds(some: usize) -> usize {
    let full = std::env::var_os("STREAMLL_TEST_FULL").is_some();
    if full { 20 } else { some }
}

/// Kills a broker at random moments, and says how long its sink needed each time from the port's opening to the first
/// delivery.
fn restarts(
    outage: &Outage<'_>,
    broker: &dyn Broker,
    rounds: usize,
    kill: impl Fn(),
    restart: impl Fn() + Sync,
) -> Vec<Duration> {
    let sink = || outage.sink(broker.name());
    let mut took = Vec::new();
    for _ in 0..rounds {
        let before = sink().balance.delivered;
        wait_until("it delivers", || {
            let sink = sink();
            let delivers = sink.balance.delivered > before && sink.balance.waiting < FEW;
            if delivers { Ok(()) } else { Err(format!("{sink:#?}")) }
        });
        thread::sleep(MOMENT.mul_f64(fastrand::f64()));
        kill();
        wait_until("it is in trouble", || {
            let sink = sink();
            if sink.failures > 0 { Ok(()) } else { Err(format!("{sink:#?}")) }
        });
        let before = sink().balance.delivered;
        thread::sleep(AWAY.mul_f64(fastrand::f64()));
        thread::scope(|scope| {
            let restarting = scope.spawn(&restart);
            // As long as its start takes, which has a limit of its own.
            while TcpStream::connect((Ipv4Addr::LOCALHOST, broker.port())).is_err()
                && !restarting.is_finished()
            {
                thread::sleep(MOMENT / 100);
            }
            let open = Instant::now();
            wait_until("the first arrives", || {
                let sink = sink();
                if sink.balance.delivered > before { Ok(()) } else { Err(format!("{sink:#?}")) }
            });
            took.push(open.elapsed());
        });
    }
    took
}

#[track_caller]
fn are_soon(name: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let median = took[took.len() / 2];
    eprintln!(
        "{name} killed and started again {} times: from the open port to the first delivery {:.2} s at the least, {:.2} s \
         in the median, {:.2} s at the most",
        took.len(),
        took[0].as_secs_f64(),
        median.as_secs_f64(),
        took[took.len() - 1].as_secs_f64()
    );
    assert!(median < SOON, "{name}: {took:?}");
}

#[test]
fn redis_is_in_use_soon_after_each_of_its_restarts() {
    let redis = Redis::start();
    let outage = Outage::with_defaults(&[&redis]);
    let rounds = rounds(10);
    let took = restarts(&outage, &redis, rounds, || redis.server.kill9(), || redis.server.restart());
    are_soon("redis", took);
    outage.ends(&Expected { losses: rounds, ..Expected::default() });
}

#[test]
fn both_brokers_are_in_use_soon_after_each_of_their_restarts() {
    let (redis, node) = (Redis::start(), RabbitNode::start());
    let rabbit = Rabbit::on(&node);
    let outage = Outage::with_defaults(&[&redis, &rabbit]);
    let rounds = rounds(3);
    let (of_redis, of_rabbit) = thread::scope(|scope| {
        let of_redis = scope
            .spawn(|| restarts(&outage, &redis, rounds, || redis.server.kill9(), || redis.server.restart()));
        let of_rabbit = restarts(&outage, &rabbit, rounds, || node.kill9(), || node.restart());
        (of_redis.join().expect("it does not panic"), of_rabbit)
    });
    are_soon("redis", of_redis);
    are_soon("rabbit", of_rabbit);
    outage.ends(&Expected { losses: rounds, ..Expected::default() });
}
