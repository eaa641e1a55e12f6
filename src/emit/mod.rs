//! The emit side: the functions that an application calls. It knows no topology.

mod ambient;
mod context;
mod early;
mod guard;
#[doc(hidden)]
pub mod instrumented;
#[cfg(feature = "tracing")]
mod layer;
mod reader;
mod run;
mod scope;
mod tokens;
mod trace;
mod traceparent;
mod usage;

pub use context::{
    __value, Captured, capture, carry, current_context, set_context, with_context, with_context_sync,
};
pub(crate) use context::{to, to_sync};
pub use guard::Guard;
pub use instrumented::AsToken;
#[cfg(feature = "tracing")]
pub use layer::{LayerExt, SpanFilter, SpanLayer, Spans, layer};
pub use scope::Scope;
pub use tokens::{TokenStream, Tokens};
pub use trace::{Trace, trace};
pub use usage::Usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use streamll_actors::event::{Context, Event, Step};
use streamll_actors::ingress::{Emitted, Emitter};
use tracing::warn;

use ambient::Ambient;

/// The emitter that [`emit`] uses.
static DEFAULT: ArcSwapOption<Emitter> = ArcSwapOption::const_empty();
static SHED: AtomicU64 = AtomicU64::new(0);
static WARNED: AtomicBool = AtomicBool::new(false);

/// Makes an emitter the default of [`emit`], and of token streams that name none.
pub(crate) fn set_default(emitter: &Emitter) {
    DEFAULT.store(Some(Arc::new(emitter.clone())));
}

/// Emits one event, with the ids of the [current context](with_context). Inside a scope, the event goes to the emitter
/// of that scope. Outside of scopes, it goes to the process-wide default.
///
/// This function never blocks and never panics. Before [`install`](crate::install), the event is shed and counted, and
/// one warning is logged.
pub fn emit(event: Event) -> Emitted {
    let emitter = Ambient::read(|ambient| ambient.emitter.clone()).flatten();
    emit_to(emitter.as_ref(), in_context(event))
}

/// Emits to this emitter, or to the process-wide default.
pub(crate) fn emit_to(emitter: Option<&Emitter>, event: Event) -> Emitted {
    if let Some(emitter) = emitter {
        return emitter.emit(event);
    }
    match &*DEFAULT.load() {
        Some(emitter) => emitter.emit(event),
        None => {
            SHED.fetch_add(1, Ordering::Relaxed);
            if !WARNED.swap(true, Ordering::Relaxed) {
                warn!(
                    "events are emitted and shed: no topology is installed; call streamll::init() or streamll::install(&handle)"
                );
            }
            Emitted::Closed
        }
    }
}

/// Whether any graph takes events of this emitter, or of the process-wide default.
pub(crate) fn is_heard(emitter: Option<&Emitter>) -> bool {
    match emitter {
        Some(emitter) => !emitter.is_closed(),
        None => DEFAULT.load().as_deref().is_some_and(|emitter| !emitter.is_closed()),
    }
}

/// Emits to this emitter, or to the process-wide default. Without a default it logs nothing: a subscriber must not log.
#[cfg(feature = "tracing")]
fn emit_silently(emitter: Option<&Emitter>, event: Event) {
    match (emitter, &*DEFAULT.load()) {
        (Some(emitter), _) => {
            emitter.emit(event);
        }
        (None, Some(emitter)) => {
            emitter.emit(event);
        }
        (None, None) => {
            SHED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Returns how many events [`emit`] has shed because nothing was installed.
#[must_use]
pub fn shed_before_install() -> u64 {
    SHED.load(Ordering::Relaxed)
}

/// Returns the default emitter of the process, or `None` if nothing is installed.
#[must_use]
pub fn installed() -> Option<Emitter> {
    DEFAULT.load().as_deref().cloned()
}

/// Makes a step of `module_name`, with the ids of the [current context](with_context).
///
/// Inside a [scope](trace), the step is a part of that scope's run. Elsewhere, it is the root of a new run. Make a step
/// once for each run, and its [children](Step::child) once for each step of the run. All events of a step share it.
#[must_use]
pub fn step(module_name: impl Into<Arc<str>>) -> Step {
    let module_name = module_name.into();
    let step = Ambient::read(|ambient| ambient.step(&module_name).module(module_name.clone()));
    step.unwrap_or_else(|| Step::new(module_name))
}

/// Returns the event with the keys of the current context that its step lacks.
pub(crate) fn in_context(mut event: Event) -> Event {
    if let Some(step) = Ambient::read(|ambient| completed(event.step(), &ambient.context)).flatten() {
        event.set_step(step);
    }
    event
}

/// Returns the step with the keys of `around` that it lacks, or `None` if it has all of them.
fn completed(step: &Step, around: &Context) -> Option<Step> {
    let known = &step.parts().context;
    let lacks = around.data().iter().any(|(key, _)| known.get(key).is_none())
        || around.tags().iter().any(|(key, _)| known.get_tag(key).is_none());
    lacks.then(|| {
        let mut parts = step.parts().clone();
        parts.context = around.merged(known);
        Step::from(parts)
    })
}

/// Returns the header `traceparent` for a request to another service. It names the innermost [scope](crate::trace),
/// token stream or span of the code that runs right now.
///
/// Returns `None` outside of all of these, and if the id of the run is not a trace id.
///
/// ```
/// let _scope = streamll::trace("answer").enter();
/// let header = streamll::traceparent().expect("inside of a scope");
/// assert_eq!(header.len(), 55); // request.header("traceparent", header)
/// ```
#[must_use]
pub fn traceparent() -> Option<String> {
    Ambient::read(|around| around.scope.as_ref()?.traceparent()).flatten()
}

/// Adds usage to the closing event of the innermost [scope](crate::trace), instrumented function, token stream or span
/// around the code.
///
/// Use it in code that has no [`Scope`] at hand. Outside of all of these, it does nothing.
///
/// ```
/// use streamll::{Usage, usage};
///
/// #[streamll::instrument]
/// fn ask(question: &str) -> String {
///     // … call the model
///     usage(Usage::new(412, 27).model("gpt-test"));
///     "forty-two".to_owned()
/// }
/// # ask("What is 6 × 7?");
/// ```
pub fn usage(usage: impl Into<Option<Usage>>) {
    if let Some(scope) = Ambient::read(|around| around.scope.clone()).flatten() {
        scope.usage(usage);
    }
}
