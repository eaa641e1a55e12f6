//! Handlers: closures, sync or async, with or without a result, and the events that each wants.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;

use futures_util::FutureExt as _;
use streamll_actors::event::{Event, Kind};
use streamll_actors::route::TopicPattern;

use self::sealed::Answers;
use crate::fault::AsFault;

/// What a handler returns: `()`, or a `Result<(), E>` of an [error](crate::AsFault). It returns that at once, or from a future.
/// `When` says which, and is inferred. No other type can implement this trait.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "return nothing or a `Result<(), E>`, at once or from a future that is `Send`"
)]
pub trait Reply<When>: sealed::Answers<When> {}

impl<R: sealed::Answers<When>, When> Reply<When> for R {}

/// Nobody else can name what is in here.
mod sealed {
    use super::Answer;

    #[diagnostic::on_unimplemented(
        message = "a handler cannot return `{Self}`",
        label = "return nothing or a `Result<(), E>`, at once or from a future that is `Send`"
    )]
    pub trait Answers<When> {
        /// The answer, or what it comes from.
        fn answer(self) -> Answer;
    }
}

/// How a handler answers.
#[expect(missing_debug_implementations, reason = "a future has none")]
pub enum Answer {
    /// It has answered. An error says why it failed.
    Now(Result<(), String>),
    /// It will answer.
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

/// A handler that answers at once, with an error of a kind.
#[derive(Debug)]
pub struct Now<How = ()>(PhantomData<How>);

/// A handler that answers with a future.
#[derive(Debug)]
pub struct Later<When>(PhantomData<When>);

impl Answers<Now> for () {
    fn answer(self) -> Answer {
        Answer::Now(Ok(()))
    }
}

impl<E: AsFault<How> + Send, How> Answers<Now<How>> for Result<(), E> {
    fn answer(self) -> Answer {
        Answer::Now(self.map_err(|error| error.as_fault().message))
    }
}

impl<F: Future<Output: Answers<Now<How>>> + Send + 'static, How> Answers<Later<Now<How>>> for F {
    fn answer(self) -> Answer {
        Answer::Later(Box::pin(async { self.await.answer() }))
    }
}

/// A handler, and the events that it wants.
pub(super) struct Handler {
    wants: Wants,
    call: Box<dyn Fn(Event) -> Answer + Send + Sync>,
}

#[derive(Debug)]
pub(super) enum Wants {
    Kind(Kind),
    Topic(TopicPattern),
}

impl Handler {
    pub(super) fn new<R: Reply<W>, W>(
        wants: Wants,
        handler: impl Fn(Event) -> R + Send + Sync + 'static,
    ) -> Handler {
        Handler { wants, call: Box::new(move |event| handler(event).answer()) }
    }

    /// The pattern of its topics, if the handler chooses by topic.
    pub(super) fn pattern(&self) -> Option<&TopicPattern> {
        match &self.wants {
            Wants::Topic(pattern) => Some(pattern),
            Wants::Kind(_) => None,
        }
    }

    pub(super) fn wants(&self, event: &Event, topic: &str) -> bool {
        match &self.wants {
            Wants::Kind(kind) => event.kind() == kind,
            Wants::Topic(pattern) => pattern.matches(topic),
        }
    }

    /// Calls the handler once. A panic is a failure like any other.
    pub(super) async fn call(&self, event: Event) -> Result<(), String> {
        let panicked = |panic| Err(format!("the handler panicked: {}", words(&panic)));
        let mut answer = catch_unwind(AssertUnwindSafe(|| (self.call)(event)));
        loop {
            answer = match answer {
                Ok(Answer::Now(answer)) => return answer,
                Ok(Answer::Later(future)) => AssertUnwindSafe(future).catch_unwind().await,
                Err(panic) => return panicked(panic),
            };
        }
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handler").field(&self.wants).finish()
    }
}

/// The message of a panic.
fn words(panic: &Box<dyn Any + Send>) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

#[cfg(test)]
mod tests {
    use streamll_actors::event::Step;

    use super::*;

    async fn call<R: Reply<W> + 'static, W: 'static>(handler: fn(Event) -> R) -> Result<(), String> {
        let handler = Handler::new(Wants::Kind("x".into()), handler);
        handler.call(Event::new(&Step::new("M"), "x")).await
    }

    #[tokio::test]
    async fn sync_and_async_handlers_say_how_it_went_and_panics_are_caught() {
        assert_eq!(call(|_| ()).await, Ok(()));
        assert_eq!(call(|_| async {}).await, Ok(()));
        assert_eq!(call(|_| Ok::<(), String>(())).await, Ok(()));
        assert_eq!(call(|_| Err("no")).await, Err("no".to_owned()));
        assert_eq!(call(|_| async { Err(std::fmt::Error) }).await, Err(std::fmt::Error.to_string()));
        assert_eq!(
            call(|_| async { Err(anyhow::anyhow!("root").context("outer")) }).await,
            Err("outer: root".to_owned())
        );
        assert_eq!(
            call(|_| Err(streamll_actors::sink::DeliveryError::unavailable(std::io::Error::other("gone"))))
                .await,
            Err("gone".to_owned())
        );
        let said = |n: u32| Err(format!("the handler panicked: {n} too many"));
        assert_eq!(
            call(|_| if true {
                panic!("{} too many", 1)
            })
            .await,
            said(1)
        );
        assert_eq!(
            call(|_| async {
                if true {
                    panic!("{} too many", 2)
                }
            })
            .await,
            said(2)
        );
    }
}
