//! A user's sink behind a fence: whatever panics in it, dropping included, is a value here and goes no further.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::LocalBoxFuture;
use tracing::warn;

use super::batch::Deliveries;
use super::context::SinkContext;
use super::contract::{DynSink, SinkFactory};
use super::error::DeliveryError;
use crate::process::panic_message;

/// One sink. A panic in its `Drop` ends here: while unwinding, it would abort the process.
pub(super) struct Fenced(Option<Box<dyn DynSink>>);

/// A call of one of its methods: the answer, or what the panic said.
pub(super) struct Call<'a, T>(Stage<'a, T>);

enum Stage<'a, T> {
    Running(LocalBoxFuture<'a, T>),
    Panicked(String),
    Over,
}

impl Fenced {
    pub(super) fn make(factory: &SinkFactory) -> Result<Fenced, String> {
        let made = catch_unwind(AssertUnwindSafe(|| factory()));
        made.map(|sink| Fenced(Some(sink))).map_err(|panic| panic_message(&*panic))
    }

    pub(super) fn open<'a>(&'a mut self, ctx: &'a SinkContext) -> Call<'a, Result<(), DeliveryError>> {
        self.call(|sink| sink.open_dyn(ctx))
    }

    pub(super) fn deliver<'a>(
        &'a mut self,
        batch: &'a mut Deliveries,
    ) -> Call<'a, Result<(), DeliveryError>> {
        self.call(|sink| sink.deliver_dyn(batch))
    }

    pub(super) fn close(&mut self) -> Call<'_, ()> {
        self.call(|sink| sink.close_dyn())
    }

    fn call<'a, T>(
        &'a mut self,
        call: impl FnOnce(&'a mut dyn DynSink) -> LocalBoxFuture<'a, T>,
    ) -> Call<'a, T> {
        let Some(sink) = self.0.as_deref_mut() else { return Call(Stage::Over) };
        Call(match catch_unwind(AssertUnwindSafe(|| call(sink))) {
            Ok(future) => Stage::Running(future),
            Err(panic) => Stage::Panicked(panic_message(&*panic)),
        })
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        let sink = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(sink))).is_err() {
            warn!("a sink panicked while it was dropped");
        }
    }
}

impl<T> Unpin for Call<'_, T> {}

impl<T> Call<'_, T> {
    fn end(&mut self) -> Option<String> {
        match std::mem::replace(&mut self.0, Stage::Over) {
            Stage::Running(future) => {
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
                dropped.err().map(|panic| panic_message(&*panic))
            }
            Stage::Panicked(message) => Some(message),
            Stage::Over => None,
        }
    }
}

impl<T> Future for Call<'_, T> {
    type Output = Result<T, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, String>> {
        let Stage::Running(future) = &mut self.0 else {
            return Poll::Ready(Err(self.end().unwrap_or_else(|| "called twice".to_owned())));
        };
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(answer)) => Poll::Ready(self.end().map_or(Ok(answer), Err)),
            Err(panic) => {
                self.end();
                Poll::Ready(Err(panic_message(&*panic)))
            }
        }
    }
}

impl<T> Drop for Call<'_, T> {
    fn drop(&mut self) {
        if let Some(why) = self.end() {
            warn!(why, "a call of a sink panicked while it was dropped");
        }
    }
}
