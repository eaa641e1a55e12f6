//! What failed: the name of an error's type, and its message with all causes.

mod bounded;
mod causes;
mod names;

#[cfg(test)]
pub(crate) use bounded::LONGEST;
pub(crate) use bounded::{Limited, safely, text};
pub(crate) use causes::{displayed, message, shown};
#[cfg(feature = "tracing")]
pub(crate) use names::of_any;
use names::of_value;
pub(crate) use names::{name_of, of_report};

use std::borrow::Cow;
use std::error::Error;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

/// What an error is called that has no name of its own.
pub(crate) const UNNAMED: &str = "Error";

/// What an event says of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The name of its type: `error_type`.
    pub error_type: Cow<'static, str>,
    /// What it says, with its causes: `error_message`.
    pub message: String,
}

/// What can fail a step: an error of [`std::error::Error`], a report of anyhow or eyre, a boxed error, or a text. `How` tells
/// which of them it is, and is inferred.
///
/// What can only be displayed is none: give it `impl std::error::Error`, or make a text of it by
/// `.map_err(|error| error.to_string())`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what failed",
    label = "wanted: a `std::error::Error`, a report of anyhow or eyre, a boxed error, or a text",
    note = "implement `std::error::Error` for it, or make a text of it: `.map_err(|error| error.to_string())`"
)]
pub trait AsFault<How> {
    /// What an event says of it.
    fn as_fault(&self) -> Fault;
}

/// By its causes: an error.
#[expect(missing_debug_implementations, reason = "there is never a value of it")]
pub enum ByCauses {}
/// Anything else, by `How`: no type is an error and one of these.
#[expect(missing_debug_implementations, reason = "there is never a value of it")]
pub struct Otherwise<How>(How);
/// By what it holds: a report.
#[expect(missing_debug_implementations, reason = "there is never a value of it")]
pub enum Reported {}
/// By what it holds: a box of any error.
#[expect(missing_debug_implementations, reason = "there is never a value of it")]
pub enum Boxed {}
/// By itself: a text.
#[expect(missing_debug_implementations, reason = "there is never a value of it")]
pub enum Spoken {}
/// By what it points to.
#[expect(missing_debug_implementations, reason = "there is never a value of it")]
pub struct Pointed<How>(How);

impl<E: Error + ?Sized> AsFault<ByCauses> for E {
    fn as_fault(&self) -> Fault {
        of_error(self)
    }
}

impl<E> AsFault<Otherwise<Reported>> for E
where
    E: Deref<Target = dyn Error + Send + Sync> + AsRef<dyn Error>,
{
    fn as_fault(&self) -> Fault {
        let error: &dyn Error = self.as_ref();
        Fault { error_type: of_report::<E>(error), message: told(error) }
    }
}

macro_rules! boxes {
    ($($bound:ident),*) => {
        impl AsFault<Otherwise<Boxed>> for Box<dyn Error + '_ $(+ $bound)*> {
            fn as_fault(&self) -> Fault {
                of_error(&**self)
            }
        }
    };
}

boxes!();
boxes!(Send);
boxes!(Send, Sync);

macro_rules! texts {
    ($($text:ty),*) => {
        $(impl AsFault<Otherwise<Spoken>> for $text {
            fn as_fault(&self) -> Fault {
                Fault { error_type: UNNAMED.into(), message: displayed(self).unwrap_or_default() }
            }
        })*
    };
}

texts!(str, String, Cow<'_, str>);

macro_rules! pointers {
    ($($pointer:ty),*) => {
        $(impl<E: AsFault<Otherwise<How>> + ?Sized, How> AsFault<Otherwise<Pointed<How>>> for $pointer {
            fn as_fault(&self) -> Fault {
                (**self).as_fault()
            }
        })*
    };
}

pointers!(&E, Box<E>, Arc<E>, Rc<E>);

/// Of an error whose type is known here.
pub(crate) fn of_error<E: Error + ?Sized>(error: &E) -> Fault {
    Fault { error_type: of_value(&error), message: told(&error) }
}

/// What it says, and where it cannot be displayed, what can be told of it.
fn told(error: &dyn Error) -> String {
    message(error).or_else(|| shown(error)).unwrap_or_default()
}
