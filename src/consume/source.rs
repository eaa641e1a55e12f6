//! What a broker must be able to do for a consumer, and one entry as it comes from there.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use streamll_actors::sink::DeliveryError;

use super::dead_letter::Letter;
use super::window::Window;

/// Names one entry at its broker. Rises in the order of the stream or queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Ticket {
    /// An entry of a Redis stream, by the two halves of its id: the same on every connection.
    Entry {
        /// Milliseconds, most of the time.
        time: u64,
        /// Its number among those of one time.
        number: u64,
    },
    /// A delivery of RabbitMQ, which ends with its connection.
    Delivery {
        /// The number of the connection.
        connection: u64,
        /// The delivery tag.
        tag: u64,
    },
}

impl Ticket {
    pub(super) const fn entry(time: u64, number: u64) -> Ticket {
        Ticket::Entry { time, number }
    }

    pub(super) const fn delivery(connection: u64, tag: u64) -> Ticket {
        Ticket::Delivery { connection, tag }
    }

    /// The last connection that it counts on.
    pub(super) fn connection(self) -> u64 {
        match self {
            Ticket::Entry { .. } => u64::MAX,
            Ticket::Delivery { connection, .. } => connection,
        }
    }

    /// Whether it comes again by itself: it is of a connection before this one.
    pub(super) fn is_of_before(self, connection: u64) -> bool {
        self.connection() < connection
    }
}

/// As Redis writes it: `1718000000000-0`.
impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Ticket::Entry { time: first, number: second }
        | Ticket::Delivery { connection: first, tag: second }) = self;
        write!(f, "{first}-{second}")
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_redis_outlives_every_connection_and_a_delivery_of_rabbitmq_only_its_own() {
        assert!(!Ticket::entry(0, 1).is_of_before(u64::MAX));
        assert!(Ticket::delivery(1, 9).is_of_before(2) && !Ticket::delivery(2, 0).is_of_before(2));
        assert!(Ticket::entry(1, 2) < Ticket::entry(2, 0) && Ticket::delivery(1, 9) < Ticket::delivery(2, 0));
        assert_eq!(Ticket::entry(17, 3).to_string(), "17-3");
    }
}
