//! A test in a process of its own: where threads and descriptors can be counted, and all that is logged can be read.

use std::fmt::{self, Write as _};
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::servers::with_ports;
use support::wait_until;

/// Says in which process a test is.
const ALONE: &str = "STREAMLL_TEST_ALONE";

/// Runs the test of this name, `faults::…`, in a process of its own; what is logged there shows when it fails.
#[track_caller]
pub(crate) fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        Logs::keep();
        return body();
    }
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", name, "--nocapture"]).env(ALONE, "1");
    let output = with_ports(&mut command).output().expect("it starts");
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    // A client may run threads of its own, whose panics fail no test.
    let well = output.status.success() && out.contains("1 passed") && !err.contains("panicked");
    assert!(well, "{out}\n{err}");
}

/// What this process holds of the system.
#[derive(Debug)]
pub(crate) struct Holdings {
    threads: Vec<String>,
    descriptors: Vec<String>,
}

impl Holdings {
    pub(crate) fn now() -> Holdings {
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let name = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let threads = tasks.map(|task| name(task.path().join("comm"))).collect();
        let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let target = |path| fs::read_link(path).map(|target| target.display().to_string());
        let descriptors = open.map(|fd| target(fd.path()).unwrap_or_default()).collect();
        Holdings { threads, descriptors }
    }

    /// Waits until no more is held than there was.
    #[track_caller]
    pub(crate) fn are_back(&self) {
        wait_until("threads and descriptors are given back", || {
            let now = Holdings::now();
            let back =
                now.threads.len() <= self.threads.len() && now.descriptors.len() <= self.descriptors.len();
            if back { Ok(()) } else { Err(format!("first {self:#?}, now {now:#?}")) }
        });
    }
}

/// Everything that this process logs, a line each, from `INFO` on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logs(Arc<Mutex<Vec<String>>>);

impl Logs {
    /// What this process logs from now on.
    pub(crate) fn keep() -> Logs {
        static LOGS: OnceLock<Logs> = OnceLock::new();
        let logs = LOGS.get_or_init(|| {
            let logs = Logs::default();
            tracing::subscriber::set_global_default(logs.clone()).expect("it is the only one");
            logs
        });
        logs.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
        logs.clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Subscriber for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} {}:", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        eprintln!("{}", line.0);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}
