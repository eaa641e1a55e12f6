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
//! configuration to say (`appendonly`, replicas); the sink looks on connecting, each minute and at the end, and warns where nothing is kept, where
//! an eviction policy can delete the stream, and where the server is a replica. It needs the permissions `+xadd +multi
//! +exec` for its keys, `+pexpire` with `expire`; it also asks `PING`, `TYPE`, `INFO` and `CONFIG GET save`, and does
//! without the answers.
//!
//! A connection that gave no answer for 5 s, or broke, is dropped and never used again, as what was sent on it may
//! still be carried out: those events are sent again, marked. With `ordering: strict` one transaction is under way at
//! a time and nothing overtakes. Only a key of the wrong type is refused by itself inside a transaction: events for
//! other keys of its batch arrive before it. For a key that its user may not write to, the whole transaction is refused, and
//! sent again without it. Where a batch holds none but such keys, the server is asked whether one that has worked is still
//! taken, by an `XADD` whose id cannot be: then they are dead letters, else the circuit opens and all events wait.
//!
//! # Redis Cluster
//!
//! A node of a cluster is noticed, and the other nodes are found: `url` needs one that answers. A stream is one key and
//! lives on one master; a `stream_key` with placeholders spreads conversations over all of them, and `{{…}}` keeps keys
//! together (`{{{data.tenant}}}:{data.conversation_id}`: the streams of a tenant on one master). Each batch is split by
//! slots, one transaction for each, all of them under way at once; the order of a stream stays. Slots that move are
//! followed. When a master goes, events wait until a replica has taken its place.
//!
//! Replicas are written to behind the answer: an entry that was acknowledged in the last moment before its master died
//! may be missing on the replica that takes its place. Nobody can tell; `min-replicas-to-write` makes the time short.
//! It also needs the permissions `+cluster|slots +cluster|info +asking`, and with TLS `tls-cluster yes` on nodes before Redis 7.2.
//!
//! # What it does not do
//!
//! Unix sockets, Sentinel, client certificates.

mod advice;
mod cluster;
mod config;
mod connect;
mod expiry;
mod inspect;
mod read_replies;
mod settings;
mod sink;
mod to_cluster;
mod to_server;
mod transaction;
mod writer;

pub use config::RedisConfig;
pub(crate) use config::{BATCH, PLACEMENT};
pub use settings::Ordering;
pub use sink::RedisSink;
