//! What a sink is: the trait, how one is made, and how it likes its batches.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::batch::Deliveries;
use super::context::SinkContext;
use super::error::DeliveryError;

/// A destination for events. One method is required.
///
/// Three rules hold for every implementation:
///
/// 1. **What it has not marked did not arrive.** `Ok(())` marks the rest of the batch as delivered; an error leaves
///    the rest to be tried again, in order.
/// 2. **It keeps no queue of its own.** Events wait in the buffer in front of it, which outlives it.
/// 3. **It may panic, or be dropped at any `.await`.** The machine revokes the batch and hands it to a fresh one.
///
/// The machine calls `open` before the first delivery, and again after an error of the classes `Unavailable`,
/// `Unknown` and `Misconfigured`. It never calls two methods at once. A delivery that exceeds the sink's
/// `deliver_timeout` (30 s by default) is dropped, and counts as `Unknown`.
///
/// ```
/// # mod streamll { pub use streamll_actors::sink::{Deliveries, DeliveryError, Sink}; }
/// use streamll::{Deliveries, DeliveryError, Sink};
///
/// struct Stdout;
///
/// impl Sink for Stdout {
///     async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
///         for delivery in batch.iter() {
///             println!("{} {}", delivery.key(), String::from_utf8_lossy(delivery.event.json()));
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait Sink: 'static {
    /// Connects, or says why not. Must be safe to call again.
    ///
    /// # Errors
    /// Whatever keeps it from working; the class decides what happens next.
    fn open(&mut self, ctx: &SinkContext) -> impl Future<Output = Result<(), DeliveryError>> {
        let _ = ctx;
        async { Ok(()) }
    }

    /// Delivers a batch that is never empty, in order.
    ///
    /// # Errors
    /// Whatever keeps the unmarked rest of the batch from arriving.
    fn deliver(&mut self, batch: &mut Deliveries) -> impl Future<Output = Result<(), DeliveryError>>;

    /// Flushes and closes, once, at a graceful stop; cut off after two seconds.
    fn close(&mut self) -> impl Future<Output = ()> {
        async {}
    }
}

/// The object-safe face of [`Sink`], for the machine; every `Sink` has it.
pub trait DynSink {
    /// See [`Sink::open`].
    fn open_dyn<'a>(&'a mut self, ctx: &'a SinkContext) -> LocalBoxFuture<'a, Result<(), DeliveryError>>;
    /// See [`Sink::deliver`].
    fn deliver_dyn<'a>(
        &'a mut self,
        batch: &'a mut Deliveries,
    ) -> LocalBoxFuture<'a, Result<(), DeliveryError>>;
    /// See [`Sink::close`].
    fn close_dyn(&mut self) -> LocalBoxFuture<'_, ()>;
}

impl<S: Sink> DynSink for S {
    fn open_dyn<'a>(&'a mut self, ctx: &'a SinkContext) -> LocalBoxFuture<'a, Result<(), DeliveryError>> {
        self.open(ctx).boxed_local()
    }

    fn deliver_dyn<'a>(
        &'a mut self,
        batch: &'a mut Deliveries,
    ) -> LocalBoxFuture<'a, Result<(), DeliveryError>> {
        self.deliver(batch).boxed_local()
    }

    fn close_dyn(&mut self) -> LocalBoxFuture<'_, ()> {
        self.close().boxed_local()
    }
}

const _: Option<&dyn DynSink> = None;

/// Makes a fresh sink for each incarnation, on the thread where it will run.
pub type SinkFactory = Arc<dyn Fn() -> Box<dyn DynSink> + Send + Sync>;

/// How a sink likes its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPolicy {
    /// Most events in one delivery.
    pub max_events: usize,
    /// Most bytes in one delivery; one larger event goes alone.
    pub max_size: usize,
    /// How long to wait for more events once there is one; batches grow by themselves, so the default is zero.
    pub linger: Duration,
}

impl Default for BatchPolicy {
    fn default() -> BatchPolicy {
        BatchPolicy { max_events: 256, max_size: 1 << 20, linger: Duration::ZERO }
    }
}

/// Where an actor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// On a thread of its own: for everything that may block or burn processor time.
    #[default]
    Own,
    /// On the thread of the spine: for sinks that only await.
    Spine,
}
