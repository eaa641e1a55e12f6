//! One sink in a topology with the machine around it, fed event by event, and what came of all of them.

use std::time::Duration;

use serde_json::Value;
use streamll::topology::{LoadOptions, Registry, Topology};
use streamll::{Emitted, Event, Handle, SinkState, SinkStatus, Step};

use support::wait_until;

/// A topology with one sink of this name.
const SINK: &str = "records";

/// A topology that runs.
pub(crate) struct Machine {
    handle: Handle,
    folder: tempfile::TempDir,
    emitted: u64,
}

impl Machine {
    /// With these keys of its sink, a line each; the pauses of its circuit are short.
    pub(crate) fn start(keys: &[&str]) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let mut yaml = format!("service: one\ndata_dir: {path}\nalert_after: 1h\nsinks:\n  {SINK}:\n");
        keys.iter().for_each(|line| yaml += &format!("    {line}\n"));
        yaml += "    circuit_breaker: { failure_threshold: 2, recovery_timeout: 300ms, recovery_max: 1s }\n";
        std::fs::write(folder.path().join("one.yaml"), yaml).unwrap();
        let options = LoadOptions::default();
        let topology = Topology::load_with(folder.path(), "one", &Registry::default(), &options);
        let handle = topology.unwrap_or_else(|error| panic!("{error}")).start().unwrap();
        Machine { handle, folder, emitted: 0 }
    }

    /// One event of this module, numbered.
    pub(crate) fn emit(&mut self, module: &str) -> u64 {
        self.send(Event::new(&Step::new(module), "start"))
    }

    /// One event, numbered.
    pub(crate) fn send(&mut self, event: Event) -> u64 {
        let number = self.emitted;
        self.emitted += 1;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let sent = runtime.block_on(self.handle.emitter().send(event.with("number", number)));
        assert_eq!(sent, Emitted::Accepted);
        number
    }

    pub(crate) fn status(&self) -> SinkStatus {
        self.handle.status().sink(SINK).unwrap().clone()
    }

    /// Waits until something holds of the sink.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, holds: impl Fn(&SinkStatus) -> bool) {
        wait_until(what, || {
            let status = self.status();
            if holds(&status) { Ok(()) } else { Err(format!("{status:#?}")) }
        });
    }

    /// Waits until its circuit is open for this reason.
    #[track_caller]
    pub(crate) fn breaks(&self, reason: &str) {
        self.wait(reason, |status| {
            status.circuit_open && status.reason.as_deref().is_some_and(|why| why.contains(reason))
        });
    }

    /// Waits until all events have arrived or are dead letters.
    #[track_caller]
    pub(crate) fn settles(&self) {
        self.wait("all events are settled", |status| {
            let b = &status.balance;
            b.delivered + b.dead_lettered == self.emitted
                && b.waiting == 0
                && status.state == SinkState::Closed
        });
    }

    /// Ends it in order: what it warned of last.
    pub(crate) fn warns(self) -> Vec<String> {
        let drained = self.handle.shutdown_blocking(Duration::from_secs(30));
        assert!(drained.status.balances(), "{:#?}", drained.status);
        drained.status.sink(SINK).unwrap().warnings.clone()
    }

    /// Ends it in order: the dead letters, number and reason each.
    #[track_caller]
    pub(crate) fn ends(self) -> Vec<(u64, String)> {
        let drained = self.handle.shutdown_blocking(Duration::from_secs(30));
        assert!(drained.status.balances(), "{:#?}", drained.status);
        let text = std::fs::read_to_string(self.folder.path().join(format!("dead/{SINK}.ndjson")));
        let letters = text.unwrap_or_default();
        let letters = letters.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let read = |letter: Value| {
            let number = letter["event"]["data"]["number"].as_u64().unwrap();
            (number, letter["reason"].as_str().unwrap().to_owned())
        };
        letters.map(read).collect()
    }
}
