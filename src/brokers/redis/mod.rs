//! What speaking to Redis needs, whoever speaks: addresses, connections, the map of a cluster, and what errors mean.

pub(crate) mod address;
pub(crate) mod cluster;
pub(crate) mod connect;
pub(crate) mod error;
pub(crate) mod wire;
