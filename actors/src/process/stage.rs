//! One processor at work. It counts the events, and survives panics of the processor.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use super::{Output, Processor, ProcessorFactory};
use crate::event::Event;
use crate::ingress::Tally;

/// Is called with an event that a processor could not take, and the reason.
pub(crate) type OnFailed = Arc<dyn Fn(&Event, &str) + Send + Sync>;

/// One processor at work.
pub(crate) struct Stage {
    name: Arc<str>,
    processor: Box<dyn Processor>,
    /// Why it takes no event at all: it could not be made, or was given up.
    refuses: Option<String>,
    /// How many events it keeps for later.
    held: u64,
}

impl Stage {
    pub(crate) fn new(name: Arc<str>, processor: Box<dyn Processor>) -> Stage {
        Stage { name, processor, refuses: None, held: 0 }
    }

    /// Replaces a missing processor: it fails on every event. To let the events pass would be worse, because the
    /// processor may have to remove something from them.
    pub(crate) fn refusing(name: Arc<str>, why: String) -> Stage {
        Stage { name, processor: Box::new(Some), refuses: Some(why), held: 0 }
    }

    /// Makes the processor, too. If its factory panics, the stage fails on every event, with the message of the panic.
    pub(crate) fn make(name: Arc<str>, factory: &ProcessorFactory) -> Stage {
        match catch_unwind(AssertUnwindSafe(|| factory())) {
            Ok(processor) => Stage::new(name, processor),
            Err(panic) => {
                let why =
                    format!("a processor panicked: it could not be made: {}", super::panic_message(&*panic));
                error!(processor = %name, why, "a processor is missing: events become dead letters");
                Stage::refusing(name, why)
            }
        }
    }

    pub(crate) fn interval(&self) -> Option<Duration> {
        let interval = catch_unwind(AssertUnwindSafe(|| self.processor.interval())).ok().flatten();
        interval.filter(|interval| !interval.is_zero())
    }

    /// Returns how many events it keeps for later.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Gives it one event. An error says why the event is lost; the event is counted as failed. streamll's own events
    /// are not processed.
    #[inline]
    pub(crate) fn process(
        &mut self,
        event: &Event,
        out: &mut Output,
        tally: &mut Tally,
    ) -> Result<(), String> {
        if event.is_system() {
            out.events.push(event.clone());
            return Ok(());
        }
        if let Some(why) = &self.refuses {
            tally.failed += 1;
            return Err(why.clone());
        }
        let processor = &mut self.processor;
        // Clones are cheap, and a panic must not take the event with it.
        let done = match catch_unwind(AssertUnwindSafe(|| processor.process(event.clone(), out))) {
            Ok(()) => {
                match (out.held, out.pushed) {
                    (0, 0) => tally.filtered += 1,
                    (0, pushed) => tally.created += pushed - 1,
                    (_, pushed) => tally.created += pushed,
                }
                Ok(())
            }
            Err(panic) => {
                let why = super::panic_message(&*panic);
                error!(processor = %self.name, ?event, why, "a processor panicked");
                tally.created += out.pushed;
                tally.failed += 1;
                // It is lost, held or not.
                out.held = 0;
                Err(format!("a processor panicked: {why}"))
            }
        };
        self.account(out, tally);
        done
    }

    /// Its timer has fired.
    pub(crate) fn tick(&mut self, tally: &mut Tally) -> Vec<Event> {
        self.aside(tally, |processor, out| processor.tick(out))
    }

    /// The graph drains. Events that it still holds afterwards are lost, and counted as failed.
    pub(crate) fn finish(&mut self, tally: &mut Tally) -> Vec<Event> {
        let events = self.aside(tally, |processor, out| processor.finish(out));
        lost(&self.name, std::mem::take(&mut self.held), tally);
        events
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

    /// Counts the events that were held and released in this call.
    #[inline]
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

/// Counts events that a processor held and has lost as failed.
pub(super) fn lost(name: &str, held: u64, tally: &mut Tally) {
    if held > 0 {
        error!(processor = %name, lost = held, "a processor did not release what it held");
        tally.received += i64::try_from(held).unwrap_or(i64::MAX);
        tally.failed += held;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A processor whose own drop panics must not take the thread with it.
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
