//! How fast the broker sinks are beside what their brokers can take in the same run, and how long an event is under way.
//!
//! `cargo bench --bench brokers` starts servers of its own and prints tables with the targets of the design; every
//! figure is the median of some rounds, in each of which everything is measured in turn, and a ratio is the median of
//! the ratios of the rounds. `cargo test` runs it once, with few events, to see that it works.

mod bare;
mod cluster;
mod latency;

use std::future::Future;
use std::process::Command;
use std::time::Duration;

use bare::Dress;
use streamll::sinks::rabbitmq::{QueueConfig, QueueType, RabbitMqConfig};
use streamll::sinks::{self, redis::Ordering};
use streamll::topology::IntoSink;
use streamll::{BatchPolicy, Context, Deliveries, Delivery, Event, Sink, SinkContext, Step, Topology};
use support::servers::{RabbitNode, RedisServer};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STREAM: &str = "bench";
const EXCHANGE: &str = "bench";
const KEY: &str = "ai.rag_pipeline.token";

fn main() {
    let thorough = std::env::args().any(|argument| argument == "--bench");
    let only = std::env::args()
        .find(|argument| ["redis", "rabbitmq", "cluster", "latency"].contains(&argument.as_str()));
    let wants = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let rounds = if thorough { 5 } else { 1 };
    println!(
        "a token of {} bytes of JSON; broker and client share the processor\n",
        token(&step(), 0).json().len()
    );
    if wants("redis") {
        redis(if thorough { 400_000 } else { 4_000 }, rounds);
    }
    if wants("rabbitmq") {
        rabbitmq(if thorough { 60_000 } else { 2_000 }, rounds);
    }
    if wants("cluster") {
        cluster::measure(if thorough { 300_000 } else { 4_000 }, rounds);
    }
    if wants("latency") {
        latency::measure(if thorough { Duration::from_secs(4) } else { Duration::from_millis(100) });
    }
}

fn redis(events: usize, rounds: usize) {
    let server = RedisServer::start();
    let config = |ordering| sinks::redis(server.url()).stream_key(STREAM).ordering(ordering);
    let clear = || server.cli(&["DEL", STREAM]);
    let mut table =
        Table::new(&format!("Redis Streams, {events} events"), "redis-benchmark XADD, one connection");
    for _ in 0..rounds {
        let best = [256, 1024].map(|pipelining| {
            clear();
            redis_benchmark(&server, events, pipelining)
        });
        table.bare(Rate { events: best[0].max(best[1]), processor: f64::NAN });
        for (ordering, name, target) in
            [(Ordering::Strict, "strict", 0.65), (Ordering::Pipelined, "pipelined", 0.75)]
        {
            clear();
            let batch = config(ordering).into_sink("x").batch;
            let rate = alone(config(ordering).build().expect("a sink"), batch, events, &[step()]);
            table.row(&format!("the sink alone, {name}"), target, rate);
            clear();
            table.row(
                &format!("emit → acknowledged, whole graph, {name}"),
                target,
                whole_graph(config(ordering), events),
            );
            assert_eq!(server.cli(&["XLEN", STREAM]), events.to_string());
        }
    }
    table.print();
}

/// What the server's own benchmark reaches with events of the same length.
fn redis_benchmark(server: &RedisServer, events: usize, pipelining: usize) -> f64 {
    let json = String::from_utf8(token(&step(), 0).json().to_vec()).expect("JSON is UTF-8");
    let port = server.port().to_string();
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &port, "-c", "1", "--csv", "-n", &events.to_string()])
        .args(["-P", &pipelining.to_string(), "XADD", STREAM, "*", "event", &json])
        .output()
        .expect("redis-benchmark is there: tests/run installs it");
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().last().and_then(|line| line.rsplit("\",\"").nth(6)?.parse().ok());
    rate.unwrap_or_else(|| panic!("no rate in {text}"))
}

fn rabbitmq(events: usize, rounds: usize) {
    let node = RabbitNode::start();
    for (kind, name) in
        [(QueueType::Classic, "classic"), (QueueType::Quorum, "quorum"), (QueueType::Stream, "stream")]
    {
        let title = format!("RabbitMQ, {name} queue, persistent, confirmed, {events} events");
        let mut table = Table::new(&title, "a bare lapin loop, the same messages, window 1024");
        for _ in 0..rounds {
            // A queue of its own for each, as one that holds much is slower.
            let fresh = || node.url(&node.vhost());
            let config = |url: &str| declared(url, kind);
            let url = fresh();
            table.bare(in_runtime(bare::publish(&url, &config(&url), events, Dress::Full)));
            let url = fresh();
            let scant = in_runtime(bare::publish(&url, &config(&url), events, Dress::Scant));
            table.row("the same without headers and most properties", f64::NAN, scant);
            let sink = config(&fresh());
            let batch = sink.clone().into_sink("x").batch;
            table.row("the sink alone", 0.95, alone(sink.build().expect("a sink"), batch, events, &[step()]));
            table.row("emit → confirmed, whole graph", 0.95, whole_graph(config(&fresh()), events));
        }
        table.print();
    }
}

/// One queue for everything.
fn declared(url: &str, kind: QueueType) -> RabbitMqConfig {
    sinks::rabbitmq(url).exchange(EXCHANGE).bind("all", QueueConfig::bound(["ai.#"]).kind(kind))
}

/// Opens a sink; a broker that is still busy with what it was given before may take several attempts.
async fn open(sink: &mut impl Sink) {
    let context = SinkContext::detached("bench");
    for _ in 0..10 {
        if sink.open(&context).await.is_ok() {
            return;
        }
    }
    sink.open(&context).await.expect("it opens");
}

/// The sink by itself, on batches as large as it likes them.
fn alone(mut sink: impl Sink, policy: BatchPolicy, events: usize, steps: &[Step]) -> Rate {
    let delivery = |index| Delivery::new(token(&steps[index % steps.len()], index), KEY.into());
    in_runtime(async move {
        open(&mut sink).await;
        let mut measured = 0;
        let clock = Clock::start();
        while measured < events {
            let size = policy.max_events.min(events - measured);
            let mut batch = Deliveries::new((measured..measured + size).map(delivery).collect());
            sink.deliver(&mut batch).await.expect("it arrives");
            measured += size;
        }
        let rate = clock.rate(events);
        sink.close().await;
        rate
    })
}

/// From one emitting thread, which waits where the path is full, to the last acknowledgement.
fn whole_graph(sink: impl IntoSink, events: usize) -> Rate {
    let handle = Topology::builder("bench").sink("live", sink).start().expect("it starts");
    let step = step();
    let rate = runtime().block_on(async {
        let clock = Clock::start();
        for index in 0..events {
            handle.emitter().send(token(&step, index)).await;
        }
        assert_eq!(handle.flush().await, 0, "{}", handle.sink("live").expect("it is there").status());
        clock.rate(events)
    });
    let ended = handle.shutdown_blocking(Duration::from_secs(10));
    assert!(ended.complete && ended.status.balances(), "{:#?}", ended.status);
    rate
}

fn step() -> Step {
    Step::new("RagPipeline")
        .operation("llm_call")
        .context(&Context::empty().with("conversation_id", "conv_123"))
}

/// A step each.
fn conversations(count: usize) -> Vec<Step> {
    let id = |i| Context::empty().with("conversation_id", format!("conv_{i}"));
    (0..count).map(|i| step().context(&id(i))).collect()
}

fn token(step: &Step, index: usize) -> Event {
    Event::token(step, "answer", " forty", index as u64)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// As an arbiter does it: one thread, with tasks that stay on it.
fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    LocalSet::new().block_on(&runtime(), future)
}

/// Events per second, and the processor time of this process for one, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Rate {
    events: f64,
    processor: f64,
}

struct Clock {
    began: Instant,
    processor: Duration,
}

impl Clock {
    fn start() -> Clock {
        Clock { began: Instant::now(), processor: processor() }
    }

    fn rate(&self, events: usize) -> Rate {
        let spent = processor().saturating_sub(self.processor);
        Rate {
            events: events as f64 / self.began.elapsed().as_secs_f64(),
            processor: spent.as_secs_f64() * 1e6 / events as f64,
        }
    }
}

/// The processor time of this process, all threads together.
fn processor() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or_default())
}

/// What was measured, round by round, against the bare client of the same round.
struct Table {
    title: String,
    bare: (&'static str, Vec<Rate>),
    rows: Vec<(String, f64, Vec<Rate>)>,
}

impl Table {
    fn new(title: &str, bare: &'static str) -> Table {
        Table { title: title.to_owned(), bare: (bare, Vec::new()), rows: Vec::new() }
    }

    fn bare(&mut self, rate: Rate) {
        self.bare.1.push(rate);
    }

    fn row(&mut self, name: &str, target: f64, rate: Rate) {
        match self.rows.iter_mut().find(|row| row.0 == name) {
            Some(row) => row.2.push(rate),
            None => self.rows.push((name.to_owned(), target, vec![rate])),
        }
    }

    fn print(&self) {
        let (name, bare) = &self.bare;
        println!(
            "{:<48} {:>12} {:>8} {:>8} {:>12}",
            self.title, "events/s", "ratio", "target", "µs of client"
        );
        let line = |name: &str, rates: &[Rate], ratio: &str, target: &str| {
            let events = median(rates.iter().map(|rate| rate.events));
            let processor = median(rates.iter().map(|rate| rate.processor));
            let processor = if processor.is_nan() { String::new() } else { format!("{processor:.2}") };
            println!("  {name:<46} {events:>12.0} {ratio:>8} {target:>8} {processor:>12}");
        };
        line(name, bare, "", "");
        for (name, target, rates) in &self.rows {
            let ratio = median(rates.iter().zip(bare).map(|(rate, bare)| rate.events / bare.events));
            let target = if target.is_nan() { String::new() } else { format!("{target:.2}") };
            line(name, rates, &format!("{ratio:.2}"), &target);
        }
        println!();
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
