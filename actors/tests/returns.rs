//! A broker that returns is in use soon, also at an end; and the log tells of an outage's end as of its beginning.

use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fmt, future};

use streamll_actors::graph::{Plan, SinkSpec};
use streamll_actors::sink::{
    BufferPolicy, Deliveries, DeliveryError, OnOpen, Placement, Sink, SinkContext, SinkState,
};
use streamll_actors::testkit::{Act, Journal, Rig, run, settle};
use tokio::time::{Instant, sleep};
use tracing::field::{Field, Visit};
use tracing::span;

const TAKES: Duration = Duration::from_millis(5);
const SECOND: Duration = Duration::from_secs(1);

/// How a broker is away.
#[derive(Debug, Clone, Copy)]
enum Away {
    /// Connections are refused, or cut, with such an error of the system.
    By(ErrorKind),
    /// Its name is not found.
    Nameless,
    /// It says that it is away, or has too much to do, or that the password is wrong.
    Saying(fn(&'static str) -> DeliveryError),
    /// Nothing ever comes back.
    Silent,
}

/// A broker, and what it got.
#[derive(Clone)]
struct Broker {
    away: Arc<Mutex<Option<Away>>>,
    journal: Journal,
}

impl Broker {
    fn new() -> Broker {
        Broker { away: Arc::default(), journal: Journal::new([]) }
    }

    fn is(&self, away: impl Into<Option<Away>>) {
        *self.away.lock().unwrap() = away.into();
    }

    /// With the default circuit breaker.
    fn spec(&self, name: &str) -> SinkSpec {
        let broker = self.clone();
        let mut spec = SinkSpec::new(name, move || broker.clone());
        spec.placement = Placement::Spine;
        spec
    }

    async fn answers(&self) -> Result<(), DeliveryError> {
        let away = *self.away.lock().unwrap();
        match away {
            None => Ok(()),
            Some(Away::By(kind)) => Err(Error::from(kind))?,
            // Not a name at all: no server is asked.
            Some(Away::Nameless) => Ok(tokio::net::lookup_host("no such name:1").await.map(drop)?),
            Some(Away::Saying(error)) => Err(error("away")),
            Some(Away::Silent) => future::pending().await,
        }
    }
}

impl Sink for Broker {
    async fn open(&mut self, _: &SinkContext) -> Result<(), DeliveryError> {
        self.answers().await
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        self.answers().await?;
        self.journal.sink(TAKES).deliver(batch).await
    }
}

/// Returns from an outage of such a length; how long it took until something arrived.
async fn returns(rig: &Rig, broker: &Broker, away: Away, outage: Duration, n: u64) -> Duration {
    broker.is(away);
    rig.emit("start", n);
    sleep(outage).await;
    broker.is(None);
    let back = Instant::now();
    while broker.journal.numbers().last() != Some(&n) {
        sleep(TAKES).await;
    }
    back.elapsed()
}

#[test]
fn a_broker_that_refuses_is_in_use_within_three_seconds_of_its_return_however_long_it_was_away() {
    let refused = [
        Away::By(ErrorKind::ConnectionRefused),
        Away::By(ErrorKind::ConnectionReset),
        Away::By(ErrorKind::UnexpectedEof),
        Away::Nameless,
        Away::Saying(DeliveryError::unavailable),
    ];
    for away in refused {
        run(async move {
            let broker = Broker::new();
            broker.is(away);
            // From the start on, and then again and again, each outage soon after the other.
            let rig = Rig::start(Plan::new("test").sink(broker.spec("live"))).await;
            for (n, outage) in [1, 3, 10, 20, 60, 600, 3600, 5, 5, 5].into_iter().enumerate() {
                let took = returns(&rig, &broker, away, outage * SECOND, n as u64).await;
                assert!(took <= 3 * SECOND, "{away:?}: {took:?} after {outage} s");
            }
            assert!(rig.end().await.complete);
        });
    }
}

#[test]
fn a_broker_that_is_silent_or_overloaded_is_left_alone_for_the_time_of_recovery() {
    let costly = [Away::By(ErrorKind::TimedOut), Away::Silent, Away::Saying(DeliveryError::overload)];
    for away in costly {
        run(async move {
            let broker = Broker::new();
            let mut spec = broker.spec("live");
            spec.deliver_timeout = SECOND;
            let rig = Rig::start(Plan::new("test").sink(spec)).await;
            settle().await;
            // Three failures, and it is open for 24 s at the least, and for 36 s at the most.
            let took = returns(&rig, &broker, away, 10 * SECOND, 0).await;
            assert!(took > 10 * SECOND && took < 36 * SECOND, "{away:?}: {took:?}");
            // A restart after it, where connections are refused, is no part of that row.
            let took = returns(&rig, &broker, Away::By(ErrorKind::ConnectionRefused), 10 * SECOND, 1).await;
            assert!(took <= 3 * SECOND, "{away:?}: {took:?}");
            assert!(rig.end().await.complete);
        });
    }
}

#[test]
fn one_failed_connect_does_not_open_the_circuit() {
    run(async {
        let journal = Journal::new([]).opening([Act::Unavailable(0); 2]);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
        rig.emit_all(0..10);
        for _ in 0..100 {
            sleep(SECOND / 100).await;
            assert_eq!(rig.graph.sink("live").unwrap().status().state, SinkState::Closed);
        }
        assert_eq!(journal.numbers(), (0..10).collect::<Vec<_>>(), "within a second");
        assert!(rig.end().await.complete);
    });
}

#[test]
fn at_an_end_a_broker_that_returns_in_time_gets_everything() {
    let all = [
        Away::By(ErrorKind::ConnectionRefused),
        Away::Saying(DeliveryError::overload),
        Away::Saying(DeliveryError::misconfigured),
        Away::Saying(DeliveryError::unknown),
        Away::Silent,
    ];
    // Also where the end comes while it tries quickly, and where no failure ever opens the circuit.
    for (away, before, threshold) in
        all.into_iter().flat_map(|away| [(away, 100, 3), (away, 0, 3), (away, 100, 1000)])
    {
        run(async move {
            let broker = Broker::new();
            broker.is(away);
            let mut spec = broker.spec("live");
            spec.deliver_timeout = SECOND;
            spec.breaker.failure_threshold = threshold;
            let rig = Rig::start(Plan::new("test").sink(spec)).await;
            rig.emit_all(0..300);
            sleep(before * SECOND).await;
            let (returned, began) = (broker.clone(), Instant::now());
            actix_rt::spawn(async move {
                sleep(2 * SECOND).await;
                returned.is(None);
            });
            let drained = rig.graph.drain(20 * SECOND).await;
            assert!(drained.complete && drained.status.balances(), "{away:?}: {:#?}", drained.status);
            assert_eq!(broker.journal.numbers(), (0..300).collect::<Vec<_>>());
            assert!(began.elapsed() <= 2 * SECOND + 3 * SECOND, "{away:?}: {:?}", began.elapsed());
        });
    }
}

#[test]
fn an_end_does_not_wait_for_what_is_on_disk_nor_for_a_sink_that_drops_nor_for_one_opened_by_hand() {
    for what in ["disk", "drop", "forced"] {
        run(async move {
            let data = tempfile::tempdir().unwrap();
            let mut plan = Plan::new("test");
            plan.data_dir = data.path().into();
            let broker = Broker::new();
            let mut spec = broker.spec("live");
            match what {
                "disk" => spec.buffer = BufferPolicy::disk(),
                "drop" => spec.on_open = OnOpen::Drop,
                _ => {}
            }
            broker.is(Away::By(ErrorKind::ConnectionRefused));
            let rig = Rig::start(plan.sink(spec)).await;
            rig.emit_all(0..10);
            sleep(10 * SECOND).await;
            if what == "forced" {
                rig.graph.sink("live").unwrap().force_open();
            }
            let began = Instant::now();
            let drained = rig.graph.drain(20 * SECOND).await;
            assert!(began.elapsed() < SECOND, "{what}: {:?}", began.elapsed());
            let live = drained.status.sink("live").unwrap();
            assert_eq!((live.balance.waiting, live.reason.is_some()), (10, true), "{what}: {live}");
            assert!(drained.status.balances());
        });
    }
}

#[test]
fn at_an_end_a_sink_that_takes_dead_letters_is_tried_for_as_long_as_others_give_to_it() {
    run(async {
        let (live, letters) = (Broker::new(), Broker::new());
        let refused = Away::By(ErrorKind::ConnectionRefused);
        live.is(refused);
        // It has long been left alone for half a minute and more.
        letters.is(Away::Saying(DeliveryError::overload));
        live.journal.play([Act::Rejected; 100]);
        let mut spec = live.spec("live");
        spec.dead_letter = Some("letters".to_owned());
        spec.batch.max_events = 1;
        let mut target = letters.spec("letters");
        target.topics = streamll_actors::route::TopicPattern::parse("#").ok().map(|all| vec![all]);
        let mut plan = Plan::new("test").sink(spec).sink(target);
        plan.alert_after = 3600 * SECOND;
        let rig = Rig::start(plan).await;
        rig.emit_all(0..5);
        sleep(600 * SECOND).await;
        let (one, other, began) = (live.clone(), letters.clone(), Instant::now());
        actix_rt::spawn(async move {
            sleep(2 * SECOND).await;
            other.is(None);
            sleep(8 * SECOND).await;
            one.is(None);
        });
        let early = letters.journal.clone();
        let look = actix_rt::spawn(async move {
            sleep(5 * SECOND).await;
            early.numbers()
        });
        let drained = rig.graph.drain(20 * SECOND).await;
        assert_eq!(look.await.unwrap(), [0, 1, 2, 3, 4], "it did not wait for the other's end");
        assert!(began.elapsed() < 15 * SECOND, "{:?}", began.elapsed());
        let numbers = |name: &str| drained.status.sink(name).unwrap().balance;
        assert_eq!((numbers("live").dead_lettered, numbers("live").waiting), (5, 0));
        let kinds = letters.journal.kinds();
        assert_eq!(
            (kinds.iter().filter(|k| *k == "dead_letter").count(), numbers("letters").waiting),
            (5, 0),
            "{kinds:?}"
        );
        assert!(drained.status.balances());
    });
}

#[test]
fn what_is_left_behind_at_a_deadline_has_its_reason() {
    let reason = |away: Option<Away>, script: Vec<Act>| {
        run(async move {
            let broker = Broker::new();
            broker.is(away);
            broker.journal.play(script);
            let rig = Rig::start(Plan::new("test").sink(broker.spec("live"))).await;
            rig.emit_all(0..10);
            settle().await;
            let drained = rig.graph.drain(10 * SECOND).await;
            let live = drained.status.sink("live").unwrap();
            assert_eq!(live.balance.in_memory(), 10);
            live.reason.clone().unwrap_or_default()
        })
    };
    assert_eq!(reason(Some(Away::By(ErrorKind::ConnectionRefused)), vec![]), "connection refused");
    assert_eq!(reason(None, vec![Act::Hang]), "no answer for 10 of them before the deadline of the end");
    let never = "the deadline of the end came before they were sent";
    assert_eq!(reason(Some(Away::Silent), vec![]), never);
}

/// Wants everything once more, for a while.
struct Unsure(Arc<Mutex<u32>>, Option<&'static str>);

impl Sink for Unsure {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        let left = { self.0.lock().unwrap().checked_sub(1) };
        if let Some(left) = left {
            *self.0.lock().unwrap() = left;
            for i in 0..batch.len() {
                match self.1 {
                    Some(why) => batch.retry_because(i, why),
                    None => batch.retry(i),
                }
            }
        }
        Ok(())
    }
}

#[test]
fn why_an_attempt_failed_is_shown_at_once_and_until_one_succeeds() {
    let shown = |spec: SinkSpec, shown: &'static str| {
        run(async move {
            let rig = Rig::start(Plan::new("test").sink(spec)).await;
            rig.emit_all(0..4);
            settle().await;
            let status = || rig.graph.sink("live").unwrap().status();
            sleep(TAKES).await;
            assert_eq!(status().to_string(), shown);
            assert_eq!(status().failing_since.is_some(), status().failures > 0);
            sleep(60 * SECOND).await;
            let later = status();
            assert_eq!((later.to_string().as_str(), later.reason), ("closed (delivering)", None));
            assert_eq!(later.failing_since, None);
            rig.end().await;
        });
    };
    let plays = |act: Act| Journal::new([act]).spec("live", TAKES / 5);
    shown(plays(Act::Unknown(1)), "closed (connection lost, 1 failure, retrying; 3 waiting)");
    shown(plays(Act::Overload), "closed (out of memory, 1 failure, retrying; 4 waiting)");
    shown(plays(Act::Fatal), "closed (failed: broken; 4 waiting)");
    shown(plays(Act::Panic(0)), "closed (panicked: scripted panic; 4 waiting)");
    let unsure = |why| {
        let left = Arc::new(Mutex::new(1));
        let mut spec = SinkSpec::new("live", move || Unsure(left.clone(), why));
        spec.placement = Placement::Spine;
        spec
    };
    shown(unsure(Some("no queue takes it")), "closed (no queue takes it; 4 waiting)");
    shown(unsure(None), "closed (it wants the same events once more; 4 waiting)");
}

#[test]
fn the_log_tells_of_the_end_of_an_outage_as_loudly_as_of_its_beginning() {
    let log = Log::default();
    let _guard = log.listen();
    run(async {
        let broker = Broker::new();
        let rig = Rig::start(Plan::new("test").sink(broker.spec("live"))).await;
        settle().await;
        let refused = Away::By(ErrorKind::ConnectionRefused);
        returns(&rig, &broker, refused, 60 * SECOND, 0).await;
        returns(&rig, &broker, refused, 60 * SECOND, 1).await;
        settle().await;
        // An operator's orders, too; those that change nothing say nothing.
        let live = rig.graph.sink("live").unwrap();
        live.force_open();
        live.force_open();
        rig.emit_all(2..5);
        sleep(7 * SECOND).await;
        live.force_close();
        live.force_close();
        live.auto();
        sleep(SECOND).await;
        assert!(rig.end().await.complete);
    });
    let lines = log.lines();
    let told: Vec<_> = lines.iter().map(|line| (line["level"].as_str(), line["message"].as_str())).collect();
    let outage = [("WARN", "circuit opened"), ("WARN", "circuit closed")];
    assert_eq!(told, outage.repeat(3), "{lines:#?}");
    let of = |line: usize, key: &str| lines[line][key].as_str();
    assert_eq!((of(0, "reason"), of(1, "waiting")), ("connection refused", "0"));
    let open_for: f64 = of(1, "open_for").trim_end_matches('s').parse().unwrap();
    assert!((58.0..64.0).contains(&open_for), "{open_for}");
    assert_eq!((of(4, "reason"), of(5, "open_for"), of(5, "waiting")), ("ordered by hand", "7.0s", "3"));
}

#[test]
fn the_log_tells_when_a_sink_that_crashed_works_again_and_when_a_dead_letter_is_kept() {
    let log = Log::default();
    let _guard = log.listen();
    run(async {
        let data = tempfile::tempdir().unwrap();
        let mut plan = Plan::new("test");
        plan.data_dir = data.path().into();
        // A file where its folder should be.
        let folder = data.path().join("dead");
        std::fs::write(&folder, "").unwrap();
        let journal = Journal::new([Act::Fatal, Act::Fatal]).whenever(|n| n == 7, Act::Rejected);
        let rig = Rig::start(plan.sink(journal.spec("live", TAKES))).await;
        rig.emit_all(0..5);
        sleep(10 * SECOND).await;
        rig.emit("start", 7);
        sleep(60 * SECOND).await;
        let waits = rig.graph.sink("live").unwrap().status();
        assert!(waits.to_string().starts_with("closed (a dead letter waits: "), "{waits}");
        std::fs::remove_file(&folder).unwrap();
        sleep(60 * SECOND).await;
        let kept = rig.graph.sink("live").unwrap().status();
        assert_eq!((kept.to_string().as_str(), kept.balance.dead_lettered), ("closed (delivering)", 1));
        rig.end().await;
    });
    let lines = log.lines();
    let told: Vec<_> = lines.iter().map(|line| (line["level"].as_str(), line["message"].as_str())).collect();
    let expected = [
        "restarting",
        "restarting",
        "works again after it was restarted",
        "a dead letter waits",
        "the dead letter is kept",
        "dead-lettered",
    ];
    assert_eq!(told, expected.map(|message| ("WARN", message)), "{lines:#?}");
}

/// What is logged on this thread from `WARN` on: the fields of each line, and its `level`.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<HashMap<&'static str, String>>>>);

impl Log {
    /// On this thread. With one subscriber alone, whether anybody listens to a line of the code would be asked on the thread
    /// that gets there first, which may be that of another test: hence two.
    fn listen(&self) -> (tracing::subscriber::DefaultGuard, tracing::Dispatch) {
        let second = tracing::Dispatch::new(self.clone());
        (tracing::subscriber::set_default(self.clone()), second)
    }

    fn lines(&self) -> Vec<HashMap<&'static str, String>> {
        self.0.lock().unwrap().clone()
    }
}

struct Fields(HashMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(HashMap::from([("level", event.metadata().level().to_string())]));
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
