//! The figures of disk buffers: how many events are held durably, what an emit costs beside one, how fast what waits is read.
//!
//! `cargo bench -p streamll-actors --bench disk`. Medians; the disk is shared, so compare within one run.
#![allow(missing_docs, clippy::disallowed_methods)]

use std::hint::black_box;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use streamll_actors::event::{Confirmation, Context, Event, Step};
use streamll_actors::graph::{Drained, GraphHandle, Plan, SinkSpec, Threads};
use streamll_actors::ingress::Patience;
use streamll_actors::sink::{BufferPolicy, Deliveries, DeliveryError, Fsync, Sink, SinkContext};
use tokio::sync::oneshot;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `cargo test` runs this file once, with few events, to see that it works.
fn is_thorough() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

struct Null;

impl Sink for Null {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        batch.iter().for_each(|delivery| {
            black_box(delivery.event.json().len());
        });
        Ok(())
    }
}

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
    thread: thread::JoinHandle<Drained>,
}

impl Running {
    fn start<S: Sink>(data: &Path, buffer: BufferPolicy, make: fn() -> S) -> Running {
        let (started, starting) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let data = data.to_owned();
        let thread = thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let mut plan = Plan::new("bench").sink(SinkSpec { buffer, ..SinkSpec::new("sink", make) });
                plan.data_dir = data;
                let graph = GraphHandle::start(plan, Threads::Several).await.expect("the graph starts");
                started.send(graph.clone()).expect("somebody waits for it");
                let _ = ended.await;
                graph.drain(Duration::from_secs(60)).await
            })
        });
        Running { graph: starting.recv().expect("the graph starts"), end, thread }
    }

    fn end(self) -> Drained {
        let _ = self.end.send(());
        let drained = self.thread.join().expect("it ends");
        assert!(drained.status.balances(), "{:#?}", drained.status);
        drained
    }
}

fn step() -> Step {
    let context = Context::empty().with("conversation_id", "conv_123");
    Step::new("RagPipeline").operation("llm_call").context(&context)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn row(what: &str, figure: String) {
    println!("{what:<66} {figure:>22}");
}

/// Events a second that are confirmed, so many at a time.
fn durable(batch: u64, fsync: Fsync) -> f64 {
    let (rounds, span) = if is_thorough() { (5, 1.5) } else { (1, 0.05) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let rates = (0..rounds).map(|_| {
        let folder = tempfile::tempdir_in(".").expect("a folder");
        let buffer = BufferPolicy { disk: Some(fsync), ..BufferPolicy::disk() };
        let running = Running::start(folder.path(), buffer, || Dead);
        let (step, began) = (step(), Instant::now());
        let mut held = 0;
        while began.elapsed().as_secs_f64() < span {
            runtime.block_on(async {
                let mut sent = Vec::new();
                for n in 0..batch {
                    let event = Event::token(&step, "answer", " forty", n);
                    sent.push(running.graph.emitter().send_with_receipt(event, Patience::Healthy).await);
                }
                for one in sent {
                    assert_eq!(one.confirmation().await, Confirmation::Held(1));
                    held += 1;
                }
            });
        }
        let rate = f64::from(held) / began.elapsed().as_secs_f64();
        running.end();
        rate
    });
    median(rates.collect())
}

/// The same with a file alone: one write and one sync for each batch.
fn bare(batch: usize) -> f64 {
    let (rounds, span) = if is_thorough() { (5, 1.5) } else { (1, 0.05) };
    let event = Event::token(&step(), "answer", " forty", 17);
    let json = event.json();
    let bytes = json.repeat(batch);
    let rates = (0..rounds).map(|_| {
        let folder = tempfile::tempdir_in(".").expect("a folder");
        let file = std::fs::File::create(folder.path().join("bare")).expect("a file");
        let (mut held, mut at, began) = (0_usize, 0, Instant::now());
        while began.elapsed().as_secs_f64() < span {
            file.write_all_at(&bytes, at).and_then(|()| file.sync_data()).expect("it is written");
            at += bytes.len() as u64;
            held += batch;
        }
        held as f64 / began.elapsed().as_secs_f64()
    });
    median(rates.collect())
}

/// Nanoseconds of an emit in the caller, with the sink dead.
fn emit_cost(buffer: BufferPolicy) -> f64 {
    let (rounds, events) = if is_thorough() { (7, 200_000) } else { (1, 2_000) };
    let costs = (0..rounds).map(|_| {
        let folder = tempfile::tempdir_in(".").expect("a folder");
        let running = Running::start(folder.path(), buffer, || Dead);
        thread::sleep(Duration::from_millis(50));
        let step = step();
        let mut spent = Duration::ZERO;
        for chunk in 0..events / 500_u64 {
            let began = Instant::now();
            for n in 0..500 {
                black_box(running.graph.emitter().emit(Event::token(
                    &step,
                    "answer",
                    " forty",
                    chunk * 500 + n,
                )));
            }
            spent += began.elapsed();
            thread::sleep(Duration::from_micros(2500));
        }
        running.end();
        spent.as_nanos() as f64 / events as f64
    });
    median(costs.collect())
}

/// Seconds to open a buffer in which so many events wait, and to deliver all of them.
fn replay(events: u64) -> (f64, f64) {
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let running = Running::start(folder.path(), BufferPolicy::disk(), || Dead);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let step = step();
    runtime.block_on(async {
        for n in 0..events {
            let event = Event::token(&step, "answer", " forty", n);
            running.graph.emitter().send_patiently(event, Patience::Open).await;
        }
    });
    let numbers = running.end().status.sinks()[0].balance;
    assert_eq!((numbers.shed, numbers.on_disk), (0, events));
    let began = Instant::now();
    let running = Running::start(folder.path(), BufferPolicy::disk(), || Null);
    let opened = began.elapsed().as_secs_f64();
    while running.graph.status().sinks()[0].balance.waiting > 0 {
        thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed().as_secs_f64();
    assert_eq!(running.graph.status().sinks()[0].balance.delivered, events);
    running.end();
    (opened, took)
}

fn main() {
    let _ = std::io::stdout().flush();
    println!("events of {} bytes\n", Event::token(&step(), "answer", " forty", 17).json().len() + 95);
    for batch in [16, 128, 1024] {
        let (ours, alone) = (durable(batch, Fsync::Group), bare(batch as usize));
        row(&format!("durable events/s, {batch} confirmed at a time"), format!("{ours:.0}"));
        row("  of a file alone, one write and one sync for each", format!("{:.2}", ours / alone));
    }
    row("events/s, 1024 confirmed at a time, `fsync: never`", format!("{:.0}", durable(1024, Fsync::Never)));
    let (memory, disk) = (emit_cost(BufferPolicy::default()), emit_cost(BufferPolicy::disk()));
    row("emit at 200,000/s, sink dead, memory buffer", format!("{memory:.0} ns"));
    row("emit at 200,000/s, sink dead, disk buffer", format!("{disk:.0} ns"));
    let events = if is_thorough() { 1_000_000 } else { 5_000 };
    let (opened, took) = replay(events);
    row(&format!("{events} waiting: to open"), format!("{opened:.2} s"));
    row(&format!("{events} waiting: until all are delivered"), format!("{took:.2} s"));
}
