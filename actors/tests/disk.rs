//! Promise 5, on disk: what a disk buffer holds survives its process, in order, and is counted.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use streamll_actors::event::{Class, Confirmation, Event};
use streamll_actors::graph::{GraphHandle, Plan, SinkSpec, Threads};
use streamll_actors::ingress::Patience;
use streamll_actors::route::TopicPattern;
use streamll_actors::sink::{BufferPolicy, SinkState};
use streamll_actors::testkit::{Act, Journal, Rig, run, settle};
use tokio::time::sleep;

const TAKES: Duration = Duration::from_millis(5);
const SECOND: Duration = Duration::from_secs(1);

/// A sink whose circuit opens at the first failure.
fn on_disk(journal: &Journal, max_size: usize) -> SinkSpec {
    let mut spec = journal.spec("records", TAKES);
    spec.buffer = BufferPolicy { max_size, ..BufferPolicy::disk() };
    spec.breaker.failure_threshold = 1;
    spec
}

fn plan(data: &Path, spec: SinkSpec) -> Plan {
    let mut plan = Plan::new("test").sink(spec);
    plan.data_dir = data.into();
    plan
}

/// A sink that is never there.
fn away() -> Journal {
    Journal::new([]).opening([Act::Unavailable(0); 10_000])
}

async fn confirmed(rig: &Rig, n: u64) -> Confirmation {
    rig.graph.emitter().send_confirmed(Event::new(&rig.step, "start").with("n", n)).await
}

#[test]
fn what_waits_at_the_end_is_no_loss_and_goes_out_at_the_next_start_in_order() {
    let data = tempfile::tempdir().unwrap();
    run(async {
        let rig = Rig::start(plan(data.path(), on_disk(&away(), 64 << 20))).await;
        rig.emit_all(0..5000);
        let drained = rig.end().await;
        let numbers = drained.status.sink("records").unwrap().balance;
        assert!(drained.complete, "it is kept");
        assert_eq!((numbers.accepted, numbers.waiting, numbers.on_disk), (5000, 5000, 5000));
    });
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(plan(data.path(), on_disk(&journal, 64 << 20))).await;
        rig.emit_all(5000..6000);
        let drained = rig.end().await;
        let numbers = drained.status.sink("records").unwrap().balance;
        assert_eq!((numbers.recovered, numbers.accepted, numbers.delivered), (5000, 1000, 6000));
        assert_eq!(journal.numbers(), (0..6000).collect::<Vec<_>>());
        assert!(
            journal.arrivals().iter().all(|arrival| arrival.attempt == 1),
            "none of them was sent before"
        );
    });
    let left = std::fs::read_dir(data.path().join("buffers/records")).unwrap();
    let left: BTreeSet<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left, BTreeSet::from(["lock".to_owned(), "marks".to_owned()]), "all is done");
}

#[test]
fn a_process_that_just_ends_loses_nothing_that_was_confirmed_and_marks_what_it_may_have_sent() {
    let data = tempfile::tempdir().unwrap();
    run(async {
        let journal = Journal::new([Act::Deliver, Act::Deliver, Act::Hang]);
        let rig = Rig::start(plan(data.path(), on_disk(&journal, 64 << 20))).await;
        for n in 0..300 {
            assert_eq!(confirmed(&rig, n).await, Confirmation::Held(1));
        }
        settle().await;
        // And that is its end.
    });
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(plan(data.path(), on_disk(&journal, 64 << 20))).await;
        assert!(rig.end().await.complete);
        let numbers = journal.numbers();
        assert_eq!(numbers, (numbers[0]..300).collect::<Vec<_>>());
        // What was in flight when it ended comes again, and says so; what had not left does not.
        let repeats = journal.arrivals().iter().filter(|arrival| arrival.attempt == 2).count();
        assert!(repeats > 0 && repeats < numbers.len(), "{repeats} of {}", numbers.len());
    });
}

/// Two graphs of one process contend for a folder as two processes do; with real ones: `tests/cli/overlap.rs`.
#[test]
fn a_second_one_on_a_folder_is_open_until_the_first_ends_and_delivers_behind_what_that_left() {
    let data = tempfile::tempdir().unwrap();
    run(async {
        let first = Rig::start(plan(data.path(), on_disk(&away(), 64 << 20))).await;
        first.emit_all(0..100);
        settle().await;
        let journal = Journal::new([]);
        let second = Rig::start(plan(data.path(), on_disk(&journal, 64 << 20))).await;
        second.emit_all(100..200);
        let emitter = second.graph.emitter().clone();
        let event = Event::new(&second.step, "start").with("n", 200_u64);
        let mut unconfirmed = tokio::spawn(async move { emitter.send_confirmed(event).await });
        sleep(SECOND * 60).await;
        let status = second.graph.status();
        let records = status.sink("records").unwrap();
        assert!(status.balances() && records.awaits_disk && !records.running);
        assert_eq!(
            (records.state, records.balance.waiting, records.balance.on_disk),
            (SinkState::Open, 101, 0)
        );
        let reason = records.reason.as_deref().unwrap();
        let holder = format!("its buffer is in use by process {}", std::process::id());
        assert_eq!(reason, format!("{holder}: it takes over when that process ends"));
        // No order makes it deliver before its time.
        second.graph.sink("records").unwrap().force_close();
        sleep(SECOND * 60).await;
        assert_eq!(second.graph.status().sink("records").unwrap().state, SinkState::Open);
        assert!(!unconfirmed.is_finished(), "it is in memory alone");
        assert!(first.end().await.complete, "the first keeps on disk what it has");
        assert_eq!((&mut unconfirmed).await.unwrap(), Confirmation::Held(1));
        let ended = second.end().await;
        let numbers = ended.status.sink("records").unwrap().balance;
        assert!(ended.complete);
        assert_eq!((numbers.recovered, numbers.accepted, numbers.delivered), (100, 101, 201));
        assert_eq!(journal.numbers(), (0..=200).collect::<Vec<_>>());
    });
}

#[test]
fn one_that_ends_without_its_folder_loses_only_what_waited_for_it() {
    let data = tempfile::tempdir().unwrap();
    run(async {
        let journal = Journal::new([]);
        let first = Rig::start(plan(data.path(), on_disk(&journal, 64 << 20))).await;
        first.emit_all(0..10);
        let second = Rig::start(plan(data.path(), on_disk(&away(), 64 << 20))).await;
        second.emit_all(10..20);
        settle().await;
        let ended = second.end().await;
        let numbers = ended.status.sink("records").unwrap().balance;
        assert!(!ended.complete && ended.lacks_only_locks());
        assert_eq!((numbers.accepted, numbers.in_memory(), numbers.delivered), (10, 10, 0));
        // And with nothing that waits it does not wait.
        let third = Rig::start(plan(data.path(), on_disk(&away(), 64 << 20))).await;
        let began = tokio::time::Instant::now();
        let ended = third.end().await;
        assert!(ended.lacks_only_locks() && began.elapsed() < SECOND, "{:?}", began.elapsed());
        assert!(first.end().await.complete);
        assert_eq!(journal.numbers(), (0..10).collect::<Vec<_>>());
    });
}

#[test]
fn one_that_drains_takes_over_while_it_has_time() {
    let data = tempfile::tempdir().unwrap();
    run(async {
        let first = Rig::start(plan(data.path(), on_disk(&away(), 64 << 20))).await;
        first.emit_all(0..10);
        let journal = Journal::new([]);
        let second = Rig::start(plan(data.path(), on_disk(&journal, 64 << 20))).await;
        second.emit_all(10..20);
        settle().await;
        let graph = second.graph.clone();
        let draining = actix_rt::spawn(async move { graph.drain(20 * SECOND).await });
        sleep(10 * SECOND).await;
        assert!(first.end().await.complete);
        let drained = draining.await.unwrap();
        assert!(drained.complete && drained.status.balances());
        assert_eq!(journal.numbers(), (0..20).collect::<Vec<_>>());
    });
}

#[test]
fn sinks_that_are_added_replaced_or_removed_meanwhile_wait_for_the_folder_too() {
    let data = tempfile::tempdir().unwrap();
    run(async {
        let first = Rig::start(plan(data.path(), on_disk(&away(), 64 << 20))).await;
        let journal = Journal::new([]);
        let second = Rig::start(plan(data.path(), Journal::new([]).spec("other", TAKES))).await;
        second.graph.add_sink(on_disk(&away(), 64 << 20)).await.unwrap();
        assert!(second.graph.status().sink("records").unwrap().awaits_disk);
        second.graph.replace_sink(on_disk(&journal, 64 << 20), SECOND).await.unwrap();
        second.emit_all(0..10);
        settle().await;
        assert_eq!(second.graph.status().sink("records").unwrap().state, SinkState::Open);
        first.end().await;
        sleep(SECOND).await;
        assert_eq!(journal.numbers(), (0..10).collect::<Vec<_>>());
        assert!(second.end().await.complete);
    });
}

#[test]
fn on_disk_too_tokens_go_first_and_each_hole_has_its_marker() {
    let data = tempfile::tempdir().unwrap();
    run(async {
        let journal = Journal::new([]).opening([Act::Unavailable(0); 3]);
        let mut plan = plan(data.path(), on_disk(&journal, 2 << 20));
        plan.classes.push((TopicPattern::parse("ai.*.payment").unwrap(), Class::Audit));
        let rig = Rig::start(plan).await;
        let (mut kept, mut tokens) = (0, 0);
        for round in 0..200 {
            for n in 0..150 {
                rig.token(round * 150 + n);
                tokens += 1;
            }
            rig.emit("start", round);
            rig.emit("payment", round);
            kept += 2;
            settle().await;
            let status = rig.graph.status();
            assert!(status.balances(), "{status:#?}");
        }
        let size: u64 = std::fs::read_dir(data.path().join("buffers/records"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(size < (2 << 20) + (300 << 10), "{size} bytes");
        sleep(SECOND * 600).await;
        let drained = rig.end().await;
        let numbers = drained.status.sink("records").unwrap().balance;
        let arrivals = journal.arrivals();
        let of = |kind: &str| arrivals.iter().filter(|arrival| arrival.kind() == kind).count() as u64;
        assert_eq!(of("start") + of("payment"), kept, "no lifecycle and no audit event is lost");
        assert!(numbers.shed > tokens / 2, "{numbers:?}");
        assert_eq!(of("token") + numbers.shed, tokens);
        // Markers tell of all that is missing, and stand where it is missing.
        let markers: Vec<_> = arrivals.iter().filter(|arrival| arrival.kind() == "gap").collect();
        assert_eq!(markers.iter().filter_map(|marker| marker.number("count")).sum::<u64>(), numbers.shed);
        let mut last = 0;
        for arrival in &arrivals {
            let (from, to) = match arrival.kind() {
                "gap" => (arrival.number("from_seq").unwrap(), arrival.number("to_seq").unwrap()),
                _ => (arrival.seq().unwrap(), arrival.seq().unwrap()),
            };
            assert!(from > last && to >= from, "{from} to {to} behind {last}");
            last = to;
        }
    });
}

#[test]
fn when_nothing_but_audit_events_is_left_the_newest_stays_out() {
    let data = tempfile::tempdir().unwrap();
    run(async {
        let mut plan = plan(data.path(), on_disk(&away(), 1 << 20));
        plan.classes.push((TopicPattern::parse("#").unwrap(), Class::Audit));
        let rig = Rig::start(plan).await;
        let mut held = BTreeSet::new();
        for n in 0..5000 {
            match confirmed(&rig, n).await {
                Confirmation::Held(1) => held.insert(n),
                _ => false,
            };
        }
        assert!(held.len() > 2000 && held.len() < 4000, "{}", held.len());
        assert_eq!(held.last(), Some(&(held.len() as u64 - 1)), "the first ones are held");
        let numbers = rig.end().await.status.sink("records").unwrap().balance;
        assert_eq!((numbers.shed, numbers.on_disk), (5000 - held.len() as u64, held.len() as u64));
    });
}

#[test]
fn a_waiting_sender_waits_for_room_on_disk() {
    let data = tempfile::tempdir().unwrap();
    run(async {
        let journal = Journal::new([]).opening([Act::Unavailable(0); 2]);
        let rig = Rig::start(plan(data.path(), on_disk(&journal, 1 << 20))).await;
        for n in 0..10_000 {
            let event = Event::token(&rig.step, "answer", "x", n);
            rig.graph.emitter().send_patiently(event, Patience::Open).await;
        }
        let drained = rig.end().await;
        let numbers = drained.status.sink("records").unwrap().balance;
        assert_eq!((numbers.shed, numbers.delivered), (0, 10_000));
        assert!(drained.complete);
    });
}

#[test]
fn a_sink_that_is_replaced_removed_or_added_again_finds_what_waits() {
    let data = tempfile::tempdir().unwrap();
    run(async {
        let (first, second, third) = (away(), away(), Journal::new([]));
        let rig = Rig::start(plan(data.path(), on_disk(&first, 64 << 20))).await;
        rig.emit_all(0..100);
        settle().await;
        rig.graph.replace_sink(on_disk(&second, 64 << 20), SECOND).await.unwrap();
        rig.emit_all(100..200);
        settle().await;
        let gone = rig.graph.remove_sink("records", SECOND).await.unwrap();
        assert_eq!((gone.balance.recovered, gone.balance.on_disk), (100, 200));
        rig.graph.add_sink(on_disk(&third, 64 << 20)).await.unwrap();
        rig.emit_all(200..300);
        assert!(rig.end().await.complete);
        assert_eq!(third.numbers(), (0..300).collect::<Vec<_>>());
    });
}

#[test]
fn what_comes_in_while_a_sink_is_replaced_stays_behind_what_is_on_disk() {
    let data = tempfile::tempdir().unwrap();
    run(async {
        // The old one takes its time to end, and the new one collects in memory meanwhile.
        let (old, new) = (Journal::new([Act::Hang]), Journal::new([]));
        let rig = Rig::start(plan(data.path(), on_disk(&old, 64 << 20))).await;
        rig.emit_all(0..100);
        settle().await;
        let graph = rig.graph.clone();
        let spec = on_disk(&new, 64 << 20);
        let replacing = actix_rt::spawn(async move { graph.replace_sink(spec, 10 * SECOND).await });
        sleep(SECOND).await;
        rig.emit_all(100..200);
        settle().await;
        replacing.await.unwrap().unwrap();
        assert!(rig.end().await.complete);
        let numbers = new.numbers();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    });
}

#[test]
fn a_failed_sink_keeps_what_it_has_on_disk() {
    let data = tempfile::tempdir().unwrap();
    run(async {
        let mut spec = on_disk(&Journal::new([Act::Fatal; 100]), 64 << 20);
        spec.poison_after = 0;
        let rig = Rig::start(plan(data.path(), spec)).await;
        rig.emit_all(0..100);
        sleep(SECOND * 60).await;
        assert_eq!(rig.graph.status().sink("records").unwrap().state, SinkState::Failed);
        assert!(rig.end().await.complete, "it is kept");
    });
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(plan(data.path(), on_disk(&journal, 64 << 20))).await;
        rig.end().await;
        assert_eq!(journal.numbers(), (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn keys_and_system_events_are_on_disk_as_they_were() {
    let data = tempfile::tempdir().unwrap();
    let spec = |journal: &Journal| {
        let mut spec = on_disk(journal, 64 << 20);
        spec.routing_key = Some(streamll_actors::route::Template::parse("mine.{data.n}").unwrap());
        spec
    };
    run(async {
        let rig = Rig::start(plan(data.path(), spec(&away()))).await;
        rig.emit_all(0..3);
        rig.end().await;
    });
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(plan(data.path(), spec(&journal))).await;
        rig.end().await;
        let keys: Vec<_> = journal.arrivals().into_iter().map(|arrival| arrival.key).collect();
        assert_eq!(keys, ["mine.0", "mine.1", "mine.2"]);
        let topics: BTreeSet<_> = journal
            .arrivals()
            .iter()
            .map(|arrival| arrival.json["topic"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(topics, BTreeSet::from(["ai.rig.start".to_owned()]));
    });
}

#[test]
fn on_threads_the_healthy_path_does_not_wait_for_the_disk_and_everything_arrives() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_owned();
    actix_rt::System::new().block_on(async move {
        let journal = Journal::new([]);
        let mut spec = on_disk(&journal, 64 << 20);
        spec.factory = {
            let journal = journal.clone();
            std::sync::Arc::new(move || Box::new(journal.sink(Duration::ZERO)))
        };
        let graph = GraphHandle::start(plan(&path, spec), Threads::Several).await.unwrap();
        let step = streamll_actors::event::Step::new("M");
        let mut unconfirmed = Vec::new();
        for n in 0..20_000_u64 {
            let event = Event::new(&step, "start").with("n", n);
            unconfirmed.push(graph.emitter().send_with_receipt(event, Patience::Healthy).await);
        }
        for sent in unconfirmed {
            assert_eq!(sent.confirmation().await, Confirmation::Held(1));
        }
        let drained = graph.drain(Duration::from_secs(60)).await;
        assert!(drained.complete && drained.status.balances());
        assert_eq!(journal.numbers(), (0..20_000).collect::<Vec<_>>());
    });
}
