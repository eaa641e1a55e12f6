//! How fast a consumer reads, handles and acknowledges, beside a bare loop of each broker's client in the same run.
//!
//! `cargo bench --bench consume` starts servers of its own and prints tables with the targets; every figure is the median
//! of some rounds, in each of which everything is measured in turn. `cargo test` runs it once, with few events.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use streamll::Event;
use streamll::consume::Consumer;
use support::servers::{RabbitNode, RedisServer};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STREAM: &str = "bench";
/// Entries of one read, or messages in hand.
const WINDOW: usize = 1000;

fn main() {
    let thorough = std::env::args().any(|argument| argument == "--bench");
    let (events, rounds) = if thorough { (200_000, 5) } else { (2_000, 1) };
    println!("a token of {} bytes of JSON; broker and client share the processor\n", json(0).len());
    redis(events, rounds);
    rabbitmq(if thorough { 100_000 } else { 2_000 }, rounds);
}

fn redis(events: usize, rounds: usize) {
    let server = RedisServer::start();
    fill_redis(&server, events);
    let mut table = Table::new(&format!("Redis Streams, a group, acknowledged, {events} events"), 100_000.0);
    for round in 0..rounds {
        let rate = run(bare_redis(&server, &format!("bare-{round}"), events, |_| ()));
        table.add("a bare loop: XREADGROUP, XACK, nothing read", rate);
        let parse = |json: &[u8]| assert!(serde_json::from_slice::<serde_json::Value>(json).is_ok());
        let rate = run(bare_redis(&server, &format!("parse-{round}"), events, parse));
        table.add("the same, each parsed with serde_json", rate);
        for workers in [1, 4] {
            let consumer = Consumer::connect(server.url(), STREAM).group(format!("{workers}-{round}"));
            let rate = run(consume(consumer.workers(workers).prefetch(4096), events, false));
            table.add(&format!("a consumer, sync handler, {workers} workers"), rate);
        }
        let consumer = Consumer::connect(server.url(), STREAM).group(format!("async-{round}"));
        let consumer =
            consumer.filter("data.conversation_id", "conv_1").skip_duplicates(10_000).prefetch(4096);
        let rate = run(consume(consumer, events, true));
        table.add("a consumer, async handler, filter, duplicates", rate);
    }
    table.print();
}

fn rabbitmq(events: usize, rounds: usize) {
    let node = RabbitNode::start();
    let mut table =
        Table::new(&format!("RabbitMQ, a classic queue, prefetch, acknowledged, {events} events"), 20_000.0);
    for _ in 0..rounds {
        let filled = || {
            let vhost = node.vhost();
            run(fill_rabbit(&node, &vhost, events));
            node.url(&vhost)
        };
        table.add("a bare lapin loop, acknowledging by the hundred", run(bare_rabbit(filled(), events)));
        for workers in [1, 4] {
            let consumer = Consumer::connect(filled(), "").group(STREAM).workers(workers);
            let rate = run(consume(consumer, events, false));
            table.add(&format!("a consumer, sync handler, {workers} workers"), rate);
        }
    }
    table.print();
}

fn json(n: usize) -> String {
    format!(
        r#"{{"event_id":"019a9f9e-57a8-7e2e-8cbb-{n:012}","execution_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7","parent_id":null,"timestamp":"2026-11-21T03:20:15.842142Z","module_name":"RagPipeline","method_name":"forward","event_type":"token","operation":"llm_call","topic":"ai.rag_pipeline.token","source":"rag-api-7f3a","seq":{n},"data":{{"field":"answer","token":" forty","token_index":{n},"conversation_id":"conv_1"}},"tags":{{"service":"rag-api"}}}}"#
    )
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

/// Handles so many events, and waits until all are acknowledged.
async fn consume(consumer: Consumer, events: usize, is_async: bool) -> Rate {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let note = move |event: Event| {
        if event.data("token").is_some() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let consumer = match is_async {
        true => {
            let note = Arc::new(note);
            consumer.on("token", move |event| {
                let note = note.clone();
                async move { note(event) }
            })
        }
        false => consumer.on("token", note),
    };
    let handle = consumer.handle();
    let clock = Clock::start();
    let running = tokio::spawn(consumer.run());
    while handled.load(Ordering::Relaxed) < events {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    handle.stop();
    let status = running.await.expect("it does not panic").expect("it is made well");
    let rate = clock.rate(events);
    assert!(status.balances() && status.balance.handled as usize == events, "{status:#?}");
    rate
}

fn fill_redis(server: &RedisServer, events: usize) {
    let mut redis =
        redis::Client::open(server.url()).and_then(|client| client.get_connection()).expect("it answers");
    for first in (0..events).step_by(WINDOW) {
        let mut adds = redis::pipe();
        (first..first + WINDOW.min(events - first)).for_each(|n| {
            adds.cmd("XADD").arg(STREAM).arg("*").arg("event").arg(json(n)).ignore();
        });
        adds.exec(&mut redis).expect("they are added");
    }
}

/// What the client can do by itself.
async fn bare_redis(server: &RedisServer, group: &str, events: usize, each: impl Fn(&[u8])) -> Rate {
    type Entries = Vec<(String, Vec<(String, Vec<u8>)>)>;
    let client = redis::Client::open(server.url()).expect("an address");
    let mut redis = client.get_multiplexed_async_connection().await.expect("it answers");
    let mut make = redis::cmd("XGROUP");
    make.arg("CREATE").arg(STREAM).arg(group).arg("0").exec_async(&mut redis).await.expect("a group");
    let clock = Clock::start();
    let mut seen = 0;
    while seen < events {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(group).arg("c").arg("COUNT").arg(WINDOW).arg("STREAMS").arg(STREAM).arg(">");
        let mut streams: Vec<(String, Entries)> = read.query_async(&mut redis).await.expect("entries");
        let (_, entries) = streams.pop().expect("a stream");
        let mut acknowledge = redis::cmd("XACK");
        acknowledge.arg(STREAM).arg(group);
        for (id, fields) in &entries {
            each(&fields[0].1);
            acknowledge.arg(id);
        }
        acknowledge.exec_async(&mut redis).await.expect("acknowledged");
        seen += entries.len();
    }
    clock.rate(events)
}

async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("it answers");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

async fn fill_rabbit(node: &RabbitNode, vhost: &str, events: usize) {
    let (connection, channel) = channel(&node.url(vhost)).await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(STREAM.into(), durable, FieldTable::default()).await.expect("a queue");
    channel.confirm_select(Default::default()).await.expect("confirms");
    let mut confirms = Vec::new();
    for n in 0..events {
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let (options, body) = (BasicPublishOptions::default(), json(n));
        let sent = channel.basic_publish("".into(), STREAM.into(), options, body.as_bytes(), persistent);
        confirms.push(sent.await.expect("it is sent"));
        if confirms.len() == WINDOW {
            for confirm in confirms.drain(..) {
                confirm.await.expect("a confirm");
            }
        }
    }
    for confirm in confirms {
        confirm.await.expect("a confirm");
    }
    connection.close(200, "done".into()).await.expect("it closes");
}

async fn bare_rabbit(url: String, events: usize) -> Rate {
    let (connection, channel) = channel(&url).await;
    channel.basic_qos(WINDOW as u16, Default::default()).await.expect("a prefetch");
    let clock = Clock::start();
    let consumer = channel.basic_consume(STREAM.into(), "".into(), Default::default(), FieldTable::default());
    let mut consumer = consumer.await.expect("a consumer");
    for n in 1..=events {
        let delivery = consumer.next().await.expect("a message").expect("whole");
        if n % 100 == 0 || n == events {
            let options = BasicAckOptions { multiple: true };
            channel.basic_ack(delivery.delivery_tag, options).await.expect("acknowledged");
        }
    }
    let rate = clock.rate(events);
    connection.close(200, "done".into()).await.expect("it closes");
    rate
}

/// What was measured: events a second, and microseconds of this process' processor time for each.
struct Rate {
    events: f64,
    processor: f64,
}

struct Clock(Instant, Duration);

impl Clock {
    fn start() -> Clock {
        Clock(Instant::now(), processor())
    }

    fn rate(&self, events: usize) -> Rate {
        let (events, spent) = (events as f64, processor() - self.1);
        Rate {
            events: events / self.0.elapsed().as_secs_f64(),
            processor: spent.as_secs_f64() * 1e6 / events,
        }
    }
}

/// The processor time of this process so far.
fn processor() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or_default())
}

/// Rates, the first of them the bare loop's.
struct Table {
    title: String,
    target: f64,
    rows: Vec<(String, Vec<Rate>)>,
}

impl Table {
    fn new(title: &str, target: f64) -> Table {
        Table { title: title.to_owned(), target, rows: Vec::new() }
    }

    fn add(&mut self, name: &str, rate: Rate) {
        match self.rows.iter_mut().find(|row| row.0 == name) {
            Some(row) => row.1.push(rate),
            None => self.rows.push((name.to_owned(), vec![rate])),
        }
    }

    fn print(&self) {
        println!(
            "{:<64} {:>10} {:>8} {:>10} {:>13}",
            self.title, "events/s", "ratio", "target", "µs of client"
        );
        let bare = &self.rows[0].1;
        for (name, rates) in &self.rows {
            let ratio = median(rates.iter().zip(bare).map(|(rate, bare)| rate.events / bare.events));
            let target =
                if name.starts_with("a consumer") { format!("{:.0}", self.target) } else { String::new() };
            let events = median(rates.iter().map(|rate| rate.events));
            let processor = median(rates.iter().map(|rate| rate.processor));
            println!("  {name:<62} {events:>10.0} {ratio:>8.2} {target:>10} {processor:>13.2}");
        }
        println!();
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
