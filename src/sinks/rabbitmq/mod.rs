//! The RabbitMQ sink: events as persistent messages of an exchange, each confirmed by the broker.
//!
//! A message is delivered once the broker has confirmed it. The message is on disk then; in a quorum queue, on the disks of a
//! majority of the nodes. A stream queue confirms what a majority has written, and their operating systems decide when that
//! reaches the disk. Up to `window` messages wait for their confirm at a time.
//!
//! * **Unroutable**: an event that no queue takes comes back, and is tried again. Once all events of a key have come back five
//!   times over two seconds, they are dead letters with exchange and key in the reason. So is each further event of that key,
//!   until a queue takes one or the sink connects anew. None of them counts as delivered.
//! * **Refused**: a full queue with `x-overflow: reject-publish` refuses events. So does a quorum queue without its majority,
//!   where the connection was made after the majority was lost. The event is tried again, later, on another channel.
//! * **Not for this event**: events with a key that the user may not write to (topic permissions), and events larger than the
//!   broker takes, are dead letters where others are taken. Where all keys at hand are refused, the sink asks the broker about
//!   keys that have worked, by a transaction that is taken back. If none of them is taken, the circuit opens and all events
//!   wait.
//! * **Gone**: with `declare: true`, an exchange, a queue or a binding that was deleted is declared anew as soon as an event
//!   comes back for it.
//! * **Blocked**: a broker that is low on memory or disk says so. The circuit opens with that reason, the connection stays, and
//!   nothing is sent twice when the broker goes on.
//! * **Silent**: a quorum queue without its majority does not answer at all. After ten seconds the delivery has failed, but the
//!   sink waits for the confirms for a minute. Then it gives the connection up and sends the events again.
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

/// The default limits of one delivery: the window is empty at the end of each, so long ones cost less.
pub(crate) const BATCH: BatchPolicy =
    BatchPolicy { max_events: 4096, max_size: 8 << 20, linger: Duration::ZERO };
