//! Promise 2: start degraded, be honest, and need no restart when the broker comes back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamll_actors::event::Timestamp;
use streamll_actors::graph::{Plan, SinkSpec};
use streamll_actors::sink::{
    Deliveries, DeliveryError, OnOpen, Placement, Sink, SinkContext, SinkState, SinkStatus,
};
use streamll_actors::testkit::{Act, Journal, Rig, Scripted, run, settle};
use tokio::time::sleep;

const TAKES: Duration = Duration::from_millis(5);

fn all(n: u64) -> Vec<u64> {
    (0..n).collect()
}

fn status(rig: &Rig, name: &str) -> SinkStatus {
    rig.graph.sink(name).unwrap().status()
}

/// Enough for three quick tries, and all that a probe a second or two may find in a minute.
const A_MINUTE: usize = 70;
/// By then the quick tries have failed.
const SOON: Duration = Duration::from_secs(1);

/// A sink that is away for so many attempts to open it.
fn away(journal: &Journal, attempts: usize) -> SinkSpec {
    journal.clone().opening(vec![Act::Unavailable(0); attempts]).spec("live", TAKES)
}

#[test]
fn with_its_broker_down_a_sink_is_open_from_the_start_and_says_since_when_and_why() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(away(&journal, A_MINUTE))).await;
        let began = Timestamp::now();
        rig.emit_all(0..1204);
        settle().await;
        let at_once = "closed (connection refused, 1 failure, retrying; 1,204 waiting)";
        assert_eq!(status(&rig, "live").to_string(), at_once);
        sleep(SOON).await;
        let first = status(&rig, "live");
        assert_eq!((first.state, first.circuit_open, first.running), (SinkState::Open, true, true));
        let text = first.to_string();
        assert!(
            text.starts_with("open (not sending since ")
                && text.ends_with(": connection refused; 1,204 waiting)"),
            "{text}"
        );
        assert!(first.since.since(began) < Duration::from_secs(5));
        // Through failed probes, and while one is under way, it is since then that nothing was sent.
        sleep(Duration::from_secs(60)).await;
        let later = status(&rig, "live");
        assert_eq!((later.since, later.reason.as_deref()), (first.since, Some("connection refused")));
        assert!(later.failures > 1);
        assert!(later.oldest_waiting_age > Some(Duration::from_secs(59)));
        sleep(Duration::from_secs(3600)).await;
        let last = status(&rig, "live");
        assert_eq!((last.to_string().as_str(), last.reason, last.failures), ("closed (delivering)", None, 0));
        assert_eq!(last.restarts, 0);
        assert_eq!(journal.numbers(), all(1204));
        assert!(rig.end().await.complete);
    });
}

#[test]
fn the_others_hear_of_trouble_that_lasts_and_of_its_end_once_each() {
    run(async {
        let (live, other) = (Journal::new([]), Journal::new([]));
        let mut plan = Plan::new("test").sink(away(&live, A_MINUTE)).sink(other.spec("other", TAKES));
        plan.alert_after = Duration::from_secs(45);
        let rig = Rig::start(plan).await;
        rig.emit_all(0..7);
        sleep(Duration::from_secs(40)).await;
        assert!(!other.kinds().iter().any(|kind| kind == "sink_open"), "too early");
        // Longer than any single time that it is open.
        sleep(Duration::from_secs(10)).await;
        assert_eq!(other.kinds().last().map(String::as_str), Some("sink_open"));
        sleep(Duration::from_secs(3600)).await;
        rig.end().await;
        let alerts: Vec<_> = other.arrivals().into_iter().filter(|a| a.n().is_none()).collect();
        let kinds: Vec<_> = alerts.iter().map(|a| (a.kind(), &*a.key)).collect();
        assert_eq!(
            kinds,
            [("sink_open", "ai.streamll.sink_open"), ("sink_recovered", "ai.streamll.sink_recovered")]
        );
        assert_eq!(alerts[0].json["data"]["reason"], "connection refused");
        assert_eq!(alerts[0].number("waiting"), Some(7));
        // Nobody tells a sink of itself.
        assert_eq!(live.kinds(), ["start"; 7]);
    });
}

#[test]
fn short_trouble_is_nobody_elses_business() {
    run(async {
        let (live, other) = (Journal::new([]), Journal::new([]));
        let mut spec = away(&live, 5);
        spec.breaker.recovery_timeout = Duration::from_secs(5);
        let rig = Rig::start(Plan::new("test").sink(spec).sink(other.spec("other", TAKES))).await;
        rig.emit_all(0..7);
        sleep(Duration::from_secs(600)).await;
        rig.end().await;
        assert_eq!((live.kinds(), other.kinds()), (vec!["start".to_owned(); 7], vec!["start".to_owned(); 7]));
    });
}

#[test]
fn with_on_open_drop_events_are_shed_and_marked_and_it_recovers_although_nothing_waits() {
    run(async {
        let journal = Journal::new([]);
        let mut spec = away(&journal, 6);
        spec.on_open = OnOpen::Drop;
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        sleep(SOON).await;
        rig.emit_all(0..10);
        sleep(Duration::from_secs(600)).await;
        assert_eq!(status(&rig, "live").state, SinkState::Closed);
        rig.emit_all(10..20);
        let drained = rig.end().await;
        let balance = drained.status.sink("live").unwrap().balance;
        assert_eq!((balance.accepted, balance.shed, balance.delivered), (20, 10, 10));
        assert_eq!(journal.kinds()[0], "gap");
        assert_eq!(journal.arrivals()[0].json["data"]["reason"], "circuit open");
        assert_eq!(journal.numbers(), (10..20).collect::<Vec<_>>());
    });
}

#[test]
fn with_a_fallback_events_go_there_while_it_is_open_and_the_fallback_takes_nothing_else() {
    run(async {
        let (live, spare) = (Journal::new([]), Journal::new([]));
        let mut spec = away(&live, 6);
        spec.on_open = OnOpen::Fallback("spare".into());
        let rig = Rig::start(Plan::new("test").sink(spec).sink(spare.spec("spare", TAKES))).await;
        sleep(SOON).await;
        rig.emit_all(0..10);
        sleep(Duration::from_secs(600)).await;
        rig.emit_all(10..20);
        let drained = rig.end().await;
        assert_eq!((live.numbers(), spare.numbers()), ((10..20).collect(), all(10)));
        assert_eq!(drained.status.sink("live").unwrap().balance.diverted, 10);
        assert_eq!(drained.status.sink("spare").unwrap().balance.accepted, 10);
        assert!(drained.complete);
    });
}

#[test]
fn two_sinks_that_are_each_others_fallback_hold_what_neither_can_send() {
    run(async {
        let (one, two) = (Journal::new([]), Journal::new([]));
        let mut plan = Plan::new("test");
        for (journal, name, to) in [(&one, "one", "two"), (&two, "two", "one")] {
            let mut spec = journal.clone().opening([Act::Unavailable(0); 6]).spec(name, TAKES);
            spec.on_open = OnOpen::Fallback(to.into());
            spec.topics = streamll_actors::route::TopicPattern::parse("#").ok().map(|all| vec![all]);
            plan = plan.sink(spec);
        }
        let rig = Rig::start(plan).await;
        sleep(SOON).await;
        rig.emit_all(0..10);
        sleep(Duration::from_secs(600)).await;
        assert!(rig.end().await.complete);
        assert_eq!((one.numbers(), two.numbers()), (all(10), all(10)));
    });
}

#[test]
fn an_operator_opens_closes_and_lets_go_of_a_circuit() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
        settle().await;
        let live = rig.graph.sink("live").unwrap();
        live.force_open();
        rig.emit_all(0..10);
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(live.status().reason.as_deref(), Some("ordered by hand"));
        assert_eq!((live.status().state, live.status().balance.waiting), (SinkState::Open, 10));
        assert_eq!(rig.graph.flush().await, 10, "a flush does not wait for it");
        live.auto();
        sleep(Duration::from_secs(1)).await;
        assert_eq!((live.status().state, journal.numbers()), (SinkState::Closed, all(10)));
        live.force_close();
        journal.play([Act::Unavailable(0); 10]);
        rig.emit_all(10..20);
        sleep(Duration::from_secs(20)).await;
        assert_eq!(live.status().state, SinkState::Closed, "failures do not trip it");
        sleep(Duration::from_secs(60)).await;
        assert_eq!(journal.numbers(), all(20));
        live.auto();
        journal.play([Act::Unknown(0); 3]);
        rig.emit_all(20..30);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(live.status().state, SinkState::Open);
        live.force_close();
        sleep(Duration::from_secs(1)).await;
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), all(30));
    });
}

#[test]
fn a_circuit_that_is_closed_by_hand_leaves_a_broker_that_is_away_alone_between_tries() {
    let (away, wrong) = (vec![Act::Unavailable(0); 100], vec![Act::Misconfigured; 100]);
    for (opens, script) in [(away, vec![]), (wrong.clone(), vec![]), (vec![], wrong)] {
        run(async {
            let journal = Journal::new(script).opening(opens);
            let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
            rig.graph.sink("live").unwrap().force_close();
            rig.emit_all(0..10);
            sleep(Duration::from_secs(60)).await;
            // Retries begin at 50 ms and grow to 2.5 s at the least.
            let (opened, _) = journal.opened_and_closed();
            assert!((10..=32).contains(&opened), "opened {opened} times in a minute");
            assert_eq!(status(&rig, "live").state, SinkState::Closed);
            sleep(Duration::from_secs(3600)).await;
            assert!(rig.end().await.complete);
            assert_eq!(journal.numbers(), all(10));
        });
    }
}

#[test]
fn a_sink_that_was_opened_by_hand_is_not_asked_at_the_end_either() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
        settle().await;
        rig.graph.sink("live").unwrap().force_open();
        rig.emit_all(0..10);
        let drained = rig.end().await;
        assert_eq!(drained.status.sink("live").unwrap().balance.waiting, 10);
        assert!(!drained.complete && journal.numbers().is_empty());
    });
}

/// Hands its context out.
struct Talking(Scripted, Arc<Mutex<Option<SinkContext>>>);

impl Sink for Talking {
    async fn open(&mut self, ctx: &SinkContext) -> Result<(), DeliveryError> {
        ctx.connected(true);
        *self.1.lock().unwrap() = Some(ctx.clone());
        self.0.open(ctx).await
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        self.0.deliver(batch).await
    }
}

/// Refuses events of odd numbers, and says that they alone may be the trouble: only beside others it knows.
struct Doubtful(Arc<Mutex<Vec<usize>>>, Option<SinkContext>);

impl Sink for Doubtful {
    async fn open(&mut self, ctx: &SinkContext) -> Result<(), DeliveryError> {
        self.1 = Some(ctx.clone());
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        self.0.lock().unwrap().push(batch.len());
        let is_odd = |i: &usize| batch.as_slice()[*i].event.data("n").unwrap().as_u64().unwrap() % 2 == 1;
        let odd: Vec<usize> = (0..batch.len()).filter(is_odd).collect();
        let doubt = odd.len() == batch.len();
        self.1.as_ref().unwrap().probe_widely(doubt);
        if doubt {
            return Err(DeliveryError::misconfigured("refused"));
        }
        odd.into_iter().for_each(|i| batch.poison(i, "refused"));
        Ok(())
    }
}

#[test]
fn what_may_be_the_trouble_of_single_events_is_probed_with_a_whole_batch() {
    run(async {
        let batches = Arc::<Mutex<Vec<usize>>>::default();
        let mut spec = SinkSpec::new("live", {
            let batches = batches.clone();
            move || Doubtful(batches.clone(), None)
        });
        spec.placement = Placement::Spine;
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        rig.emit_all(1..2);
        settle().await;
        assert_eq!(status(&rig, "live").state, SinkState::Open);
        rig.emit_all(3..4);
        rig.emit_all(2..3);
        sleep(Duration::from_secs(120)).await;
        let live = status(&rig, "live");
        assert_eq!(
            (live.state, live.balance.delivered, live.balance.dead_lettered),
            (SinkState::Closed, 1, 2)
        );
        assert_eq!(batches.lock().unwrap().last(), Some(&3));
        rig.emit_all(4..5);
        assert!(rig.end().await.status.balances());
    });
}

/// Takes nothing, and asks for all of it again; keeps when.
struct Again(Arc<Mutex<Vec<tokio::time::Instant>>>);

impl Sink for Again {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        self.0.lock().unwrap().push(tokio::time::Instant::now());
        (0..batch.len()).for_each(|i| batch.retry(i));
        Ok(())
    }
}

#[test]
fn what_a_sink_that_works_asks_for_again_it_gets_twice_a_second_at_the_least() {
    run(async {
        let times = Arc::<Mutex<Vec<tokio::time::Instant>>>::default();
        let mut spec = SinkSpec::new("live", {
            let times = times.clone();
            move || Again(times.clone())
        });
        spec.placement = Placement::Spine;
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        rig.emit_all(0..1);
        sleep(Duration::from_secs(60)).await;
        let live = status(&rig, "live");
        assert_eq!((live.state, live.failures, live.balance.waiting), (SinkState::Closed, 0, 1));
        let times = times.lock().unwrap().clone();
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(times.len() > 100 && longest <= Duration::from_millis(510), "{} {longest:?}", times.len());
        assert!(rig.end().await.status.balances());
    });
}

#[test]
fn a_broker_that_asks_to_be_left_alone_is_left_alone_until_it_asks_for_more() {
    for on_open in [OnOpen::Buffer, OnOpen::Drop] {
        run(async {
            let (journal, said) = (Journal::new([]), Arc::new(Mutex::new(None)));
            let mut spec = SinkSpec::new("live", {
                let (journal, said) = (journal.clone(), said.clone());
                move || Talking(journal.sink(TAKES), said.clone())
            });
            spec.placement = Placement::Spine;
            spec.on_open = on_open.clone();
            let rig = Rig::start(Plan::new("test").sink(spec)).await;
            settle().await;
            let context: SinkContext = said.lock().unwrap().clone().unwrap();
            assert_eq!((context.name(), status(&rig, "live").connected), ("live", Some(true)));
            context.block("disk alarm");
            settle().await;
            let live = status(&rig, "live");
            assert_eq!((live.state, live.reason.as_deref()), (SinkState::Open, Some("disk alarm")));
            rig.emit_all(0..10);
            sleep(Duration::from_secs(5)).await;
            assert!(journal.batches().is_empty());
            // From another thread, as a client library would.
            std::thread::spawn(move || context.unblock()).join().unwrap();
            sleep(Duration::from_secs(1)).await;
            assert_eq!(status(&rig, "live").state, SinkState::Closed);
            rig.emit_all(10..20);
            rig.end().await;
            let expected = if on_open == OnOpen::Drop { (10..20).collect() } else { all(20) };
            assert_eq!(journal.numbers(), expected);
        });
    }
}

#[test]
fn a_block_whose_end_was_never_heard_does_not_last_for_ever() {
    run(async {
        let (journal, said) = (Journal::new([]), Arc::new(Mutex::new(None)));
        let mut spec = SinkSpec::new("live", {
            let (journal, said) = (journal.clone(), said.clone());
            move || Talking(journal.sink(TAKES), said.clone())
        });
        spec.placement = Placement::Spine;
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        settle().await;
        let context: SinkContext = said.lock().unwrap().clone().unwrap();
        context.block("memory alarm");
        settle().await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(status(&rig, "live").state, SinkState::Closed, "a probe found it well");
        rig.emit_all(0..10);
        rig.end().await;
        assert_eq!(journal.numbers(), all(10));
    });
}

/// Marks every event with `mark` for so many deliveries, and gives `answer`.
struct Marking {
    journal: Journal,
    left: Arc<Mutex<u32>>,
    mark: fn(&mut Deliveries, usize),
    answer: fn() -> Result<(), DeliveryError>,
}

impl Marking {
    fn spec(
        journal: &Journal,
        times: u32,
        mark: fn(&mut Deliveries, usize),
        answer: fn() -> Result<(), DeliveryError>,
    ) -> SinkSpec {
        let (journal, left) = (journal.clone(), Arc::new(Mutex::new(times)));
        let make = move || Marking { journal: journal.clone(), left: left.clone(), mark, answer };
        let mut spec = SinkSpec::new("live", make);
        spec.placement = Placement::Spine;
        spec
    }
}

impl Sink for Marking {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        if let Some(left) = { *self.left.lock().unwrap() }.checked_sub(1) {
            *self.left.lock().unwrap() = left;
            (0..batch.len()).for_each(|i| (self.mark)(batch, i));
            return (self.answer)();
        }
        self.journal.sink(Duration::ZERO).deliver(batch).await
    }
}

#[test]
fn events_that_a_sink_wants_again_do_not_move_its_breaker() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(Marking::spec(
            &journal,
            12,
            |batch, i| batch.retry(i),
            || Ok(()),
        )))
        .await;
        rig.emit_all(0..5);
        for _ in 0..40 {
            settle().await;
            let now = status(&rig, "live");
            assert_eq!((now.state, now.failures), (SinkState::Closed, 0));
            sleep(Duration::from_secs(2)).await;
        }
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), all(5));
        assert!(journal.arrivals().iter().all(|arrival| arrival.attempt == 13));
    });
}

#[test]
fn what_never_left_is_no_repeat() {
    run(async {
        let journal = Journal::new([]);
        let refuse = || Err(DeliveryError::overload("blocked"));
        let rig = Rig::start(Plan::new("test").sink(Marking::spec(
            &journal,
            5,
            |batch, i| batch.unsent(i),
            refuse,
        )))
        .await;
        rig.emit_all(0..5);
        sleep(Duration::from_secs(400)).await;
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), all(5));
        assert!(journal.arrivals().iter().all(|arrival| arrival.attempt == 1), "marked as repeats");
    });
}

/// Is away at first; then it wants each event six times.
struct Reluctant {
    journal: Journal,
    away: Arc<Mutex<u32>>,
}

impl Sink for Reluctant {
    async fn open(&mut self, _: &SinkContext) -> Result<(), DeliveryError> {
        let mut away = self.away.lock().unwrap();
        *away = away.saturating_sub(1);
        if *away > 0 { Err(DeliveryError::unavailable("away")) } else { Ok(()) }
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        let due: Vec<bool> = batch.iter().map(|delivery| delivery.attempt > 5).collect();
        (0..due.len()).filter(|i| !due[*i]).for_each(|i| batch.retry(i));
        let arrived = batch.iter().zip(&due).filter(|(_, due)| **due).map(|(delivery, _)| delivery.clone());
        let arrived: Vec<_> = arrived.collect();
        if arrived.is_empty() {
            return Ok(());
        }
        self.journal.sink(Duration::ZERO).deliver(&mut Deliveries::new(arrived)).await
    }
}

#[test]
fn a_probe_that_the_sink_wants_again_closes_the_circuit_as_the_sink_works() {
    run(async {
        let (journal, away) = (Journal::new([]), Arc::new(Mutex::new(6)));
        let make = {
            let journal = journal.clone();
            move || Reluctant { journal: journal.clone(), away: away.clone() }
        };
        let mut spec = SinkSpec::new("live", make);
        spec.placement = Placement::Spine;
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        rig.emit_all(0..100);
        sleep(SOON).await;
        assert_eq!(status(&rig, "live").state, SinkState::Open);
        sleep(Duration::from_secs(200)).await;
        let now = status(&rig, "live");
        assert_eq!((now.state, now.balance.delivered), (SinkState::Closed, 100), "{now}");
        assert!(rig.end().await.complete);
    });
}
