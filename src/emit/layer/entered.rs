//! The spans that the running code has entered, and whether a span or a scope is the innermost one.

use std::cell::RefCell;
use std::sync::Arc;

use super::super::ambient::{Ambient, Level};
use super::super::scope::Scope;
use super::open::Open;

/// An entered span, and the scope that it was entered in.
struct Entered {
    open: Arc<Open>,
    at: Option<Scope>,
}

thread_local! {
    /// Kept apart from the ambient state, because spans are left in any order and scopes are not.
    static ENTERED: RefCell<Vec<Entered>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn enter(open: Arc<Open>, at: Option<Scope>) {
    let _ = ENTERED.try_with(|entered| entered.borrow_mut().push(Entered { open, at }));
}

pub(super) fn exit(open: &Arc<Open>) {
    let left = ENTERED.try_with(|entered| {
        let mut entered = entered.borrow_mut();
        let place = entered.iter().rposition(|one| Arc::ptr_eq(&one.open, open))?;
        Some(entered.remove(place))
    });
    drop(left);
}

/// Returns the span that was entered last, unless the code has entered or left a scope since then.
pub(super) fn innermost(scope: Option<&Scope>) -> Option<Arc<Open>> {
    let last = ENTERED.try_with(|entered| {
        let entered = entered.borrow();
        let last = entered.last()?;
        let same = match (&last.at, scope) {
            (Some(at), Some(scope)) => at.same(scope),
            (at, scope) => at.is_none() && scope.is_none(),
        };
        same.then(|| last.open.clone())
    });
    last.ok().flatten()
}

/// Returns the ambient state of code whose innermost step is a span. `None` if it is a scope, or if there is none.
pub(in super::super) fn inside(around: &Ambient) -> Option<Ambient> {
    let open = innermost(around.scope.as_ref())?;
    let scope = open.begin().clone();
    let emitter = around.emitter.clone().or_else(|| scope.emitter().cloned());
    // A task that was spawned in the span has the span, and nothing else, around it.
    let context = match around.context.is_empty() {
        true => scope.step().parts().context.clone(),
        false => around.context.clone(),
    };
    // Whoever takes these surroundings along is not outside of everything.
    let level = if around.level == Level::Outside { Level::Context } else { around.level };
    Some(Ambient { context, emitter, scope: Some(scope), level, left: None })
}
