//! The ambient state of the running code: its ids, its scope, and its emitter. It follows futures from thread to
//! thread.

use std::cell::RefCell;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{self, Poll};

use pin_project_lite::pin_project;
use streamll_actors::event::{Context, Step};
use streamll_actors::ingress::Emitter;

use super::scope::Scope;

/// The ambient state of the running code. Each scope has its own, which no other scope can change.
#[derive(Default)]
pub(crate) struct Ambient {
    pub(crate) context: Context,
    /// The innermost step.
    pub(crate) scope: Option<Scope>,
    /// The emitter, if it is not the process-wide default.
    pub(crate) emitter: Option<Emitter>,
    /// The source of the ids.
    pub(crate) level: Level,
    /// Set if a guard has entered this state. Not set if the code that entered it restores the outer state by itself.
    pub(crate) left: Option<Left>,
}

/// The state that a guard restores, set once the guard is dropped. Guards are dropped in any order, also while code is
/// deeper inside.
pub(crate) type Left = Arc<OnceLock<Ambient>>;

impl Clone for Ambient {
    /// A clone is for another place. No guard belongs to it there.
    fn clone(&self) -> Ambient {
        let Ambient { context, scope, emitter, level, left: _ } = self;
        let (context, scope, emitter) = (context.clone(), scope.clone(), emitter.clone());
        Ambient { context, scope, emitter, level: *level, left: None }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Level {
    /// The code runs outside of every scope and context.
    #[default]
    Outside,
    /// `with_context`, around the step or without a step.
    Context,
    /// The step.
    Scope,
}

thread_local! {
    static CURRENT: RefCell<Ambient> = RefCell::default();
}

impl Ambient {
    /// Returns the state of the running code. A thread that is ending has none any more.
    pub(crate) fn current() -> Ambient {
        Ambient::read(Ambient::clone).unwrap_or_default()
    }

    /// Reads the state of the running code without a copy. `None` on a thread that is ending.
    pub(crate) fn read<T>(look: impl FnOnce(&Ambient) -> T) -> Option<T> {
        let look = |current: &RefCell<Ambient>| {
            let current = current.borrow();
            #[cfg(feature = "tracing")]
            if let Some(inside) = super::layer::inside(&current) {
                return look(&inside);
            }
            look(&current)
        };
        CURRENT.try_with(look).ok()
    }

    /// Returns the state of the running code, without spans.
    #[cfg(feature = "tracing")]
    pub(crate) fn unresolved() -> Ambient {
        CURRENT.try_with(|current| current.borrow().clone()).unwrap_or_default()
    }

    /// Returns the state of the running code. If the code runs outside of every scope (in a spawned task, on another
    /// thread), returns this state, which was current when the value was made.
    pub(crate) fn or_running(self) -> Ambient {
        let elsewhere = |running: &Ambient| {
            let outside = running.level == Level::Outside && running.scope.is_none();
            (!outside && !running.same(&self)).then(|| running.clone())
        };
        Ambient::read(elsewhere).flatten().unwrap_or(self)
    }

    /// Whether both are surely the same. (It may miss equal states.)
    fn same(&self, other: &Ambient) -> bool {
        let (scopes, emitters) = (
            self.scope.as_ref().zip(other.scope.as_ref()),
            self.emitter.as_ref().zip(other.emitter.as_ref()),
        );
        self.level == other.level
            && self.context.same(&other.context)
            && scopes.is_some_and(|(one, two)| one.same(two))
            && emitters.is_some_and(|(one, two)| one.same(two))
    }

    /// Makes a new step: inside a scope, a child of its step; elsewhere, the root of a run of `module_name`.
    pub(crate) fn step(&self, module_name: &Arc<str>) -> Step {
        let step = match &self.scope {
            Some(scope) => scope.step().child(),
            None => Step::new(module_name.clone()),
        };
        step.context(&self.context)
    }

    /// Changes the state of the running code.
    pub(crate) fn change<T>(change: impl FnOnce(&mut Ambient) -> T) -> Option<T> {
        CURRENT.try_with(|current| change(&mut current.borrow_mut())).ok()
    }

    /// Runs `run` inside this state. Changes that `run` makes are kept here.
    pub(crate) fn enter<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let _back = Swapped::new(self);
        run()
    }

    /// Runs a future inside this state.
    pub(crate) fn carry<F: Future>(self, future: F) -> Carried<F> {
        Carried { ambient: self, future: Some(future) }
    }
}

pin_project! {
    /// A future with its own ambient state. The future is also dropped inside that state, whatever code drops it.
    pub(crate) struct Carried<F> {
        ambient: Ambient,
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Carried<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            this.ambient.enter(|| this.future.set(None));
        }
    }
}

impl<F: Future> Future for Carried<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let future = this.future.as_pin_mut().expect("it goes with this");
        this.ambient.enter(|| future.poll(cx))
    }
}

/// Restores the outer state when it is dropped, also by a panic.
struct Swapped<'a>(&'a mut Ambient);

impl Swapped<'_> {
    fn new(ambient: &mut Ambient) -> Swapped<'_> {
        swap(ambient);
        Swapped(ambient)
    }
}

impl Drop for Swapped<'_> {
    fn drop(&mut self) {
        swap(self.0);
        surface();
    }
}

/// Exchanges it with the state of the running code.
pub(crate) fn swap(ambient: &mut Ambient) {
    let _ = CURRENT.try_with(|current| mem::swap(&mut *current.borrow_mut(), ambient));
}

/// Leaves the states of guards that were dropped while they were not the innermost.
pub(crate) fn surface() {
    let left = |ambient: &mut Ambient| {
        ambient.left.as_ref().filter(|left| left.get().is_some())?;
        let outer = Arc::into_inner(ambient.left.take()?)?.into_inner()?;
        Some(mem::replace(ambient, outer))
    };
    // What goes may say so: nothing is borrowed then.
    while let Some(inner) = Ambient::change(left).flatten() {
        drop(inner);
    }
}
