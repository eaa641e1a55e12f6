//! A topology from YAML under load, through an outage of its brokers, and the books at its end.

use std::cell::RefCell;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use streamll::topology::{LoadOptions, Registry, Topology};
use streamll::{Handle, SinkState, SinkStatus};
use tokio::time::Instant;

use crate::brokers::{Broker, PASSWORD, WINDOW};
use crate::oracle::{Books, Load, Odd, id_of};
use crate::wait_until;

/// More time than anything here takes.
const LONG: Duration = Duration::from_secs(60);
/// How long a delivery may take where the brokers answer, whatever they answer: none is to be cut off.
pub const PATIENT: Duration = Duration::from_secs(30);
/// How long a delivery may take where a broker falls silent.
pub const HASTY: Duration = Duration::from_secs(3);
/// What each producer waits after an event.
const PAUSE: Duration = Duration::from_millis(2);

/// `memory`, or what the environment says: all faults hold for both kinds of buffers.
fn buffer() -> String {
    std::env::var("STREAMLL_TEST_BUFFER").unwrap_or_else(|_| "memory".to_owned())
}

/// A circuit breaker that moves fast, and so much patience with a delivery.
fn tuned(patience: Duration) -> String {
    format!(
        "    deliver_timeout: {patience:?}\n    circuit_breaker: {{ failure_threshold: 2, recovery_timeout: 200ms, \
         recovery_max: 1s }}\n"
    )
}

thread_local! { static FAULT: RefCell<Option<String>> = const { RefCell::new(None) } }

/// What the table calls what is done next, where that is not the name of the test.
pub fn name_fault(name: &str) {
    FAULT.set(Some(name.to_owned()));
}

/// One line of the table of faults, which `tests/run` prints at its end.
fn tell(sink: &SinkStatus, copies: usize, took: Duration) {
    let Some(path) = std::env::var_os("STREAMLL_TEST_TABLE") else { return };
    let thread = thread::current();
    let fault = FAULT.with_borrow(|name| name.as_deref().or(thread.name()).unwrap_or_default().to_owned());
    let fault = fault.trim_start_matches("faults::").replace('_', " ");
    let b = &sink.balance;
    let repeats = copies as u64 - b.delivered;
    let line = format!(
        "{fault}|{}|{}|{}|{}|{repeats}|{}|{:.1} s\n",
        sink.name,
        buffer(),
        b.accepted,
        b.delivered,
        b.dead_lettered,
        took.as_secs_f64()
    );
    let file = fs::File::options().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the table can be written");
}

/// A topology that runs: a sink for each broker, and one into a file beside them that nothing may disturb.
pub struct Outage<'b> {
    brokers: Vec<&'b dyn Broker>,
    handle: Handle,
    load: Load,
    folder: tempfile::TempDir,
    began: Instant,
    /// How long the topology took until it ran.
    pub started_in: Duration,
}

/// What is known at the end.
#[derive(Debug, Default)]
pub struct Expected {
    /// How many connections were lost with something under way.
    pub losses: usize,
    /// The broker refuses events singly, which then come after their neighbours.
    pub refuses_singly: bool,
    /// What was dead-lettered is right.
    pub dead_letters: bool,
}

impl<'b> Outage<'b> {
    /// With each broker on its own port.
    pub fn of(brokers: &[&'b dyn Broker]) -> Outage<'b> {
        Outage::start(brokers, None, &tuned(PATIENT), PAUSE, |_| None)
    }

    /// With each broker on its own port, and all settings as they are by default.
    pub fn with_defaults(brokers: &[&'b dyn Broker]) -> Outage<'b> {
        Outage::start(brokers, None, "", PAUSE, |_| None)
    }

    /// With about 5,000 events a second.
    pub fn fast(broker: &'b dyn Broker, patience: Duration) -> Outage<'b> {
        Outage::start(&[broker], None, &tuned(patience), PAUSE / 6, |_| None)
    }

    /// With fewer events, for brokers that need the processor for themselves.
    pub fn of_few(broker: &'b dyn Broker, patience: Duration) -> Outage<'b> {
        Outage::start(&[broker], None, &tuned(patience), 5 * PAUSE, |_| None)
    }

    /// With the broker on this port: behind a proxy.
    pub fn behind(port: u16, broker: &'b dyn Broker, patience: Duration) -> Outage<'b> {
        Outage::start(&[broker], Some(port), &tuned(patience), PAUSE, |_| None)
    }

    /// With events among the others that can never arrive.
    pub fn poisoned(broker: &'b dyn Broker, odd: fn(u64) -> Option<Odd>) -> Outage<'b> {
        // Fewer: each poison costs several attempts, and RabbitMQ a channel each.
        Outage::start(&[broker], None, &tuned(PATIENT), 10 * PAUSE, odd)
    }

    fn start(
        brokers: &[&'b dyn Broker],
        port: Option<u16>,
        settings: &str,
        pause: Duration,
        odd: fn(u64) -> Option<Odd>,
    ) -> Outage<'b> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display();
        let mut yaml = format!("service: faults\ndata_dir: {path}\nalert_after: 1h\nsinks:\n");
        for broker in brokers {
            yaml += &format!("  {}:\n{}", broker.name(), broker.keys(port.unwrap_or(broker.port())));
            yaml += &format!(
                "    batch: {{ max_events: {WINDOW} }}\n{settings}    buffer: {{ type: {} }}\n",
                buffer()
            );
        }
        yaml += &format!("  beside: {{ type: file, path: {path}/beside.ndjson }}\n");
        fs::write(folder.path().join("faults.yaml"), yaml).expect("a file");
        let options = LoadOptions::default();
        let topology = Topology::load_with(folder.path(), "faults", &Registry::default(), &options);
        let topology = topology.unwrap_or_else(|error| panic!("{error}"));
        let begun = Instant::now();
        let handle = topology.start().expect("it starts");
        let started_in = begun.elapsed();
        let load = Load::start(handle.emitter(), pause, odd);
        Outage { brokers: brokers.to_vec(), handle, load, folder, began: Instant::now(), started_in }
    }

    /// What is known of one sink.
    pub fn sink(&self, name: &str) -> SinkStatus {
        self.handle.status().sink(name).expect("it has this sink").clone()
    }

    /// Waits until something holds of each broker's sink.
    #[track_caller]
    fn wait(&self, what: &str, holds: impl Fn(&SinkStatus) -> bool) {
        for broker in &self.brokers {
            wait_until(what, || {
                let status = self.sink(broker.name());
                if holds(&status) { Ok(()) } else { Err(format!("{status:#?}")) }
            });
        }
    }

    /// Waits until a hundred more events have arrived, at the least.
    #[track_caller]
    pub fn flows(&self) {
        let until = self.handle.status().balance().received + 100;
        wait_until("enough was emitted", || {
            let received = self.handle.status().balance().received;
            if received >= until { Ok(()) } else { Err(format!("{received} of {until}")) }
        });
        let wanted = |status: &SinkStatus| {
            status.state == SinkState::Closed
                && status.balance.delivered + status.balance.dead_lettered >= until
        };
        self.wait("events flow", wanted);
    }

    /// Waits until the circuit is open for this reason, and sees that the sink beside gets everything all the same.
    #[track_caller]
    pub fn breaks(&self, reason: &str) {
        self.is_in_trouble(reason);
        self.beside_keeps_up();
    }

    /// Waits until the circuit is open for this reason.
    #[track_caller]
    fn is_in_trouble(&self, reason: &str) {
        self.wait(&format!("the circuit is open: {reason}"), |status| {
            let because = status.reason.as_deref().unwrap_or_default();
            status.circuit_open && because.to_lowercase().contains(&reason.to_lowercase())
        });
    }

    /// What the brokers lack by now has arrived beside, and is still missing with them.
    #[track_caller]
    fn beside_keeps_up(&self) {
        let stuck: Vec<_> = self.brokers.iter().map(|broker| self.sink(broker.name()).balance).collect();
        let emitted = self.load.count() + 100;
        wait_until("the sink beside gets everything", || {
            let beside = self.sink("beside");
            if beside.balance.delivered >= emitted { Ok(()) } else { Err(format!("{beside:#?}")) }
        });
        for (broker, before) in self.brokers.iter().zip(stuck) {
            let now = self.sink(broker.name()).balance;
            assert!(now.waiting > before.waiting, "{} was not in trouble: {now:#?}", broker.name());
        }
    }

    /// What people read of each broker's sink begins so.
    #[track_caller]
    pub fn says(&self, beginning: &str) {
        // Now and then it is being probed.
        self.wait(beginning, |status| status.to_string().starts_with(beginning));
    }

    /// Leaves everything as it is for a while.
    pub fn lasts(&self, time: Duration) {
        thread::sleep(time);
    }

    /// Waits until more events wait for the first broker than ever do when it is well.
    #[track_caller]
    pub fn falls_behind(&self) {
        self.wait("many events wait", |status| status.balance.waiting > 1000);
    }

    /// Waits until the first of those that wait have arrived.
    #[track_caller]
    pub fn moves(&self) {
        let before: Vec<_> =
            self.brokers.iter().map(|broker| self.sink(broker.name()).balance.delivered).collect();
        let delivered = |status: &SinkStatus| status.balance.delivered;
        self.wait("some arrive", |status| before.iter().all(|before| delivered(status) > *before));
    }

    /// Waits until so many events are dead-lettered.
    #[track_caller]
    pub fn buries(&self, count: u64) {
        self.wait("events are dead-lettered", |status| status.balance.dead_lettered >= count);
    }

    /// Waits until the sink beside gets half as many events in a while as it did `before`.
    #[track_caller]
    pub fn beside_keeps_half(&self, before: u64, time: Duration) {
        wait_until("the sink beside is not held up", || {
            let meanwhile = self.beside_gets_in(time);
            if meanwhile * 2 > before { Ok(()) } else { Err(format!("{before}, and {meanwhile} meanwhile")) }
        });
    }

    /// How many events the sink beside gets in a while.
    pub fn beside_gets_in(&self, time: Duration) -> u64 {
        let before = self.sink("beside").balance.delivered;
        self.lasts(time);
        self.sink("beside").balance.delivered - before
    }

    /// Waits until everything flows again.
    #[track_caller]
    pub fn recovers(&self) {
        self.flows();
    }

    /// The circuit never moved.
    #[track_caller]
    pub fn never_broke(&self, since: &str) {
        for broker in &self.brokers {
            let status = self.sink(broker.name());
            assert!(!status.circuit_open && status.since.to_string() == since, "{status:#?}");
        }
    }

    /// Since when the first broker's sink is in the state that it is in.
    pub fn since(&self) -> String {
        self.sink(self.brokers[0].name()).since.to_string()
    }

    /// How many events were emitted so far.
    pub fn load(&self) -> u64 {
        self.load.count()
    }

    /// Stops the load, waits until nothing waits, ends the topology, and checks all books. Returns the dead letters.
    #[track_caller]
    pub fn ends(self, expected: &Expected) -> Vec<Value> {
        self.ends_while(expected, || {})
    }

    /// Does something besides, again and again, while events still wait.
    #[track_caller]
    pub fn ends_while(self, expected: &Expected, besides: impl Fn()) -> Vec<Value> {
        let Outage { brokers, handle, load, folder, began, .. } = self;
        let mut issued = load.stop();
        for broker in &brokers {
            wait_until("nothing waits", || {
                besides();
                let status = handle.status();
                let sink = status.sink(broker.name()).expect("it has this sink");
                let all = sink.balance.accepted == issued.len() as u64 && sink.balance.waiting == 0;
                if all { Ok(()) } else { Err(format!("{sink:#?}")) }
            });
        }
        let drained = handle.shutdown_blocking(LONG);
        let status = &drained.status;
        assert!(status.balances(), "the ledger does not balance: {status:#?}");
        let dead = status.sinks().iter().any(|sink| sink.balance.dead_lettered > 0);
        assert_eq!(drained.complete, !dead, "{status:#?}");
        assert!(!format!("{status:#?}").contains(PASSWORD), "the password shows: {status:#?}");
        let beside = status.sink("beside").expect("it has this sink");
        assert_eq!((beside.failures, beside.restarts, beside.balance.delivered), (0, 0, issued.len() as u64));
        let lines = lines(&folder.path().join("beside.ndjson"));
        let mut letters = Vec::new();
        for broker in &brokers {
            let sink = status.sink(broker.name()).expect("it has this sink");
            let dead = dead_letters(folder.path(), broker.name());
            let ids: Vec<_> =
                dead.iter().map(|letter| id_of(letter["event"].to_string().as_bytes())).collect();
            if expected.dead_letters {
                issued.iter_mut().for_each(|issued| issued.poison |= ids.contains(&issued.id));
            }
            let good = issued.iter().filter(|issued| !issued.poison).count() as u64;
            assert_eq!(
                (sink.balance.delivered, sink.balance.dead_lettered, sink.balance.shed, sink.restarts),
                (good, ids.len() as u64, 0, 0),
                "{sink:#?}"
            );
            let books = Books {
                issued: &issued,
                arrived: &broker.arrived(),
                beside: &lines,
                dead: &ids,
                window: WINDOW,
                losses: expected.losses,
                ordered: !expected.refuses_singly,
            };
            let wrong = books.audit();
            let first = wrong.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n");
            assert!(wrong.is_empty(), "{}: {} mistakes, such as:\n{first}", broker.name(), wrong.len());
            tell(sink, books.arrived.len(), began.elapsed());
            letters.extend(dead);
        }
        letters
    }
}

fn dead_letters(folder: &Path, sink: &str) -> Vec<Value> {
    let file = folder.join(format!("dead/{sink}.ndjson"));
    lines(&file).iter().map(|line| serde_json::from_slice(line).expect("JSON")).collect()
}

fn lines(path: &Path) -> Vec<Vec<u8>> {
    let text = fs::read(path).unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}
