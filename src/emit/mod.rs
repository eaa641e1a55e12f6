//! The emit side: what an application calls. It knows no topology.

mod context;
mod tokens;

pub use context::{__value, WithContext, current_context, with_context, with_context_sync};
pub use tokens::{TokenStream, Tokens};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use streamll_actors::event::{Event, Step};
use streamll_actors::ingress::{Emitted, Emitter};
use tracing::warn;

/// The emitter that [`emit`] uses.
static DEFAULT: ArcSwapOption<Emitter> = ArcSwapOption::const_empty();
static SHED: AtomicU64 = AtomicU64::new(0);
static WARNED: AtomicBool = AtomicBool::new(false);

/// Makes an emitter the default of [`emit`], and of token streams that name none.
pub(crate) fn set_default(emitter: &Emitter) {
    DEFAULT.store(Some(Arc::new(emitter.clone())));
}

/// Emits one event to the process-wide default, with the ids of the [current context](with_context). Never blocks and
/// never panics; before [`install`](crate::install) the event is shed, counted, and warned of once.
pub fn emit(event: Event) -> Emitted {
    match &*DEFAULT.load() {
        Some(emitter) => emitter.emit(in_context(event)),
        None => {
            SHED.fetch_add(1, Ordering::Relaxed);
            if !WARNED.swap(true, Ordering::Relaxed) {
                warn!(
                    "events are emitted and shed: no topology is installed; call streamll::install(&handle)"
                );
            }
            Emitted::Closed
        }
    }
}

/// How many events [`emit`] has shed because nothing was installed.
#[must_use]
pub fn shed_before_install() -> u64 {
    SHED.load(Ordering::Relaxed)
}

/// The emitter that was made the default, if any.
#[must_use]
pub fn installed() -> Option<Emitter> {
    DEFAULT.load().as_deref().cloned()
}

/// The root step of a new run of `module_name`, with the ids of the [current context](with_context). Make it once per
/// run, and its [children](Step::child) once per step: all events of a step share it.
#[must_use]
pub fn step(module_name: impl Into<Arc<str>>) -> Step {
    Step::new(module_name).context(&current_context())
}

/// The event with what the current context has and its step has not.
pub(crate) fn in_context(mut event: Event) -> Event {
    let ambient = current_context();
    let known = &event.step().parts().context;
    let lacks = ambient.data().iter().any(|(key, _)| known.get(key).is_none())
        || ambient.tags().iter().any(|(key, _)| known.get_tag(key).is_none());
    if lacks {
        let mut parts = event.step().parts().clone();
        parts.context = ambient.merged(&parts.context);
        event.set_step(Step::from(parts));
    }
    event
}
