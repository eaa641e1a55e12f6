//! Finds out what a value can do, without a bound that its type would have to keep.
//!
//! Each probe has a method of its own for the types that can do a thing, and dereferences to the next one, which has a
//! method of the same name for those that can do less. Which of them is called is decided where the expansion stands:
//! inside of generics by the bounds that are written there. The methods bear names that nobody else gives: a trait of the
//! user's may have methods on all types.

#![allow(missing_debug_implementations, reason = "a probe lives for one expression")]

use std::any::type_name;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::ops::Deref;

use serde::Serialize;

use super::render::{self, Rendered};
use crate::fault::{Fault, displayed, message, name_of, of_error, of_report, shown};

/// The probe of an input or output.
pub fn probe<T: ?Sized>(value: &T) -> MaybeUnit<'_, T> {
    MaybeUnit(MaybeSerialize(MaybeDebug(Named(value))))
}

/// The probe of an error.
pub fn problem<T: ?Sized>(value: &T) -> MaybeError<'_, T> {
    MaybeError(MaybeReport(MaybeBoxed(MaybeDisplay(MaybeDebug(Named(value))))))
}

/// The probe of what a function has returned.
pub fn outcome<T>(value: &T) -> MaybeResult<'_, T> {
    MaybeResult(Good(value))
}

/// The name of a type, without what borrows it.
fn name<T: ?Sized>() -> &'static str {
    let name = type_name::<T>().trim_start_matches('&');
    name.strip_prefix("mut ").unwrap_or(name)
}

macro_rules! probes {
    ($($name:ident($next:ident), $($job:literal)+;)+) => {
        $(
            #[doc = concat!($($job)+)]
            pub struct $name<'a, T: ?Sized>($next<'a, T>);

            impl<'a, T: ?Sized> Deref for $name<'a, T> {
                type Target = $next<'a, T>;

                fn deref(&self) -> &$next<'a, T> {
                    &self.0
                }
            }
        )+
    };
}

probes! {
    MaybeUnit(MaybeSerialize), "Nothing at all, or a value.";
    MaybeSerialize(MaybeDebug), "A value that serde can write, or another.";
    MaybeError(MaybeReport), "An error that knows its causes, or another.";
    MaybeReport(MaybeBoxed), "A report of anyhow or eyre, or another.";
    MaybeBoxed(MaybeDisplay), "A box of any error, or another.";
    MaybeDisplay(MaybeDebug), "An error with a message, or another.";
    MaybeDebug(Named), "A value that can be printed, or another.";
    MaybeResult(Good), "A result, or a value that is none.";
}

/// Any value.
pub struct Named<'a, T: ?Sized>(&'a T);

/// What is no error.
pub struct Good<'a, T: ?Sized>(&'a T);

impl MaybeUnit<'_, ()> {
    #[must_use]
    pub fn __streamll_value(&self) -> Option<Rendered> {
        None
    }
}

impl<T: Serialize + ?Sized> MaybeSerialize<'_, T> {
    #[must_use]
    pub fn __streamll_value(&self) -> Option<Rendered> {
        Some(render::serialized(self.0.0.0).unwrap_or_else(|| self.0.0.named()))
    }
}

impl<T: Debug + ?Sized> MaybeDebug<'_, T> {
    #[must_use]
    pub fn __streamll_value(&self) -> Option<Rendered> {
        Some(render::formatted(format_args!("{:?}", self.0.0)).unwrap_or_else(|| self.0.named()))
    }

    #[must_use]
    pub fn __streamll_fault(&self) -> Fault {
        self.0.called(shown(self.0.0))
    }
}

impl<T: Error + ?Sized> MaybeError<'_, T> {
    #[must_use]
    pub fn __streamll_fault(&self) -> Fault {
        of_error(self.0.0.0.0.0.0)
    }
}

impl<T> MaybeReport<'_, T>
where
    T: Deref<Target = dyn Error + Send + Sync> + AsRef<dyn Error>,
{
    #[must_use]
    pub fn __streamll_fault(&self) -> Fault {
        let error: &dyn Error = self.0.0.0.0.0.as_ref();
        let named = self.0.0.0.0.called(message(error));
        Fault { error_type: of_report::<T>(error), ..named }
    }
}

impl<T: Deref<Target: Error> + ?Sized> MaybeBoxed<'_, T> {
    #[must_use]
    pub fn __streamll_fault(&self) -> Fault {
        of_error(&**self.0.0.0.0)
    }
}

impl<T: Display + ?Sized> MaybeDisplay<'_, T> {
    #[must_use]
    pub fn __streamll_fault(&self) -> Fault {
        self.0.0.called(displayed(self.0.0.0))
    }
}

impl<T: ?Sized> Named<'_, T> {
    #[must_use]
    pub fn __streamll_value(&self) -> Option<Rendered> {
        Some(self.named())
    }

    #[must_use]
    pub fn __streamll_fault(&self) -> Fault {
        self.called(None)
    }

    /// Without a message it says its name.
    fn called(&self, message: Option<String>) -> Fault {
        Fault { error_type: name_of::<T>(), message: message.unwrap_or_else(|| name::<T>().to_owned()) }
    }

    fn named(&self) -> Rendered {
        Rendered { value: name::<T>().into(), cut: false }
    }
}

impl<'a, T, E> MaybeResult<'a, Result<T, E>> {
    pub fn __streamll_outcome(&self) -> Result<&'a T, &'a E> {
        self.0.0.as_ref()
    }
}

impl<'a, T> Good<'a, T> {
    pub fn __streamll_outcome(&self) -> Result<&'a T, &'a Infallible> {
        Ok(self.0)
    }
}
