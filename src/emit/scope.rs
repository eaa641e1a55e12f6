//! Scopes: a named piece of work, with its start, its end or error, and everything that is emitted in between.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{self, Poll};

use pin_project_lite::pin_project;
use serde_json::Value;
use streamll_actors::event::{Context, Event, Fields, Kind, Step, Text};
use streamll_actors::ingress::{Emitted, Emitter};
use tokio::time::Instant;

use super::ambient::{Ambient, Left, Level, surface, swap};
use super::early::Early;
use super::traceparent::{Position, header};
use super::usage::Usage;
use super::{emit_to, in_context, is_heard};
use crate::fault::{AsFault, Fault, displayed};

/// Makes a scope named `operation`. Entering or running it begins a step.
///
/// Nothing is emitted before that. Its parent is the scope that is current when it is entered or run. If there is none
/// (a spawned task, another thread), its parent is the one that was current when `trace` was called. If there was none
/// then, too, the step is the root of a new run. A child has the `execution_id` of its parent.
///
/// ```
/// # fn search(_: &str) -> Vec<&'static str> { Vec::new() }
/// let question = "What is 6 × 7?";
/// let scope = streamll::trace("retrieval").input("question", question).enter();
/// let found = search(question);
/// scope.emit("docs_found", serde_json::json!({ "count": found.len() }));
/// // when `scope` is dropped: `end` with its duration, or `error` if a panic drops it
/// ```
pub fn trace(operation: impl Into<Arc<str>>) -> Trace {
    Trace {
        operation: operation.into(),
        module: None,
        method: None,
        context: Context::empty(),
        continued: None,
        emitter: None,
        inputs: Fields::default(),
        outer: Ambient::current(),
    }
}

/// A scope that has not begun. [`trace`] returns it.
#[must_use = "a scope begins with `enter`, `run` or `try_run`"]
pub struct Trace {
    operation: Arc<str>,
    module: Option<Arc<str>>,
    method: Option<Arc<str>>,
    context: Context,
    /// The parent step, if it is in another process or was given by name.
    continued: Option<Position>,
    emitter: Option<Emitter>,
    inputs: Fields,
    /// The ambient state when the scope was made. The scope may run where no other scope is current.
    outer: Ambient,
}

impl Trace {
    /// Names the module. Default: the module of the enclosing scope, or the operation if there is no enclosing scope.
    pub fn module(mut self, name: impl Into<Arc<str>>) -> Trace {
        self.module = Some(name.into());
        self
    }

    /// Names the method. Default: the method of the enclosing scope, if the module is the same.
    pub fn method(mut self, name: impl Into<Arc<str>>) -> Trace {
        self.method = Some(name.into());
        self
    }

    /// Adds a value to the data of `start`.
    pub fn input(mut self, key: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Trace {
        self.inputs.set(key, value);
        self
    }

    /// Adds ids and tags to every event of the scope, and to every event inside the scope.
    pub fn context(mut self, context: Context) -> Trace {
        self.context = self.context.merged(&context);
        self
    }

    /// Continues a run that began in another service, by the header `traceparent` of its request or message ([W3C Trace
    /// Context](https://www.w3.org/TR/trace-context/)).
    ///
    /// The trace id becomes the `execution_id`, and the step that the header names becomes the parent, even if another
    /// scope is current here. An invalid header changes nothing, as the specification requires.
    ///
    /// ```
    /// # let header = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    /// let scope = streamll::trace("answer").continues(header.unwrap_or_default()).enter();
    /// assert_eq!(&*scope.step().parts().execution_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    /// ```
    pub fn continues(mut self, traceparent: impl AsRef<str>) -> Trace {
        self.continued = traceparent.as_ref().parse().ok().or(self.continued);
        self
    }

    /// Continues the run of an event: the step of the event becomes the parent. A consumer that reacts to an event uses
    /// this.
    ///
    /// ```
    /// # use streamll::{Event, step};
    /// # let event = Event::new(&step("Chat"), "error");
    /// let scope = streamll::trace("alert").inside_of(event.step()).enter();
    /// assert_eq!(scope.step().parts().parent_id.as_ref(), Some(&event.step().parts().span_id));
    /// ```
    pub fn inside_of(mut self, step: &Step) -> Trace {
        self.continued = Some(Position::of(step, true));
        self
    }

    /// Sets where this scope, and everything inside it, emits. Default: the emitter of the enclosing scope, or else the
    /// process-wide default.
    pub fn to(mut self, emitter: &Emitter) -> Trace {
        self.emitter = Some(emitter.clone());
        self
    }

    /// Whether any graph takes its events.
    pub(super) fn is_heard(&self) -> bool {
        is_heard(self.emitter.as_ref().or(self.outer.emitter.as_ref()))
    }

    /// Begins the scope here. It ends when the guard is dropped. The guard stays on its thread: for code that awaits,
    /// use [`run`](Trace::run).
    pub fn enter(self) -> Guard {
        let (scope, mut ambient) = self.begin();
        let left = Left::default();
        ambient.left = Some(left.clone());
        swap(&mut ambient);
        scope.start();
        Guard { scope, outer: ambient, left: Some(left), stays: PhantomData }
    }

    /// Runs a future in the scope. `start` is emitted when the future is first polled, `end` when it is done.
    ///
    /// A future that is dropped before it is done ends the scope with `error`, of the type `Panic` or `Cancelled`.
    ///
    /// ```
    /// # async fn search() -> Vec<&'static str> { Vec::new() }
    /// # let _ = async {
    /// let found = streamll::trace("retrieval")
    ///     .run(|scope| async move {
    ///         let found = search().await;
    ///         scope.emit("docs_found", serde_json::json!({ "count": found.len() }));
    ///         found
    ///     })
    ///     .await;
    /// # found };
    /// ```
    pub fn run<F, R>(self, run: F) -> impl Future<Output = R::Output>
    where
        F: FnOnce(Scope) -> R,
        R: Future,
    {
        self.drive(run, |_, _| {})
    }

    /// Like [`run`](Trace::run), for a future that can fail. An `Err` ends the scope with `error`, with the name of the
    /// error's type, its message and the messages of all its causes.
    ///
    /// ```
    /// # let _ = async {
    /// let read = streamll::trace("load").try_run(async |_| std::fs::read("index.bin")).await;
    /// # read };
    /// ```
    pub fn try_run<F, R, T, E, How>(self, run: F) -> impl Future<Output = Result<T, E>>
    where
        F: FnOnce(Scope) -> R,
        R: Future<Output = Result<T, E>>,
        E: AsFault<How>,
    {
        self.drive(run, |scope, result| {
            if let Err(error) = result {
                scope.fail_by(error.as_fault());
            }
        })
    }

    /// Runs a future in the scope. `look` sees the result before the scope ends.
    pub(crate) async fn drive<F, R>(self, run: F, look: impl FnOnce(&Scope, &R::Output)) -> R::Output
    where
        F: FnOnce(Scope) -> R,
        R: Future,
    {
        let mut open = self.open();
        let future = open.enter(|scope| run(scope.clone()));
        let output = open.carry(future).await;
        look(open.scope(), &output);
        open.scope().end();
        output
    }

    /// Begins the scope with its `start`. The scope ends when the returned value is dropped.
    pub(crate) fn open(self) -> Open {
        let (scope, ambient) = self.begin();
        scope.start();
        Open { scope, ambient }
    }

    /// Makes the scope, and the ambient state of its code.
    fn begin(self) -> (Scope, Ambient) {
        let outer = self.outer.or_running();
        let module = self.module.as_ref().unwrap_or(&self.operation);
        let (mut step, inside) = match &self.continued {
            Some(position) => (continued(position, module).context(&outer.context), false),
            None => (outer.step(module), outer.scope.is_some()),
        };
        step = step.operation(self.operation);
        if let Some(module) = self.module.filter(|_| inside) {
            step = step.module(module);
        }
        if let Some(method) = self.method {
            step = step.method(method);
        }
        let emitter = self.emitter.or(outer.emitter);
        let scope = Scope::with_inputs(step.context(&self.context), emitter.clone(), self.inputs);
        let scope = match self.continued {
            Some(position) => scope.sampled(position.is_sampled),
            None => scope.sampled_as(outer.scope.as_ref()),
        };
        let context = outer.context.merged(&self.context);
        let ambient =
            Ambient { context, scope: Some(scope.clone()), emitter, level: Level::Scope, left: None };
        (scope, ambient)
    }
}

/// Makes a new step of `module` whose parent is elsewhere.
fn continued(position: &Position, module: &Arc<str>) -> Step {
    let mut parts = Step::new(module.clone()).parts().clone();
    parts.execution_id = position.execution_id.clone();
    parts.parent_id = Some(position.span_id.clone());
    Step::from(parts)
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("operation", &self.operation)
            .field("module", &self.module)
            .finish_non_exhaustive()
    }
}

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
    fn sampled(mut self, is_sampled: bool) -> Scope {
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

/// A scope that has begun, and the ambient state of its code. If it is dropped before it is done, the scope ends with
/// `error`.
pub(crate) struct Open {
    scope: Scope,
    ambient: Ambient,
}

impl Open {
    /// Code inside the scope has the ids and the emitter of the scope.
    pub(super) fn new(scope: Scope) -> Open {
        let context = scope.step().parts().context.clone();
        let emitter = scope.emitter().cloned();
        let ambient =
            Ambient { context, scope: Some(scope.clone()), emitter, level: Level::Scope, left: None };
        Open { scope, ambient }
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Runs code that does not await inside the scope. A panic ends the scope, and continues.
    pub(crate) fn enter<T>(&mut self, run: impl FnOnce(&Scope) -> T) -> T {
        self.try_enter(run).unwrap_or_else(|panic| {
            self.scope.panicked(&*panic);
            resume_unwind(panic)
        })
    }

    /// Like [`enter`](Self::enter), for callers that must do something before a panic continues.
    pub(super) fn try_enter<T>(&mut self, run: impl FnOnce(&Scope) -> T) -> std::thread::Result<T> {
        let Open { scope, ambient } = self;
        catch_unwind(AssertUnwindSafe(|| ambient.enter(|| run(scope))))
    }

    /// Runs a future inside the scope. The scope stays open afterwards.
    pub(crate) fn carry<F: Future>(&mut self, future: F) -> Inside<'_, F> {
        Inside { open: self, future: Some(Early::new(future)) }
    }

    /// Drops values that belong to the scope inside the scope.
    pub(super) fn let_go(&mut self, go: impl FnOnce()) {
        self.ambient.enter(go);
    }
}

pin_project! {
    /// A future inside a scope. It is also dropped inside the scope, whatever code drops it.
    #[must_use = "futures do nothing unless they are polled"]
    pub(crate) struct Inside<'a, F> {
        open: &'a mut Open,
        #[pin]
        future: Option<Early<F>>,
    }

    impl<F> PinnedDrop for Inside<'_, F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            this.open.let_go(|| this.future.set(None));
        }
    }
}

impl<F: Future> Future for Inside<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let future = this.future.as_pin_mut().expect("it goes with this");
        this.open.enter(|_| future.poll(cx))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.scope.abandon();
    }
}

/// The guard of [`Trace::enter`]. The scope ends when the guard is dropped. Guards may be dropped in any order.
#[must_use = "the scope ends when this goes; bind it to a name"]
pub struct Guard {
    scope: Scope,
    outer: Ambient,
    /// Where the guard writes which state to restore. The innermost guard restores it.
    left: Option<Left>,
    /// A guard belongs to its thread, because it restores the state of that thread.
    stays: PhantomData<*const ()>,
}

impl Deref for Guard {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        &self.scope
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.scope.has_failed() {
            self.scope.fail("Panic", "the code panicked");
        }
        self.scope.end();
        if let Some(left) = self.left.take() {
            let _ = left.set(std::mem::take(&mut self.outer));
        }
        surface();
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.scope.fmt(f)
    }
}
