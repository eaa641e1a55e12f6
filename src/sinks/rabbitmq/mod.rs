//! The RabbitMQ sink: events as persistent messages of an exchange, each confirmed by the broker.
//!
//! A message is delivered once the broker has confirmed it: it is on disk then, in a quorum queue on that of a majority of
//! its nodes; a stream queue confirms what a majority has written, and leaves it to their systems when that reaches the
//! disk. Up to `window` messages wait for their confirm at a time.
//!
//! * **Unroutable**: what no queue takes comes back, and is tried again. Once all events of a key have come back five times
//!   over two seconds, they are dead letters with exchange and key in the reason, and so is each further one until a queue
//!   takes one or the connection is a new one. They never count as delivered.
//! * **Refused**: a full queue with `x-overflow: reject-publish` refuses, and so does a quorum queue without its majority
//!   where the connection was made after it was lost; the event is tried again, later, on another channel.
//! * **Not for this event**: a key that the user may not write to (topic permissions), and what is larger than the broker
//!   takes, are dead letters where others are taken. Where only refused keys are at hand, the broker is asked about keys that
//!   have worked, by a transaction that is taken back; where none of them is taken, the circuit opens and all of them wait.
//! * **Gone**: with `declare: true`, an exchange, a queue or a binding that was deleted is declared anew as soon as an event
//!   comes back for it.
//! * **Blocked**: a broker low on memory or disk says so; the circuit opens with that reason, the connection stays, and
//!   nothing is sent twice when it goes on.
//! * **Silent**: a quorum queue without its majority says nothing at all. After ten seconds the delivery has failed, but
//!   the confirms are waited for, for a minute, before the connection is given up and the events are sent anew.
//!
//! The key of a message is the event's topic, or what the sink's `routing_key` makes of it. The body is the event's JSON.
//! The properties are `content_type`, `message_id` (the `event_id`), `timestamp`, `type` (the `event_type`) and `app_id` (the
//! service). The headers are `event_type`, `operation`, `module_name`, `traceparent` (of the event's run and step, where their
//! ids have the size of W3C Trace Context), and `attempt` where the message may be a repeat. What the protocol has no room for
//! is left out, never cut: a `type` of more than 255 bytes, which the header `event_type` has whole, and headers that are too
//! long together. The body has all of it.
//!
//! ```
//! use streamll::sinks::{self, rabbitmq::QueueConfig};
//!
//! let records = sinks::rabbitmq("amqp://localhost/%2f")
//!     .exchange("production_ai_events")
//!     .bind("alerts_queue", QueueConfig::bound(["ai.*.error", "ai.streamll.#"]));
//! assert!(records.build().is_ok());
//! ```

mod advice;
mod ask;
mod config;
mod confirm;
mod connection;
mod declare;
mod message;
mod publish;
mod publisher;
mod queues;
mod read_confirms;
mod refusals;
mod settings;
mod sink;
mod unroutable;

use std::time::Duration;

use streamll_actors::sink::BatchPolicy;

pub use crate::brokers::addresses::Addresses;
pub use config::RabbitMqConfig;
pub use queues::{Argument, ExchangeType, QueueConfig, QueueType};
pub use settings::Ordering;
pub use sink::RabbitMqSink;

/// The limits of one delivery where nothing is said of them: the window is empty at the end of each, so long ones cost less.
pub(crate) const BATCH: BatchPolicy =
    BatchPolicy { max_events: 4096, max_size: 8 << 20, linger: Duration::ZERO };
