//! Processors: a step between the enricher and the router, or in front of one sink.

mod actor;
mod between;
mod custom;
mod feeder;
mod hand;
mod line;
mod stage;
mod watch;

pub(crate) use actor::LineActor;
pub(crate) use between::Between;
pub use custom::ActorFactory;
pub(crate) use custom::Custom;
pub(crate) use feeder::CustomActor;
pub(crate) use line::{Line, Source, Taken};
pub(crate) use stage::{OnFailed, Stage};
pub(crate) use watch::Watched;
pub use watch::{ProcessorState, ProcessorStatus};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::event::Event;

/// Passes on, changes, drops or multiplies events.
///
/// Every `FnMut(Event) -> Option<Event>` is a processor:
///
/// ```
/// # mod streamll { pub use streamll_actors::{event::{Event, Step}, testkit}; }
/// use streamll::{Event, Step, testkit};
///
/// let no_pings = |event: Event| (event.kind().as_str() != "ping").then_some(event);
/// let step = Step::new("Health");
/// let left = testkit::drive(no_pings, [Event::new(&step, "ping"), Event::new(&step, "start")]);
/// assert_eq!(left.len(), 1);
/// ```
///
/// A panic costs one event: the event is dead-lettered and counted as failed. The processor keeps its state and
/// continues.
///
/// A call that does not return within 30 s (the plan's `watchdog`) costs its event, too. It also costs the thread,
/// because a thread cannot be ended from outside. The thread is left alone, and everything that it brings later is
/// ignored. Processors in a row share a thread, so **all processors of the row are made again**: their state is lost,
/// and the events that they held are counted as failed. The new processors continue with the current batch. An event
/// that a hung processor had passed within the last second may come to the new processor once more. The result of the
/// first time is not passed on. The status names the processor and the event.
///
/// A processor that hangs more than five times within 15 minutes, or has more than five threads stuck, is given up.
/// Then every event that comes to it becomes a dead letter, because a processor that removes secrets must not be
/// bypassed.
///
/// The processors of one sink run on a thread of that sink. If they are slow or hang, only that sink is affected.
pub trait Processor: 'static {
    /// Takes one event. An event that is neither pushed nor held is dropped, and counted as filtered.
    fn process(&mut self, event: Event, out: &mut Output);

    /// Returns how often to call [`tick`](Processor::tick). Default: never.
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// Is called once for each interval.
    fn tick(&mut self, out: &mut Output) {
        let _ = out;
    }

    /// Is called once, when the graph drains. It is the last chance to release held events.
    fn finish(&mut self, out: &mut Output) {
        let _ = out;
    }
}

impl<F: FnMut(Event) -> Option<Event> + 'static> Processor for F {
    fn process(&mut self, event: Event, out: &mut Output) {
        if let Some(event) = self(event) {
            out.push(event);
        }
    }
}

/// Makes a fresh processor, on the thread on which it will run.
pub type ProcessorFactory = Arc<dyn Fn() -> Box<dyn Processor> + Send + Sync>;

/// The place where a processor puts the events that it passes on. It counts them, so that the numbers balance.
#[derive(Default)]
pub struct Output {
    pub(crate) events: Vec<Event>,
    /// Inputs that were kept for later in this call.
    pub(crate) held: u64,
    /// Held inputs that left in this call.
    pub(crate) released: u64,
    /// Held inputs that left inside another event in this call.
    pub(crate) merged: u64,
    /// Pushes in this call.
    pub(crate) pushed: u64,
}

impl Output {
    /// Passes on the event that came in, changed or not. A second push in one call is a new event, and is counted as
    /// created.
    pub fn push(&mut self, event: Event) {
        self.pushed += 1;
        self.events.push(event);
    }

    /// Keeps the event that came in for later. The event is in no number until it is [released](Self::release). Release it
    /// in [`Processor::finish`] at the latest.
    pub fn hold(&mut self) {
        self.held += 1;
    }

    /// Passes on this event in place of held events. [`Event::merged`] says how many held events it stands for.
    pub fn release(&mut self, event: Event) {
        let stands_for = u64::from(event.merged());
        self.released += stands_for;
        self.merged += stands_for.saturating_sub(1);
        self.events.push(event);
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("events", &self.events.len()).finish_non_exhaustive()
    }
}
