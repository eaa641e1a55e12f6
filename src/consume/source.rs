//! What a broker must be able to do for a consumer.

use std::future::Future;
use std::sync::Arc;

use streamll_actors::sink::DeliveryError;

use super::dead_letter::Letter;
use super::entry::Entry;
use super::window::Window;

/// One kind of broker, read by one consumer. The consumer calls from one task. An error means that the connection is of
/// no more use, and that the consumer calls [`connect`](Source::connect) again.
pub(super) trait Source: Send {
    /// Connects, and makes or finds what is read from.
    fn connect(&mut self, window: &mut Window) -> impl Future<Output = Result<(), DeliveryError>> + Send;

    /// Waits for the next entries, about `room` at the most. Nothing is lost when the future is dropped. `None` means that
    /// reading has come to the end that was asked for. An entry that is in the window already may come again.
    fn next(&mut self, room: usize)
    -> impl Future<Output = Result<Option<Vec<Entry>>, DeliveryError>> + Send;

    /// Whether entries are on their way that must be taken even where there is no room.
    fn is_reading(&self) -> bool;

    /// Tells the broker what is done, and takes that out of the window.
    fn acknowledge(&mut self, window: &mut Window) -> impl Future<Output = Result<(), DeliveryError>> + Send;

    /// Keeps an entry that cannot be handled, at the broker. The future runs beside everything else. An error concerns this
    /// entry alone.
    fn dead_letter(
        &self,
        letter: Arc<Letter>,
    ) -> impl Future<Output = Result<(), DeliveryError>> + Send + 'static;

    /// Does what has to be done now and then beside reading: it keeps claims alive, and asks for the lag.
    fn maintain(&mut self, window: &mut Window) -> impl Future<Output = Result<(), DeliveryError>> + Send;

    /// Stops reading, and returns the entries that were on their way.
    fn stop_reading(&mut self) -> impl Future<Output = Vec<Entry>> + Send;

    /// Takes this consumer out of its group, where the broker keeps a list of them. Called before
    /// [`close`](Source::close), if everything in hand was acknowledged.
    fn leave(&mut self) -> impl Future<Output = ()> + Send;

    /// Ends the connection in order.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}
