//! The events that a line of processors works on, and the current call: all that is needed to continue after a hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use crate::event::Event;
use crate::ingress::Tally;

/// Events on their way through the line.
pub(super) struct Hand<W> {
    pub(super) work: Option<W>,
    pub(super) tally: Tally,
    pub(super) last: bool,
    /// The stage at which the events are.
    pub(super) stage: usize,
    /// The inputs of that stage. Those before `next` are done.
    pub(super) inputs: Arc<Vec<Event>>,
    pub(super) next: usize,
    /// The results of the inputs that are done.
    pub(super) done: Vec<Event>,
    pub(super) finished: bool,
}

/// What the thread of one incarnation and the watchdog tell each other, event by event and without a lock. Each
/// incarnation has its own. So a thread that moves again after it was given up changes nothing in its successor.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// The position of the event that is being processed. One relaxed store for each event is the whole cost of the
    /// watchdog.
    pub(super) at: AtomicUsize,
    /// The watchdog asks for the results so far, which then need not be made again after a hang. It stays set once
    /// another incarnation has taken over, so that this one notices it after its current event.
    pub(super) wanted: AtomicBool,
}

/// A call of a processor that is not finished.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) stage: usize,
    pub(super) method: Method,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Make,
    Interval,
    Process,
    Tick,
    Finish,
    Drop,
}

impl Method {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Method::Make => "factory",
            Method::Interval => "interval",
            Method::Process => "process",
            Method::Tick => "tick",
            Method::Finish => "finish",
            Method::Drop => "drop",
        }
    }
}

impl<W> Hand<W> {
    pub(super) fn new(
        work: Option<W>,
        stage: usize,
        events: Vec<Event>,
        tally: Tally,
        last: bool,
    ) -> Hand<W> {
        let (inputs, done) = (Arc::new(events), Vec::new());
        Hand { work, tally, last, stage, inputs, next: 0, done, finished: false }
    }

    /// Removes the input at that position. Inputs before it are done and are dropped.
    pub(super) fn take_out(&mut self, place: usize) {
        let left = self.inputs.iter().enumerate().skip(self.next);
        let left = left.filter(|(other, _)| *other != place).map(|(_, event)| event.clone()).collect();
        (self.inputs, self.next) = (Arc::new(left), 0);
        self.tally.failed += 1;
    }
}
