//! What speaking to a broker needs, for sinks and consumers alike. Nothing here knows either of them.
//!
//! Each broker has a folder with the same files: `address` (a URL whose password is never shown), `connect` (a connection within
//! a time) and `error` (what a failure means). Errors say what happened and at what. The caller has the settings, and says
//! which of them to change.

pub(crate) mod addresses;
pub(crate) mod net;
#[cfg(feature = "rabbitmq")]
pub(crate) mod rabbitmq;
#[cfg(feature = "redis")]
pub(crate) mod redis;
pub(crate) mod words;
