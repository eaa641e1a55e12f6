//! Scopes that have not begun: what they are to be called, what they begin with, and how they run.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use streamll_actors::event::{Context, Fields, Step};
use streamll_actors::ingress::Emitter;

use super::ambient::{Ambient, Left, Level, swap};
use super::guard::Guard;
use super::is_heard;
use super::run::Open;
use super::scope::Scope;
use super::traceparent::Position;
use crate::fault::AsFault;

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
        Guard::new(scope, ambient, left)
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
        Open::inside(scope, ambient)
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
