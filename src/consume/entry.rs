//! One entry as it comes from a broker: what names it, what it holds, and the key that it was published with.

use std::fmt;
use std::sync::Arc;

/// Names one entry at its broker. Tickets rise in the order of the stream or queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Ticket {
    /// An entry of a Redis stream, by the two halves of its id. It is the same on every connection.
    Entry {
        /// Milliseconds, unless the id was given by hand.
        time: u64,
        /// The number of the entry among those of one time.
        number: u64,
    },
    /// A delivery of RabbitMQ, which is valid on its connection only.
    Delivery {
        /// The number of the connection.
        connection: u64,
        /// The delivery tag.
        tag: u64,
    },
}

impl Ticket {
    /// The ticket before every entry of a stream.
    pub(super) const START: Ticket = Ticket::entry(0, 0);

    pub(super) const fn entry(time: u64, number: u64) -> Ticket {
        Ticket::Entry { time, number }
    }

    pub(super) const fn delivery(connection: u64, tag: u64) -> Ticket {
        Ticket::Delivery { connection, tag }
    }

    /// The last connection on which this ticket is valid.
    pub(super) fn connection(self) -> u64 {
        match self {
            Ticket::Entry { .. } => u64::MAX,
            Ticket::Delivery { connection, .. } => connection,
        }
    }

    /// Whether the broker delivers this entry again by itself, because its connection came before this one.
    pub(super) fn is_before(self, connection: u64) -> bool {
        self.connection() < connection
    }
}

/// As Redis writes an id: `1718000000000-0`.
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
    /// The key that the entry was published with, where the broker has keys.
    pub(super) key: Option<PublishKey>,
    pub(super) payload: Payload,
    /// How often the entry was delivered before without being handled, as far as the broker tells.
    pub(super) deliveries: u64,
}

impl Entry {
    /// An entry that has no key and was never delivered before.
    pub(super) fn new(ticket: Ticket, payload: Payload) -> Entry {
        Entry { ticket, key: None, payload, deliveries: 0 }
    }

    /// The topic that the entry was published with.
    pub(super) fn topic(&self) -> Option<&Arc<str>> {
        match &self.key {
            Some(PublishKey::Topic(topic)) => Some(topic),
            Some(PublishKey::Queue(_)) | None => None,
        }
    }
}

/// The key that a message was published with.
#[derive(Debug)]
pub(super) enum PublishKey {
    /// A topic, which an exchange has routed.
    Topic(Arc<str>),
    /// The name of a queue: the message came by the default exchange.
    Queue(Arc<str>),
}

impl PublishKey {
    pub(super) fn as_str(&self) -> &str {
        let (PublishKey::Topic(key) | PublishKey::Queue(key)) = self;
        key
    }
}

/// What an entry holds.
#[derive(Debug)]
pub(super) enum Payload {
    /// Fields and values of an entry of Redis.
    Fields(Vec<(Vec<u8>, Vec<u8>)>),
    /// The body of a message.
    Body(Vec<u8>),
    /// Nothing any more: the entry was trimmed before it was handled.
    Gone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_redis_outlives_every_connection_and_a_delivery_of_rabbitmq_only_its_own() {
        assert!(!Ticket::entry(0, 1).is_before(u64::MAX));
        assert!(Ticket::delivery(1, 9).is_before(2) && !Ticket::delivery(2, 0).is_before(2));
        assert!(Ticket::entry(1, 2) < Ticket::entry(2, 0) && Ticket::delivery(1, 9) < Ticket::delivery(2, 0));
        assert_eq!(Ticket::entry(17, 3).to_string(), "17-3");
    }
}
