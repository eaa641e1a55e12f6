//! Redis Streams as a source: a consumer group, or a cursor of one's own.
//!
//! There are two connections. One reads, and may block; the other acknowledges, takes over and asks.

mod begin;
mod claim;
mod commands;
mod letters;
mod look;
mod nodes;
mod reading;
mod replies;
mod server;
mod source;
mod takeover;
mod words;

pub(super) use source::RedisSource;
