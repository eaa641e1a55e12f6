//! The Redis sink: events as entries of Redis Streams.
//!
//! Each batch is one transaction (`MULTI` … `EXEC`) of `XADD <stream_key> [MAXLEN ~ n] * event <json>`, so a crash of the
//! server or a refusal leaves a whole batch or nothing of it. Any client reads it back:
//! `json.loads(fields["event"])`. An entry that may be a repeat has a second field, `attempt`, of 2 or more; its
//! `event_id` is that of the first.
//!
//! ```
//! use streamll::sinks::{self, redis::Ordering};
//!
//! let live = sinks::redis("redis://127.0.0.1:6379/0").stream_key("chat:{data.conversation_id}").max_len(10_000);
//! assert!(live.ordering(Ordering::Pipelined).build().is_ok());
//! ```
//!
//! # What a delivery means
//!
//! An entry that was acknowledged is in the memory of one server. Whether it survives that server is for its
//! configuration to say (`appendonly`, replicas); the sink looks on connecting and warns where nothing is kept, where
//! an eviction policy can delete the stream, and where the server is a replica. It needs the permissions `+xadd +multi
//! +exec` for its keys, `+pexpire` with `expire`; it also asks `PING`, `TYPE`, `INFO` and `CONFIG GET save`, and does
//! without the answers.
//!
//! A connection that gave no answer for 5 s, or broke, is dropped and never used again, as what was sent on it may
//! still be carried out: those events are sent again, marked. With `ordering: strict` one transaction is under way at
//! a time and nothing overtakes. Only a key of the wrong type is refused by itself inside a transaction: events for
//! other keys of its batch arrive before it.
//!
//! # What it does not do
//!
//! Unix sockets, Sentinel, client certificates, and Redis Cluster: of a cluster, the node that owns the stream's slot is
//! written to, with a warning, and all others are refused with that reason.

pub(crate) mod address;
mod blame;
mod config;
pub(crate) mod connect;
pub(crate) mod error;
mod look;
mod sink;
mod transaction;
mod wire;

pub(crate) use config::{BATCH, PLACEMENT};
pub use config::{Ordering, RedisConfig};
pub use sink::RedisSink;
