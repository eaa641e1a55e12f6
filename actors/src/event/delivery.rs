//! One event on its way to one sink.

use std::sync::Arc;

use super::Event;

/// The name of an event at its broker, as the sink's `routing_key` rendered it.
pub type Key = Arc<str>;

/// One event on its way to one sink.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Shared with every other sink that it goes to.
    pub event: Event,
    /// Its name at the broker, for example `ai.rag_pipeline.token`.
    pub key: Key,
    /// 1 at first; 2 and more when an earlier attempt may have arrived.
    pub attempt: u32,
}

impl Delivery {
    /// A first attempt.
    #[must_use]
    pub fn new(event: Event, key: Key) -> Delivery {
        Delivery { event, key, attempt: 1 }
    }
}
