//! What `#[instrument]` adds to a call, with every sink dead and with nothing installed.
//!
//! `cargo bench --bench instrument` prints a table with the target of the design; every figure is the median of some runs,
//! with the fastest and the slowest beside it. `cargo test` runs it once, with few calls, to see that it works.

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use streamll::{Deliveries, DeliveryError, Sink, SinkContext, SinkSpec, Topology, instrument, trace};

/// The allocator of the command `streamll`.
#[cfg(feature = "cli")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many calls are timed at once.
const CHUNK: u32 = 64;
/// Between two chunks at 50,000 calls a second.
const PACE: Duration = Duration::from_micros(1280);

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

/// The same method four times over: plain and instrumented, now and later.
struct RagPipeline {
    top_k: usize,
}

impl RagPipeline {
    #[inline(never)]
    fn plain(&self, question: &str) -> Result<usize, String> {
        Ok(black_box(question.len() * self.top_k))
    }

    #[instrument]
    #[inline(never)]
    fn instrumented(&self, question: &str) -> Result<usize, String> {
        Ok(black_box(question.len() * self.top_k))
    }

    #[instrument(inputs = false, outputs = false)]
    #[inline(never)]
    fn bare(&self, question: &str) -> Result<usize, String> {
        Ok(black_box(question.len() * self.top_k))
    }

    async fn plain_later(&self, question: &str) -> Result<usize, String> {
        Ok(black_box(question.len() * self.top_k))
    }

    #[instrument]
    async fn instrumented_later(&self, question: &str) -> Result<usize, String> {
        Ok(black_box(question.len() * self.top_k))
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("it never waits"),
    }
}

fn main() {
    let thorough = std::env::args().any(|argument| argument == "--bench");
    let (calls, runs) = if thorough { (100_000, 7) } else { (2 * CHUNK, 1) };
    let pipeline = RagPipeline { top_k: 3 };
    let question = black_box("What is six times seven?");
    println!("one call, {calls} calls, median of {runs} (fastest – slowest)\n");
    println!("{:<58} {:>10}   measured", "what", "target");
    for (rate, pace) in [("50,000/s", Some(PACE)), ("as fast as can be", None)] {
        println!("every sink dead, {rate}");
        let row = |what: &str, target: &str, call: &dyn Fn()| {
            row(what, target, runs, &|| with_dead_sinks(|| cost(calls, pace, call)));
        };
        row("  a plain function", "", &|| drop(black_box(pipeline.plain(question))));
        row("  instrumented", "< 1000 ns", &|| drop(black_box(pipeline.instrumented(question))));
        row("  instrumented, no inputs and outputs", "< 1000 ns", &|| {
            drop(black_box(pipeline.bare(question)))
        });
        row("  a plain async function", "", &|| drop(black_box(now(pipeline.plain_later(question)))));
        row("  instrumented", "< 1000 ns", &|| drop(black_box(now(pipeline.instrumented_later(question)))));
    }
    println!("nothing installed");
    row("  instrumented", "", runs, &|| {
        cost(calls, None, &|| drop(black_box(pipeline.instrumented(question))))
    });
}

/// Prints one line of the table: nanoseconds for a call.
fn row(what: &str, target: &str, runs: usize, measure: &dyn Fn() -> f64) {
    let mut costs: Vec<f64> = (0..runs).map(|_| measure()).collect();
    costs.sort_by(f64::total_cmp);
    let (median, fastest, slowest) = (costs[runs / 2], costs[0], costs[runs - 1]);
    println!("{what:<58} {target:>10}   {median:.0} ns ({fastest:.0} – {slowest:.0})");
}

/// In a scope of a topology that delivers nothing.
fn with_dead_sinks(measure: impl FnOnce() -> f64) -> f64 {
    let dead = SinkSpec::new("", || Dead);
    let handle = Topology::builder("bench").sink("dead", dead).start().expect("it starts");
    let scope = trace("bench").to(handle.emitter()).enter();
    let cost = measure();
    drop(scope);
    let ended = handle.shutdown_blocking(Duration::ZERO);
    assert!(ended.status.balances(), "{:#?}", ended.status);
    cost
}

/// The mean of so many calls, in nanoseconds of this thread's processor time: others on the machine do not count, nor do the
/// pauses between the chunks.
fn cost(calls: u32, pace: Option<Duration>, call: &dyn Fn()) -> f64 {
    let mut took = Duration::ZERO;
    for _ in 0..calls / CHUNK {
        let began = processor_time();
        (0..CHUNK).for_each(|_| call());
        let chunk = processor_time().saturating_sub(began);
        took += chunk;
        if let Some(pace) = pace {
            thread::sleep(pace.saturating_sub(chunk));
        }
    }
    took.as_secs_f64() * 1e9 / f64::from(calls / CHUNK * CHUNK)
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
