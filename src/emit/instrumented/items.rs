//! What the items of a returned stream say: their tokens, their errors, and what the model used.

use super::super::reader::Reader;
use super::super::usage::Usage;
use crate::fault::Fault;

/// Says what an item of a stream holds, for `#[instrument(stream_fields(answer))]`.
///
/// A text is a token, also behind a reference or inside `Option` and `Result`. An `Err` and a `None` hold no token.
///
/// ```
/// struct Delta {
///     content: Option<String>,
///     finish_reason: Option<String>,
/// }
///
/// impl streamll::AsToken for Delta {
///     fn as_token(&self) -> Option<&str> {
///         self.content.as_deref()
///     }
/// }
/// # let _ = Delta { content: None, finish_reason: None }.finish_reason;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what its token is",
    label = "`stream_fields` wants a stream of tokens",
    note = "implement `streamll::AsToken` for the items, or put `.tokens(\"answer\", |item| …)` on the stream instead of `stream_fields`"
)]
pub trait AsToken {
    /// Returns the text of this item, or `None` if the item is not a piece of the text.
    fn as_token(&self) -> Option<&str>;

    /// Returns the usage that this item reports. Default: none. The closing event carries the usage. If several items
    /// report usage, the [last value of each key wins](Usage::merged).
    fn usage(&self) -> Option<Usage> {
        None
    }
}

impl AsToken for str {
    fn as_token(&self) -> Option<&str> {
        Some(self)
    }
}

impl AsToken for String {
    fn as_token(&self) -> Option<&str> {
        Some(self)
    }
}

impl<T: AsToken + ?Sized> AsToken for &T {
    fn as_token(&self) -> Option<&str> {
        (**self).as_token()
    }

    fn usage(&self) -> Option<Usage> {
        (**self).usage()
    }
}

impl<T: AsToken> AsToken for Option<T> {
    fn as_token(&self) -> Option<&str> {
        self.as_ref()?.as_token()
    }

    fn usage(&self) -> Option<Usage> {
        self.as_ref()?.usage()
    }
}

impl<T: AsToken, E> AsToken for Result<T, E> {
    fn as_token(&self) -> Option<&str> {
        self.as_ref().ok()?.as_token()
    }

    fn usage(&self) -> Option<Usage> {
        self.as_ref().ok()?.usage()
    }
}

/// Finds the errors among the items.
#[derive(Debug)]
pub struct Errors<L>(pub(super) L);

impl<I, L: FnMut(&I) -> Option<Fault>> Reader<I> for Errors<L> {
    fn text<'a>(&mut self, _: &'a I) -> Option<&'a str> {
        None
    }

    fn error(&mut self, item: &I) -> Option<Fault> {
        (self.0)(item)
    }
}

/// Finds the errors, the texts and the usage among the items.
#[derive(Debug)]
pub struct TokensAndErrors<L>(pub(super) L);

impl<I: AsToken, L: FnMut(&I) -> Option<Fault>> Reader<I> for TokensAndErrors<L> {
    fn text<'a>(&mut self, item: &'a I) -> Option<&'a str> {
        item.as_token()
    }

    fn error(&mut self, item: &I) -> Option<Fault> {
        (self.0)(item)
    }

    fn usage(&mut self, item: &I) -> Option<Usage> {
        item.usage()
    }
}
