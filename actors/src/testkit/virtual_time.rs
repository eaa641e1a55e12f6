//! Whole graphs on one thread, on a clock that moves only while everybody waits.

use std::future::Future;
use std::time::Duration;

use crate::event::{Event, Step};
use crate::graph::{Drained, GraphHandle, Plan, Threads};

/// Runs a test in an actix `System` on virtual time. A sleep of an hour takes no time, and ends exactly when it is due.
///
/// # Panics
///
/// If no runtime can be made, and if the test panics.
pub fn run<F: Future>(test: F) -> F::Output {
    let runtime =
        || match tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build() {
            Ok(runtime) => runtime,
            Err(error) => std::panic::panic_any(format!("no runtime: {error}")),
        };
    actix_rt::System::with_tokio_rt(runtime).block_on(test)
}

/// Returns when every actor on this thread waits for time or for a message. A millisecond of virtual time has passed
/// then.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// A graph on one thread, and a step to emit from.
#[derive(Debug, Clone)]
pub struct Rig {
    /// The graph.
    pub graph: GraphHandle,
    /// A step of the module `Rig`.
    pub step: Step,
}

impl Rig {
    /// Starts a plan on this thread.
    ///
    /// # Panics
    ///
    /// If the plan is wrong.
    pub async fn start(plan: Plan) -> Rig {
        match GraphHandle::start(plan, Threads::One).await {
            Ok(graph) => Rig { graph, step: Step::new("Rig") },
            Err(error) => std::panic::panic_any(error.to_string()),
        }
    }

    /// Emits an event of that type with the number `n`.
    pub fn emit(&self, kind: &str, n: u64) {
        self.graph.emitter().emit(Event::new(&self.step, kind).with("n", n));
    }

    /// Emits `start` events with the numbers of a range.
    pub fn emit_all(&self, numbers: std::ops::Range<u64>) {
        numbers.for_each(|n| self.emit("start", n));
    }

    /// Emits a token with the text and the index `n`.
    pub fn token(&self, n: u64) {
        self.graph.emitter().emit(Event::token(&self.step, "answer", n.to_string(), n));
    }

    /// Drains the graph within a minute and checks the numbers.
    ///
    /// # Panics
    ///
    /// If the numbers do not balance.
    pub async fn end(&self) -> Drained {
        let drained = self.graph.drain(Duration::from_secs(60)).await;
        let status = &drained.status;
        assert!(status.balances(), "the numbers do not balance: {status:#?}");
        drained
    }
}
