//! What speaking to a broker needs, whoever speaks: it knows neither sinks nor consumers.
//!
//! Each broker has a folder with the same files: `address` (a URL whose password nobody sees), `connect` (a connection within
//! a time) and `error` (what a failure means). Errors say what happened and at what; what to change in which setting is for
//! the caller to say, who has the settings.

pub(crate) mod addresses;
pub(crate) mod net;
#[cfg(feature = "rabbitmq")]
pub(crate) mod rabbitmq;
#[cfg(feature = "redis")]
pub(crate) mod redis;
pub(crate) mod words;
