//! Promise 7: the numbers balance, at every moment.

use std::path::Path;
use std::time::Duration;

use streamll_actors::event::{Confirmation, Event};
use streamll_actors::graph::{Plan, Stage};
use streamll_actors::process::{Output, Processor};
use streamll_actors::route::TopicPattern;
use streamll_actors::sink::OnOpen;
use streamll_actors::testkit::{Act, Journal, Rig, run, settle};
use tokio::time::sleep;

/// Holds tokens, and lets them go as one event every 50 ms.
#[derive(Default)]
struct Coalesce {
    text: String,
    last: Option<Event>,
    count: u32,
}

impl Coalesce {
    fn flush(&mut self, out: &mut Output) {
        if let Some(mut event) = self.last.take() {
            event.set_merged(std::mem::take(&mut self.count), std::mem::take(&mut self.text));
            out.release(event);
        }
    }
}

impl Processor for Coalesce {
    fn process(&mut self, event: Event, out: &mut Output) {
        match event.as_token() {
            Some(token) => {
                self.text.push_str(&token.text);
                self.count += 1;
                self.last.get_or_insert_with(|| event.clone());
                out.hold();
            }
            None => out.push(event),
        }
    }

    fn interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(50))
    }

    fn tick(&mut self, out: &mut Output) {
        self.flush(out);
    }

    fn finish(&mut self, out: &mut Output) {
        self.flush(out);
    }
}

/// Every event thrice.
struct Triple;

impl Processor for Triple {
    fn process(&mut self, event: Event, out: &mut Output) {
        out.push(event.clone());
        out.push(event.clone());
        out.push(event);
    }
}

/// Takes in everything and gives nothing back.
struct Miser;

impl Processor for Miser {
    fn process(&mut self, _: Event, out: &mut Output) {
        out.hold();
    }
}

fn panics_on_seven(event: Event) -> Option<Event> {
    assert!(event.data("n").is_none_or(|n| n.as_u64().is_none_or(|n| n % 7 != 0)), "seven");
    Some(event)
}

fn drops_starts(event: Event) -> Option<Event> {
    (event.kind().as_str() != "ping").then_some(event)
}

fn plan(data: &Path) -> Plan {
    let mut plan = Plan::new("test");
    plan.data_dir = data.into();
    plan
}

fn dead(data: &Path, name: &str) -> usize {
    let text = std::fs::read_to_string(data.join(format!("dead/{name}.ndjson"))).unwrap_or_default();
    text.lines().count()
}

#[test]
fn they_balance_at_random_moments_whatever_happens() {
    for seed in 0..8 {
        run(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let data = tempfile::tempdir().unwrap();
            let acts = [
                Act::Deliver,
                Act::Deliver,
                Act::Unavailable(3),
                Act::Cut(2),
                Act::Panic(1),
                Act::Fatal,
                Act::Overload,
                Act::Hang,
                Act::Rejected,
                Act::Misconfigured,
            ];
            let mut plan = plan(data.path())
                .stage(Stage::closure("filter", drops_starts))
                .stage(Stage::closure("panics", panics_on_seven))
                .stage(Stage::processor("coalesce", Coalesce::default))
                .stage(Stage::processor("triple", || Triple));
            for name in ["one", "two", "three", "four"] {
                let script: Vec<Act> = (0..500).map(|_| acts[random.usize(..acts.len())]).collect();
                let mut spec = Journal::new(script).spec(name, Duration::from_millis(random.u64(..20)));
                spec.buffer.max_events = random.usize(10..400);
                spec.deliver_timeout = Duration::from_secs(1);
                spec.breaker.recovery_timeout = Duration::from_secs(1);
                spec.on_open = match name {
                    "one" => OnOpen::Drop,
                    "two" => OnOpen::Fallback("four".into()),
                    _ => OnOpen::Buffer,
                };
                spec.dead_letter = (name == "three").then(|| "four".to_owned());
                spec.topics =
                    TopicPattern::parse(if name == "four" { "ai.*.end" } else { "#" }).ok().map(|t| vec![t]);
                spec.except = TopicPattern::parse("ai.*.odd").into_iter().collect();
                plan = plan.sink(spec);
            }
            let rig = Rig::start(plan).await;
            let mut n = 0;
            for _ in 0..400 {
                for _ in 0..random.u64(..40) {
                    n += 1;
                    match random.u8(..20) {
                        0 => rig.emit("start", n),
                        1 => rig.emit("end", n),
                        2 => rig.emit("ping", n),
                        3 => rig.emit("odd", n),
                        _ => rig.token(n),
                    }
                }
                sleep(Duration::from_micros(random.u64(..100_000))).await;
                let status = rig.graph.status();
                assert!(status.balances(), "seed {seed}: {status:#?}");
            }
            let drained = rig.end().await;
            let balance = drained.status.balance();
            assert_eq!(balance.received, n);
            for (number, name) in [
                (balance.filtered, "filtered"),
                (balance.created, "created"),
                (balance.merged, "merged"),
                (balance.failed, "failed"),
                (balance.unrouted, "unrouted"),
            ] {
                assert!(number > 0, "nothing was {name}");
            }
            assert_eq!(dead(data.path(), "processors") as u64, balance.failed);
        });
    }
}

#[test]
fn a_panic_in_a_processor_costs_one_event_which_is_dead_lettered_and_the_processor_keeps_its_state() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let journal = Journal::new([]);
        let mut count = 0;
        let counts = move |mut event: Event| {
            assert!(event.data("n").unwrap().as_u64() != Some(5), "five");
            count += 1;
            event.set_data("count", count);
            Some(event)
        };
        let plan = plan(data.path())
            .stage(Stage::processor("counts", move || counts))
            .sink(journal.spec("live", Duration::ZERO));
        let rig = Rig::start(plan).await;
        rig.emit_all(0..10);
        let drained = rig.end().await;
        let counted: Vec<_> = journal.arrivals().iter().filter_map(|a| a.number("count")).collect();
        assert_eq!(counted, (1..10).collect::<Vec<_>>());
        let balance = drained.status.balance();
        assert_eq!((balance.received, balance.routed, balance.failed), (10, 9, 1));
        assert!(!drained.complete);
        let text = std::fs::read_to_string(data.path().join("dead/processors.ndjson")).unwrap();
        let letter: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!((&letter["sink"], &letter["class"]), (&"counts".into(), &"processor".into()));
        assert_eq!(letter["event"]["data"]["n"], 5);
        assert!(letter["reason"].as_str().unwrap().starts_with("a processor panicked: "), "{letter}");
    });
}

#[test]
fn held_events_stand_in_no_number_until_they_are_released() {
    run(async {
        let journal = Journal::new([]);
        let plan = Plan::new("test")
            .stage(Stage::processor("triple", || Triple))
            .stage(Stage::processor("coalesce", Coalesce::default))
            .sink(journal.spec("live", Duration::ZERO));
        let rig = Rig::start(plan).await;
        (0..10).for_each(|n| rig.token(n));
        settle().await;
        let held = rig.graph.status().balance();
        assert!(held.holds(), "{held:?}");
        assert_eq!((held.received, held.created, held.routed), (0, 0, 0));
        sleep(Duration::from_millis(100)).await;
        let released = rig.graph.status().balance();
        assert!(released.holds(), "{released:?}");
        assert_eq!((released.received, released.created), (10, 20));
        assert_eq!((released.merged, released.routed), (29, 1));
        assert_eq!(journal.arrivals()[0].number("merged"), Some(30));
        rig.end().await;
    });
}

#[test]
fn what_a_processor_keeps_to_the_end_is_counted_as_failed() {
    run(async {
        let rig = Rig::start(Plan::new("test").stage(Stage::processor("miser", || Miser))).await;
        rig.emit_all(0..10);
        settle().await;
        assert_eq!(rig.graph.status().balance().received, 0);
        let drained = rig.end().await;
        let balance = drained.status.balance();
        assert_eq!((balance.received, balance.failed, drained.complete), (10, 10, false));
    });
}

#[test]
fn a_processor_in_front_of_one_sink_keeps_its_own_books() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let (plain, edited) = (Journal::new([]), Journal::new([]));
        let mut spec = edited.spec("edited", Duration::ZERO);
        spec.processors = vec![
            ("filter".into(), std::sync::Arc::new(|| Box::new(drops_starts))),
            ("panics".into(), std::sync::Arc::new(|| Box::new(panics_on_seven))),
            ("coalesce".into(), std::sync::Arc::new(|| Box::new(Coalesce::default()))),
        ];
        let rig = Rig::start(plan(data.path()).sink(plain.spec("plain", Duration::ZERO)).sink(spec)).await;
        (0..10).for_each(|n| rig.token(n));
        rig.emit_all(1..10);
        (0..5).for_each(|n| rig.emit("ping", n));
        sleep(Duration::from_millis(100)).await;
        let drained = rig.end().await;
        let balance = drained.status.balance();
        assert_eq!((balance.received, balance.routed, balance.failed), (24, 24, 0));
        assert_eq!(plain.arrivals().len(), 24);
        let status = drained.status.sink("edited").unwrap();
        let processed = status.processed;
        assert_eq!((processed.filtered, processed.merged, processed.failed), (5, 9, 1));
        assert_eq!((status.balance.accepted, status.balance.delivered), (9, 9));
        assert_eq!(dead(data.path(), "edited"), 1);
    });
}

#[test]
fn an_event_that_is_too_large_is_rejected_and_its_sender_hears_of_it() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", Duration::ZERO))).await;
        let large = Event::new(&rig.step, "start").with("text", "x".repeat(2 << 20));
        assert_eq!(rig.graph.emitter().send_confirmed(large).await, Confirmation::Lost);
        rig.graph.emitter().reject();
        rig.emit("start", 1);
        let drained = rig.end().await;
        let balance = drained.status.balance();
        assert_eq!((balance.received, balance.rejected, balance.routed), (3, 2, 1));
        assert_eq!(journal.numbers(), [1]);
    });
}

#[test]
fn events_that_no_sink_wants_are_counted_as_unrouted() {
    run(async {
        let journal = Journal::new([]);
        let mut spec = journal.spec("live", Duration::ZERO);
        spec.topics = Some(vec![TopicPattern::parse("ai.*.end").unwrap()]);
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        (0..10).for_each(|n| rig.emit(if n < 4 { "end" } else { "start" }, n));
        let drained = rig.end().await;
        let balance = drained.status.balance();
        assert_eq!((balance.routed, balance.unrouted), (4, 6));
        assert!(drained.complete, "an event that nobody wants is no loss");
    });
}
