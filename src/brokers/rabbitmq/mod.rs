//! What speaking to RabbitMQ needs, for sinks and consumers alike: addresses, connections and their channels,
//! and what errors mean.

pub(crate) mod address;
mod channels;
pub(crate) mod connect;
pub(crate) mod error;
