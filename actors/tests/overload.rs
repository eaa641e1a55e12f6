//! Promise 6: overload sheds tokens first, counts what it sheds, and marks the place.

use std::time::Duration;

use streamll_actors::event::{Class, Event};
use streamll_actors::graph::{Plan, SinkSpec};
use streamll_actors::ingress::Emitted;
use streamll_actors::route::TopicPattern;
use streamll_actors::sink::{OnOpen, WhenFull};
use streamll_actors::testkit::{Arrival, Journal, Rig, run, settle};
use tokio::time::sleep;

const TAKES: Duration = Duration::from_millis(10);

/// Ten events in ten milliseconds.
fn slow(journal: &Journal) -> SinkSpec {
    let mut spec = journal.spec("slow", TAKES);
    spec.batch.max_events = 10;
    spec.buffer.max_events = 200;
    spec
}

/// One run of a model: a start, tokens, an end.
fn emit_run(rig: &Rig, n: &mut u64, tokens: u64) {
    let mut next = || {
        *n += 1;
        *n - 1
    };
    rig.emit("start", next());
    for _ in 0..tokens {
        rig.token(next());
    }
    rig.emit("end", next());
}

fn markers(arrivals: &[Arrival]) -> Vec<&Arrival> {
    arrivals.iter().filter(|arrival| arrival.kind() == "gap").collect()
}

/// Where events are missing stands a marker which tells of just those. Returns of how many, and how many markers had a
/// neighbour: what is shed behind a marker that is already with the sink needs a second one.
#[track_caller]
fn every_hole_has_its_marker(arrivals: &[Arrival], last_seq: u64) -> (u64, usize) {
    let (mut expected, mut told, mut neighbours, mut after_marker) = (1, 0, 0, false);
    for arrival in arrivals {
        if arrival.kind() == "gap" {
            assert_eq!((arrival.seq(), &*arrival.key), (None, "ai.streamll.gap"));
            let [from, to, count] = ["from_seq", "to_seq", "count"].map(|key| arrival.number(key).unwrap());
            assert_eq!((from, to), (expected, expected + count - 1));
            (expected, told) = (to + 1, told + count);
            neighbours += usize::from(after_marker);
            after_marker = true;
        } else {
            assert_eq!(arrival.seq(), Some(expected), "a hole without a marker");
            (expected, after_marker) = (expected + 1, false);
        }
    }
    assert_eq!(expected, last_seq + 1, "a hole at the end without a marker");
    (told, neighbours)
}

#[test]
fn at_twenty_times_what_a_sink_can_take_only_tokens_are_lost_and_every_hole_is_marked() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(slow(&journal))).await;
        let mut n = 0;
        let mut most = 0;
        // 20 events a millisecond against one, and one of 40 is no token.
        for _ in 0..1000 {
            emit_run(&rig, &mut n, 78);
            sleep(Duration::from_millis(4)).await;
            let balance = rig.graph.status().sink("slow").unwrap().balance;
            assert!(balance.holds());
            most = most.max(balance.waiting);
        }
        assert!((150..=200).contains(&most), "{most}");
        let drained = rig.end().await;
        let arrivals = journal.arrivals();
        let lifecycle = arrivals.iter().filter(|a| matches!(a.kind(), "start" | "end")).count();
        assert_eq!(lifecycle, 2000, "a lifecycle event is missing");
        let (told, neighbours) = every_hole_has_its_marker(&arrivals, n);
        assert!(neighbours * 20 < markers(&arrivals).len(), "{neighbours} markers too many");
        let balance = drained.status.sink("slow").unwrap().balance;
        assert_eq!(balance.shed, told);
        assert_eq!(balance.accepted, n);
        assert_eq!(balance.notices, markers(&arrivals).len() as u64);
        assert!(balance.shed > n / 2, "{} of {n} shed is no overload", balance.shed);
        assert!(arrivals.iter().any(|a| a.kind() == "token"), "nothing but lifecycle events arrived");
    });
}

#[test]
fn lifecycle_events_go_only_when_no_token_is_left_and_audit_last_of_all() {
    run(async {
        let journal = Journal::new([]);
        let mut spec = slow(&journal);
        spec.buffer.max_events = 64;
        let mut plan = Plan::new("test").sink(spec);
        plan.classes = vec![(TopicPattern::parse("*.*.payment").unwrap(), Class::Audit)];
        let rig = Rig::start(plan).await;
        settle().await;
        rig.graph.sink("slow").unwrap().force_open();
        (0..40).for_each(|n| rig.token(n));
        (40..120).for_each(|n| rig.emit("start", n));
        settle().await;
        let waiting = rig.graph.status().sink("slow").unwrap().balance.waiting;
        assert_eq!(waiting, 64);
        (120..170).for_each(|n| rig.emit("payment", n));
        settle().await;
        rig.graph.sink("slow").unwrap().auto();
        sleep(Duration::from_secs(1)).await;
        let drained = rig.end().await;
        let arrivals = journal.arrivals();
        let kinds = |kind: &str| arrivals.iter().filter(|a| a.kind() == kind).count();
        assert_eq!((kinds("token"), kinds("payment")), (0, 50));
        assert!((10..=14).contains(&kinds("start")), "{}", kinds("start"));
        let (told, _) = every_hole_has_its_marker(&arrivals, 170);
        assert_eq!(told, drained.status.sink("slow").unwrap().balance.shed);
        let classes = |class: &str| -> u64 {
            let count = |a: &&Arrival| a.json["data"]["classes"][class].as_u64();
            markers(&arrivals).iter().filter_map(count).sum()
        };
        assert_eq!(
            (classes("token"), classes("lifecycle"), classes("audit")),
            (40, 80 - kinds("start") as u64, 0)
        );
    });
}

#[test]
fn audit_events_are_shed_when_there_is_nothing_else() {
    run(async {
        let journal = Journal::new([]);
        let mut spec = slow(&journal);
        spec.buffer.max_events = 8;
        let mut plan = Plan::new("test").sink(spec);
        plan.classes = vec![(TopicPattern::parse("#").unwrap(), Class::Audit)];
        let rig = Rig::start(plan).await;
        settle().await;
        rig.graph.sink("slow").unwrap().force_open();
        rig.emit_all(0..20);
        settle().await;
        rig.graph.sink("slow").unwrap().auto();
        sleep(Duration::from_secs(1)).await;
        rig.end().await;
        assert_eq!(journal.numbers(), (0..8).collect::<Vec<_>>(), "the oldest stay");
        assert_eq!(every_hole_has_its_marker(&journal.arrivals(), 20), (12, 0));
    });
}

#[test]
fn drop_newest_keeps_what_is_there_whatever_comes() {
    run(async {
        let journal = Journal::new([]);
        let mut spec = slow(&journal);
        spec.buffer.when_full = WhenFull::DropNewest;
        spec.buffer.max_events = 16;
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        settle().await;
        rig.graph.sink("slow").unwrap().force_open();
        (0..20).for_each(|n| rig.token(n));
        rig.emit_all(20..40);
        settle().await;
        rig.graph.sink("slow").unwrap().auto();
        sleep(Duration::from_secs(1)).await;
        rig.end().await;
        let kinds = journal.kinds();
        assert_eq!(
            kinds.iter().filter(|kind| *kind == "token").count(),
            15,
            "a sixteenth is kept for others"
        );
        assert_eq!(kinds.iter().filter(|kind| *kind == "start").count(), 1);
        assert_eq!(every_hole_has_its_marker(&journal.arrivals(), 40), (24, 0));
    });
}

#[test]
fn a_full_way_in_keeps_its_last_quarter_for_lifecycle_events() {
    run(async {
        let journal = Journal::new([]);
        let mut plan = Plan::new("test").sink(journal.spec("live", Duration::ZERO));
        plan.ingress_capacity = 1000;
        let rig = Rig::start(plan).await;
        settle().await;
        let emit = |event: Event| rig.graph.emitter().emit(event);
        let token = || emit(Event::token(&rig.step, "answer", "x", 0));
        let start = || emit(Event::new(&rig.step, "start"));
        assert!((0..750).all(|_| token() == Emitted::Accepted));
        assert!((0..100).all(|_| token() == Emitted::Shed));
        assert!((0..250).all(|_| start() == Emitted::Accepted));
        assert!((0..10).all(|_| start() == Emitted::Shed));
        settle().await;
        // Half empty again: tokens come in as before.
        assert_eq!(token(), Emitted::Accepted);
        let drained = rig.end().await;
        let balance = drained.status.balance();
        assert_eq!((balance.received, balance.shed, balance.routed), (1111, 110, 1001));
        let arrivals = journal.arrivals();
        assert_eq!(every_hole_has_its_marker(&arrivals, 1111), (110, 0));
        assert_eq!(markers(&arrivals)[0].json["data"]["reason"], "ingress full");
        assert_eq!(markers(&arrivals).len(), 2);
    });
}

#[test]
fn a_buffer_never_holds_more_bytes_than_it_may() {
    run(async {
        let journal = Journal::new([]);
        let mut spec = slow(&journal);
        spec.buffer.max_size = 100_000;
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        settle().await;
        rig.graph.sink("slow").unwrap().force_open();
        for n in 0..500 {
            let text = "x".repeat(usize::try_from(n % 50 * 100).unwrap());
            rig.graph.emitter().emit(Event::new(&rig.step, "start").with("n", n).with("text", text));
            settle().await;
            let balance = rig.graph.status().sink("slow").unwrap().balance;
            assert!(balance.waiting_bytes <= 100_000 && balance.waiting <= 200, "{balance:?}");
        }
        rig.graph.sink("slow").unwrap().auto();
        sleep(Duration::from_secs(5)).await;
        let drained = rig.end().await;
        let (told, _) = every_hole_has_its_marker(&journal.arrivals(), 500);
        assert_eq!(told, drained.status.sink("slow").unwrap().balance.shed);
        assert!(told > 0);
    });
}

#[test]
fn shed_in_two_places_at_once_it_is_still_one_marker_and_an_exact_count() {
    run(async {
        let journal = Journal::new([]);
        let mut spec = slow(&journal);
        spec.on_open = OnOpen::Drop;
        let mut plan = Plan::new("test").sink(spec);
        plan.ingress_capacity = 100;
        let rig = Rig::start(plan).await;
        settle().await;
        rig.graph.sink("slow").unwrap().force_open();
        for _ in 0..5 {
            rig.emit_all(0..150);
            settle().await;
        }
        rig.graph.sink("slow").unwrap().auto();
        sleep(Duration::from_millis(100)).await;
        rig.emit_all(0..1);
        let drained = rig.end().await;
        let arrivals = journal.arrivals();
        assert_eq!(every_hole_has_its_marker(&arrivals, 751), (750, 0));
        assert_eq!(markers(&arrivals)[0].json["data"]["reason"], "circuit open, ingress full");
        assert_eq!(drained.status.balance().shed + drained.status.sink("slow").unwrap().balance.shed, 750);
    });
}
