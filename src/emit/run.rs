//! A scope that runs: code and futures inside of it, and its end however they end.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{self, Poll};

use pin_project_lite::pin_project;

use super::ambient::{Ambient, Level};
use super::early::Early;
use super::scope::Scope;

/// A scope that has begun, and the ambient state of its code. If it is dropped before it is done, the scope ends with
/// `error`.
pub(crate) struct Open {
    scope: Scope,
    ambient: Ambient,
}

impl Open {
    /// Of a scope that has begun; its code is inside of `ambient`.
    pub(super) fn inside(scope: Scope, ambient: Ambient) -> Open {
        Open { scope, ambient }
    }

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
