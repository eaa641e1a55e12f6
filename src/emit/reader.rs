//! Reads the items of a stream: their text, their errors, and the usage of the model.

use std::fmt;
use std::marker::PhantomData;

use super::usage::Usage;
use crate::fault::{AsFault, Fault};

/// Reads the items of a stream. Every closure that finds the text of an item is a reader.
pub trait Reader<I> {
    /// Returns the text of an item, if it has one.
    fn text<'a>(&mut self, item: &'a I) -> Option<&'a str>;

    /// Returns the error that an item is, if it is one.
    fn error(&mut self, item: &I) -> Option<Fault> {
        let _ = item;
        None
    }

    /// Returns the usage that an item reports, if it does.
    fn usage(&mut self, item: &I) -> Option<Usage> {
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
pub struct WithErrors<R, G, E: ?Sized, How> {
    reader: R,
    error: G,
    finds: PhantomData<fn(&E, How)>,
}

impl<R, G, E: ?Sized, How> WithErrors<R, G, E, How> {
    pub(super) fn new(reader: R, error: G) -> WithErrors<R, G, E, How> {
        WithErrors { reader, error, finds: PhantomData }
    }
}

impl<I, R, G, E, How> Reader<I> for WithErrors<R, G, E, How>
where
    R: Reader<I>,
    G: for<'a> FnMut(&'a I) -> Option<&'a E>,
    E: AsFault<How> + ?Sized,
{
    fn text<'a>(&mut self, item: &'a I) -> Option<&'a str> {
        self.reader.text(item)
    }

    fn error(&mut self, item: &I) -> Option<Fault> {
        Some((self.error)(item)?.as_fault())
    }

    fn usage(&mut self, item: &I) -> Option<Usage> {
        self.reader.usage(item)
    }
}

impl<R, G, E: ?Sized, How> fmt::Debug for WithErrors<R, G, E, How> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithErrors").finish_non_exhaustive()
    }
}

/// A reader that finds usage, too.
pub struct WithUsage<R, G> {
    reader: R,
    usage: G,
}

impl<R, G> WithUsage<R, G> {
    pub(super) fn new(reader: R, usage: G) -> WithUsage<R, G> {
        WithUsage { reader, usage }
    }
}

impl<I, R: Reader<I>, G: FnMut(&I) -> Option<Usage>> Reader<I> for WithUsage<R, G> {
    fn text<'a>(&mut self, item: &'a I) -> Option<&'a str> {
        self.reader.text(item)
    }

    fn error(&mut self, item: &I) -> Option<Fault> {
        self.reader.error(item)
    }

    fn usage(&mut self, item: &I) -> Option<Usage> {
        (self.usage)(item).or_else(|| self.reader.usage(item))
    }
}

impl<R, G> fmt::Debug for WithUsage<R, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithUsage").finish_non_exhaustive()
    }
}
