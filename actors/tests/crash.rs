//! Promise 8: a crash costs one incarnation, and at most the event that caused it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use actix::prelude::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient,
    WrapFuture as _,
};
use streamll_actors::event::{Event, Step};
use streamll_actors::graph::{GraphHandle, Plan, SinkSpec, Stage, Threads};
use streamll_actors::ingress::Batch;
use streamll_actors::process::{Output, Processor};
use streamll_actors::sink::{Deliveries, DeliveryError, Placement, Sink, SinkContext, SinkState};
use streamll_actors::testkit::{Act, Journal, Rig, Scripted, run, settle};
use tokio::time::sleep;

const TAKES: Duration = Duration::from_millis(5);
const MINUTE: Duration = Duration::from_secs(60);

fn all(n: u64) -> Vec<u64> {
    (0..n).collect()
}

fn dead(data: &Path, name: &str) -> usize {
    let text = std::fs::read_to_string(data.join(format!("dead/{name}.ndjson"))).unwrap_or_default();
    text.lines().count()
}

/// A sink whose life is made by `make`, on the test's thread.
fn spec<S: Sink>(make: impl Fn() -> S + Send + Sync + 'static) -> SinkSpec {
    let mut spec = SinkSpec::new("live", make);
    spec.placement = Placement::Spine;
    spec
}

#[test]
fn a_panic_and_a_fatal_error_end_one_incarnation_and_the_next_one_goes_on() {
    for (act, cause) in [(Act::Panic(2), "panicked: scripted panic"), (Act::Fatal, "failed: broken")] {
        run(async {
            let journal = Journal::new([act]);
            let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
            rig.emit_all(0..100);
            sleep(MINUTE).await;
            let status = rig.graph.status();
            let live = status.sink("live").unwrap();
            assert_eq!((live.restarts, live.running, live.state), (1, true, SinkState::Closed));
            assert_eq!(live.causes, [cause]);
            assert!(rig.end().await.complete);
            assert_eq!((journal.numbers(), journal.opened_and_closed()), (all(100), (2, 1)));
        });
    }
}

#[test]
fn after_a_crash_batches_begin_at_one_again() {
    run(async {
        let journal = Journal::new([Act::Deliver, Act::Panic(0)]);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
        settle().await;
        rig.emit_all(0..600);
        assert!(rig.end().await.complete);
        assert_eq!(journal.batches(), [256, 256, 1, 2, 4, 8, 16, 32, 64, 128, 89]);
    });
}

#[test]
fn too_many_restarts_without_a_delivery_and_the_sink_has_failed_but_nothing_else() {
    run(async {
        let (healthy, bad) = (Journal::new([]), Journal::new([Act::Panic(0); 1000]));
        let mut spec = bad.spec("bad", TAKES);
        spec.poison_after = 0;
        spec.buffer.max_events = 50;
        let rig = Rig::start(Plan::new("test").sink(spec).sink(healthy.spec("healthy", TAKES))).await;
        rig.emit_all(0..100);
        sleep(MINUTE).await;
        let status = rig.graph.status();
        let bad_now = status.sink("bad").unwrap();
        assert_eq!((bad_now.state, bad_now.running, bad_now.restarts), (SinkState::Failed, false, 5));
        assert_eq!(bad_now.reason.as_deref(), Some("panicked: scripted panic"));
        assert_eq!((bad_now.balance.waiting, bad_now.balance.shed), (50, 50));
        assert!(!status.is_healthy());
        // No order can bring it back.
        let handle = rig.graph.sink("bad").unwrap();
        handle.force_close();
        handle.auto();
        assert_eq!(handle.status().state, SinkState::Failed);
        rig.emit_all(100..200);
        let began = tokio::time::Instant::now();
        let drained = rig.end().await;
        assert!(began.elapsed() < Duration::from_secs(1), "nobody waits for a failed sink");
        assert!(!drained.complete);
        let alerts: Vec<_> = healthy.arrivals().into_iter().filter(|a| a.n().is_none()).collect();
        assert_eq!(alerts.len(), 1, "one alert, not more");
        assert_eq!((alerts[0].kind(), &*alerts[0].key), ("sink_failed", "ai.streamll.sink_failed"));
        assert_eq!(alerts[0].json["data"]["sink"], "bad");
        assert_eq!(alerts[0].json["data"]["reason"], "panicked: scripted panic");
        assert_eq!(healthy.numbers(), all(200));
        assert_eq!(bad.batches().len(), 6);
    });
}

#[test]
fn only_restarts_without_a_delivery_between_them_count() {
    run(async {
        let journal = Journal::new([Act::Panic(1); 100]);
        let mut spec = journal.spec("live", TAKES);
        spec.restart.max = 1;
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        rig.emit_all(0..200);
        sleep(10 * MINUTE).await;
        let live = rig.graph.sink("live").unwrap().status();
        assert_eq!((live.state, live.restarts, live.causes.len()), (SinkState::Closed, 100, 10));
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), all(200));
    });
}

#[test]
fn a_broker_that_is_away_and_a_delivery_that_takes_too_long_cost_no_restart() {
    run(async {
        let script =
            [[Act::Unavailable(0); 3], [Act::Hang; 3], [Act::Misconfigured; 3], [Act::Unknown(0); 3]];
        let journal = Journal::new(script.concat()).opening([Act::Unavailable(0), Act::Hang, Act::Overload]);
        let mut spec = journal.spec("live", TAKES);
        spec.restart.max = 0;
        spec.deliver_timeout = Duration::from_secs(1);
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        rig.emit_all(0..100);
        sleep(120 * MINUTE).await;
        let live = rig.graph.sink("live").unwrap().status();
        assert_eq!((live.restarts, live.state), (0, SinkState::Closed));
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), all(100));
    });
}

#[test]
fn a_panic_while_opening_or_closing_is_like_any_other() {
    run(async {
        let journal = Journal::new([]).opening([Act::Panic(0), Act::Panic(0)]);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
        rig.emit_all(0..10);
        sleep(MINUTE).await;
        assert_eq!(rig.graph.sink("live").unwrap().status().restarts, 2);
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), all(10));
    });

    struct Farewell(Scripted);
    impl Sink for Farewell {
        async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
            self.0.deliver(batch).await
        }
        async fn close(&mut self) {
            panic!("not yet");
        }
    }
    run(async {
        let journal = Journal::new([]);
        let inner = journal.clone();
        let rig = Rig::start(Plan::new("test").sink(spec(move || Farewell(inner.sink(TAKES))))).await;
        rig.emit_all(0..10);
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), all(10));
    });
}

#[test]
fn a_close_that_hangs_is_cut_off() {
    struct Clinging(Scripted);
    impl Sink for Clinging {
        async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
            self.0.deliver(batch).await
        }
        async fn close(&mut self) {
            std::future::pending().await
        }
    }
    run(async {
        let journal = Journal::new([]);
        let inner = journal.clone();
        let rig = Rig::start(Plan::new("test").sink(spec(move || Clinging(inner.sink(TAKES))))).await;
        rig.emit_all(0..10);
        let began = tokio::time::Instant::now();
        assert!(rig.end().await.complete);
        assert!(began.elapsed() < Duration::from_secs(3));
    });
}

#[test]
fn a_factory_that_panics_is_asked_again() {
    run(async {
        let (journal, calls) = (Journal::new([]), Arc::new(AtomicU32::new(0)));
        let inner = journal.clone();
        let make = move || {
            assert!(calls.fetch_add(1, Ordering::Relaxed) > 1, "not yet");
            inner.sink(TAKES)
        };
        let rig = Rig::start(Plan::new("test").sink(spec(make))).await;
        rig.emit_all(0..10);
        sleep(MINUTE).await;
        let live = rig.graph.sink("live").unwrap().status();
        assert_eq!((live.restarts, live.causes.last().unwrap().as_str()), (2, "panicked: not yet"));
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), all(10));
    });
}

/// Panics when it is dropped, and so does the future of its second delivery.
struct Bomb(Scripted, u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

struct Splinter;

impl Drop for Splinter {
    fn drop(&mut self) {
        panic!("the future was dropped");
    }
}

impl Sink for Bomb {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        self.1 += 1;
        if self.1 == 2 {
            let _splinter = Splinter;
            std::future::pending::<()>().await;
        }
        self.0.deliver(batch).await
    }
}

#[test]
fn panics_in_drop_are_survived_in_every_way_a_sink_can_end() {
    run(async {
        // By a panic, by an error, by a timeout whose future panics in its own drop, and at the end.
        let journal = Journal::new([Act::Deliver, Act::Panic(0), Act::Deliver, Act::Fatal]);
        let inner = journal.clone();
        let mut spec = spec(move || Bomb(inner.sink(TAKES), 0));
        spec.batch.max_events = 1;
        spec.deliver_timeout = Duration::from_secs(1);
        spec.restart.max = 100;
        spec.poison_after = 0;
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        rig.emit_all(0..5);
        sleep(10 * MINUTE).await;
        let live = rig.graph.sink("live").unwrap().status();
        assert_eq!(live.causes, ["panicked: scripted panic", "failed: broken"]);
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), all(5));
    });
}

#[test]
fn two_poisonous_events_are_found_one_after_the_other() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let journal = Journal::new([]).whenever(|n| n == 3 || n == 50, Act::Panic(0));
        let mut plan = Plan::new("test").sink(journal.spec("live", TAKES));
        plan.data_dir = data.path().into();
        let rig = Rig::start(plan).await;
        rig.emit_all(0..100);
        sleep(10 * MINUTE).await;
        assert_eq!(rig.graph.sink("live").unwrap().status().state, SinkState::Closed);
        rig.end().await;
        assert_eq!(journal.numbers().len(), 98);
        assert_eq!(dead(data.path(), "live"), 2);
    });
}

/// A stage of one's own; panics on an event `boom`.
struct Fragile(Recipient<Batch>);

impl Actor for Fragile {
    type Context = Context<Self>;
}

impl Handler<Batch> for Fragile {
    type Result = ();

    fn handle(&mut self, batch: Batch, ctx: &mut Context<Self>) {
        assert!(batch.events().iter().all(|event| event.kind().as_str() != "boom"), "boom");
        ctx.wait(self.0.send(batch).into_actor(self).map(|_, _, _| ()));
    }
}

fn fragile() -> Stage {
    Stage::actor("fragile", |next| Fragile(next).start().recipient())
}

/// Keeps every tenth event, with a timer that does nothing.
struct Keeper;

impl Processor for Keeper {
    fn process(&mut self, event: Event, out: &mut Output) {
        match event.data("n").and_then(|n| n.as_u64()).is_some_and(|n| n % 10 == 0) {
            true => out.hold(),
            false => out.push(event),
        }
    }

    fn interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(100))
    }
}

#[test]
fn an_actor_in_the_path_that_panics_costs_the_event_and_comes_back() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let journal = Journal::new([]);
        let mut plan = Plan::new("test").stage(fragile()).sink(journal.spec("live", TAKES));
        plan.data_dir = data.path().into();
        let rig = Rig::start(plan).await;
        rig.emit_all(0..10);
        settle().await;
        // In one batch with others, before and behind it.
        rig.emit_all(10..12);
        rig.emit("boom", 99);
        rig.emit_all(12..14);
        settle().await;
        // It is down now: what comes meanwhile waits.
        rig.emit_all(14..50);
        settle().await;
        assert_eq!(rig.graph.flush().await, 0);
        rig.emit_all(50..60);
        let drained = rig.end().await;
        assert_eq!(journal.numbers(), all(60));
        let balance = drained.status.balance();
        assert_eq!((balance.received, balance.failed, balance.routed), (61, 1, 60));
        assert!(!drained.complete);
        let text = std::fs::read_to_string(data.path().join("dead/processors.ndjson")).unwrap();
        let letter: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!((&letter["sink"], &letter["class"]), (&"fragile".into(), &"processor".into()));
        assert_eq!(letter["event"]["data"]["n"], 99);
    });
}

/// A stage of one's own that drops batches with an event `drop`, and stops at one `stop`.
struct Careless(Recipient<Batch>);

impl Actor for Careless {
    type Context = Context<Self>;
}

impl Handler<Batch> for Careless {
    type Result = ();

    fn handle(&mut self, batch: Batch, ctx: &mut Context<Self>) {
        let has = |kind| batch.events().iter().any(|event| event.kind().as_str() == kind);
        if has("stop") {
            return ctx.stop();
        }
        if !has("drop") {
            ctx.wait(self.0.send(batch).into_actor(self).map(|_, _, _| ()));
        }
    }
}

#[test]
fn what_an_actor_in_the_path_drops_is_counted_and_holds_up_nothing() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let journal = Journal::new([]);
        let stage = Stage::actor("careless", |next| Careless(next).start().recipient());
        let mut plan = Plan::new("test").stage(stage).sink(journal.spec("live", TAKES));
        plan.data_dir = data.path().into();
        let rig = Rig::start(plan).await;
        for (n, kind) in (0..).zip(["start", "drop", "start", "stop", "start"]) {
            rig.emit(kind, n);
            // Whoever waits for it is not left waiting.
            assert_eq!(tokio::time::timeout(MINUTE, rig.graph.flush()).await, Ok(0), "{kind}");
        }
        let drained = rig.end().await;
        assert_eq!(journal.numbers(), [0, 2, 4]);
        let balance = drained.status.balance();
        assert_eq!((balance.received, balance.failed, balance.routed), (5, 2, 3));
    });
}

#[test]
fn a_processor_keeps_what_it_holds_when_an_actor_beside_it_dies() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let journal = Journal::new([]);
        let mut spec = journal.spec("live", TAKES);
        spec.processors = vec![("keeper".into(), Arc::new(|| Box::new(Keeper)))];
        let mut plan =
            Plan::new("test").stage(Stage::processor("keeper", || Keeper)).stage(fragile()).sink(spec);
        plan.data_dir = data.path().into();
        let rig = Rig::start(plan).await;
        for round in 1..4 {
            rig.emit_all(0..100);
            settle().await;
            rig.emit("boom", 1);
            sleep(Duration::from_secs(10)).await;
            let balance = rig.graph.status().balance();
            assert!(balance.holds(), "{balance:?}");
            // Ten of each hundred are held, and stand in no number.
            assert_eq!((balance.received, balance.failed), (round * 91, round));
        }
        let drained = rig.end().await;
        assert_eq!((drained.status.balance().received, drained.status.balance().failed), (303, 33));
        assert_eq!(dead(data.path(), "processors"), 3);
    });
}

#[test]
fn a_stage_that_cannot_be_started_is_started_again() {
    run(async {
        let (journal, calls) = (Journal::new([]), AtomicU32::new(0));
        let stage = Stage::actor("late", move |next| {
            assert!(calls.fetch_add(1, Ordering::Relaxed) > 1, "not yet");
            Fragile(next).start().recipient()
        });
        let rig = Rig::start(Plan::new("test").stage(stage).sink(journal.spec("live", TAKES))).await;
        rig.emit_all(0..10);
        sleep(MINUTE).await;
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), all(10));
    });
}

#[test]
fn a_processor_that_cannot_be_made_costs_its_sink_the_events_and_nobody_else() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let (healthy, other) = (Journal::new([]), Journal::new([]));
        let mut spec = other.spec("other", TAKES);
        spec.processors = vec![("broken".into(), Arc::new(|| panic!("no such model")))];
        let mut plan = Plan::new("test").sink(healthy.spec("healthy", TAKES)).sink(spec);
        plan.data_dir = data.path().into();
        let rig = Rig::start(plan).await;
        rig.emit_all(0..10);
        let drained = rig.end().await;
        assert_eq!((healthy.numbers(), other.numbers()), (all(10), vec![]));
        assert_eq!(drained.status.sink("other").unwrap().processed.failed, 10);
        assert_eq!(dead(data.path(), "other"), 10);
        let text = std::fs::read_to_string(data.path().join("dead/other.ndjson")).unwrap();
        assert!(text.contains("it could not be made: no such model"), "{text}");
    });
}

/// Ends its own thread at the first delivery.
struct Suicidal(Scripted, Arc<AtomicU32>);

impl Sink for Suicidal {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        if self.1.fetch_add(1, Ordering::Relaxed) == 0 {
            actix_rt::Arbiter::current().stop();
            std::future::pending::<()>().await;
        }
        self.0.deliver(batch).await
    }
}

#[test]
fn a_sink_whose_thread_is_gone_gets_another_one() {
    actix_rt::System::new().block_on(async {
        let (journal, deliveries) = (Journal::new([]), Arc::new(AtomicU32::new(0)));
        let inner = journal.clone();
        let spec = SinkSpec::new("live", move || Suicidal(inner.sink(Duration::ZERO), deliveries.clone()));
        let graph = GraphHandle::start(Plan::new("test").sink(spec), Threads::Several).await.unwrap();
        let step = Step::new("M");
        for n in 0..10 {
            graph.emitter().emit(Event::new(&step, "start").with("n", n));
        }
        sleep(Duration::from_millis(50)).await;
        let drained = graph.drain(Duration::from_secs(20)).await;
        assert!(drained.complete && drained.status.balances(), "{:#?}", drained.status);
        assert_eq!(drained.status.sink("live").unwrap().causes, ["lost: its thread is gone"]);
        assert_eq!(journal.numbers(), all(10));
    });
}

/// Blocks its thread at the first delivery, until it is let go.
struct Blocking(Scripted, Arc<AtomicU32>, Arc<AtomicBool>);

impl Sink for Blocking {
    async fn open(&mut self, _: &SinkContext) -> Result<(), DeliveryError> {
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        if self.1.fetch_add(1, Ordering::Relaxed) == 0 {
            while !self.2.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.0.deliver(batch).await
    }
}

#[test]
fn a_thread_that_does_not_move_is_given_up_and_what_it_says_later_changes_nothing() {
    actix_rt::System::new().block_on(async {
        let (journal, deliveries) = (Journal::new([]), Arc::new(AtomicU32::new(0)));
        let (inner, let_go) = (journal.clone(), Arc::new(AtomicBool::new(false)));
        let go = let_go.clone();
        let spec = SinkSpec::new("live", move || {
            Blocking(inner.sink(Duration::ZERO), deliveries.clone(), go.clone())
        });
        let mut plan = Plan::new("test").sink(spec);
        plan.watchdog = Duration::ZERO; // its least
        let graph = GraphHandle::start(plan, Threads::Several).await.unwrap();
        let step = Step::new("M");
        for n in 0..10 {
            graph.emitter().emit(Event::new(&step, "start").with("n", n));
        }
        for _ in 0..6000 {
            if journal.numbers() == all(10) {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(journal.numbers(), all(10), "the next incarnation has delivered");
        let_go.store(true, Ordering::Relaxed);
        sleep(Duration::from_secs(1)).await;
        for n in 10..20 {
            graph.emitter().emit(Event::new(&step, "start").with("n", n));
        }
        let drained = graph.drain(Duration::from_secs(20)).await;
        let live = drained.status.sink("live").unwrap();
        assert_eq!((live.restarts, live.balance.delivered), (1, 20));
        assert!(live.causes[0].starts_with("failed: its thread has not moved for "), "{:?}", live.causes);
        assert!(drained.complete && drained.status.balances(), "{:#?}", drained.status);
        assert_eq!(journal.numbers().iter().filter(|n| **n >= 10).count(), 10);
    });
}
