//! The end of a graph, against a model: whatever its sinks do and whenever it comes, it is in time, and its report is true.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use streamll_actors::graph::{Drained, Plan};
use streamll_actors::sink::BufferPolicy;
use streamll_actors::testkit::{Act, Journal, Rig, run};
use tokio::time::{Instant, sleep};

const TAKES: Duration = Duration::from_millis(20);
/// What stopping and closing may take beyond the deadline.
const GRACE: Duration = Duration::from_secs(3);

/// What one sink does, and where its events wait.
#[derive(Debug, Clone)]
struct Life {
    opens: Vec<Act>,
    acts: Vec<Act>,
    is_on_disk: bool,
    threshold: u32,
}

#[derive(Debug, Clone)]
struct History {
    lives: Vec<Life>,
    /// So many events, and so long a pause behind them.
    rounds: Vec<(u64, u64)>,
    deadline: u64,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => Just(Act::Deliver),
        1 => (0_usize..20).prop_map(Act::Unavailable),
        1 => (0_usize..20).prop_map(Act::Unknown),
        1 => (0_usize..20).prop_map(Act::Cut),
        1 => Just(Act::Overload),
        1 => Just(Act::Misconfigured),
        1 => Just(Act::Rejected),
        1 => Just(Act::Fatal),
        1 => (0_usize..20).prop_map(Act::Panic),
        1 => Just(Act::Hang),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    let opens = proptest::collection::vec(prop_oneof![Just(Act::Deliver), Just(Act::Unavailable(0))], 0..4);
    let acts = proptest::collection::vec(act(), 0..15);
    (opens, acts, any::<bool>(), 1_u32..4).prop_map(|(opens, acts, is_on_disk, threshold)| Life {
        opens,
        acts,
        is_on_disk,
        threshold,
    })
}

fn history() -> impl Strategy<Value = History> {
    let lives = proptest::collection::vec(life(), 1..4);
    let rounds = proptest::collection::vec((0_u64..60, 0_u64..20_000), 1..6);
    (lives, rounds, 0_u64..60_000).prop_map(|(lives, rounds, deadline)| History { lives, rounds, deadline })
}

/// A sink that fails at times, but never hangs, and never loses anything.
fn failing_life() -> impl Strategy<Value = Life> {
    let act = || {
        prop_oneof![
            2 => Just(Act::Deliver),
            1 => (0_usize..20).prop_map(Act::Unavailable),
            1 => (0_usize..20).prop_map(Act::Unknown),
            1 => (0_usize..20).prop_map(Act::Cut),
            1 => Just(Act::Overload),
            1 => Just(Act::Misconfigured),
        ]
    };
    let acts = || proptest::collection::vec(act(), 0..15);
    (acts(), acts(), 1_u32..5).prop_map(|(opens, acts, threshold)| Life {
        opens,
        acts,
        is_on_disk: false,
        threshold,
    })
}

/// With a minute for the end: each failure takes a second of it at the most.
fn failing_history() -> impl Strategy<Value = History> {
    let lives = proptest::collection::vec(failing_life(), 1..4);
    let rounds = proptest::collection::vec((0_u64..60, 0_u64..20_000), 1..6);
    (lives, rounds).prop_map(|(lives, rounds)| History { lives, rounds, deadline: 60_000 })
}

async fn check(history: History) -> Drained {
    let data = tempfile::tempdir().expect("a folder");
    let mut plan = Plan::new("test");
    plan.data_dir = data.path().into();
    let mut journals = Vec::new();
    for (i, life) in history.lives.iter().enumerate() {
        let journal = Journal::new(life.acts.clone()).opening(life.opens.clone());
        let mut spec = journal.spec(&format!("sink_{i}"), TAKES);
        spec.breaker.failure_threshold = life.threshold;
        spec.deliver_timeout = Duration::from_secs(10);
        if life.is_on_disk {
            spec.buffer = BufferPolicy::disk();
        }
        plan = plan.sink(spec);
        journals.push(journal);
    }
    let rig = Rig::start(plan).await;
    let mut emitted = 0;
    for (events, pause) in &history.rounds {
        rig.emit_all(emitted..emitted + events);
        emitted += events;
        sleep(Duration::from_millis(*pause)).await;
    }
    let (began, deadline) = (Instant::now(), Duration::from_millis(history.deadline));
    let drained = rig.graph.drain(deadline).await;
    assert!(began.elapsed() <= deadline + GRACE, "it took {:?} of {deadline:?}", began.elapsed());
    let status = &drained.status;
    assert!(status.balances(), "{status:#?}");
    let mut lost = 0;
    for (i, journal) in journals.iter().enumerate() {
        let sink = status.sink(&format!("sink_{i}")).expect("it is there");
        let numbers = sink.balance;
        assert!(!sink.running, "{} still runs", sink.name);
        assert_eq!(numbers.in_flight, 0);
        assert_eq!(numbers.accepted, emitted, "{numbers:?}");
        lost += numbers.shed + numbers.dead_lettered + numbers.in_memory();
        let kept = if history.lives[i].is_on_disk { numbers.waiting } else { 0 };
        assert_eq!(numbers.on_disk, kept, "what waits is on disk, or it is not");
        // What counts as delivered has arrived, each first time in its turn.
        let mut seen = BTreeSet::new();
        for n in journal.numbers() {
            let is_in_turn = seen.last().is_none_or(|last| n > *last);
            assert!(seen.contains(&n) || is_in_turn, "{n} arrives late");
            seen.insert(n);
        }
        assert!(seen.len() as u64 >= numbers.delivered, "{} arrived, {numbers:?}", seen.len());
    }
    assert_eq!(drained.complete, lost == 0, "{status:#?}");
    drained
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_end_is_in_time_and_its_report_is_true(history in history()) {
        run(check(history));
    }

    #[test]
    fn an_end_with_time_left_leaves_nothing_behind(history in failing_history()) {
        let drained = run(check(history));
        assert!(drained.complete, "{:#?}", drained.status);
    }
}
