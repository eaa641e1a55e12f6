//! The status of a graph at one moment.

use crate::ingress::GraphBalance;
use crate::process::{ProcessorState, ProcessorStatus};
use crate::sink::{SinkState, SinkStatus};

/// The status of a graph at one moment.
///
/// ```no_run
/// # fn show(handle: &streamll_actors::graph::GraphHandle) {
/// for sink in handle.status().sinks() {
///     println!("{}: {sink}", sink.name); // open (not sending since 03:12 UTC: connection refused; 1,204 waiting)
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct GraphStatus {
    balance: GraphBalance,
    sinks: Vec<SinkStatus>,
    removed: Vec<SinkStatus>,
    processors: Vec<ProcessorStatus>,
}

impl GraphStatus {
    pub(crate) fn new(
        balance: GraphBalance,
        sinks: Vec<SinkStatus>,
        removed: Vec<SinkStatus>,
        processors: Vec<ProcessorStatus>,
    ) -> GraphStatus {
        GraphStatus { balance, sinks, removed, processors }
    }

    /// Returns the numbers of the graph.
    #[must_use]
    pub fn balance(&self) -> GraphBalance {
        self.balance
    }

    /// Returns the sinks, in the order of the topology.
    #[must_use]
    pub fn sinks(&self) -> &[SinkStatus] {
        &self.sinks
    }

    /// Returns the sinks that were removed while the graph ran.
    #[must_use]
    pub fn removed(&self) -> &[SinkStatus] {
        &self.removed
    }

    /// Returns one sink.
    #[must_use]
    pub fn sink(&self, name: &str) -> Option<&SinkStatus> {
        self.sinks.iter().find(|sink| &*sink.name == name)
    }

    /// Returns the processors that have not returned from a call for some seconds, or that have hung at least once.
    /// Other processors are not listed.
    #[must_use]
    pub fn processors(&self) -> &[ProcessorStatus] {
        &self.processors
    }

    /// Returns whether every sink delivers and every processor works.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.sinks.iter().all(|sink| sink.state == SinkState::Closed)
            && self.processors.iter().all(|processor| processor.state == ProcessorState::Replaced)
    }

    /// Whether an event did not arrive and will not. Events that are left in memory count only for sinks that
    /// `counts_in_memory` accepts.
    pub(super) fn has_losses(&self, counts_in_memory: impl Fn(&SinkStatus) -> bool) -> bool {
        let lost = |sink: &SinkStatus| {
            let in_memory = if counts_in_memory(sink) { sink.balance.in_memory() } else { 0 };
            let processed = sink.processed.failed + sink.processed.waiting;
            let balance = sink.balance.shed + sink.balance.dead_lettered;
            // What an earlier process left there did not even come to be counted.
            let is_unread = sink.awaits_disk && sink.disk_trouble.is_some();
            is_unread || balance + processed + sink.damaged + sink.missing + in_memory > 0
        };
        let graph = self.balance.rejected + self.balance.shed + self.balance.failed;
        graph > 0 || self.sinks.iter().chain(&self.removed).any(lost)
    }

    /// Returns whether all numbers balance.
    #[must_use]
    pub fn balances(&self) -> bool {
        let holds = |sink: &SinkStatus| sink.balance.holds() && sink.processed.holds();
        self.balance.holds() && self.sinks.iter().chain(&self.removed).all(holds)
    }
}

/// Adds the status of a removed sink to the status of earlier sinks of its name.
pub(super) fn merge(removed: &mut Vec<SinkStatus>, mut latest: SinkStatus) {
    match removed.iter_mut().find(|earlier| earlier.name == latest.name) {
        Some(earlier) => {
            latest.balance.add(&earlier.balance);
            latest.processed.add(&earlier.processed);
            latest.restarts += earlier.restarts;
            latest.damaged += earlier.damaged;
            latest.missing += earlier.missing;
            *earlier = latest;
        }
        None => removed.push(latest),
    }
}
