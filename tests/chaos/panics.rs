//! A sink that panics wherever it waits for its broker: nothing is lost, and what comes again says so.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use streamll::topology::IntoSink;
use streamll::{Deliveries, DeliveryError, Event, SinkContext, SinkSpec, Topology, sinks};
use streamll_actors::sink::DynSink;

use crate::brokers::{Broker, PASSWORD, Rabbit, Redis, USER};
use crate::servers::RabbitNode;
use support::wait_until;

/// Panics in every tenth delivery, at the first poll, then at the second, and so on: wherever a delivery may wait.
struct Fragile {
    sink: Box<dyn DynSink>,
    deliveries: Arc<AtomicUsize>,
}

impl DynSink for Fragile {
    fn open_dyn<'a>(&'a mut self, ctx: &'a SinkContext) -> LocalBoxFuture<'a, Result<(), DeliveryError>> {
        self.sink.open_dyn(ctx)
    }

    fn deliver_dyn<'a>(
        &'a mut self,
        batch: &'a mut Deliveries,
    ) -> LocalBoxFuture<'a, Result<(), DeliveryError>> {
        let number = self.deliveries.fetch_add(1, Ordering::SeqCst);
        let fatal = number.is_multiple_of(10).then_some(number / 10 % 5);
        let mut delivery = self.sink.deliver_dyn(batch);
        let mut polls = 0;
        Box::pin(poll_fn(move |cx| {
            assert!(Some(polls) != fatal, "poll {polls} of delivery {number}");
            polls += 1;
            match delivery.as_mut().poll(cx) {
                // At the end, if it never came so far.
                Poll::Ready(_) if fatal.is_some() => panic!("the end of delivery {number}"),
                polled => polled,
            }
        }))
    }

    fn close_dyn(&mut self) -> LocalBoxFuture<'_, ()> {
        self.sink.close_dyn()
    }
}

fn panics(broker: &dyn Broker, sink: impl IntoSink) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut spec: SinkSpec = sink.into_sink("live");
    let (make, deliveries) = (spec.factory.clone(), Arc::<AtomicUsize>::default());
    spec.factory = Arc::new(move || Box::new(Fragile { sink: make(), deliveries: deliveries.clone() }));
    spec.buffer = streamll::BufferPolicy::disk();
    // It is not the events that are bad.
    spec.poison_after = 0;
    spec.restart.max = 1000;
    spec.batch.max_events = 64;
    let topology = Topology::builder("chaos").data_dir(folder.path()).sink("live", spec);
    let handle = topology.start().expect("it starts");
    let step = streamll::step("Panics");
    for n in 0..4000_u64 {
        handle.emit(Event::new(&step, "progress").with("n", n));
        if n % 40 == 39 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    wait_until("everything has arrived", || {
        let status = handle.status().sink("live").expect("it is there").clone();
        let done = status.balance.accepted == 4000 && status.balance.waiting == 0;
        if done { Ok(()) } else { Err(format!("{status:#?}")) }
    });
    let drained = handle.shutdown_blocking(Duration::from_secs(20));
    assert!(drained.complete && drained.status.balances());
    assert!(drained.status.sinks()[0].restarts > 5, "it panicked again and again");
    let (mut copies, mut last): (BTreeMap<u64, usize>, _) = (BTreeMap::new(), None);
    for copy in broker.arrived() {
        let event: serde_json::Value = serde_json::from_slice(&copy.json).expect("JSON");
        let n = event["data"]["n"].as_u64().expect("a number");
        let copies = copies.entry(n).or_default();
        *copies += 1;
        if *copies == 1 {
            assert!(last.is_none_or(|last| n > last), "{n} came behind {last:?}");
            last = Some(n);
        } else {
            assert!(copy.attempt >= 2, "a repeat of {n} is not marked");
        }
    }
    assert_eq!(copies.len(), 4000);
}

#[test]
fn redis_that_panics_wherever_it_waits_loses_nothing() {
    let redis = Redis::start();
    let url = format!("redis://{USER}:{PASSWORD}@127.0.0.1:{}", redis.port());
    panics(&redis, sinks::redis(url).stream_key("events"));
}

#[test]
fn rabbitmq_that_panics_wherever_it_waits_loses_nothing() {
    let rabbit = Rabbit::on(RabbitNode::shared());
    let (vhost, port) = (&rabbit.vhost, rabbit.port());
    let url = format!("amqp://{USER}-{vhost}:{PASSWORD}@127.0.0.1:{port}/{vhost}");
    panics(
        &rabbit,
        sinks::rabbitmq(url).exchange("events").bind("all", sinks::rabbitmq::QueueConfig::bound(["#"])),
    );
}
