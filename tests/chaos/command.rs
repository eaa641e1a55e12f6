//! The command `streamll run` under load: fed without end, its acknowledgements kept, and killed.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// A source of numbered events, over all processes that take them.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// The number of the next event.
    next: Arc<Mutex<u64>>,
    /// The numbers of all that were acknowledged.
    acked: Arc<Mutex<BTreeSet<u64>>>,
}

/// One process.
pub(super) struct Running {
    child: Child,
    feeder: JoinHandle<()>,
    reader: JoinHandle<()>,
}

/// One event: a token, the start or the end of a step, with the number under `seq`.
fn line(n: u64) -> String {
    let kind = ["start", "token", "token", "token", "end"][(n % 5) as usize];
    format!(
        "{{\"event_type\":\"{kind}\",\"event_id\":\"e{n}\",\"source\":\"feed\",\"seq\":{n},\"module_name\":\"Kill\",\
         \"execution_id\":\"run{}\",\"data\":{{\"n\":{n},\"text\":\"{}\"}}}}\n",
        n / 5,
        "x".repeat((n % 300) as usize)
    )
}

pub(super) fn streamll(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamll"));
    command.args(args).env_clear().env("STREAMLL_TOPOLOGIES", folder).env("STREAMLL_LOG", "error");
    command
}

impl Source {
    /// Starts a process, and feeds it until it ends.
    pub(super) fn feed(&self, folder: &Path) -> Running {
        let mut command = streamll(folder, &["run", "--env", "chaos", "--ack", "--report", "json"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the command starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let stdout = child.stdout.take().expect("a pipe");
        let first = *lock(&self.next);
        let (next, acked) = (self.next.clone(), self.acked.clone());
        let feeder = thread::spawn(move || {
            loop {
                let n = *lock(&next);
                // Whether it was taken nobody knows before it is acknowledged; the number is never used again.
                *lock(&next) += 1;
                if stdin.write_all(line(n).as_bytes()).is_err() {
                    return;
                }
            }
        });
        let reader = thread::spawn(move || {
            for ack in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Half a number may stand at the end.
                if let Ok(line) = ack.parse::<u64>() {
                    lock(&acked).insert(first + line - 1);
                }
            }
        });
        Running { child, feeder, reader }
    }

    /// How many were acknowledged so far.
    pub(super) fn acked(&self) -> usize {
        lock(&self.acked).len()
    }

    /// Those that were acknowledged, and the number of the next event.
    pub(super) fn end(self) -> (BTreeSet<u64>, u64) {
        let next = *lock(&self.next);
        (std::mem::take(&mut lock(&self.acked)), next)
    }
}

impl Running {
    pub(super) fn kill9(mut self) {
        self.child.kill().expect("it is killed");
        self.child.wait().expect("it ends");
        self.feeder.join().expect("the feeder ends");
        self.reader.join().expect("the reader ends");
    }

    pub(super) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }
}

/// Lets a process deliver what an earlier one left, and ends it; what it reports.
pub(super) fn deliver_the_rest(folder: &Path) -> serde_json::Value {
    let mut command = streamll(folder, &["run", "--env", "chaos", "--report", "json"]);
    let output = command.stdin(Stdio::null()).output().expect("the command runs");
    let err = String::from_utf8_lossy(&output.stderr);
    let report = err.lines().last().and_then(|line| serde_json::from_str(line).ok());
    report.unwrap_or_else(|| panic!("no report: {err}"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
