//! An end in the middle of an outage: in time, and with a report that is true.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::Instant;

use super::command::streamll;
use crate::brokers::{Broker, Rabbit, Redis};
use crate::outage::wait_until;
use crate::proxy::Proxy;
use crate::servers::RabbitNode;

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
        assert!(said.contains(&format!("{says} 100")), "{buffer}: {said}");
    }
}

#[test]
fn redis_is_cut_off() {
    ends_in_an_outage(&Redis::start());
}

#[test]
fn rabbitmq_is_cut_off() {
    ends_in_an_outage(&Rabbit::on(RabbitNode::shared()));
}
