//! What the items of a stream say: their text, and their errors.

use std::fmt;
use std::marker::PhantomData;

use super::scope::short_type_name;

/// Looks at the items of a stream. Every closure that finds an item's text is one.
pub trait Reader<I> {
    /// The text of an item, where it has some.
    fn text<'a>(&mut self, item: &'a I) -> Option<&'a str>;

    /// The type and the message of the error that an item is, where it is one.
    fn error(&mut self, item: &I) -> Option<(&'static str, String)> {
        let _ = item;
        None
    }
}

impl<I, F: for<'a> FnMut(&'a I) -> Option<&'a str>> Reader<I> for F {
    fn text<'a>(&mut self, item: &'a I) -> Option<&'a str> {
        self(item)
    }
}

/// A reader that finds errors, too.
pub struct WithErrors<R, G, E: ?Sized> {
    reader: R,
    error: G,
    finds: PhantomData<fn(&E)>,
}

impl<R, G, E: ?Sized> WithErrors<R, G, E> {
    pub(super) fn new(reader: R, error: G) -> WithErrors<R, G, E> {
        WithErrors { reader, error, finds: PhantomData }
    }
}

impl<I, R, G, E> Reader<I> for WithErrors<R, G, E>
where
    R: Reader<I>,
    G: for<'a> FnMut(&'a I) -> Option<&'a E>,
    E: fmt::Display + ?Sized,
{
    fn text<'a>(&mut self, item: &'a I) -> Option<&'a str> {
        self.reader.text(item)
    }

    fn error(&mut self, item: &I) -> Option<(&'static str, String)> {
        let error = (self.error)(item)?;
        Some((short_type_name::<E>(), error.to_string()))
    }
}

impl<R, G, E: ?Sized> fmt::Debug for WithErrors<R, G, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithErrors").finish_non_exhaustive()
    }
}
