//! Promise 8, for what does not even panic: a processor that does not come back costs its event, and its thread.

mod custom;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::prelude::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient, WrapFuture as _,
};
use streamll_actors::event::{Confirmation, Event, Step};
use streamll_actors::graph::{Drained, GraphHandle, Plan, Stage, Threads};
use streamll_actors::ingress::{Batch, Emitted};
use streamll_actors::process::{Output, Processor, ProcessorState};
use streamll_actors::testkit::Journal;
use tokio::time::{sleep, timeout};

const MINUTE: Duration = Duration::from_secs(60);

/// What hangs, until it is let go.
#[derive(Clone, Default)]
struct Trap(Arc<AtomicBool>, Arc<AtomicU64>);

impl Trap {
    /// Hangs its thread.
    fn hang(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
        while !self.0.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.1.fetch_sub(1, Ordering::SeqCst);
    }

    /// Hangs whoever awaits it; the thread goes on. It counts how often, until it is dropped.
    async fn held(&self) {
        struct Leaves(Arc<AtomicU64>);
        impl Drop for Leaves {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.1.fetch_add(1, Ordering::SeqCst);
        let _leaves = Leaves(self.1.clone());
        while !self.0.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many threads hang in it.
    fn caught(&self) -> u64 {
        self.1.load(Ordering::SeqCst)
    }

    async fn let_go(&self) {
        self.0.store(true, Ordering::SeqCst);
        until(|| self.caught() == 0).await;
    }
}

async fn until(holds: impl Fn() -> bool) {
    for _ in 0..12_000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not come");
}

/// Runs on real threads.
fn real(test: impl Future<Output = ()>) {
    actix_rt::System::new().block_on(test);
}

fn plan(data: &Path) -> Plan {
    let mut plan = Plan::new("test");
    plan.data_dir = data.into();
    plan.watchdog = Duration::ZERO; // its least
    plan
}

async fn start(plan: Plan) -> GraphHandle {
    GraphHandle::start(plan, Threads::Several).await.unwrap()
}

fn emit(graph: &GraphHandle, kind: &str, n: u64) {
    let sent = graph.emitter().emit(Event::new(&Step::new("M"), kind).with("n", n));
    assert_eq!(sent, Emitted::Accepted);
}

async fn end(graph: &GraphHandle, deadline: Duration) -> Drained {
    let drained = graph.drain(deadline).await;
    assert!(drained.status.balances(), "{:#?}", drained.status);
    drained
}

fn letters(data: &Path, name: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(data.join(format!("dead/{name}.ndjson"))).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn hangs_on(trap: &Trap, kind: &'static str) -> impl Fn(Event) -> Option<Event> + Clone + use<> {
    let trap = trap.clone();
    move |event: Event| {
        if event.kind().as_str() == kind {
            trap.hang();
        }
        Some(event)
    }
}

fn all_but(n: std::ops::Range<u64>, missing: &[u64]) -> Vec<u64> {
    n.filter(|n| !missing.contains(n)).collect()
}

#[test]
fn a_processor_that_hangs_costs_its_event_and_nothing_else() {
    real(async {
        let (data, journal, trap) = (tempfile::tempdir().unwrap(), Journal::new([]), Trap::default());
        let secret = |mut event: Event| {
            event.remove_data("secret");
            Some(event)
        };
        let plan = plan(data.path())
            .stage(Stage::closure("redact", secret))
            .stage(Stage::closure("model", hangs_on(&trap, "hang")))
            .stage(Stage::closure("after", Some))
            .sink(journal.spec("live", Duration::ZERO));
        let graph = start(plan).await;
        (0..50).for_each(|n| emit(&graph, "start", n));
        let bad = Event::new(&Step::new("M"), "hang").with("n", 50).with("secret", "s3cret");
        let id = bad.id().to_string();
        graph.emitter().emit(bad);
        (51..100).for_each(|n| emit(&graph, "start", n));
        // It is seen before anything is done about it.
        until(|| !graph.status().processors().is_empty()).await;
        let status = graph.status();
        let seen = &status.processors()[0];
        assert_eq!((&*seen.name, &seen.sink, seen.state), ("model", &None, ProcessorState::Busy));
        assert_eq!(seen.event, Some(format!("hang {id}")));
        assert!(!status.is_healthy() && status.balances());
        (100..200).for_each(|n| emit(&graph, "start", n));
        until(|| journal.numbers().len() == 199).await;
        assert_eq!(journal.numbers(), all_but(0..200, &[50]));
        let status = graph.status();
        assert_eq!(
            (status.processors()[0].state, status.processors()[0].hangs),
            (ProcessorState::Replaced, 1)
        );
        // Much later it comes back, and nobody hears it.
        trap.let_go().await;
        (200..210).for_each(|n| emit(&graph, "start", n));
        assert_eq!(timeout(MINUTE, graph.flush()).await, Ok(0));
        let drained = end(&graph, MINUTE).await;
        assert_eq!(journal.numbers(), all_but(0..210, &[50]));
        let balance = drained.status.balance();
        assert_eq!((balance.received, balance.failed, balance.routed), (210, 1, 209));
        assert!(!drained.complete);
        let letters = letters(data.path(), "processors");
        assert_eq!(letters.len(), 1);
        assert_eq!((&letters[0]["sink"], &letters[0]["class"]), (&"model".into(), &"processor".into()));
        assert_eq!(letters[0]["event"]["event_id"], id);
        // As it was when it came to the one that hung.
        assert!(letters[0]["event"]["data"]["secret"].is_null(), "{}", letters[0]);
    });
}

#[test]
fn a_processor_of_one_sink_that_hangs_or_is_slow_harms_that_sink_alone() {
    real(async {
        let (data, trap, slow) = (tempfile::tempdir().unwrap(), Trap::default(), Trap::default());
        let (healthy, hung, late) = (Journal::new([]), Journal::new([]), Journal::new([]));
        let mut bad = hung.spec("bad", Duration::ZERO);
        bad.buffer.max_events = 100;
        let hang = hangs_on(&trap, "hang");
        bad.processors = vec![("model".into(), Arc::new(move || Box::new(hang.clone())))];
        let mut lazy = late.spec("lazy", Duration::ZERO);
        let nap = slow.clone();
        lazy.processors = vec![(
            "nap".into(),
            Arc::new(move || {
                let nap = nap.clone();
                Box::new(move |event: Event| {
                    if !nap.0.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    Some(event)
                })
            }),
        )];
        let plan = plan(data.path()).sink(healthy.spec("healthy", Duration::ZERO)).sink(bad).sink(lazy);
        let graph = start(plan).await;
        emit(&graph, "hang", 0);
        until(|| trap.caught() == 1).await;
        (1..500).for_each(|n| emit(&graph, "start", n));
        until(|| healthy.numbers().len() == 500).await;
        assert_eq!(trap.caught(), 1, "and all that while it hung");
        let status = graph.status();
        assert!(status.balances(), "{status:#?}");
        // What waits in front of it is bounded, and in the books.
        let processed = status.sink("bad").unwrap().processed;
        assert_eq!((processed.received, processed.waiting, processed.passed), (500, 100, 0));
        assert_eq!(status.sink("bad").unwrap().balance.shed, 400);
        until(|| graph.status().processors().iter().any(|p| p.sink.as_deref() == Some("bad"))).await;
        until(|| hung.arrivals().len() >= 99).await;
        trap.let_go().await;
        slow.0.store(true, Ordering::SeqCst);
        emit(&graph, "start", 500);
        let drained = end(&graph, MINUTE).await;
        assert_eq!((healthy.numbers(), late.numbers()), (all_but(0..501, &[]), all_but(0..501, &[])));
        // In order, with markers where some are missing.
        let arrived = hung.numbers();
        assert!(arrived.is_sorted() && arrived.first() > Some(&0) && arrived.last() == Some(&500));
        let missing: u64 = hung.arrivals().iter().filter_map(|a| a.number("count")).sum();
        let bad = drained.status.sink("bad").unwrap();
        assert_eq!((missing, bad.balance.shed, bad.processed.failed), (400, 400, 1));
        assert_eq!(letters(data.path(), "bad").len(), 1);
        assert_eq!(drained.status.balance().failed, 0);
        assert!(!drained.complete);
    });
}

#[test]
fn a_confirmation_waits_for_the_processors_of_the_sink() {
    real(async {
        let (data, journal, trap) = (tempfile::tempdir().unwrap(), Journal::new([]), Trap::default());
        let mut spec = journal.spec("live", Duration::ZERO);
        let hang = hangs_on(&trap, "hang");
        spec.processors = vec![("model".into(), Arc::new(move || Box::new(hang.clone())))];
        let graph = start(plan(data.path()).sink(spec)).await;
        let send = async |kind: &str| graph.emitter().send_confirmed(Event::new(&Step::new("M"), kind)).await;
        assert_eq!(send("start").await, Confirmation::Held(1));
        let (hung, behind) = tokio::join!(send("hang"), send("start"));
        assert_eq!((hung, behind), (Confirmation::Lost, Confirmation::Held(1)));
        trap.let_go().await;
        end(&graph, MINUTE).await;
    });
}

#[test]
fn a_sink_whose_processor_hangs_can_be_replaced_and_removed() {
    real(async {
        let (data, old, new, trap) =
            (tempfile::tempdir().unwrap(), Journal::new([]), Journal::new([]), Trap::default());
        let mut spec = old.spec("live", Duration::ZERO);
        let hang = hangs_on(&trap, "hang");
        spec.processors = vec![("model".into(), Arc::new(move || Box::new(hang.clone())))];
        let graph = start(plan(data.path()).sink(spec)).await;
        emit(&graph, "hang", 0);
        until(|| trap.caught() == 1).await;
        emit(&graph, "start", 1);
        until(|| graph.status().sink("live").is_some_and(|live| live.processed.received == 2)).await;
        let mut spec = new.spec("live", Duration::ZERO);
        spec.processors = vec![("pass".into(), Arc::new(|| Box::new(Some::<Event>)))];
        graph.replace_sink(spec, Duration::from_secs(8)).await.unwrap();
        // It had half of that time, and what was behind it the other half.
        assert_eq!(old.numbers(), [1]);
        emit(&graph, "start", 2);
        until(|| new.numbers() == [2]).await;
        let removed = graph.remove_sink("live", MINUTE).await.unwrap();
        assert_eq!((removed.processed.passed, removed.balance.delivered), (1, 1));
        trap.let_go().await;
        let drained = end(&graph, MINUTE).await;
        assert_eq!(drained.status.removed()[0].processed.failed, 1);
        assert_eq!((old.numbers(), new.numbers()), (vec![1], vec![2]));
    });
}

/// Hangs where it is told to, once.
struct Hangs {
    trap: Trap,
    place: &'static str,
    armed: Arc<AtomicBool>,
    held: Option<Event>,
}

impl Hangs {
    fn at(&self, place: &str) {
        if place == self.place && self.armed.swap(false, Ordering::SeqCst) {
            self.trap.hang();
        }
    }
}

impl Processor for Hangs {
    fn process(&mut self, event: Event, out: &mut Output) {
        match event.kind().as_str() {
            "hold" => {
                out.hold();
                self.held = Some(event);
            }
            _ => out.push(event),
        }
    }

    fn interval(&self) -> Option<Duration> {
        self.at("interval");
        Some(Duration::from_millis(50))
    }

    fn tick(&mut self, _: &mut Output) {
        self.at("tick");
    }

    fn finish(&mut self, out: &mut Output) {
        self.at("finish");
        if let Some(held) = self.held.take() {
            out.release(held);
        }
    }
}

impl Drop for Hangs {
    fn drop(&mut self) {
        self.at("drop");
    }
}

#[test]
fn whatever_hangs_is_given_up_in_front_of_all_sinks_and_in_front_of_one() {
    for own in [false, true] {
        for place in ["factory", "interval", "tick", "finish", "drop"] {
            real(async {
                let (data, journal) = (tempfile::tempdir().unwrap(), Journal::new([]));
                let (trap, armed) = (Trap::default(), Arc::new(AtomicBool::new(true)));
                let (caught, trigger) = (trap.clone(), armed.clone());
                let make = move || {
                    let hangs = Hangs { trap: trap.clone(), place, armed: armed.clone(), held: None };
                    hangs.at("factory");
                    hangs
                };
                let mut spec = journal.spec("live", Duration::ZERO);
                let mut plan = plan(data.path());
                match own {
                    true => spec.processors = vec![("hangs".into(), Arc::new(move || Box::new(make())))],
                    false => plan = plan.stage(Stage::processor("hangs", make)),
                }
                let graph = start(plan.sink(spec)).await;
                (0..10).for_each(|n| emit(&graph, "start", n));
                emit(&graph, "hold", 10);
                let at_the_end = matches!(place, "finish" | "drop");
                if !at_the_end {
                    until(|| journal.numbers().len() == 10).await;
                    until(|| !trigger.load(Ordering::SeqCst)).await;
                    (11..20).for_each(|n| emit(&graph, "start", n));
                }
                let began = tokio::time::Instant::now();
                let drained = end(&graph, Duration::from_secs(8)).await;
                assert!(began.elapsed() < Duration::from_secs(12), "{place}");
                assert!(!trigger.load(Ordering::SeqCst), "{place}: it has hung");
                let numbers = journal.numbers();
                let expected = all_but(0..if at_the_end { 10 } else { 20 }, &[10]);
                let arrived: Vec<u64> = numbers.iter().copied().filter(|n| *n != 10).collect();
                assert_eq!(arrived, expected, "{place}");
                // What it held is delivered, or counted as failed.
                let failed = match drained.status.sink("live") {
                    Some(live) if own => live.processed.failed,
                    _ => drained.status.balance().failed,
                };
                assert_eq!(numbers.contains(&10), failed == 0, "{place}, own {own}: {failed} failed");
                assert_eq!(drained.complete, failed == 0, "{place}");
                if place != "drop" {
                    let seen = drained.status.processors();
                    assert_eq!((seen.len(), &*seen[0].name, seen[0].hangs), (1, "hangs", 1), "{place}");
                }
                caught.let_go().await;
            });
        }
    }
}

#[test]
fn the_end_comes_at_its_deadline_whatever_hangs_and_the_report_names_it() {
    for own in [false, true] {
        real(async {
            let (data, journal, trap) = (tempfile::tempdir().unwrap(), Journal::new([]), Trap::default());
            let mut spec = journal.spec("live", Duration::ZERO);
            let mut plan = plan(data.path());
            plan.watchdog = MINUTE;
            let hang = hangs_on(&trap, "hang");
            match own {
                true => spec.processors = vec![("model".into(), Arc::new(move || Box::new(hang.clone())))],
                false => plan = plan.stage(Stage::closure("model", hang)),
            }
            let graph = start(plan.sink(spec)).await;
            (0..10).for_each(|n| emit(&graph, "hang", n));
            until(|| trap.caught() == 1).await;
            let began = tokio::time::Instant::now();
            let drained = end(&graph, Duration::from_secs(2)).await;
            assert!(began.elapsed() < Duration::from_secs(5));
            assert!(!drained.complete);
            let seen = drained.status.processors();
            assert!(seen.len() == 1 && &*seen[0].name == "model" && seen[0].hangs > 0, "{seen:?}");
            let status = &drained.status;
            let lost = match own {
                true => status.sink("live").map_or(0, |live| live.processed.failed + live.processed.waiting),
                false => status.balance().failed + status.balance().shed,
            };
            assert_eq!((lost, journal.numbers()), (10, vec![]));
            trap.let_go().await;
            assert_eq!(graph.status().balance(), status.balance(), "nobody hears it any more");
        });
    }
}

#[test]
fn one_that_hangs_on_everything_is_given_up_and_lets_nothing_pass() {
    real(async {
        let (data, journal, other) = (tempfile::tempdir().unwrap(), Journal::new([]), Journal::new([]));
        let trap = Trap::default();
        let mut spec = journal.spec("live", Duration::ZERO);
        let hang = hangs_on(&trap, "start");
        spec.processors = vec![("model".into(), Arc::new(move || Box::new(hang.clone())))];
        let graph = start(plan(data.path()).sink(spec).sink(other.spec("other", Duration::ZERO))).await;
        (0..50).for_each(|n| emit(&graph, "start", n));
        until(|| graph.status().processors().first().is_some_and(|p| p.state == ProcessorState::Failed))
            .await;
        until(|| graph.status().sink("live").is_some_and(|live| live.processed.failed == 50)).await;
        assert_eq!(trap.caught(), 6, "so many threads, and no more");
        emit(&graph, "ping", 50);
        assert_eq!(timeout(MINUTE, graph.flush()).await, Ok(0));
        trap.let_go().await;
        let drained = end(&graph, MINUTE).await;
        assert_eq!((journal.numbers(), other.numbers()), (vec![], all_but(0..51, &[])));
        assert_eq!(drained.status.sink("live").unwrap().processed.failed, 51);
        let letters = letters(data.path(), "live");
        assert_eq!(letters.len(), 51);
        let reason = letters[50]["reason"].as_str().unwrap();
        assert!(reason.starts_with("a processor was given up: it hung 6 times"), "{reason}");
    });
}

/// Hangs on events `first` in its first life, and on events `second` in its second.
struct Lives {
    life: u64,
    traps: [Trap; 2],
    seen: Arc<Mutex<Vec<(u64, u64)>>>,
    ended: Arc<Mutex<Vec<u64>>>,
}

impl Processor for Lives {
    fn process(&mut self, event: Event, out: &mut Output) {
        let n = event.data("n").and_then(|n| n.as_u64()).unwrap_or_default();
        self.seen.lock().unwrap().push((self.life, n));
        match (event.kind().as_str(), self.life) {
            ("first", 1) => self.traps[0].hang(),
            ("second", 2) => self.traps[1].hang(),
            _ => {}
        }
        out.push(event);
    }
}

impl Drop for Lives {
    fn drop(&mut self) {
        self.ended.lock().unwrap().push(self.life);
    }
}

#[test]
fn a_thread_that_moves_again_while_its_successor_hangs_stops_at_once_and_harms_nobody() {
    real(async {
        let (data, journal) = (tempfile::tempdir().unwrap(), Journal::new([]));
        let (gate, first, second) = (Trap::default(), Trap::default(), Trap::default());
        let (seen, ended) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (lives, traps) = (Arc::new(AtomicU64::new(0)), [first.clone(), second.clone()]);
        let (all, over) = (seen.clone(), ended.clone());
        let make = move || {
            let life = lives.fetch_add(1, Ordering::SeqCst) + 1;
            Lives { life, traps: traps.clone(), seen: all.clone(), ended: over.clone() }
        };
        let plan = plan(data.path())
            .stage(Stage::closure("gate", hangs_on(&gate, "gate")))
            .stage(Stage::actor("pass", |next| Pass(next).start().recipient()))
            .stage(Stage::processor("lives", make))
            .sink(journal.spec("live", Duration::ZERO));
        let graph = start(plan).await;
        // While it waits for the first, the others come together: they are one batch.
        emit(&graph, "gate", 0);
        until(|| gate.caught() == 1).await;
        for n in 1..60 {
            emit(&graph, ["start", "first", "second"][usize::from(n == 5) + 2 * usize::from(n == 20)], n);
        }
        gate.let_go().await;
        until(|| first.caught() == 1).await;
        until(|| second.caught() == 1).await;
        first.let_go().await;
        until(|| ended.lock().unwrap().contains(&1)).await;
        let late: Vec<_> =
            seen.lock().unwrap().iter().filter(|(life, n)| *life == 1 && *n > 5).copied().collect();
        assert_eq!(late, [], "it goes on with nothing");
        until(|| journal.numbers().len() == 58).await;
        second.let_go().await;
        let drained = end(&graph, MINUTE).await;
        assert_eq!(journal.numbers(), all_but(0..60, &[5, 20]));
        assert_eq!(drained.status.balance().failed, 2);
        let dead: Vec<_> = letters(data.path(), "processors")
            .iter()
            .filter_map(|l| l["event"]["data"]["n"].as_u64())
            .collect();
        assert_eq!(dead, [5, 20]);
    });
}

/// Hands on what it gets.
struct Pass(Recipient<Batch>);

impl Actor for Pass {
    type Context = Context<Self>;
}

impl Handler<Batch> for Pass {
    type Result = ();

    fn handle(&mut self, batch: Batch, ctx: &mut Context<Self>) {
        ctx.wait(self.0.send(batch).into_actor(self).map(|_, _, _| ()));
    }
}
