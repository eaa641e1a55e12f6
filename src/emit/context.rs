//! Ids on every event inside: a snapshot that follows a future from thread to thread, and reaches no other future.

use streamll_actors::event::Context;
use streamll_actors::ingress::Emitter;
use tracing::warn;

use super::ambient::{Ambient, Level};

/// Returns the ids and tags of the code that runs right now. They are empty outside of [`with_context`] and of scopes.
#[must_use]
pub fn current_context() -> Context {
    Ambient::read(|ambient| ambient.context.clone()).unwrap_or_default()
}

/// Runs a future with `context` added to the current context. Keys of `context` win. Every [`step`](crate::step) that
/// is made in the future, and every event that is emitted in it, carries these ids.
///
/// The context follows the future over every `.await`, with any runtime. A task that is spawned in the future starts
/// without the context, unless it is [carried](carry).
///
/// ```
/// # let _ = async {
/// # let request = "conv_123";
/// streamll::with_context(streamll::context! { conversation_id = request, tags.tenant = "acme" }, async {
///     streamll::emit(streamll::Event::new(&streamll::step("Chat"), "start")); // carries both
/// })
/// .await;
/// # };
/// ```
pub fn with_context<F: Future>(context: Context, future: F) -> impl Future<Output = F::Output> {
    let made = Ambient::current();
    async move { made.or_running().with(&context).carry(future).await }
}

/// Like [`with_context`], for code that does not await.
pub fn with_context_sync<T>(context: &Context, run: impl FnOnce() -> T) -> T {
    Ambient::current().with(context).enter(run)
}

/// Runs a future that emits to this emitter, outside of every scope and context of the caller.
pub(crate) fn to<F: Future>(emitter: &Emitter, future: F) -> impl Future<Output = F::Output> {
    Ambient::of(emitter).carry(future)
}

/// Like [`to`], for code that does not await.
pub(crate) fn to_sync<T>(emitter: &Emitter, run: impl FnOnce() -> T) -> T {
    Ambient::of(emitter).enter(run)
}

impl Ambient {
    fn of(emitter: &Emitter) -> Ambient {
        Ambient { emitter: Some(emitter.clone()), level: Level::Context, ..Ambient::default() }
    }

    fn with(self, context: &Context) -> Ambient {
        Ambient { context: self.context.merged(context), level: Level::Context, ..self }
    }
}

/// Adds `context` to the ids of the innermost scope or [`with_context`], for events that are emitted in it from now on.
///
/// Code outside of that scope does not change. If there is no scope and no [`with_context`], this function only logs a
/// warning.
pub fn set_context(context: &Context) {
    let inside = Ambient::change(|ambient| {
        match (ambient.level, &ambient.scope) {
            (Level::Outside, _) => return false,
            (Level::Scope, Some(scope)) => scope.add_context(context),
            _ => {}
        }
        ambient.context = ambient.context.merged(context);
        true
    });
    if inside == Some(false) {
        warn!("set_context changes nothing: it was called outside of with_context and of every scope");
    }
}

/// Carries the current context and scope into a spawned task: `tokio::spawn(streamll::carry(async { … }))`.
pub fn carry<F: Future>(future: F) -> impl Future<Output = F::Output> {
    Ambient::current().carry(future)
}

/// Captures the current context and scope, to use them on another thread.
///
/// ```
/// let here = streamll::capture();
/// std::thread::spawn(move || here.run(|| streamll::emit(streamll::Event::new(&streamll::step("Chat"), "start"))));
/// ```
#[must_use]
pub fn capture() -> Captured {
    Captured(Ambient::current())
}

/// The context and the scope of another place. [`capture`] returns it.
#[derive(Clone)]
pub struct Captured(Ambient);

impl Captured {
    /// Runs code that does not await, with the captured context and scope.
    pub fn run<T>(&self, run: impl FnOnce() -> T) -> T {
        self.0.clone().enter(run)
    }

    /// Runs a future with the captured context and scope.
    pub fn carry<F: Future>(&self, future: F) -> impl Future<Output = F::Output> {
        self.0.clone().carry(future)
    }
}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captured").field("context", &self.0.context).field("scope", &self.0.scope).finish()
    }
}

/// Makes a [`Context`]: `context! { conversation_id, user_id = user.id, tags.tenant = tenant }`.
///
/// A bare name takes the value of the variable with that name. A value of `data` can be anything that serde can
/// serialize. A tag can be anything that can be displayed.
#[macro_export]
macro_rules! context {
    (@ $context:expr ;) => { $context };
    (@ $context:expr ; tags . $key:ident = $value:expr $(, $($rest:tt)*)?) => {
        $crate::context!(@ $context.tag(stringify!($key), $value.to_string()) ; $($($rest)*)?)
    };
    (@ $context:expr ; tags . $key:ident $(, $($rest:tt)*)?) => {
        $crate::context!(@ $context.tag(stringify!($key), $key.to_string()) ; $($($rest)*)?)
    };
    (@ $context:expr ; $key:ident = $value:expr $(, $($rest:tt)*)?) => {
        $crate::context!(@ $context.with(stringify!($key), $crate::__value(&$value)) ; $($($rest)*)?)
    };
    (@ $context:expr ; $key:ident $(, $($rest:tt)*)?) => {
        $crate::context!(@ $context.with(stringify!($key), $crate::__value(&$key)) ; $($($rest)*)?)
    };
    ($($entries:tt)*) => { $crate::context!(@ $crate::Context::empty() ; $($entries)*) };
}

/// For [`context!`]: what cannot be serialized becomes null rather than an error in the middle of a request.
#[doc(hidden)]
pub fn __value(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_context_is_back_after_a_panic() {
        with_context_sync(&Context::empty().with("a", 1), || {
            let panicked = std::panic::catch_unwind(|| {
                with_context_sync(&Context::empty().with("a", 2), || panic!("scripted"));
            });
            assert!(panicked.is_err());
            assert_eq!(current_context().get("a"), Some(&1.into()));
        });
        assert!(current_context().is_empty());
    }

    #[test]
    fn a_future_keeps_its_context_over_every_await_and_leaks_none() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let request = |n: u64| {
            with_context(crate::context! { request_id = n, tags.shard = n % 2 }, async move {
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                    assert_eq!(current_context().get("request_id"), Some(&n.into()));
                    let inner = async { current_context().get("request_id").cloned() };
                    assert_eq!(with_context(crate::context! { other = 1 }, inner).await, Some(n.into()));
                }
            })
        };
        runtime.block_on(async {
            let all: Vec<_> = (0..1000).map(|n| tokio::spawn(request(n))).collect();
            for one in all {
                one.await.unwrap();
            }
        });
        assert!(current_context().is_empty());
    }

    #[test]
    fn the_macro_takes_names_values_and_tags() {
        let conversation_id = "conv_1";
        let tenant = "acme";
        let context = crate::context! { conversation_id, turn = 3, tags.tenant, tags.shard = 7, };
        assert_eq!(context.get("conversation_id"), Some(&"conv_1".into()));
        assert_eq!(context.get("turn"), Some(&3.into()));
        assert_eq!((context.get_tag("tenant"), context.get_tag("shard")), (Some("acme"), Some("7")));
    }
}
