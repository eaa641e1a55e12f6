//! Ids on every event below: a snapshot that follows a future from thread to thread, and reaches no other.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{self, Poll};

use streamll_actors::event::Context;

thread_local! {
    static CURRENT: RefCell<Context> = const { RefCell::new(Context::empty()) };
}

/// The context of the code that runs right now; empty outside of [`with_context`].
#[must_use]
pub fn current_context() -> Context {
    // A thread that is going down has no context any more.
    CURRENT.try_with(|current| current.borrow().clone()).unwrap_or_default()
}

/// Runs a future with `context` laid over the current one: every [`step`](crate::step) made and every event emitted in
/// it carries those ids. The context follows the future over every `.await`, with any runtime; a task spawned in it
/// starts without, unless it is wrapped in [`with_context`]`(`[`current_context`]`(), …)`.
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
pub fn with_context<F: Future>(context: Context, future: F) -> WithContext<F> {
    WithContext { context: current_context().merged(&context), future: Box::pin(future) }
}

/// Like [`with_context`], for code that does not await.
pub fn with_context_sync<T>(context: &Context, run: impl FnOnce() -> T) -> T {
    let _entered = Entered::new(current_context().merged(context));
    run()
}

/// The future of [`with_context`].
#[derive(Debug)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct WithContext<F> {
    context: Context,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for WithContext<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let _entered = Entered::new(self.context.clone());
        self.future.as_mut().poll(cx)
    }
}

/// Puts the outer context back when it goes, also by a panic.
struct Entered(Context);

impl Entered {
    fn new(context: Context) -> Entered {
        Entered(CURRENT.try_with(|current| current.replace(context)).unwrap_or_default())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = CURRENT.try_with(|current| current.replace(std::mem::take(&mut self.0)));
    }
}

/// Makes a [`Context`]: `context! { conversation_id, user_id = user.id, tags.tenant = tenant }`. A bare name takes the
/// variable of that name. Values of `data` are anything that serde can serialize; tags anything that can be displayed.
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
