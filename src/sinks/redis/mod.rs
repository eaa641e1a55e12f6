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
//! An entry that was acknowledged is in the memory of one server. Whether the entry survives that server depends on the
//! server's configuration (`appendonly`, replicas). The sink inspects the server on connecting, each minute and at the end. It
//! warns where the server keeps nothing on disk, where an eviction policy can delete the stream, and where the server is a
//! replica. The user needs the permissions `+xadd +multi +exec` for the keys, and `+pexpire` with `expire`. The sink also asks
//! `PING`, `TYPE`, `INFO` and `CONFIG GET save`, and does without the answers where the user may not ask.
//!
//! A connection that gave no answer for 5 s, or broke, is dropped and never used again: what was sent on it may still be
//! carried out. Those events are sent again, marked. With `ordering: strict` one transaction is under way at a time, and no
//! event overtakes another.
//!
//! Only a key of the wrong type is refused by itself inside a transaction: events for other keys of the batch arrive before
//! that key's. For a key that the user may not write to, the whole transaction is refused, and sent again without that key.
//! Where a batch holds only such keys, the sink asks the server whether a key that has worked is still taken, by an `XADD`
//! with an impossible id. If it is, the events are dead letters; if not, the circuit opens and all events wait.
//!
//! # Redis Cluster
//!
//! The sink notices a node of a cluster, and finds the other nodes: `url` needs one that answers. A stream is one key and
//! lives on one master; a `stream_key` with placeholders spreads conversations over all of them, and `{{…}}` keeps keys
//! together (`{{{data.tenant}}}:{data.conversation_id}`: the streams of a tenant on one master). Each batch is split by
//! slots, one transaction for each, all of them under way at once; the order of a stream stays. Slots that move are
//! followed. When a master goes, events wait until a replica has taken its place.
//!
//! A master answers before its replicas are written to. An entry that was acknowledged in the last moment before its master
//! died may be missing on the replica that takes its place, and nothing shows it; `min-replicas-to-write` makes that time
//! short. The user also needs the permissions `+cluster|slots +cluster|info +asking`. With TLS, nodes before Redis 7.2 need
//! `tls-cluster yes`.
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
