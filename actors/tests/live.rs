//! A graph that changes while events flow, and what an application can ask of it meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use streamll_actors::event::{Confirmation, Context, Event, Step};
use streamll_actors::graph::{GraphHandle, Plan, SinkSpec, Stage, StartError, Threads};
use streamll_actors::process::{Output, Processor};
use streamll_actors::route::{Template, TopicPattern};
use streamll_actors::sink::{Deliveries, DeliveryError, OnOpen, Placement, Sink, SinkState};
use streamll_actors::testkit::{Act, Journal, Rig, Scripted, run, settle};
use tokio::time::{sleep, timeout};

const TAKES: Duration = Duration::from_millis(5);
const MINUTE: Duration = Duration::from_secs(60);

fn all(n: u64) -> Vec<u64> {
    (0..n).collect()
}

fn pattern(text: &str) -> Option<Vec<TopicPattern>> {
    Some(vec![TopicPattern::parse(text).unwrap()])
}

/// Emits ten events every 10 ms, from `from`, until it is told to stop.
fn flow(rig: &Rig, from: u64) -> (Arc<AtomicU64>, actix_rt::task::JoinHandle<()>) {
    let next = Arc::new(AtomicU64::new(from));
    let task = actix_rt::spawn({
        let (rig, next) = (rig.clone(), next.clone());
        async move {
            loop {
                let n = next.fetch_add(10, Ordering::Relaxed);
                rig.emit_all(n..n + 10);
                sleep(Duration::from_millis(10)).await;
            }
        }
    });
    (next, task)
}

#[test]
fn a_sink_that_is_added_gets_everything_from_then_on() {
    run(async {
        let (first, second) = (Journal::new([]), Journal::new([]));
        let rig = Rig::start(Plan::new("test").sink(first.spec("first", TAKES))).await;
        let (next, flow) = flow(&rig, 0);
        sleep(Duration::from_secs(1)).await;
        rig.graph.add_sink(second.spec("second", TAKES)).await.unwrap();
        let at = next.load(Ordering::Relaxed);
        sleep(Duration::from_secs(1)).await;
        flow.abort();
        assert!(rig.end().await.complete);
        let total = next.load(Ordering::Relaxed);
        assert_eq!(first.numbers(), all(total));
        let seen = second.numbers();
        assert!(seen[0].abs_diff(at) <= 10, "from {} instead of {at}", seen[0]);
        assert_eq!(seen, (seen[0]..total).collect::<Vec<_>>());
    });
}

#[test]
fn a_sink_that_is_removed_delivers_what_waits_and_stays_in_the_report() {
    run(async {
        let (first, second) = (Journal::new([]), Journal::new([]));
        let plan = Plan::new("test").sink(first.spec("first", TAKES)).sink(second.spec("second", TAKES * 20));
        let rig = Rig::start(plan).await;
        let (next, flow) = flow(&rig, 0);
        sleep(Duration::from_millis(1111)).await;
        let at = next.load(Ordering::Relaxed);
        let status = rig.graph.remove_sink("second", MINUTE).await.unwrap();
        assert_eq!((status.balance.waiting, status.running), (0, false));
        assert_eq!(second.numbers(), all(at));
        assert_eq!(second.opened_and_closed(), (1, 1));
        sleep(Duration::from_secs(1)).await;
        assert!(rig.graph.sink("second").is_none());
        assert!(rig.graph.remove_sink("second", MINUTE).await.is_none());
        flow.abort();
        let drained = rig.end().await;
        assert!(drained.complete);
        assert_eq!(drained.status.removed()[0].balance.delivered, at);
        assert_eq!(first.numbers(), all(next.load(Ordering::Relaxed)));
    });
}

#[test]
fn of_two_sinks_in_one_place_each_gets_its_part_and_nothing_is_lost_between_them() {
    run(async {
        let (old, new, other) = (Journal::new([]), Journal::new([]), Journal::new([]));
        let mut slow = old.spec("live", TAKES * 10);
        slow.batch.max_events = 30;
        let rig = Rig::start(Plan::new("test").sink(slow).sink(other.spec("other", TAKES))).await;
        let (next, flow) = flow(&rig, 0);
        sleep(Duration::from_secs(1)).await;
        let at = next.load(Ordering::Relaxed);
        rig.graph.replace_sink(new.spec("live", TAKES), MINUTE).await.unwrap();
        assert!(next.load(Ordering::Relaxed) > at + 500, "the old one had to be waited for");
        sleep(Duration::from_secs(1)).await;
        flow.abort();
        let drained = rig.end().await;
        assert!(drained.complete);
        let total = next.load(Ordering::Relaxed);
        let (old, new) = (old.arrivals(), new.arrivals());
        assert!(old.last().unwrap().at < new[0].at, "the new one overtook the old one");
        let both: Vec<u64> = old.iter().chain(&new).filter_map(|arrival| arrival.n()).collect();
        assert_eq!(both, all(total));
        assert_eq!(other.numbers(), all(total));
        assert_eq!((drained.status.sinks().len(), drained.status.removed().len()), (2, 1));
    });
}

#[test]
fn a_change_that_cannot_be_made_changes_nothing() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
        let twice = rig.graph.add_sink(journal.spec("live", TAKES)).await;
        assert_eq!(twice, Err(StartError::TwoOfAName("live".to_owned())));
        let mut spec = journal.spec("live", TAKES);
        spec.on_open = OnOpen::Fallback("nobody".into());
        let missing = rig.graph.replace_sink(spec, MINUTE).await.unwrap_err();
        assert_eq!(
            missing.to_string(),
            "sink `live` names `nobody` as its fallback, but there is no such sink"
        );
        rig.emit_all(0..10);
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), all(10));
        assert_eq!(rig.graph.add_sink(journal.spec("late", TAKES)).await, Err(StartError::Draining));
        assert_eq!(
            rig.graph.replace_sink(journal.spec("live", TAKES), MINUTE).await,
            Err(StartError::Draining)
        );
    });
}

/// Counts how many incarnations deliver at once.
struct Alone(Scripted, Arc<AtomicU64>, Arc<AtomicU64>);

impl Sink for Alone {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        let now = self.1.fetch_add(1, Ordering::Relaxed) + 1;
        self.2.fetch_max(now, Ordering::Relaxed);
        let done = self.0.deliver(batch).await;
        self.1.fetch_sub(1, Ordering::Relaxed);
        done
    }
}

#[test]
fn a_sink_that_replaces_one_in_its_restart_pause_is_started_once() {
    run(async {
        let (old, new) = (Journal::new([Act::Fatal; 4]), Journal::new([]));
        let (active, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let rig = Rig::start(Plan::new("test").sink(old.spec("live", Duration::ZERO))).await;
        rig.emit_all(0..10);
        // In the pause before a restart, which is half a second or more by now.
        while old.batches().len() < 4 {
            sleep(Duration::from_millis(1)).await;
        }
        let mut spec = SinkSpec::new("live", {
            let (new, active, most) = (new.clone(), active.clone(), most.clone());
            move || Alone(new.sink(Duration::from_millis(100)), active.clone(), most.clone())
        });
        spec.placement = Placement::Spine;
        spec.batch.max_events = 1;
        rig.graph.replace_sink(spec, Duration::ZERO).await.unwrap();
        rig.emit_all(10..60);
        sleep(MINUTE).await;
        assert_eq!((most.load(Ordering::Relaxed), new.opened_and_closed().0), (1, 0));
        assert_eq!(new.numbers(), (10..60).collect::<Vec<_>>());
        rig.end().await;
    });
}

#[test]
fn removing_a_sink_from_the_thread_of_the_spine_leaves_the_spine_alone() {
    actix_rt::System::new().block_on(async {
        let (first, second) = (Journal::new([]), Journal::new([]));
        let plan = Plan::new("test")
            .sink(first.spec("first", Duration::ZERO))
            .sink(second.spec("second", Duration::ZERO));
        let graph = GraphHandle::start(plan, Threads::Several).await.unwrap();
        let step = Step::new("M");
        for n in 0..2000 {
            if n == 1000 {
                assert!(graph.remove_sink("second", MINUTE).await.is_some());
                // A thread that was told to stop does so a little later.
                sleep(Duration::from_millis(50)).await;
            }
            graph.emitter().emit(Event::new(&step, "start").with("n", n));
        }
        let drained = graph.drain(MINUTE).await;
        assert!(drained.complete && drained.status.balances(), "{:#?}", drained.status);
        assert_eq!(drained.status.sink("first").unwrap().restarts, 0);
        assert!(first.numbers() == all(2000) && second.numbers() == all(1000));
    });
}

#[test]
fn whoever_points_at_a_sink_that_is_replaced_points_at_the_new_one() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let live = Journal::new([]).whenever(|n| n % 10 == 3, Act::Rejected);
        let (old, new) = (Journal::new([]), Journal::new([]));
        let mut spec = live.spec("live", TAKES);
        spec.dead_letter = Some("spare".to_owned());
        spec.on_open = OnOpen::Fallback("spare".into());
        let mut plan = Plan::new("test").sink(spec).sink(old.spec("spare", TAKES));
        plan.data_dir = data.path().into();
        let rig = Rig::start(plan).await;
        let handle = rig.graph.sink("live").unwrap();
        rig.emit_all(0..5);
        sleep(Duration::from_secs(1)).await;
        rig.graph.replace_sink(new.spec("spare", TAKES), MINUTE).await.unwrap();
        rig.emit_all(10..15);
        sleep(Duration::from_secs(1)).await;
        handle.force_open();
        rig.emit_all(20..22);
        sleep(Duration::from_secs(1)).await;
        handle.auto();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(
            (old.kinds(), new.kinds()),
            (vec!["dead_letter".to_owned()], ["dead_letter", "start", "start"].map(str::to_owned).to_vec())
        );
        // Without it, letters go to the file, and events wait.
        rig.graph.remove_sink("spare", MINUTE).await;
        handle.force_open();
        rig.emit_all(32..34);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(handle.status().balance.waiting, 2);
        handle.auto();
        let drained = rig.end().await;
        assert_eq!(drained.status.sink("live").unwrap().balance.dead_lettered, 3);
        assert_eq!(lines(data.path(), "live"), 1);
        assert_eq!(live.numbers(), [0, 1, 2, 4, 10, 11, 12, 14, 32]);
    });
}

fn lines(data: &Path, name: &str) -> usize {
    let text = std::fs::read_to_string(data.join(format!("dead/{name}.ndjson"))).unwrap_or_default();
    text.lines().count()
}

#[test]
fn a_chain_of_dead_letter_sinks_is_drained_in_its_order() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let bad = || Journal::new([Act::Rejected; 100]);
        let last = Journal::new([]);
        let mut plan = Plan::new("test");
        plan.data_dir = data.path().into();
        // Named before their targets, and after.
        for (name, to) in [("b", "c"), ("a", "b")] {
            let mut spec = bad().spec(name, TAKES);
            spec.dead_letter = Some(to.to_owned());
            plan = plan.sink(spec);
        }
        let rig = Rig::start(plan.sink(last.spec("c", TAKES))).await;
        rig.emit_all(0..3);
        let drained = rig.end().await;
        assert_eq!(last.kinds(), ["dead_letter"; 3]);
        assert_eq!(drained.status.sinks().iter().map(|sink| sink.balance.waiting).sum::<u64>(), 0);
    });
}

#[test]
fn a_subscription_gets_its_events_drops_what_nobody_reads_and_counts_it() {
    run(async {
        let rig = Rig::start(Plan::new("test").sink(Journal::new([]).spec("live", TAKES))).await;
        let context = |id: &str| Context::empty().with("conversation_id", id).tag("tenant", id);
        let mut mine = rig.graph.subscribe("data.conversation_id", "conv_1");
        let mut tenant = rig.graph.subscribe("tags.tenant", "conv_2");
        let nobody = rig.graph.subscribe("n", "-1");
        drop(nobody);
        for n in 0..3000_u64 {
            let step = Step::new("M").context(&context(if n % 2 == 0 { "conv_1" } else { "conv_2" }));
            rig.graph.emitter().emit(Event::new(&step, "start").with("n", n));
        }
        settle().await;
        let mut read = Vec::new();
        for _ in 0..1024 {
            read.push(mine.next().await.unwrap().data("n").unwrap().as_u64().unwrap());
        }
        assert_eq!(read, (0..2048).step_by(2).collect::<Vec<_>>());
        assert_eq!((mine.missed(), tenant.missed()), (1500 - 1024, 1500 - 1024));
        assert!(mine.next().now_or_never().is_none());
        assert!(rig.end().await.complete, "what a reader misses is no loss of the graph");
        assert_eq!(tenant.by_ref().count().await, 1024, "the end is the end of the stream");
        assert!(mine.next().await.is_none());
        assert!(
            rig.graph.subscribe("n", "1").next().await.is_none(),
            "after the end there is nothing to come"
        );
    });
}

#[test]
fn a_flush_waits_for_what_was_emitted_before_and_for_nothing_else() {
    run(async {
        let (live, down) = (Journal::new([]), Journal::new([]).opening([Act::Unavailable(0); 100]));
        let plan = Plan::new("test").sink(live.spec("live", TAKES)).sink(down.spec("down", TAKES));
        let rig = Rig::start(plan).await;
        settle().await;
        rig.emit_all(0..1000);
        assert_eq!(rig.graph.flush().await, 1000, "behind the open one");
        assert_eq!(live.numbers(), all(1000));
        let (_, flow) = flow(&rig, 1000);
        for _ in 0..10 {
            assert!(
                timeout(Duration::from_secs(1), rig.graph.flush()).await.is_ok(),
                "it waits for later ones"
            );
        }
        flow.abort();
        let both = futures_util::future::join(rig.graph.flush(), rig.graph.flush());
        assert!(timeout(Duration::from_secs(1), both).await.is_ok());
        rig.end().await;
        assert!(timeout(Duration::from_secs(1), rig.graph.flush()).await.is_ok(), "after the end");
    });
}

#[test]
fn a_flush_does_not_wait_for_a_sink_that_is_removed_meanwhile() {
    run(async {
        let journal = Journal::new([Act::Hang]);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
        rig.emit_all(0..10);
        settle().await;
        let flushed = actix_rt::spawn({
            let graph = rig.graph.clone();
            async move { graph.flush().await }
        });
        settle().await;
        let status = rig.graph.remove_sink("live", Duration::from_secs(1)).await.unwrap();
        assert_eq!(status.balance.waiting, 10);
        assert_eq!(timeout(Duration::from_secs(5), flushed).await.unwrap().unwrap(), 10);
        rig.end().await;
    });
}

#[test]
fn whoever_wants_a_confirmation_hears_what_became_of_the_event() {
    run(async {
        let (live, ends, full) = (Journal::new([]), Journal::new([]), Journal::new([]));
        let mut only_ends = ends.spec("ends", TAKES);
        only_ends.topics = pattern("ai.*.end");
        let mut small = full.spec("full", TAKES);
        small.topics = pattern("ai.*.small");
        small.buffer.max_events = 1;
        let mut plan = Plan::new("test").sink(live.spec("live", TAKES)).sink(only_ends).sink(small);
        plan.sinks[0].topics = pattern("ai.*.end").map(|mut t| {
            t.extend(pattern("ai.*.start").unwrap());
            t
        });
        let no_pings = |event: Event| (event.kind().as_str() != "ping").then_some(event);
        let rig = Rig::start(plan.stage(Stage::closure("no_pings", no_pings))).await;
        settle().await;
        let send = async |kind: &str| rig.graph.emitter().send_confirmed(Event::new(&rig.step, kind)).await;
        assert_eq!(send("end").await, Confirmation::Held(2));
        assert_eq!(send("start").await, Confirmation::Held(1));
        assert_eq!(send("tool_start").await, Confirmation::NotWanted);
        assert_eq!(send("ping").await, Confirmation::NotWanted);
        rig.graph.sink("full").unwrap().force_open();
        assert_eq!(send("small").await, Confirmation::Held(1));
        assert_eq!(send("small").await, Confirmation::Lost);
        rig.graph.sink("full").unwrap().auto();
        rig.end().await;
    });
}

/// Lets go of the number of events every 50 ms, as an event of its own.
#[derive(Default)]
struct Count(u64, Option<Step>);

impl Processor for Count {
    fn process(&mut self, event: Event, out: &mut Output) {
        self.0 += 1;
        self.1 = Some(event.step().clone());
        out.push(event);
    }

    fn interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(50))
    }

    fn tick(&mut self, out: &mut Output) {
        if let Some(step) = self.1.take() {
            out.push(Event::new(&step, "count").with("count", std::mem::take(&mut self.0)));
        }
    }
}

#[test]
fn processors_of_one_sink_name_key_and_number_what_they_change_or_make() {
    run(async {
        let (plain, edited) = (Journal::new([]), Journal::new([]));
        let mut spec = edited.spec("edited", TAKES);
        spec.routing_key = Some(Template::parse("x.{event_type}.{data.lang:-none}").unwrap());
        spec.processors = vec![
            ("lang".into(), Arc::new(|| Box::new(|event: Event| Some(event.with("lang", "en"))))),
            ("count".into(), Arc::new(|| Box::new(Count::default()))),
        ];
        let rig = Rig::start(Plan::new("test").sink(plain.spec("plain", TAKES)).sink(spec)).await;
        rig.emit_all(0..10);
        sleep(Duration::from_secs(1)).await;
        assert!(rig.end().await.complete);
        let (plain, edited) = (plain.arrivals(), edited.arrivals());
        assert_eq!((plain.len(), edited.len()), (10, 11));
        assert!(plain.iter().all(|a| a.key == "ai.rig.start" && a.json["data"]["lang"].is_null()));
        assert!(edited[..10].iter().all(|a| a.key == "x.start.en" && a.json["topic"] == "ai.rig.start"));
        let count = &edited[10];
        assert_eq!((&*count.key, count.number("count"), count.kind()), ("x.count.none", Some(10), "count"));
        assert_eq!((count.seq(), &count.json["topic"]), (Some(11), &"ai.rig.count".into()));
        assert_eq!(count.json["tags"]["service"], "test");
    });
}

#[test]
fn names_that_hold_what_could_part_them_are_not_mixed_up() {
    run(async {
        let journal = Journal::new([]);
        let mut plan = Plan::new("test").sink(journal.spec("live", TAKES));
        plan.routing_key = Template::parse("{module_name}.{operation}.{method_name}").unwrap();
        let rig = Rig::start(plan).await;
        for (operation, method) in [("a\0b", "c"), ("a", "b\0c"), ("a\0b", "c")] {
            let step = Step::new("M").operation(operation).method(method);
            rig.graph.emitter().emit(Event::new(&step, "start"));
        }
        rig.end().await;
        let keys: Vec<String> = journal.arrivals().into_iter().map(|arrival| arrival.key).collect();
        assert_eq!(keys, ["m.a%00b.c", "m.a.b%00c", "m.a%00b.c"]);
    });
}

#[test]
fn a_batch_that_lingers_goes_when_it_is_full() {
    run(async {
        let journal = Journal::new([]);
        let mut spec = journal.spec("live", Duration::ZERO);
        spec.batch.linger = Duration::from_secs(10);
        spec.batch.max_events = 10;
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        settle().await;
        rig.emit_all(0..5);
        sleep(Duration::from_secs(1)).await;
        assert!(journal.batches().is_empty());
        rig.emit_all(5..25);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(journal.batches(), [10, 10]);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(journal.batches(), [10, 10, 5]);
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), all(25));
    });
}

#[test]
fn at_its_deadline_the_end_comes_whatever_hangs() {
    run(async {
        let (healthy, hanging) = (Journal::new([]), Journal::new([Act::Hang]));
        let mut spec = hanging.spec("hanging", TAKES);
        spec.deliver_timeout = Duration::from_secs(3600);
        let rig = Rig::start(Plan::new("test").sink(spec).sink(healthy.spec("healthy", TAKES))).await;
        rig.emit_all(0..100);
        let began = tokio::time::Instant::now();
        let drained = rig.graph.drain(Duration::from_secs(10)).await;
        assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
        assert!(drained.status.balances() && !drained.complete);
        assert_eq!(drained.status.sink("hanging").unwrap().balance.waiting, 100);
        assert_eq!(healthy.numbers(), all(100));
        assert_eq!(drained.status.sink("hanging").unwrap().state, SinkState::Closed);
    });
}
