//! The guard of a scope, for code that does not await.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use super::ambient::{Ambient, Left, surface};
use super::scope::Scope;

/// The guard of [`Trace::enter`](crate::Trace::enter). The scope ends when the guard is dropped. Guards may be dropped in any order.
#[must_use = "the scope ends when this goes; bind it to a name"]
pub struct Guard {
    scope: Scope,
    outer: Ambient,
    /// Where the guard writes which state to restore. The innermost guard restores it.
    left: Option<Left>,
    /// A guard belongs to its thread, because it restores the state of that thread.
    stays: PhantomData<*const ()>,
}

impl Guard {
    /// Of a scope that has begun; `outer` is put back at its end.
    pub(super) fn new(scope: Scope, outer: Ambient, left: Left) -> Guard {
        Guard { scope, outer, left: Some(left), stays: PhantomData }
    }
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
