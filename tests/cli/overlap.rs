//! Two processes on one disk buffer, as when one version of a service follows another: both take input, one delivers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::{Folder, err, feed, signal, streamll, wait_until};

/// The file lies where a folder is, until the test takes that away.
pub(crate) const TOPOLOGY: &str = "data_dir: '{dir}/data'\nshutdown: { timeout: 3s }\nsinks: { log: { type: file, path: '{dir}/log.ndjson', \
    buffer: { type: disk }, circuit_breaker: { recovery_timeout: 200ms, recovery_max: 1s } } }\n";

/// A process that is fed, and whose acknowledgements are read.
pub(crate) struct Process {
    pub(crate) child: Child,
    stdin: ChildStdin,
    acks: Receiver<u64>,
    status: String,
}

impl Process {
    pub(crate) fn start(folder: &Folder, name: &str) -> Process {
        let status = format!("{name}.json");
        let file = folder.path(&status).display().to_string();
        let args = ["run", "--env", "test", "--ack", "--report", "json", "--status-file", &file];
        let mut child = streamll(&folder.path(""), &args).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (acked, acks) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = acked.send(line.parse().unwrap());
            }
        });
        Process { child, stdin, acks, status }
    }

    pub(crate) fn feed(&mut self, numbers: std::ops::Range<u64>) {
        for n in numbers {
            writeln!(self.stdin, "{{\"event_type\":\"start\",\"event_id\":\"e{n}\",\"data\":{{\"n\":{n}}}}}")
                .unwrap();
        }
    }

    /// Waits until so many lines are held safely.
    pub(crate) fn acked(&self, lines: u64) {
        for line in 1..=lines {
            assert_eq!(self.acks.recv_timeout(Duration::from_secs(30)), Ok(line));
        }
    }

    /// Waits until its sink is as it should be, by the status file.
    pub(crate) fn until(&self, folder: &Folder, what: &str, holds: impl Fn(&Value) -> bool) {
        wait_until(what, || {
            let status: Value = serde_json::from_str(&folder.read(&self.status)).unwrap_or_default();
            holds(&status["sinks"]["log"])
        });
    }

    /// Waits until it knows whom it waits for, and has taken in so many events.
    fn waits_for(&self, other: &Process, folder: &Folder, events: u64) {
        let reason = format!(
            "its buffer is in use by process {}: it takes over when that process ends",
            other.child.id()
        );
        self.until(folder, "the second waits for the first", |log| {
            log["state"] == "open"
                && log["awaits_disk"] == true
                && log["reason"] == *reason
                && log["waiting"] == events
        });
        assert!(self.acks.try_recv().is_err(), "what is in memory alone is not confirmed");
    }

    /// Ends its input; how it ended, and its report.
    pub(crate) fn end(self) -> (ExitStatus, Value) {
        drop(self.stdin);
        let output = self.child.wait_with_output().unwrap();
        let report = err(&output).lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
        let report = report.unwrap_or_else(|| panic!("{}", err(&output)));
        assert_eq!(report["balanced"], true, "{report:#}");
        (output.status, report["sinks"]["log"].clone())
    }
}

/// A topology whose sink cannot deliver yet, and two processes on it: the first holds 500 events, the second has 500 more.
fn two(folder: &Folder) -> (Process, Process) {
    std::fs::create_dir(folder.path("log.ndjson")).unwrap();
    let mut first = Process::start(folder, "first");
    first.feed(0..500);
    first.acked(500);
    let mut second = Process::start(folder, "second");
    second.feed(500..1000);
    second.waits_for(&first, folder, 500);
    (first, second)
}

fn let_deliver(folder: &Folder) {
    std::fs::remove_dir(folder.path("log.ndjson")).unwrap();
}

pub(crate) fn arrived(folder: &Folder) -> Vec<u64> {
    let number = |line: &str| serde_json::from_str::<Value>(line).unwrap()["data"]["n"].as_u64().unwrap();
    folder.read("log.ndjson").lines().map(number).collect()
}

#[test]
fn when_the_first_is_killed_the_second_takes_over_and_delivers_all_of_both_in_order() {
    let folder = Folder::with(TOPOLOGY);
    let (mut first, mut second) = two(&folder);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    second.acked(500);
    let_deliver(&folder);
    second.feed(1000..1100);
    second.until(&folder, "all has arrived", |log| log["delivered"] == 1100);
    let (status, log) = second.end();
    assert_eq!(status.code(), Some(0), "{log:#}");
    assert_eq!((&log["recovered"], &log["accepted"]), (&500.into(), &600.into()));
    assert_eq!(arrived(&folder), (0..1100).collect::<Vec<_>>());
}

#[test]
fn when_the_first_ends_in_order_the_second_takes_over_and_delivers_all_of_both_in_order() {
    let folder = Folder::with(TOPOLOGY);
    let (first, second) = two(&folder);
    signal(&first.child, "TERM");
    let (status, log) = first.end();
    assert_eq!((status.code(), &log["on_disk"]), (Some(0), &500.into()), "{log:#}");
    second.acked(500);
    let_deliver(&folder);
    let (status, log) = second.end();
    assert_eq!((status.code(), &log["delivered"]), (Some(0), &1000.into()), "{log:#}");
    assert_eq!(arrived(&folder), (0..1000).collect::<Vec<_>>());
}

#[test]
fn when_the_second_ends_before_it_says_so_and_the_first_goes_on() {
    let folder = Folder::with(TOPOLOGY);
    let (first, second) = two(&folder);
    let (status, log) = second.end();
    assert_eq!(status.code(), Some(75), "only the lock was not to be had: {log:#}");
    assert_eq!((&log["accepted"], &log["waiting"], &log["shed"]), (&500.into(), &500.into(), &0.into()));
    // One that has nothing to lose does not wait for the lock, and tells of it, too.
    let third = feed(streamll(&folder.path(""), &["run", "--env", "test"]), b"");
    assert_eq!(third.status.code(), Some(75), "{}", err(&third));
    assert!(err(&third).contains(&format!("in use by process {}", first.child.id())), "{}", err(&third));
    let_deliver(&folder);
    let (status, log) = first.end();
    assert_eq!((status.code(), &log["delivered"]), (Some(0), &500.into()), "{log:#}");
    assert_eq!(arrived(&folder), (0..500).collect::<Vec<_>>());
}

#[test]
fn a_second_one_that_drains_waits_for_the_first_as_long_as_it_may() {
    let folder = Folder::with(&TOPOLOGY.replace("3s", "60s"));
    let (mut first, second) = two(&folder);
    signal(&second.child, "TERM");
    second.until(&folder, "it drains", |log| log["waiting"] == 500);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let (status, log) = second.end();
    assert_eq!((status.code(), &log["on_disk"]), (Some(0), &1000.into()), "{log:#}");
    let_deliver(&folder);
    let rest = feed(streamll(&folder.path(""), &["run", "--env", "test"]), b"");
    assert_eq!(rest.status.code(), Some(0), "{}", err(&rest));
    assert_eq!(arrived(&folder), (0..1000).collect::<Vec<_>>());
}
