//! Token events from any stream, which passes through untouched.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use streamll_actors::event::{Event, Step};
use streamll_actors::ingress::Emitter;
use tokio_stream::Stream;

use super::{installed, step};

/// Adds [`tokens`](TokenStream::tokens) to every stream.
pub trait TokenStream: Stream + Sized {
    /// Emits a `token` event for every item in which `text` finds one. The items pass through untouched.
    ///
    /// The step is made here and now, with the current context: a web framework polls the body long after the handler
    /// is gone. Say which step it is with [`Tokens::of`], and where to emit with [`Tokens::to`].
    ///
    /// ```
    /// use streamll::TokenStream as _;
    ///
    /// let answer = tokio_stream::iter([Ok("forty"), Ok(" two"), Err("cut")]);
    /// let answer = answer.tokens("answer", |item: &Result<&'static str, &str>| item.ok()).of(&streamll::step("Chat"));
    /// # let _ = answer;
    /// ```
    fn tokens<F>(self, field: impl Into<Arc<str>>, text: F) -> Tokens<Self, F>
    where
        F: for<'a> FnMut(&'a Self::Item) -> Option<&'a str>,
    {
        Tokens {
            stream: Box::pin(self),
            text,
            field: field.into(),
            step: step("unknown"),
            emitter: installed(),
            index: 0,
        }
    }
}

impl<S: Stream> TokenStream for S {}

/// The stream of [`TokenStream::tokens`].
#[must_use = "streams do nothing unless they are polled"]
pub struct Tokens<S, F> {
    stream: Pin<Box<S>>,
    text: F,
    field: Arc<str>,
    step: Step,
    emitter: Option<Emitter>,
    index: u64,
}

impl<S, F> Tokens<S, F> {
    /// The step that streams these tokens; a new one of the module `unknown` by default.
    pub fn of(mut self, step: &Step) -> Tokens<S, F> {
        self.step = step.clone();
        self
    }

    /// Where to emit; the process-wide default by default.
    pub fn to(mut self, emitter: &Emitter) -> Tokens<S, F> {
        self.emitter = Some(emitter.clone());
        self
    }
}

impl<S, F> Unpin for Tokens<S, F> {}

impl<S, F> Stream for Tokens<S, F>
where
    S: Stream,
    F: for<'a> FnMut(&'a S::Item) -> Option<&'a str>,
{
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = &mut *self;
        let polled = this.stream.as_mut().poll_next(cx);
        if let Poll::Ready(Some(item)) = &polled
            && let Some(text) = (this.text)(item)
        {
            let event = Event::token(&this.step, &*this.field, text, this.index);
            this.index += 1;
            match &this.emitter {
                Some(emitter) => emitter.emit(event),
                None => super::emit(event),
            };
        }
        polled
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.stream.size_hint()
    }
}

impl<S, F> fmt::Debug for Tokens<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("field", &self.field)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}
