//! Scopes that have begun: what they emit, and how they end.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use streamll_actors::event::{Context, Event, Fields, Kind, Step, Text};
use streamll_actors::ingress::{Emitted, Emitter};
use tokio::time::Instant;

use super::ambient::Ambient;
use super::traceparent::header;
use super::usage::Usage;
use super::{emit_to, in_context, is_heard};
use crate::fault::{Fault, displayed};

/// A scope that has begun. Clones are the same scope, and can be sent to other threads. The scope ends with its guard
/// or its future.
#[derive(Clone)]
pub struct Scope(Arc<Inner>);

struct Inner {
    emitter: Option<Emitter>,
    /// Whether the trace is sampled, so that other systems record it, too.
    is_sampled: bool,
    state: Mutex<State>,
}

struct State {
    step: Step,
    inputs: Fields,
    outputs: Fields,
    usage: Option<Box<Usage>>,
    failure: Option<Fault>,
    phase: Phase,
    /// When the scope emitted its `start`. If the `start` was emitted elsewhere, the enricher computes the duration.
    began: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Begun,
    Ended,
}

impl Scope {
    /// Makes a scope that has not begun yet.
    pub(super) fn with_inputs(step: Step, emitter: Option<Emitter>, inputs: Fields) -> Scope {
        let (outputs, usage, failure) = (Fields::default(), None, None);
        let state = State { step, inputs, outputs, usage, failure, phase: Phase::New, began: None };
        let state = Mutex::new(state);
        Scope(Arc::new(Inner { emitter, is_sampled: true, state }))
    }

    /// Sets whether the trace is sampled. No other owner of the scope exists yet.
    pub(super) fn sampled(mut self, is_sampled: bool) -> Scope {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.is_sampled = is_sampled;
        }
        self
    }

    /// Takes over from the scope around it whether the trace is sampled.
    pub(super) fn sampled_as(self, outer: Option<&Scope>) -> Scope {
        self.sampled(outer.is_none_or(|outer| outer.0.is_sampled))
    }

    /// Returns the header `traceparent` for a request to another service in this scope. Whether the trace is sampled is
    /// passed on as it came in.
    ///
    /// Returns `None` if the id of the run is not a trace id.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        header(&self.step(), self.0.is_sampled)
    }

    /// Emits an event of this scope: `scope.emit("docs_found", json!({ "count": 3 }))`. Data that is not a JSON object
    /// is put under the key `value`.
    pub fn emit(&self, kind: impl Into<Kind>, data: impl Into<Value>) -> Emitted {
        self.emit_event(Event::new(&self.step(), kind).with_data(data.into()))
    }

    /// Emits an event that was made elsewhere, to the emitter of this scope.
    pub(crate) fn emit_event(&self, event: Event) -> Emitted {
        // Handed to another run, or out of its own, it takes none of the ids there.
        let run = &event.step().parts().execution_id;
        let own = Ambient::read(|around| {
            around.scope.as_ref().is_some_and(|scope| scope.step().parts().execution_id == *run)
        });
        let event = if own == Some(true) { in_context(event) } else { event };
        emit_to(self.0.emitter.as_ref(), event)
    }

    /// Returns the step that the events of this scope belong to.
    #[must_use]
    pub fn step(&self) -> Step {
        self.state().step.clone()
    }

    /// Adds a value to the data of `end` or `error`.
    pub fn output(&self, key: impl Into<Cow<'static, str>>, value: impl Into<Value>) {
        self.state().outputs.set(key, value);
    }

    /// Adds to the closing event (`end` or `error`) how many tokens a model used, and which model. If usage is reported
    /// several times, the [last value of each key wins](Usage::merged).
    ///
    /// ```
    /// # let answer = serde_json::json!({ "usage": { "prompt_tokens": 412, "completion_tokens": 27 } });
    /// use streamll::Usage;
    ///
    /// let scope = streamll::trace("llm_call").enter();
    /// scope.usage(Usage::read(&answer).map(|usage| usage.provider("openai").model("gpt-test")));
    /// ```
    pub fn usage(&self, usage: impl Into<Option<Usage>>) {
        if let Some(later) = usage.into() {
            let mut state = self.state();
            let before = state.usage.take().map(|usage| *usage).unwrap_or_default();
            state.usage = Some(Box::new(before.merged(later)));
        }
    }

    /// Takes the reported usage, for code that closes the step elsewhere.
    #[cfg(feature = "tracing")]
    pub(super) fn take_usage(&self) -> Option<Box<Usage>> {
        self.state().usage.take()
    }

    /// Makes the scope end with `error` instead of `end`. A message that is longer than 4 KiB is cut at that length.
    pub fn fail(&self, error_type: impl Into<String>, message: impl fmt::Display) {
        let error_type = Cow::Owned(error_type.into());
        self.fail_by(Fault { error_type, message: displayed(&message).unwrap_or_default() });
    }

    /// Makes the scope end with `error`.
    pub(super) fn fail_by(&self, fault: Fault) {
        self.state().failure = Some(fault);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state().failure.is_some()
    }

    /// Adds ids and tags to the events of this scope from now on. They replace ids and tags with the same names.
    pub(super) fn add_context(&self, context: &Context) {
        let mut state = self.state();
        state.step = state.step.clone().context(context);
    }

    pub(super) fn same(&self, other: &Scope) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn emitter(&self) -> Option<&Emitter> {
        self.0.emitter.as_ref()
    }

    /// Whether any graph takes its events.
    pub(super) fn is_heard(&self) -> bool {
        is_heard(self.0.emitter.as_ref())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the scope with its `start`.
    pub(super) fn start(&self) {
        let event = {
            let mut state = self.state();
            (state.phase, state.began) = (Phase::Begun, Some(Instant::now()));
            let inputs = std::mem::take(&mut state.inputs);
            Event::with_fields(&state.step, "start", inputs)
        };
        self.tell(event);
    }

    /// Begins the scope without a `start`: the code that made the step emits it.
    pub(super) fn resume(&self) {
        self.state().phase = Phase::Begun;
    }

    /// Returns when the scope emitted its `start`.
    pub(super) fn began(&self) -> Option<Instant> {
        self.state().began
    }

    /// Emits a piece of the text that it streams.
    pub(super) fn token(&self, field: Text, text: &str, index: u64) -> Emitted {
        let event = Event::token(&self.state().step, field, text, index);
        self.tell(event)
    }

    /// Emits an event of the scope, with only its own ids: the scope may begin and end in the middle of another
    /// request.
    fn tell(&self, event: Event) -> Emitted {
        emit_to(self.0.emitter.as_ref(), event)
    }

    /// Like [`fail`](Scope::fail), if nothing has failed before.
    pub(super) fn fail_first(&self, error_type: &str, message: impl fmt::Display) {
        if !self.has_failed() {
            self.fail(error_type, message);
        }
    }

    pub(super) fn panicked(&self, panic: &(dyn std::any::Any + Send)) {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        self.fail("Panic", text.unwrap_or("the code panicked"));
        self.end();
    }

    /// Ends the scope. Only the first call counts.
    pub(crate) fn end(&self) {
        let event = {
            let mut state = self.state();
            if state.phase != Phase::Begun {
                return;
            }
            state.phase = Phase::Ended;
            let mut data = std::mem::take(&mut state.outputs);
            if let Some(usage) = state.usage.take() {
                usage.each(|key, value| data.set(key, value));
            }
            if let Some(began) = state.began {
                data.set("duration", began.elapsed().as_secs_f64());
            }
            let mut kind = "end";
            if let Some(Fault { error_type, message }) = state.failure.take() {
                kind = "error";
                data.set("error_type", error_type.into_owned());
                data.set("error_message", message);
            }
            Event::with_fields(&state.step, kind, data)
        };
        self.tell(event);
    }

    /// Ends the scope because its code was dropped before it was done.
    pub(super) fn abandon(&self) {
        if self.state().phase == Phase::Begun {
            match std::thread::panicking() {
                true => self.fail_first("Panic", "the code around it panicked"),
                false => self.fail_first("Cancelled", "dropped before it was done"),
            }
            self.end();
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step();
        let parts = step.parts();
        f.debug_struct("Scope")
            .field("operation", &parts.operation)
            .field("span_id", &parts.span_id)
            .finish_non_exhaustive()
    }
}
