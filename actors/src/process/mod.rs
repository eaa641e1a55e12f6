//! A step between the enricher and the router, or in front of one sink.

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

/// Passes on, edits, drops or multiplies events.
///
/// Every `FnMut(Event) -> Option<Event>` is one:
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
/// A panic costs the one event (it is dead-lettered and counted as failed); the processor keeps its state and goes on.
///
/// A call that does not come back for 30 s (the plan's `watchdog`) costs its event too, and the thread, which nobody can
/// end: it is left to itself, and whatever it brings later is ignored. Processors in a row share a thread, so **all of the
/// row are made afresh**: their state is gone, and what they held is counted as failed. The batch in hand goes on with the
/// fresh ones. An event that a hung processor had passed within the last second may come to its successor once more; what
/// came of it the first time is not passed on. The status names the processor and the event. One that hangs more than five times within
/// 15 minutes, or has more than five threads stuck, is given up: every event that comes to it becomes a dead letter, as
/// one that takes out secrets must not be passed by.
///
/// The processors of one sink run on a thread of that sink's own: whatever they do concerns that sink alone.
pub trait Processor: 'static {
    /// Takes one event. What is neither pushed nor held is filtered, and counted so.
    fn process(&mut self, event: Event, out: &mut Output);

    /// How often to call [`tick`](Processor::tick); never, by default.
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// Called once per interval.
    fn tick(&mut self, out: &mut Output) {
        let _ = out;
    }

    /// Called once, at drain: the last chance to release what is held.
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

/// Makes a fresh processor, on the thread where it will run.
pub type ProcessorFactory = Arc<dyn Fn() -> Box<dyn Processor> + Send + Sync>;

/// Where a processor puts what it passes on. It keeps the books, so that the numbers balance.
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
    /// Passes on the event that came in, changed or not. A second push in one call is a new event, counted as created.
    pub fn push(&mut self, event: Event) {
        self.pushed += 1;
        self.events.push(event);
    }

    /// Keeps the event that came in for later: it is owed until it is released.
    pub fn hold(&mut self) {
        self.held += 1;
    }

    /// Lets go of as many held events as [`Event::merged`] says, as this one.
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
