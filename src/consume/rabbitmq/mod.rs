//! RabbitMQ as a source: a queue that a group shares, or a queue of one's own for as long as the connection lasts.

mod declare;
mod exchange;
mod letters;
mod nodes;
mod offsets;
mod session;
mod source;
mod words;

pub(super) use source::RabbitMqSource;
