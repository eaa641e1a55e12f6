//! How many lines per second the terminal sink writes into a pipe, alone and behind the whole graph.
//!
//! `cargo bench --bench terminal` prints a table with the targets of the design; every figure is the median of some
//! runs, with the slowest and the fastest beside it. `cargo test` runs it once, with few events, to see that it works.

use std::io::{self, Read, Write};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_util::FutureExt as _;
use streamll::sinks::terminal::{Style, Terminal};
use streamll::{Deliveries, Delivery, Event, Sink, SinkSpec, Step, Topology};
use tokio::time::Instant;

/// How many events one delivery holds, as by default.
const BATCH: usize = 256;

fn main() {
    let thorough = std::env::args().any(|argument| argument == "--bench");
    let (events, runs) = if thorough { (1_000_000, 7) } else { (2_000, 1) };
    println!("terminal sink, one line per event, {events} events, median of {runs} (slowest – fastest)\n");
    println!("{:<36} {:>12}   measured", "what", "target");
    row("tokens, nobody reads them", "", runs, || alone(io::sink(), events));
    row("tokens, into a pipe", "1.00 M/s", runs, || {
        let (writer, reader) = read_pipe();
        let rate = alone(writer, events);
        reader.join().expect("the reader ends with the writer");
        rate
    });
    row("emit → terminal, whole graph, pipe", "", runs, || whole_graph(events));
}

/// Prints one line of the table: rates in events per second.
fn row(what: &str, target: &str, runs: usize, measure: impl Fn() -> f64) {
    let mut rates: Vec<f64> = (0..runs).map(|_| measure() / 1e6).collect();
    rates.sort_by(f64::total_cmp);
    let (median, slowest, fastest) = (rates[runs / 2], rates[0], rates[runs - 1]);
    println!("{what:<36} {target:>12}   {median:.2} M/s ({slowest:.2} – {fastest:.2})");
}

/// A pipe, and a thread that reads it to its end.
fn read_pipe() -> (io::PipeWriter, JoinHandle<u64>) {
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let read = move || {
        let (mut chunk, mut lines) = (vec![0; 1 << 16], 0);
        while let Ok(length @ 1..) = reader.read(&mut chunk) {
            lines += chunk[..length].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        lines
    };
    (writer, thread::spawn(read))
}

fn token(step: &Step, index: usize) -> Event {
    Event::token(step, "answer", " forty", index as u64)
}

/// The sink by itself: what it costs to turn batches into lines and write them.
fn alone(out: impl Write + 'static, events: usize) -> f64 {
    let step = Step::new("RagPipeline").operation("llm_call");
    let delivery = |index| Delivery::new(token(&step, index), "ai.rag_pipeline.token".into());
    let batch: Vec<_> = (0..BATCH).map(delivery).collect();
    let mut batches: Vec<_> = (0..events / BATCH).map(|_| Deliveries::new(batch.clone())).collect();
    let mut terminal = Terminal::to(out, Style::default());
    let began = Instant::now();
    for batch in &mut batches {
        terminal.deliver(batch).now_or_never().expect("it never waits").expect("it arrives");
    }
    (batches.len() * BATCH) as f64 / began.elapsed().as_secs_f64()
}

/// From one emitting thread, which waits where the path is full, to the last line in the pipe.
fn whole_graph(events: usize) -> f64 {
    let (writer, reader) = read_pipe();
    let make = move || Terminal::to(writer.try_clone().expect("a second end"), Style::default());
    let handle =
        Topology::builder("bench").sink("terminal", SinkSpec::new("", make)).start().expect("it starts");
    let step = streamll::step("RagPipeline").operation("llm_call");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let began = Instant::now();
    runtime.block_on(async {
        for index in 0..events {
            handle.emitter().send(token(&step, index)).await;
        }
        handle.flush().await;
    });
    let took = began.elapsed().as_secs_f64();
    let ended = handle.shutdown_blocking(Duration::from_secs(10));
    assert!(ended.complete && ended.status.balances(), "{:#?}", ended.status);
    drop(handle);
    drop(reader);
    events as f64 / took
}
