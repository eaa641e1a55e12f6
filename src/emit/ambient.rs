//! What the running code is inside of: its ids, its scope, and where it emits. It follows futures from thread to thread.

use std::cell::RefCell;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{self, Poll};

use pin_project_lite::pin_project;
use streamll_actors::event::{Context, Step};
use streamll_actors::ingress::Emitter;

use super::scope::Scope;

/// The surroundings of the running code. Each scope has its own, which nobody else can change.
#[derive(Default)]
pub(crate) struct Ambient {
    pub(crate) context: Context,
    /// The innermost step.
    pub(crate) scope: Option<Scope>,
    /// Where to emit, if not to the process-wide default.
    pub(crate) emitter: Option<Emitter>,
    /// What its ids belong to.
    pub(crate) level: Level,
    /// Set where a guard has put the code inside, and not something that puts the outer one back by itself.
    pub(crate) left: Option<Left>,
}

/// What is around a guard, once the guard has gone: guards go in any order, also while code is deeper inside.
pub(crate) type Left = Arc<OnceLock<Ambient>>;

impl Clone for Ambient {
    /// What is taken along to other places has no guard there.
    fn clone(&self) -> Ambient {
        let Ambient { context, scope, emitter, level, left: _ } = self;
        let (context, scope, emitter) = (context.clone(), scope.clone(), emitter.clone());
        Ambient { context, scope, emitter, level: *level, left: None }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Level {
    /// Nothing: the code runs outside of everything.
    #[default]
    Outside,
    /// `with_context`, around the step or without one.
    Context,
    /// The step.
    Scope,
}

thread_local! {
    static CURRENT: RefCell<Ambient> = RefCell::default();
}

impl Ambient {
    /// That of the running code. A thread that is going down has none any more.
    pub(crate) fn current() -> Ambient {
        Ambient::read(Ambient::clone).unwrap_or_default()
    }

    /// Looks at that of the running code, without a copy; `None` on a thread that is going down.
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

    /// That of the running code, as if there were no spans.
    #[cfg(feature = "tracing")]
    pub(crate) fn unresolved() -> Ambient {
        CURRENT.try_with(|current| current.borrow().clone()).unwrap_or_default()
    }

    /// That of the running code, or this one where the code runs outside of everything: in a task or on a thread of its
    /// own, what was around when it was made counts.
    pub(crate) fn or_running(self) -> Ambient {
        let elsewhere = |running: &Ambient| {
            let outside = running.level == Level::Outside && running.scope.is_none();
            (!outside && !running.same(&self)).then(|| running.clone())
        };
        Ambient::read(elsewhere).flatten().unwrap_or(self)
    }

    /// Whether both are surely the same.
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

    /// A new step of what is around: inside of a scope a child of its step, elsewhere the root of a run of `module_name`.
    pub(crate) fn step(&self, module_name: &Arc<str>) -> Step {
        let step = match &self.scope {
            Some(scope) => scope.step().child(),
            None => Step::new(module_name.clone()),
        };
        step.context(&self.context)
    }

    /// Changes that of the running code.
    pub(crate) fn change<T>(change: impl FnOnce(&mut Ambient) -> T) -> Option<T> {
        CURRENT.try_with(|current| change(&mut current.borrow_mut())).ok()
    }

    /// Runs `run` inside of this one; what is changed meanwhile is kept here.
    pub(crate) fn enter<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let _back = Swapped::new(self);
        run()
    }

    /// Runs a future inside of this one.
    pub(crate) fn carry<F: Future>(self, future: F) -> Carried<F> {
        Carried { ambient: self, future: Some(future) }
    }
}

pin_project! {
    /// A future with surroundings of its own. What it holds goes inside of them, too, whoever drops it.
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

/// Puts the outer one back when it goes, also by a panic.
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

/// Exchanges it for that of the running code.
pub(crate) fn swap(ambient: &mut Ambient) {
    let _ = CURRENT.try_with(|current| mem::swap(&mut *current.borrow_mut(), ambient));
}

/// Comes out of whatever guards have left while they were not the innermost.
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
