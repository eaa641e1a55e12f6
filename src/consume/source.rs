//! What a broker must be able to do for a consumer, and one entry as it comes from there.

use std::future::Future;
use std::sync::Arc;

use streamll_actors::sink::DeliveryError;

use super::dead_letter::Letter;
use super::window::Window;

/// Names one entry at its broker: of Redis the two halves of its id, of RabbitMQ the number of the connection and the
/// delivery tag. Rises in the order of the stream or queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(pub(super) u64, pub(super) u64);

/// One entry as it came.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) ticket: Ticket,
    /// The key that it was published with, where the broker knows one.
    pub(super) key: Option<Arc<str>>,
    /// Whether that is a topic: of the default exchange it is the name of a queue.
    pub(super) is_routed: bool,
    pub(super) payload: Payload,
    /// How often it was delivered before without being handled, as far as the broker tells.
    pub(super) deliveries: u64,
}

/// What an entry holds.
#[derive(Debug)]
pub(super) enum Payload {
    /// Fields and values of an entry of Redis.
    Fields(Vec<(Vec<u8>, Vec<u8>)>),
    /// The body of a message.
    Body(Vec<u8>),
    /// Nothing any more: it was trimmed before it was handled.
    Gone,
}

/// One side of a broker. A consumer calls from one task; errors mean that the connection is of no more use, and that
/// [`open`](Source::open) is to be called again.
pub(super) trait Source: Send {
    /// Connects, and makes or finds what is read from.
    fn open(&mut self, window: &mut Window) -> impl Future<Output = Result<(), DeliveryError>> + Send;

    /// Waits for the next entries, about `room` at the most; nothing is lost when it is dropped. `None` at the end that
    /// was asked for. An entry that is in the window already may come again.
    fn next(&mut self, room: usize)
    -> impl Future<Output = Result<Option<Vec<Entry>>, DeliveryError>> + Send;

    /// Whether entries are on their way that must be taken even where there is no room.
    fn is_reading(&self) -> bool;

    /// Tells the broker what is done, and takes it out of the window.
    fn acknowledge(&mut self, window: &mut Window) -> impl Future<Output = Result<(), DeliveryError>> + Send;

    /// Keeps an entry that nobody can handle, where the broker keeps such, beside everything else. An error concerns this
    /// entry alone.
    fn bury(&self, letter: Arc<Letter>) -> impl Future<Output = Result<(), DeliveryError>> + Send + 'static;

    /// Now and then: what is to be done beside reading.
    fn tend(&mut self, window: &mut Window) -> impl Future<Output = Result<(), DeliveryError>> + Send;

    /// Stops reading; returns what was on its way.
    fn pause(&mut self) -> impl Future<Output = Vec<Entry>> + Send;

    /// Ends the connection in order; `clean` when nothing is left undone.
    fn close(&mut self, clean: bool) -> impl Future<Output = ()> + Send;
}
