//! One event on its way to one sink.

use std::sync::Arc;

use super::Event;

/// The name of an event at its broker, as the sink's `routing_key` renders it.
pub type Key = Arc<str>;

/// One event on its way to one sink.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The event. It is shared with every other sink that gets it.
    pub event: Event,
    /// The number of the attempt: 1 at first, 2 or more if an earlier attempt may have arrived.
    pub attempt: u32,
    /// Where it is not the topic.
    key: Option<Key>,
}

impl Delivery {
    /// Makes a first attempt, with this key.
    #[must_use]
    pub fn new(event: Event, key: Key) -> Delivery {
        Delivery { event, key: Some(key), attempt: 1 }
    }

    /// A first attempt, under the event's topic.
    pub(crate) fn by_topic(event: Event) -> Delivery {
        Delivery { event, key: None, attempt: 1 }
    }

    /// The key of its own, where it has one beside the topic.
    pub(crate) fn own_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Returns the name of the event at the broker, for example `ai.rag_pipeline.token`.
    #[must_use]
    pub fn key(&self) -> &str {
        self.key.as_deref().or_else(|| self.event.topic().map(|topic| &**topic)).unwrap_or_default()
    }
}
