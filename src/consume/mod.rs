//! Consumers: they read events from a broker, and react to them or show them as a stream.
//!
//! ```no_run
//! use streamll::consume::Consumer;
//!
//! # async fn run() -> Result<(), streamll::consume::ConsumeError> {
//! Consumer::connect("redis://localhost:6379", "prod_ai_events")
//!     .group("alerts")
//!     .on("error", |event| println!("{} failed: {:?}", event.module_name(), event.data("error_message")))
//!     .run()
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Consumer`] is one API over Redis Streams and RabbitMQ. The [guide](crate::guide::consumers) shows what consumers are for
//! and how the two brokers differ. A consumer promises:
//!
//! * **At least once.** An event is acknowledged when its handlers are done. When a process dies or a connection is lost,
//!   the broker delivers again what was in hand. [`skip_duplicates`](Consumer::skip_duplicates) leaves out repeats that one
//!   process sees.
//! * **In order** for each [`key`](Consumer::key) inside of one consumer, even with several
//!   [`workers`](Consumer::workers). A group spreads events over its consumers, and there is no order among those.
//! * **Nothing loops.** An entry that is no event becomes a dead letter at once. An event that a handler fails on becomes one
//!   after [`max_attempts`](Consumer::max_attempts). A Redis entry that ends the process which handles it becomes one after
//!   five deliveries. With RabbitMQ, the queue has to limit that (`x-delivery-limit`).
//! * **A consumer connects by itself**, at the start and after each lost connection. Its [status](ConsumerHandle::status) says
//!   since when and why it does not receive.
//! * **The numbers balance**, as those of sinks do: [`ConsumerBalance`].
#![cfg_attr(
    not(all(feature = "redis", feature = "rabbitmq", feature = "cli")),
    allow(dead_code, reason = "some of it is for one broker, or for the command, alone")
)]

mod consumer;
mod dead_letter;
mod decode;
mod duplicates;
mod engine;
mod entry;
mod error;
mod filter;
mod handle;
mod handler;
mod in_flight;
mod intake;
mod outbox;
mod pool;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
mod settings;
mod source;
mod status;
mod stream;
mod window;
mod worker;

pub use consumer::Consumer;
pub use dead_letter::DeadLetters;
pub use error::ConsumeError;
pub use handle::ConsumerHandle;
pub use handler::Reply;
#[cfg(feature = "cli")]
pub(crate) use settings::SettingNames;
pub use settings::Start;
pub use status::{ConsumerBalance, ConsumerState, ConsumerStatus};
pub use stream::Events;
