//! The figures of the machine, next to their targets: what an emit costs, what a graph carries, what waits in memory.
//!
//! `cargo bench -p streamll-actors`. Medians of several rounds; the machine is shared, so compare within one run.
#![allow(missing_docs, clippy::disallowed_methods)]

use std::hint::black_box;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use streamll_actors::event::{Context, Event, Step};
use streamll_actors::graph::{GraphHandle, Plan, SinkSpec, Threads};
use streamll_actors::ingress::Emitter;
use streamll_actors::sink::{Deliveries, DeliveryError, Sink, SinkContext};
use tokio::sync::oneshot;

/// The allocator of the command `streamll`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often each figure is measured, and of how many thousand events. `cargo test` runs this file once, with few, to
/// see that it works; `cargo bench` measures.
struct Effort {
    rounds: usize,
    thousands: u64,
}

fn effort() -> Effort {
    let thorough = std::env::args().any(|argument| argument == "--bench");
    if thorough { Effort { rounds: 5, thousands: 2000 } } else { Effort { rounds: 1, thousands: 20 } }
}

/// Encodes every event, and forgets it.
struct Null;

impl Sink for Null {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        batch.iter().for_each(|delivery| {
            black_box(delivery.event.json().len());
        });
        Ok(())
    }
}

/// Is never there.
struct Dead;

impl Sink for Dead {
    async fn open(&mut self, _: &SinkContext) -> Result<(), DeliveryError> {
        Err(DeliveryError::unavailable("connection refused"))
    }

    async fn deliver(&mut self, _: &mut Deliveries) -> Result<(), DeliveryError> {
        Err(DeliveryError::unavailable("connection refused"))
    }
}

/// A graph on threads of its own.
struct Running {
    graph: GraphHandle,
    end: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Running {
    fn start<S: Sink>(make: fn() -> S) -> Running {
        let (started, starting) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let thread = thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let plan = Plan::new("bench").sink(SinkSpec::new("sink", make));
                let graph = GraphHandle::start(plan, Threads::Several).await.expect("the graph starts");
                started.send(graph.clone()).expect("somebody waits for it");
                let _ = ended.await;
                graph.drain(Duration::from_millis(100)).await;
            });
        });
        Running { graph: starting.recv().expect("the graph starts"), end, thread }
    }

    fn end(self) {
        assert!(self.graph.status().balances(), "{:#?}", self.graph.status());
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}

/// The step of the sample: its tokens have about 330 bytes of JSON.
fn step() -> Step {
    let context = Context::empty().with("conversation_id", "conv_123").tag("tenant", "acme");
    Step::new("RagPipeline").method("forward").operation("llm_call").context(&context)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn row(what: &str, figure: String, target: &str) {
    println!("{what:<58} {figure:>22}   {target}");
}

fn emit(emitter: &Emitter, step: &Step, index: u64) {
    black_box(emitter.emit(Event::token(step, "answer", " forty", index)));
}

/// The mean of emits in a row, and the 99th percentile of single ones, in nanoseconds.
fn emit_cost<S: Sink>(make: fn() -> S, rate: Option<u64>) -> (f64, f64) {
    const CHUNK: u64 = 500;
    let Effort { rounds, thousands } = effort();
    let (mut means, mut highs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let running = Running::start(make);
        thread::sleep(Duration::from_millis(50));
        let step = step();
        let mut chunks = Vec::new();
        let began = Instant::now();
        for chunk in 0..thousands / 5 {
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64((chunk * CHUNK) as f64 / rate as f64);
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
            let at = Instant::now();
            (0..CHUNK).for_each(|index| emit(running.graph.emitter(), &step, index));
            chunks.push(at.elapsed().as_nanos() as f64 / CHUNK as f64);
        }
        means.push(chunks.iter().sum::<f64>() / chunks.len() as f64);
        let mut singles: Vec<f64> = (0..thousands * 50)
            .map(|index| {
                if index % CHUNK == 0 && rate.is_some() {
                    thread::sleep(Duration::from_millis(1));
                }
                let at = Instant::now();
                emit(running.graph.emitter(), &step, index);
                at.elapsed().as_nanos() as f64
            })
            .collect();
        singles.sort_by(f64::total_cmp);
        highs.push(singles[singles.len() * 99 / 100]);
        running.end();
    }
    (median(means), median(highs))
}

/// Events a second, and nanoseconds of processor time an event, from `senders` threads to a sink that encodes.
fn throughput(senders: u64) -> (f64, f64) {
    let Effort { rounds, thousands } = effort();
    let events = thousands * 1000;
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let running = Running::start(|| Null);
        let (began, cpu) = (Instant::now(), processor_time());
        let threads: Vec<_> = (0..senders)
            .map(|_| {
                let emitter = running.graph.emitter().clone();
                thread::spawn(move || {
                    let step = step();
                    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                    runtime.block_on(async {
                        for index in 0..events / senders {
                            emitter.send(Event::token(&step, "answer", " forty", index)).await;
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("a sender ends"));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        assert_eq!(runtime.block_on(running.graph.flush()), 0);
        let took = began.elapsed();
        rates.push(events as f64 / took.as_secs_f64());
        costs.push((processor_time() - cpu).as_nanos() as f64 / events as f64);
        assert_eq!(running.graph.status().sinks()[0].balance.delivered, events);
        running.end();
    }
    (median(rates), median(costs))
}

/// User and system time of this process so far, in ticks of 10 ms.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// Resident memory of this process in MB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

fn memory() -> (f64, f64) {
    let running = Running::start(|| Dead);
    thread::sleep(Duration::from_millis(100));
    let idle = resident();
    let step = step();
    // More than fit, so that as many wait as may.
    for index in 0..200_000 {
        emit(running.graph.emitter(), &step, index);
        if index % 10_000 == 0 {
            thread::sleep(Duration::from_millis(5));
        }
    }
    thread::sleep(Duration::from_millis(200));
    let full = resident();
    let waiting = running.graph.status().sinks()[0].balance.waiting;
    println!("{:<58} {waiting:>22}", "  (events waiting when memory was measured)");
    running.end();
    (idle, full)
}

fn main() {
    println!(
        "a token of {} bytes of JSON\n",
        Event::token(&step(), "answer", " forty", 17).json().len() + 95
    );
    println!("{:<58} {:>22}   target", "what", "median");
    let (idle, full) = memory();
    row("memory, idle", format!("{idle:.1} MB"), "≤ 25 MB");
    row("memory, a full buffer waiting behind a dead sink", format!("{full:.1} MB"), "≤ 100 MB");
    let (mean, high) = emit_cost(|| Dead, Some(200_000));
    row("emit of a token at 200,000/s, sink dead: mean", format!("{mean:.0} ns"), "≤ 150 ns");
    row("emit of a token at 200,000/s, sink dead: p99", format!("{high:.0} ns"), "≤ 2,000 ns");
    let (mean, high) = emit_cost(|| Dead, None);
    row("emit of a token as fast as can be, sink dead: mean", format!("{mean:.0} ns"), "≤ 150 ns");
    row("emit of a token as fast as can be, sink dead: p99", format!("{high:.0} ns"), "≤ 2,000 ns");
    for senders in [1, 2] {
        let (rate, cost) = throughput(senders);
        let what = format!("{senders} sender(s) → graph → null sink that encodes");
        row(&what, format!("{:.2} M events/s", rate / 1e6), "≥ 2 M events/s");
        row("  processor time an event, sender included", format!("{cost:.0} ns"), "≤ 500 ns");
    }
}
