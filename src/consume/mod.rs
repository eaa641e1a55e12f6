//! The other side of the broker: consumers that react to events, and streams of them to watch.
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
//! [`Consumer`] is one API over Redis Streams and RabbitMQ; the [guide](crate::guide::consumers) shows what it is for,
//! what each broker makes of it, and what it promises:
//!
//! * **At least once.** An event is acknowledged when its handlers are done. A process that dies, or a connection that is
//!   lost, makes the broker deliver again what was in hand; [`skip_duplicates`](Consumer::skip_duplicates) leaves repeats
//!   out that one process sees.
//! * **In order** for each [`key`](Consumer::key) inside of one consumer, also with several
//!   [`workers`](Consumer::workers). A group spreads events over its consumers, and knows no order among them.
//! * **Nothing loops.** What is no event is a dead letter at once; what a handler fails on, after
//!   [`max_attempts`](Consumer::max_attempts); what ends the process that handles it, after five deliveries from Redis. With
//!   RabbitMQ that is for the queue to limit (`x-delivery-limit`).
//! * **It connects by itself**, at the start and whenever it must again, and [says](ConsumerHandle::status) since when and
//!   why it does not receive.
//! * **The numbers balance**, as those of sinks do: [`ConsumerBalance`].
#![cfg_attr(
    not(all(feature = "redis", feature = "rabbitmq", feature = "cli")),
    allow(dead_code, reason = "some of it is for one broker, or for the command, alone")
)]

mod consumer;
mod dead_letter;
mod desk;
mod duplicates;
mod engine;
mod error;
mod filter;
mod handler;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
mod read;
#[cfg(feature = "redis")]
mod redis;
mod source;
mod status;
mod stream;
mod window;
mod worker;

#[cfg(feature = "cli")]
pub(crate) use consumer::Options;
pub use consumer::{Consumer, ConsumerHandle, Start};
pub use dead_letter::DeadLetters;
pub use error::ConsumeError;
pub use handler::{Answer, Later, Now, Reply};
pub use status::{ConsumerBalance, ConsumerState, ConsumerStatus};
pub use stream::Events;
