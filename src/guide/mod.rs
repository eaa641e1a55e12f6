//! Guides: longer texts about one subject each.

/// Which sink for what, how they fail, and what to do.
#[doc = include_str!("sinks.md")]
pub mod sinks {}

/// What an event looks like: every key, what is taken in, what is mended or refused, and a schema.
#[doc = include_str!("events.md")]
pub mod events {}

/// What is kept, and for how long: buffers in memory and on disk, repeats, dead letters, the end.
#[doc = include_str!("delivery.md")]
pub mod delivery {}

/// How a process ends: every signal, in applications and in the command.
#[doc = include_str!("signals.md")]
pub mod signals {}

/// Reading events in other processes: groups, order, repeats, dead letters.
#[doc = include_str!("consumers.md")]
#[cfg(all(feature = "redis", feature = "rabbitmq"))]
pub mod consumers {}

/// Runs that go through several services: `traceparent` in and out.
#[doc = include_str!("traces.md")]
pub mod traces {}

/// More load than one machine takes: clusters, how many of what, and what to do at ten and a hundred times the load.
#[doc = include_str!("scaling.md")]
#[cfg(all(feature = "redis", feature = "rabbitmq"))]
pub mod scaling {}

/// What is recorded, how to record less, the switch `content: off`, and where events rest.
#[doc = include_str!("privacy.md")]
pub mod privacy {}

/// In production: the end of a process, disks, deploys that overlap, threads, what to alert on.
#[doc = include_str!("running.md")]
pub mod running {}

/// What models used: the keys, every way in, how to add it up, and what is counted twice.
#[doc = include_str!("usage.md")]
pub mod usage {}

/// Tests of code that emits, of topologies, and of sinks and processors of your own.
#[doc = include_str!("testing.md")]
pub mod testing {}
