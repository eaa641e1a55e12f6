//! An end in the middle of an outage: in time, and with a report that is true.

use std::fs;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Stdio};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::command::streamll;
use crate::brokers::{Broker, Rabbit, Redis};
use crate::proxy::Proxy;
use crate::servers::RabbitNode;
use support::wait_until;

/// SIGTERM while the network swallows everything: a disk keeps what waits, a memory loses and counts it.
fn ends_in_an_outage(broker: &dyn Broker) {
    for (buffer, code, says) in
        [("disk", 0, "kept on disk for the next start"), ("memory", 1, "left in memory")]
    {
        let proxy = Proxy::to(broker.port());
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display();
        let yaml = format!(
            "service: chaos\ndata_dir: {path}/data\nshutdown: {{ timeout: 4s }}\nsinks:\n  live:\n{}    buffer: {{ type: \
             {buffer} }}\n    deliver_timeout: 2s\n    circuit_breaker: {{ failure_threshold: 1, recovery_timeout: 200ms \
             }}\n",
            broker.keys(proxy.port())
        );
        fs::write(folder.path().join("chaos.yaml"), yaml).expect("a file");
        let status = folder.path().join("status");
        let args = ["run", "--env", "chaos", "--status-file", &status.display().to_string()];
        let mut command = streamll(folder.path(), &args);
        let mut child =
            command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let shows = |what: &str| fs::read_to_string(&status).unwrap_or_default().contains(what);
        writeln!(stdin, "{{\"event_type\":\"start\"}}").expect("it reads");
        wait_until("it delivers", || if shows("\"delivered\":1") { Ok(()) } else { Err(String::new()) });
        proxy.blackhole();
        for _ in 0..100 {
            writeln!(stdin, "{{\"event_type\":\"start\"}}").expect("it reads");
        }
        wait_until("it is in trouble", || {
            if shows("\"circuit_open\":true") { Ok(()) } else { Err(String::new()) }
        });
        let began = Instant::now();
        let id = child.id().to_string();
        assert!(
            std::process::Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success()
        );
        let output = child.wait_with_output().expect("it ends");
        let took = began.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(took < Duration::from_secs(4 + 3), "{buffer}: it took {took:?}: {said}");
        assert_eq!(output.status.code(), Some(code), "{buffer}: {said}");
        // Beside the number stands why.
        let told = said.split_once(&format!("{says} 100; ")).map(|(_, why)| why);
        assert!(told.is_some_and(|why| why.contains("open: ")), "{buffer}: {said}");
    }
}

/// A command that runs with a broker's sink on that port, the default circuit breaker, and a minute for its end.
struct Run {
    child: Child,
    stdin: ChildStdin,
    folder: tempfile::TempDir,
}

impl Run {
    fn start(broker: &dyn Broker, port: u16) -> Run {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display();
        let yaml = format!(
            "service: chaos\ndata_dir: {path}/data\nshutdown: {{ timeout: 60s }}\nsinks:\n  live:\n{}",
            broker.keys(port)
        );
        fs::write(folder.path().join("chaos.yaml"), yaml).expect("a file");
        let status = folder.path().join("status").display().to_string();
        let mut command =
            streamll(folder.path(), &["run", "--env", "chaos", "--report", "json", "--status-file", &status]);
        // What it logs stays apart from its report.
        command.env("STREAMLL_LOG", "off").stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        let stdin = child.stdin.take().expect("a pipe");
        Run { child, stdin, folder }
    }

    fn takes(&mut self, events: usize) {
        for n in 0..events {
            let line = format!("{{\"event_type\":\"start\",\"data\":{{\"n\":{n}}}}}");
            writeln!(self.stdin, "{line}").expect("it reads");
        }
    }

    fn shows(&self, what: &[&str]) {
        wait_until(&format!("the status shows {what:?}"), || {
            let status = fs::read_to_string(self.folder.path().join("status")).unwrap_or_default();
            if what.iter().all(|what| status.contains(what)) { Ok(()) } else { Err(status) }
        });
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        let sent = std::process::Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Its exit code, and what it reports of its sink.
    fn end(self) -> (Option<i32>, serde_json::Value) {
        let output = self.child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
        let report: serde_json::Value = report.unwrap_or_else(|| panic!("no report: {said}"));
        assert_eq!(report["balanced"], true, "{report:#}");
        (output.status.code(), report["sinks"]["live"].clone())
    }
}

#[test]
fn redis_returns_during_the_end() {
    let redis = Redis::start();
    redis.server.kill9();
    let mut run = Run::start(&redis, redis.port());
    run.takes(300);
    run.shows(&["\"circuit_open\":true", "\"waiting\":300"]);
    run.terminate();
    // Its first try at the end is long over.
    thread::sleep(Duration::from_secs(2));
    assert!(run.child.try_wait().expect("it can be asked").is_none(), "it did not wait for Redis");
    redis.server.restart();
    let (code, live) = run.end();
    assert_eq!((code, &live["delivered"], &live["waiting"]), (Some(0), &300.into(), &0.into()), "{live:#}");
    assert_eq!(redis.arrived().len(), 300);
}

#[test]
fn a_lost_answer_is_shown_while_the_circuit_is_closed_and_left_with_its_reason() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port());
    let mut run = Run::start(&redis, proxy.port());
    run.takes(1);
    run.shows(&["\"delivered\":1"]);
    proxy.blackhole();
    run.takes(100);
    // The first of three failures, long before the circuit opens.
    run.shows(&["\"state\":\"closed\"", "\"failures\":1", "no answer within 5s", "\"failing_since\":\""]);
    run.terminate();
    // The second ends it at once.
    thread::sleep(Duration::from_secs(1));
    run.terminate();
    let (code, live) = run.end();
    assert_eq!((code, &live["waiting"]), (Some(143), &100.into()), "{live:#}");
    assert!(live["reason"].as_str().is_some_and(|why| why.contains("no ")), "{live:#}");
}

#[test]
fn redis_is_cut_off() {
    ends_in_an_outage(&Redis::start());
}

#[test]
fn rabbitmq_is_cut_off() {
    ends_in_an_outage(&Rabbit::on(RabbitNode::shared()));
}
