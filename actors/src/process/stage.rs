//! One processor at work: keeps its books, and survives its panics.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use super::{Output, Processor, ProcessorFactory};
use crate::event::Event;
use crate::ingress::Tally;

/// Is told of an event that a processor panicked on, and what the panic said.
pub(crate) type OnFailed = Arc<dyn Fn(&Event, &str) + Send + Sync>;

/// One processor at work.
pub(crate) struct Stage {
    name: Arc<str>,
    processor: Box<dyn Processor>,
    /// Events that it keeps for later.
    held: u64,
    on_failed: OnFailed,
}

impl Stage {
    pub(crate) fn new(name: Arc<str>, processor: Box<dyn Processor>, on_failed: OnFailed) -> Stage {
        Stage { name, processor, held: 0, on_failed }
    }

    /// Makes the processor, too. One whose factory panics fails on every event, with what the panic said.
    pub(crate) fn make(name: Arc<str>, factory: &ProcessorFactory, on_failed: OnFailed) -> Stage {
        let processor = catch_unwind(AssertUnwindSafe(|| factory())).unwrap_or_else(|panic| {
            let why = format!("it could not be made: {}", super::panic_message(&*panic));
            error!(processor = %name, why, "a processor is missing");
            Box::new(move |_| -> Option<Event> { resume_unwind(Box::new(why.clone())) })
        });
        Stage::new(name, processor, on_failed)
    }

    pub(crate) fn interval(&self) -> Option<Duration> {
        let interval = catch_unwind(AssertUnwindSafe(|| self.processor.interval())).ok().flatten();
        interval.filter(|interval| !interval.is_zero())
    }

    /// Runs events through, in order. The machine's own events pass by.
    pub(crate) fn run(&mut self, events: Vec<Event>, tally: &mut Tally) -> Vec<Event> {
        let mut out = Output { events: Vec::with_capacity(events.len()), ..Output::default() };
        for event in events {
            if event.is_system() {
                out.events.push(event);
                continue;
            }
            // Clones are cheap, and a panic must not take the event with it.
            let kept = event.clone();
            let processor = &mut self.processor;
            let done = catch_unwind(AssertUnwindSafe(|| processor.process(event, &mut out)));
            match done {
                Ok(()) if out.held > 0 => tally.created += out.pushed,
                Ok(()) if out.pushed == 0 => tally.filtered += 1,
                Ok(()) => tally.created += out.pushed - 1,
                Err(panic) => {
                    let why = super::panic_message(&*panic);
                    error!(processor = %self.name, event = ?kept, why, "a processor panicked");
                    tally.created += out.pushed;
                    tally.failed += 1;
                    // It is lost, held or not.
                    out.held = 0;
                    (self.on_failed)(&kept, &why);
                }
            }
            self.account(&mut out, tally);
        }
        out.events
    }

    /// Its timer fired.
    pub(crate) fn tick(&mut self, tally: &mut Tally) -> Vec<Event> {
        self.aside(tally, |processor, out| processor.tick(out))
    }

    /// The graph drains: what it still holds after this is lost, and counted as failed.
    pub(crate) fn finish(&mut self, tally: &mut Tally) -> Vec<Event> {
        let events = self.aside(tally, |processor, out| processor.finish(out));
        self.abandon(tally);
        events
    }

    /// What it still holds is lost, and counted so.
    pub(crate) fn abandon(&mut self, tally: &mut Tally) {
        let lost = std::mem::take(&mut self.held);
        if lost > 0 {
            error!(processor = %self.name, lost, "a processor did not release what it held");
            tally.received += i64::try_from(lost).unwrap_or(i64::MAX);
            tally.failed += lost;
        }
    }

    fn aside(&mut self, tally: &mut Tally, call: impl FnOnce(&mut dyn Processor, &mut Output)) -> Vec<Event> {
        let mut out = Output::default();
        let processor = &mut *self.processor;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| call(processor, &mut out))) {
            error!(processor = %self.name, why = super::panic_message(&*panic), "a processor panicked in its timer");
        }
        tally.created += out.pushed;
        self.account(&mut out, tally);
        out.events
    }

    /// Moves what was held and released from and to the account of this moment.
    fn account(&mut self, out: &mut Output, tally: &mut Tally) {
        let (held, released) = (std::mem::take(&mut out.held), std::mem::take(&mut out.released));
        self.held += held;
        if released > self.held {
            error!(processor = %self.name, released, held = self.held, "a processor released more than it held");
            tally.created += released - self.held;
        }
        let released_of_ours = released.min(self.held);
        self.held -= released_of_ours;
        tally.received +=
            i64::try_from(released_of_ours).unwrap_or(i64::MAX) - i64::try_from(held).unwrap_or(i64::MAX);
        tally.merged += std::mem::take(&mut out.merged);
        out.pushed = 0;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A processor whose own drop panics must not take the spine with it.
        let processor = std::mem::replace(&mut self.processor, Box::new(Some));
        if catch_unwind(AssertUnwindSafe(|| drop(processor))).is_err() {
            error!(processor = %self.name, "a processor panicked while it was dropped");
        }
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").field("name", &self.name).field("held", &self.held).finish_non_exhaustive()
    }
}
