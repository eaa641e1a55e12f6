//! How long an event is under way, from `emit` to the broker's acknowledgement, at a steady rate.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use streamll::sinks;
use streamll::sinks::rabbitmq::QueueType;
use streamll::topology::IntoSink;
use streamll::{Deliveries, Delivery, DeliveryError, Sink, SinkContext, SinkSpec, Timestamp, Topology};
use tokio::time::Instant;

use super::{KEY, STREAM, declared, in_runtime, open, runtime, step, token};
use support::servers::{RabbitNode, RedisServer};

/// Prints the latencies of both sinks at the rates of the design.
pub(crate) fn measure(time: Duration) {
    println!("emit → acknowledged, in µs{:>32} {:>8} {:>8} {:>8}   target", "p50", "p90", "p99", "max");
    let server = RedisServer::start();
    let micros = round_trips(sinks::redis(server.url()).stream_key(STREAM).build().expect("a sink"), time);
    row("Redis, the sink alone, one event after another", "", micros);
    for rate in [1_000, 10_000, 50_000] {
        server.cli(&["DEL", STREAM]);
        let config = sinks::redis(server.url()).stream_key(STREAM);
        let like = config.clone().into_sink("x");
        let target = if rate == 10_000 { "p50 150, p99 2000" } else { "" };
        row(
            &format!("Redis, {rate}/s"),
            target,
            under_way(like, move || config.build().expect("a sink"), rate, time),
        );
    }
    let node = RabbitNode::start();
    // The last is more than it takes: what waits grows, and so does the time.
    for rate in [1_000, 10_000, 50_000] {
        let config = declared(&node.url(&node.vhost()), QueueType::Classic);
        let like = config.clone().into_sink("x");
        let build = move || config.build().expect("a sink");
        row(&format!("RabbitMQ, classic queue, {rate}/s"), "", under_way(like, build, rate, time));
    }
}

fn row(name: &str, target: &str, mut micros: Vec<i64>) {
    micros.sort_unstable();
    let at = |share: f64| micros.get((micros.len() as f64 * share) as usize).copied().unwrap_or_default();
    let max = micros.last().copied().unwrap_or_default();
    println!("  {name:<46} {:>8} {:>8} {:>8} {max:>8}   {target}", at(0.5), at(0.9), at(0.99));
}

/// What a delivery of one event takes, without a graph in front.
fn round_trips(mut sink: impl Sink, time: Duration) -> Vec<i64> {
    let step = step();
    in_runtime(async move {
        open(&mut sink).await;
        let (until, mut micros) = (Instant::now() + time, Vec::new());
        while Instant::now() < until {
            let mut one = Deliveries::new(vec![Delivery::new(token(&step, micros.len()), KEY.into())]);
            let begun = Instant::now();
            sink.deliver(&mut one).await.expect("it arrives");
            micros.push(i64::try_from(begun.elapsed().as_micros()).unwrap_or(i64::MAX));
        }
        micros
    })
}

/// Writes down when its sink's events were acknowledged.
struct Timed<S> {
    sink: S,
    micros: Arc<Mutex<Vec<i64>>>,
}

impl<S: Sink> Sink for Timed<S> {
    async fn open(&mut self, ctx: &SinkContext) -> Result<(), DeliveryError> {
        self.sink.open(ctx).await
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        self.sink.deliver(batch).await?;
        let now = Timestamp::now().as_micros();
        let took = batch.iter().map(|delivery| now - delivery.event.timestamp().as_micros());
        self.micros.lock().expect("nobody panics").extend(took);
        Ok(())
    }

    async fn close(&mut self) {
        self.sink.close().await;
    }
}

/// Emits at that rate for that time, after a second of warming up.
fn under_way<S: Sink>(
    like: SinkSpec,
    make: impl Fn() -> S + Send + Sync + 'static,
    rate: u64,
    time: Duration,
) -> Vec<i64> {
    let micros = Arc::new(Mutex::new(Vec::new()));
    let timed = micros.clone();
    let mut spec = SinkSpec::new("live", move || Timed { sink: make(), micros: timed.clone() });
    (spec.batch, spec.placement) = (like.batch, like.placement);
    let handle = Topology::builder("bench").sink("live", spec).start().expect("it starts");
    let step = step();
    let warm = time / 4;
    let (began, mut sent, mut is_warm) = (Instant::now(), 0, false);
    while began.elapsed() < warm + time {
        if !is_warm && began.elapsed() > warm {
            micros.lock().expect("nobody panics").clear();
            is_warm = true;
        }
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        for index in sent..due {
            handle.emit(token(&step, index as usize));
        }
        sent = due;
        thread::sleep(Duration::from_micros(50));
    }
    runtime().block_on(handle.flush());
    let ended = handle.shutdown_blocking(Duration::from_secs(10));
    assert!(ended.status.balances(), "{:#?}", ended.status);
    std::mem::take(&mut *micros.lock().expect("nobody panics"))
}
