//! Promise 5: what a sink has accepted is delivered or dead-lettered; repeats say so.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use streamll_actors::graph::Plan;
use streamll_actors::testkit::{Act, Arrival, Journal, Rig, run, settle};
use tracing::field::{Field, Visit};
use tracing::span;

const TAKES: Duration = Duration::from_millis(5);

fn dead_letters(data: &Path, sink: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(data.join(format!("dead/{sink}.ndjson"))).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(letters: &[Value]) -> Vec<u64> {
    letters.iter().map(|letter| letter["event"]["data"]["n"].as_u64().unwrap()).collect()
}

async fn start(journal: &Journal, data: &Path) -> Rig {
    let mut plan = Plan::new("test").sink(journal.spec("live", TAKES));
    plan.data_dir = data.into();
    let rig = Rig::start(plan).await;
    settle().await;
    rig
}

#[test]
fn a_repeat_has_the_same_id_and_says_at_which_attempt_it_comes() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let journal = Journal::new([Act::Deliver, Act::Cut(10), Act::Cut(2), Act::Deliver, Act::Cut(300)]);
        let rig = start(&journal, data.path()).await;
        rig.emit_all(0..1000);
        assert!(rig.end().await.complete);
        let mut by_number: HashMap<u64, Vec<Arrival>> = HashMap::new();
        for arrival in journal.arrivals() {
            by_number.entry(arrival.n().unwrap()).or_default().push(arrival);
        }
        assert_eq!(by_number.len(), 1000);
        let mut repeats = 0;
        for arrivals in by_number.values() {
            for (earlier, later) in arrivals.iter().zip(arrivals.iter().skip(1)) {
                assert_eq!(earlier.json["event_id"], later.json["event_id"]);
                assert!(later.attempt > earlier.attempt && later.attempt >= 2, "{}", later.attempt);
                repeats += 1;
            }
        }
        // No more than was in flight at each of the three failures.
        assert_eq!(repeats, 10 + 2 + 256);
    });
}

#[test]
fn what_a_sink_has_marked_before_it_failed_does_not_come_again() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let script = [Act::Unavailable(7), Act::Unknown(50), Act::Panic(1), Act::Unavailable(0)];
        let journal = Journal::new(script);
        let rig = start(&journal, data.path()).await;
        rig.emit_all(0..500);
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), (0..500).collect::<Vec<_>>());
    });
}

#[test]
fn the_search_finds_exactly_the_bad_events_and_says_why_they_are_dead() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let bad = [0, 17, 18, 19, 255, 256, 700, 999];
        let journal = Journal::new([]).whenever(move |n| bad.contains(&n), Act::Rejected);
        let rig = start(&journal, data.path()).await;
        rig.emit_all(0..1000);
        let drained = rig.end().await;
        let balance = drained.status.sink("live").unwrap().balance;
        assert_eq!((balance.delivered, balance.dead_lettered), (992, 8));
        assert!(!drained.complete);
        let letters = dead_letters(data.path(), "live");
        assert_eq!(numbers(&letters), bad);
        for letter in &letters {
            assert_eq!((&letter["class"], &letter["reason"]), (&"poison".into(), &"bad event".into()));
            assert_eq!(letter["sink"], "live");
            assert!(letter["event"]["event_id"].is_string());
        }
        let expected: Vec<u64> = (0..1000).filter(|n| !bad.contains(n)).collect();
        assert_eq!(journal.numbers(), expected);
        // Eight bisections of 256, not a thousand single steps.
        let deliveries = journal.batches().len();
        assert!(deliveries < 200, "{deliveries} deliveries");
    });
}

#[test]
fn many_dead_letters_are_few_lines_in_the_log_which_tell_of_all() {
    let lines = Lines::default();
    let _guard = lines.listen();
    run(async {
        let data = tempfile::tempdir().unwrap();
        let journal = Journal::new([]).whenever(|n| n % 2 == 0, Act::Rejected);
        let rig = start(&journal, data.path()).await;
        rig.emit_all(0..200);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(lines.of("dead-lettered"), ["1 bad event", "99 bad event"], "and then nothing more");
        rig.emit_all(200..210);
        let drained = rig.end().await;
        assert_eq!(drained.status.sink("live").unwrap().balance.dead_lettered, 105);
    });
    assert_eq!(lines.of("dead-lettered")[2..], ["1 bad event", "4 bad event"], "the end does not wait");
}

/// With the default breaker: at once, after half a minute, a minute later, and at last each five minutes.
#[test]
fn a_wrong_password_for_hours_loses_nothing_and_logs_its_beginning_and_its_end() {
    let lines = Lines::default();
    let _guard = lines.listen();
    run(async {
        let data = tempfile::tempdir().unwrap();
        let journal = Journal::new([]).opening([Act::Misconfigured; 50]);
        let rig = start(&journal, data.path()).await;
        rig.emit_all(0..100);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(journal.opened_and_closed().0, 2);
        // The second says that the other sinks were told.
        assert!((1..=2).contains(&lines.all()), "{lines:?}");
        tokio::time::sleep(Duration::from_secs(12 * 3600)).await;
        assert_eq!(journal.opened_and_closed().0, 51);
        assert_eq!(lines.all(), 4, "opened and closed, and each told to the others: {lines:?}");
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), (0..100).collect::<Vec<_>>());
        assert_eq!(dead_letters(data.path(), "live"), Vec::<Value>::new());
    });
}

/// What is logged on this thread from `INFO` on: of each line with a message its fields `count`, else 1, and `reason`.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<HashMap<&'static str, String>>>>);

impl Lines {
    /// On this thread. With one subscriber alone, whether anybody listens to a line of the code would be asked on the thread
    /// that gets there first, which may be that of another test: hence two.
    fn listen(&self) -> (tracing::subscriber::DefaultGuard, tracing::Dispatch) {
        let second = tracing::Dispatch::new(self.clone());
        (tracing::subscriber::set_default(self.clone()), second)
    }

    fn all(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn of(&self, message: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        let lines = lines.iter().filter(|line| line.get("message").is_some_and(|m| m.contains(message)));
        lines
            .map(|line| format!("{} {}", line.get("count").map_or("1", String::as_str), line["reason"]))
            .collect()
    }
}

struct Fields(HashMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(HashMap::new());
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn an_event_on_which_the_sink_crashes_is_found_and_dead_lettered() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let journal = Journal::new([]).whenever(|n| n == 42, Act::Panic(0));
        let rig = start(&journal, data.path()).await;
        rig.emit_all(0..100);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let drained = rig.end().await;
        let letters = dead_letters(data.path(), "live");
        assert_eq!(numbers(&letters), [42]);
        assert_eq!(letters[0]["class"], "panic");
        assert_eq!(letters[0]["reason"], "the sink crashed 3 times with this event alone");
        assert!(letters[0]["attempts"].as_u64() >= Some(4), "{}", letters[0]["attempts"]);
        assert_eq!(journal.numbers(), (0..100).filter(|n| *n != 42).collect::<Vec<_>>());
        assert_eq!(drained.status.sink("live").unwrap().balance.dead_lettered, 1);
    });
}

#[test]
fn poison_never_moves_the_breaker_and_a_half_open_circuit_goes_on_to_the_next_event() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let journal = Journal::new([]).whenever(|n| n < 3, Act::Rejected);
        let rig = start(&journal, data.path()).await;
        rig.graph.sink("live").unwrap().force_open();
        rig.emit_all(0..10);
        settle().await;
        rig.graph.sink("live").unwrap().auto();
        settle().await;
        // The third bad event is with the sink.
        tokio::time::sleep(TAKES * 5 / 2).await;
        let status = rig.graph.status();
        let live = status.sink("live").unwrap();
        assert_eq!((live.state.as_str(), live.failures), ("half_open", 0));
        tokio::time::sleep(TAKES * 2).await;
        assert_eq!(rig.graph.status().sink("live").unwrap().state.as_str(), "closed");
        assert_eq!(numbers(&dead_letters(data.path(), "live")), [0, 1, 2]);
        rig.end().await;
        assert_eq!(journal.numbers(), (3..10).collect::<Vec<_>>());
    });
}

#[test]
fn a_dead_letter_that_cannot_be_written_waits_and_the_status_says_so() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        // A file where the folder should be.
        std::fs::write(data.path().join("dead"), "").unwrap();
        let journal = Journal::new([]).whenever(|n| n == 1, Act::Rejected);
        let rig = start(&journal, data.path()).await;
        rig.emit_all(0..3);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let status = rig.graph.status();
        let live = status.sink("live").unwrap();
        assert!(live.to_string().contains("a dead letter waits: dead-letter file"), "{live}");
        assert_eq!((live.balance.waiting, live.balance.dead_lettered), (2, 0));
        std::fs::remove_file(data.path().join("dead")).unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(numbers(&dead_letters(data.path(), "live")), [1]);
        assert_eq!(rig.graph.status().sink("live").unwrap().to_string(), "closed (delivering)");
        rig.end().await;
        assert_eq!(journal.numbers(), [0, 2]);
    });
}

#[test]
fn a_dead_letter_sink_gets_the_event_verbatim_and_nothing_else() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let (live, dead) = (Journal::new([]).whenever(|n| n == 5, Act::Rejected), Journal::new([]));
        let mut spec = live.spec("live", TAKES);
        spec.dead_letter = Some("dead".to_owned());
        let mut plan = Plan::new("test").sink(spec).sink(dead.spec("dead", TAKES));
        plan.data_dir = data.path().into();
        let rig = Rig::start(plan).await;
        rig.emit_all(0..10);
        let drained = rig.end().await;
        assert_eq!(dead.kinds(), ["dead_letter"]);
        let letter = &dead.arrivals()[0].json["data"];
        assert_eq!((&letter["sink"], &letter["event"]["data"]["n"]), (&"live".into(), &5.into()));
        assert_eq!(drained.status.sink("live").unwrap().balance.dead_lettered, 1);
        assert_eq!(drained.status.sink("dead").unwrap().balance.delivered, 1);
    });
}

#[test]
fn dead_letters_of_sinks_that_name_each_other_end_in_a_file() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let all_bad = || Journal::new([Act::Rejected; 10_000]);
        let mut plan = Plan::new("test");
        plan.data_dir = data.path().into();
        for (name, to) in [("one", "other"), ("other", "one"), ("third", "one")] {
            let mut spec = all_bad().spec(name, Duration::ZERO);
            spec.dead_letter = Some(to.to_owned());
            spec.topics = streamll_actors::route::TopicPattern::parse("#").ok().map(|all| vec![all]);
            plan = plan.sink(spec);
        }
        let rig = Rig::start(plan).await;
        rig.emit_all(0..2);
        tokio::time::sleep(Duration::from_secs(5)).await;
        // Its own two, and those of the third sink.
        assert_eq!(dead_letters(data.path(), "one").len(), 4);
        assert_eq!(dead_letters(data.path(), "other").len(), 2);
        rig.end().await;
    });
}
