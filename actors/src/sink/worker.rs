//! All of one sink that outlives the incarnations of its actor.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use super::breaker::{Circuit, CircuitState};
use super::buffer::Buffer;
use super::cell::{Change, StatusCell};
use super::contract::{BatchPolicy, SinkFactory};
use super::dead_letter::DeadLetters;
use super::queue::Ending;
use super::status::SinkState;
use crate::supervise::{Exit, Observer, RestartPolicy};

/// All of one sink that outlives its incarnations.
pub(crate) struct Worker {
    pub(crate) name: Arc<str>,
    pub(crate) factory: SinkFactory,
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) cell: Arc<StatusCell>,
    pub(crate) circuit: Mutex<Circuit>,
    pub(crate) batch: BatchPolicy,
    pub(crate) deliver_timeout: Duration,
    pub(crate) poison_after: u32,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) restart: RestartPolicy,
    pub(crate) control: AtomicU8,
    /// Notified when an incarnation has ended.
    pub(crate) ended: Notify,
}

/// What a sink is to do, beside delivering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Run = 0,
    /// Deliver what waits, then stop.
    Drain = 1,
    /// Stop now.
    Stop = 2,
    /// Go on, and try as often as at an end: the graph ends, and others still give their events to this one.
    Outlast = 3,
}

impl Worker {
    pub(crate) fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the actor, whichever incarnation there is or will be.
    pub(crate) fn control(&self, control: Control) {
        self.control.store(control as u8, Ordering::SeqCst);
        self.cell.call();
    }

    /// Whether that is what it was last told to do.
    pub(super) fn has_order(&self, control: Control) -> bool {
        self.control.load(Ordering::SeqCst) == control as u8
    }

    /// Whether what waits would be lost with the process, or not be lost by policy.
    pub(super) fn is_to_be_emptied(&self) -> bool {
        !self.buffer.is_kept() && !self.buffer.is_set_to_drop()
    }

    /// Publishes the circuit's state, with a reason where there is a new one, and tells of it in the log where it changed.
    pub(crate) fn publish(&self, reason: Option<String>) {
        // Held to the end: whoever gives orders publishes, too, and the last word must be the last state.
        let circuit = self.circuit();
        if self.cell.state().0 == SinkState::Failed {
            // For good: no order can bring it back.
            return;
        }
        let state = match circuit.state() {
            CircuitState::Closed => SinkState::Closed,
            CircuitState::Open => SinkState::Open,
            CircuitState::HalfOpen => SinkState::HalfOpen,
        };
        // First the reason, then what wakes those who may ask for it.
        let change = self.cell.set_state(state, reason, circuit.failures());
        self.buffer.set_state(state);
        // Under the lock, too, so that the log has them in their order.
        match change {
            Some(Change::Opened(reason)) => warn!(sink = %self.name, reason, "circuit opened"),
            Some(Change::Closed(lasted)) => {
                let waiting = self.buffer.balance(Instant::now()).waiting;
                warn!(sink = %self.name, open_for = %seconds(lasted), waiting, "circuit closed");
            }
            None => {}
        }
    }
}

/// A time as the log has it.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

impl Observer for Worker {
    fn ended(&self, exit: &Exit) {
        let is_crash = matches!(exit, Exit::Panicked(_));
        self.buffer.revoke(if is_crash { Ending::Crash } else { Ending::Other });
        self.circuit().crashed();
        self.cell.ended(exit);
        self.dead_letters.log_others(&self.name, Instant::now());
        self.ended.notify_waiters();
    }

    fn progressed(&self) -> bool {
        self.cell.take_progress()
    }

    fn restarting(&self) {
        self.cell.restarted();
    }

    fn gave_up(&self, exit: &Exit) {
        let circuit = self.circuit();
        self.cell.set_state(SinkState::Failed, Some(exit.to_string()), circuit.failures());
        self.buffer.set_state(SinkState::Failed);
        drop(circuit);
        self.ended.notify_waiters();
    }
}
