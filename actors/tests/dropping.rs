//! Nobody waits for a sink that is told to drop: no sender, no flush, no end, and no sink whose dead letters it takes.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use streamll_actors::event::{Confirmation, Event};
use streamll_actors::graph::{Plan, SinkSpec};
use streamll_actors::ingress::{Emitted, Patience};
use streamll_actors::sink::{OnOpen, WhenFull};
use streamll_actors::testkit::{Act, Journal, Rig, run, settle};
use tokio::time::{Instant, sleep, timeout};

const TAKES: Duration = Duration::from_millis(5);
/// For ever, as these tests go.
const LONG: usize = 1000;

fn small(journal: &Journal, name: &str) -> SinkSpec {
    let mut spec = journal.spec(name, TAKES);
    spec.buffer.max_events = 16;
    spec
}

fn dropping(journal: &Journal) -> SinkSpec {
    let mut spec = small(journal, "console");
    spec.buffer.when_full = WhenFull::DropNewest;
    spec
}

/// Sends so many events, each of which must be taken without a wait for any sink.
async fn send_all(rig: &Rig, patience: Patience, count: u64) {
    for n in 0..count {
        let event = Event::new(&rig.step, "start").with("n", n);
        let sent = timeout(Duration::from_secs(1), rig.graph.emitter().send_patiently(event, patience)).await;
        assert_eq!(sent, Ok(Emitted::Accepted), "event {n}");
        // The healthy sink beside keeps up.
        settle().await;
    }
}

fn all(n: u64) -> Vec<u64> {
    (0..n).collect()
}

async fn takes<F: Future>(what: F) -> (Duration, F::Output) {
    let began = Instant::now();
    let output = what.await;
    (began.elapsed(), output)
}

#[test]
fn a_full_buffer_that_drops_what_is_new_holds_up_no_sender_whatever_its_sink_does() {
    for act in [Act::Hang, Act::Misconfigured, Act::Unavailable(0), Act::Overload] {
        for patience in [Patience::Healthy, Patience::Open] {
            run(async {
                let (console, beside) = (Journal::new([act; LONG]), Journal::new([]));
                let plan = Plan::new("test").sink(dropping(&console));
                let rig = Rig::start(plan.sink(beside.spec("beside", Duration::ZERO))).await;
                send_all(&rig, patience, 100).await;
                let status = rig.graph.status();
                assert_eq!(status.sink("console").unwrap().balance.shed, 84, "{act:?}");
                rig.end().await;
                assert_eq!(beside.numbers(), all(100));
            });
        }
    }
}

#[test]
fn a_sink_that_drops_while_it_is_open_holds_up_no_sender_while_it_is_open() {
    run(async {
        let (console, beside) = (Journal::new([Act::Hang; LONG]), Journal::new([]));
        let mut spec = small(&console, "console");
        spec.on_open = OnOpen::Drop;
        (spec.deliver_timeout, spec.breaker.failure_threshold) = (Duration::from_secs(1), 1);
        let rig = Rig::start(Plan::new("test").sink(spec).sink(beside.spec("beside", Duration::ZERO))).await;
        // Full before it opens: what waits stays, and is no reason to wait.
        rig.emit_all(0..16);
        sleep(Duration::from_secs(2)).await;
        assert!(rig.graph.status().sink("console").unwrap().circuit_open);
        send_all(&rig, Patience::Open, 100).await;
        rig.end().await;
        assert_eq!(beside.numbers().len(), 116);
    });
}

#[test]
fn with_a_fallback_it_is_the_fallback_that_holds_up_the_sender() {
    let fallback = |spec: &mut SinkSpec| spec.on_open = OnOpen::Fallback("spare".into());
    // The spare sink takes everything: nobody waits for the open one.
    run(async {
        let (live, spare) = (Journal::new([]).opening([Act::Misconfigured; LONG]), Journal::new([]));
        let mut spec = small(&live, "live");
        fallback(&mut spec);
        let rig = Rig::start(Plan::new("test").sink(spec).sink(spare.spec("spare", Duration::ZERO))).await;
        rig.emit_all(0..16);
        settle().await;
        send_all(&rig, Patience::Open, 100).await;
        rig.end().await;
        assert!(spare.numbers().len() >= 100);
    });
    // The spare sink is slow: the sender waits for it, and nothing is shed.
    run(async {
        let (live, spare) = (Journal::new([]).opening([Act::Misconfigured; LONG]), Journal::new([]));
        let mut spec = small(&live, "live");
        fallback(&mut spec);
        let mut slow = small(&spare, "spare");
        slow.batch.max_events = 2;
        let rig = Rig::start(Plan::new("test").sink(spec).sink(slow)).await;
        settle().await;
        for n in 0..200 {
            let event = Event::new(&rig.step, "start").with("n", n);
            rig.graph.emitter().send(event).await;
        }
        rig.end().await;
        let status = rig.graph.status();
        assert_eq!(status.sink("spare").unwrap().balance.shed, 0);
        assert_eq!(spare.numbers(), all(200));
    });
}

#[test]
fn a_confirmation_is_the_only_thing_that_is_waited_for() {
    run(async {
        let console = Journal::new([Act::Hang; LONG]);
        let rig = Rig::start(Plan::new("test").sink(dropping(&console))).await;
        let mut lost = 0;
        for n in 0..50 {
            let event = Event::new(&rig.step, "start").with("n", n);
            let sent = timeout(Duration::from_secs(1), rig.graph.emitter().send_confirmed(event)).await;
            lost += usize::from(sent.expect("it does not wait") == Confirmation::Lost);
        }
        assert_eq!(lost, 34, "what was dropped is not confirmed");
        rig.end().await;
    });
}

#[test]
fn a_flush_gives_a_sink_that_drops_a_second() {
    run(async {
        let (console, beside) = (Journal::new([Act::Hang; LONG]), Journal::new([]));
        let plan = Plan::new("test").sink(dropping(&console)).sink(beside.spec("beside", TAKES));
        let rig = Rig::start(plan).await;
        rig.emit_all(0..20);
        let (took, behind) = takes(rig.graph.flush()).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!((behind, beside.numbers()), (16, all(20)));
        rig.end().await;
    });
    // A second is enough for one that delivers.
    run(async {
        let console = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(dropping(&console))).await;
        rig.emit_all(0..16);
        assert_eq!(rig.graph.flush().await, 0);
        assert_eq!(console.numbers(), all(16));
        assert!(rig.end().await.complete);
    });
}

/// What the end takes, with a minute to spare; the numbers balance.
async fn end_of(spec: SinkSpec, events: u64) -> (Duration, u64) {
    let beside = Journal::new([]);
    let rig = Rig::start(Plan::new("test").sink(spec).sink(beside.spec("beside", TAKES))).await;
    rig.emit_all(0..events);
    settle().await;
    let (took, drained) = takes(rig.end()).await;
    assert_eq!(beside.numbers(), all(events));
    let numbers = drained.status.sink("console").unwrap().balance;
    (took, numbers.in_memory())
}

#[test]
fn the_end_does_not_wait_for_a_sink_that_drops_and_stands_still_or_is_open() {
    run(async {
        // Hanging, for 30 s a delivery.
        let (took, left) = end_of(dropping(&Journal::new([Act::Hang; LONG])), 10).await;
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert_eq!(left, 10, "counted");
        // Open, whichever of the two it is that drops: one probe, and no more.
        let away = || Journal::new([Act::Misconfigured; LONG]);
        let (took, left) = end_of(dropping(&away()), 10).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(left, 10);
        let mut spec = small(&away(), "console");
        spec.on_open = OnOpen::Drop;
        let (took, left) = end_of(spec, 10).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(left, 10);
    });
}

#[test]
fn the_end_lets_a_sink_that_drops_deliver_what_it_has_for_as_long_as_it_moves() {
    run(async {
        let console = Journal::new([]);
        let mut spec = console.spec("console", Duration::from_secs(2));
        spec.buffer.when_full = WhenFull::DropNewest;
        spec.batch.max_events = 1;
        let (took, left) = end_of(spec, 20).await;
        assert!(took > Duration::from_secs(30), "{took:?}");
        assert_eq!((left, console.numbers()), (0, all(20)));
        // And one that was away comes by its one probe.
        let console = Journal::new([]).opening([Act::Misconfigured]);
        let (_, left) = end_of(dropping(&console), 10).await;
        assert_eq!((left, console.numbers()), (0, all(10)));
    });
}

#[test]
fn a_dead_letter_does_not_wait_for_a_sink_that_drops_and_goes_into_the_file() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let (live, console) =
            (Journal::new([]).whenever(|_| true, Act::Rejected), Journal::new([Act::Hang; LONG]));
        let mut spec = live.spec("live", Duration::ZERO);
        spec.dead_letter = Some("console".to_owned());
        let mut plan = Plan::new("test").sink(spec).sink(dropping(&console));
        plan.data_dir = data.path().into();
        let rig = Rig::start(plan).await;
        rig.emit_all(0..40);
        assert!(timeout(Duration::from_secs(5), rig.graph.flush()).await.is_ok());
        assert_eq!(letters(data.path()), 24);
        rig.end().await;
        let status = rig.graph.status();
        assert_eq!(status.sink("live").unwrap().balance.dead_lettered, 40);
        assert_eq!(status.sink("console").unwrap().balance.in_memory(), 16);
    });
}

fn letters(data: &Path) -> usize {
    std::fs::read_to_string(data.join("dead/live.ndjson")).unwrap_or_default().lines().count()
}
