//! What a token costs the application that streams it, through the adapter and by hand, with every sink dead.
//!
//! `cargo bench --bench tokens` prints a table with the targets of the design; every figure is the median of some runs, with
//! the fastest and the slowest beside it. `cargo test` runs it once, with few tokens, to see that it works.

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use streamll::{
    Deliveries, DeliveryError, Event, Handle, Sink, SinkContext, SinkSpec, TokenStream as _, Topology, trace,
};
use tokio::time::Instant;
use tokio_stream::Stream;

/// The allocator of the command `streamll`.
#[cfg(feature = "cli")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many tokens are timed at once.
const CHUNK: u64 = 64;
/// Between two chunks at 200,000 tokens a second.
const PACE: Duration = Duration::from_micros(320);
/// How many tokens one stream has.
const ANSWER: u64 = 1024;

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

fn main() {
    let thorough = std::env::args().any(|argument| argument == "--bench");
    let (tokens, runs) = if thorough { (400_000, 7) } else { (2 * ANSWER, 1) };
    println!("one token, every sink dead, {tokens} tokens, median of {runs} (fastest – slowest)\n");
    println!("{:<58} {:>10}   measured", "what", "target");
    for (rate, pace) in [("200,000/s", Some(PACE)), ("as fast as can be", None)] {
        let print = |what: &str, target: &str, cost: &dyn Fn(&Handle) -> Duration| {
            row(&format!("{what}, {rate}"), target, tokens, runs, cost);
        };
        print("the stream alone", "", &|_| streams(tokens, pace, words));
        print("emitted by hand", "≤ 150 ns", &|handle| by_hand(handle, tokens, pace));
        print("through the adapter", "≤ 250 ns", &|handle| {
            streams(tokens, pace, || words().tokens("answer", |word| Some(*word)).to(handle.emitter()))
        });
        print("through the adapter, without the text", "≤ 250 ns", &|handle| {
            streams(tokens, pace, || {
                words().tokens("answer", |word| Some(*word)).outputs(false).to(handle.emitter())
            })
        });
    }
}

/// Prints one line of the table: nanoseconds for a token.
fn row(what: &str, target: &str, tokens: u64, runs: usize, cost: &dyn Fn(&Handle) -> Duration) {
    let mut costs: Vec<f64> = (0..runs)
        .map(|_| {
            let dead = SinkSpec::new("", || Dead);
            let handle = Topology::builder("bench").sink("dead", dead).start().expect("it starts");
            let took = cost(&handle).as_secs_f64() * 1e9 / tokens as f64;
            let ended = handle.shutdown_blocking(Duration::ZERO);
            assert!(ended.status.balances(), "{:#?}", ended.status);
            took
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    let (median, fastest, slowest) = (costs[runs / 2], costs[0], costs[runs - 1]);
    println!("{what:<58} {target:>10}   {median:.0} ns ({fastest:.0} – {slowest:.0})");
}

/// An answer of which every word is there at once.
fn words() -> impl Stream<Item = &'static str> {
    tokio_stream::iter((0..ANSWER).map(|_| black_box(" forty")))
}

/// The processor time that it takes to read so many items, streams being made as they end; the first and the last event of a stream
/// count, too.
fn streams<S: Stream>(tokens: u64, pace: Option<Duration>, stream: impl Fn() -> S) -> Duration {
    let cx = &mut Context::from_waker(Waker::noop());
    let (mut took, mut left) = (Duration::ZERO, tokens);
    while left > 0 {
        let mut stream = pin!(stream());
        let mut more = true;
        while more {
            let (began, spent) = (Instant::now(), processor_time());
            for _ in 0..CHUNK {
                match stream.as_mut().poll_next(cx) {
                    Poll::Ready(Some(item)) => {
                        black_box(item);
                        left = left.saturating_sub(1);
                    }
                    Poll::Ready(None) | Poll::Pending => {
                        more = false;
                        break;
                    }
                }
            }
            took += processor_time().saturating_sub(spent);
            wait(began, pace);
        }
    }
    took
}

/// The same by hand, inside of a scope.
fn by_hand(handle: &Handle, tokens: u64, pace: Option<Duration>) -> Duration {
    let scope = trace("answer").to(handle.emitter()).enter();
    let (step, mut took) = (scope.step(), Duration::ZERO);
    for chunk in 0..tokens / CHUNK {
        let (began, spent) = (Instant::now(), processor_time());
        for n in 0..CHUNK {
            black_box(handle.emitter().emit(Event::token(
                &step,
                "answer",
                black_box(" forty"),
                chunk * CHUNK + n,
            )));
        }
        took += processor_time().saturating_sub(spent);
        wait(began, pace);
    }
    took
}

fn wait(began: Instant, pace: Option<Duration>) {
    if let Some(left) = pace.and_then(|pace| pace.checked_sub(began.elapsed())) {
        thread::sleep(left);
    }
}

/// Of this thread alone: others on the machine do not count.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
