//! What a sink may say to the machine, from any thread and at any time.

use std::sync::Arc;
use std::time::Duration;

use super::cell::{Signal, StatusCell};

/// What a sink may tell the machine outside of a delivery, from any thread. Clones are cheap.
#[derive(Debug, Clone)]
pub struct SinkContext {
    name: Arc<str>,
    cell: Arc<StatusCell>,
    deliver_timeout: Duration,
}

impl SinkContext {
    pub(crate) fn new(name: Arc<str>, cell: Arc<StatusCell>, deliver_timeout: Duration) -> SinkContext {
        SinkContext { name, cell, deliver_timeout }
    }

    /// A context that nobody listens to, for a sink's own tests.
    #[must_use]
    pub fn detached(name: &str) -> SinkContext {
        SinkContext { name: name.into(), cell: StatusCell::new(), deliver_timeout: Duration::from_secs(30) }
    }

    /// The sink's name in the topology.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long one delivery may take before it is dropped, 30 s by default. A sink that sends many events one after
    /// the other stops in time, and says of the rest that they are `unsent`.
    #[must_use]
    pub fn deliver_timeout(&self) -> Duration {
        self.deliver_timeout
    }

    /// The broker asks to be left alone: the circuit opens, with this reason, until [`unblock`](Self::unblock), or
    /// until a probe arrives (an `unblock` can be lost with its connection).
    pub fn block(&self, reason: impl Into<String>) {
        self.cell.signal(Signal::Block(reason.into()));
    }

    /// The broker takes events again: the circuit probes at once.
    pub fn unblock(&self) {
        self.cell.signal(Signal::Unblock);
    }

    /// Publishes whether there is a connection. What a lost one was blocked for is no longer of account.
    pub fn connected(&self, connected: bool) {
        if !connected {
            self.cell.drop_block();
        }
        self.cell.set_connected(connected);
    }

    /// Publishes what was found on connecting that may hurt later, a sentence each, in place of what was found before:
    /// [`SinkStatus::warnings`](super::SinkStatus::warnings).
    pub fn warnings(&self, found: Vec<String>) {
        self.cell.set_warnings(found);
    }

    /// Says whether what fails now may be the trouble of single events alone. While it may, the probe of an open circuit
    /// is a whole batch instead of one event: others of it show whether the destination works.
    pub fn probe_widely(&self, wide: bool) {
        self.cell.set_probes_widely(wide);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_nobody_has_taken_in_ends_with_its_connection() {
        let cell = StatusCell::new();
        let context = SinkContext::new("live".into(), cell.clone(), Duration::from_secs(1));
        context.block("no memory");
        context.connected(true);
        assert_eq!(cell.take_signal(), Some(Signal::Block("no memory".to_owned())));
        context.block("no memory");
        context.connected(false);
        assert_eq!(cell.take_signal(), None);
        context.unblock();
        context.connected(false);
        assert_eq!(cell.take_signal(), Some(Signal::Unblock));
    }
}
