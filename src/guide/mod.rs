//! Guides: longer texts, each about one subject.

/// The sinks: what each one is for, how it fails, and what to do then.
#[doc = include_str!("sinks.md")]
pub mod sinks {}

/// An event on the wire: every key, which values are accepted, what is repaired or rejected, and a schema.
#[doc = include_str!("events.md")]
pub mod events {}

/// Delivery: what is kept and for how long, in buffers in memory and on disk; repeats, dead letters and the end.
#[doc = include_str!("delivery.md")]
pub mod delivery {}

/// Signals: how each one ends a process, in applications and in the command.
#[doc = include_str!("signals.md")]
pub mod signals {}

/// Consumers read events in other processes: groups, order, repeats, dead letters.
#[doc = include_str!("consumers.md")]
#[cfg(all(feature = "redis", feature = "rabbitmq"))]
pub mod consumers {}

/// Runs that go through several services: how `traceparent` comes in and goes out.
#[doc = include_str!("traces.md")]
pub mod traces {}

/// More load than one machine takes: clusters, how many nodes you need, and what to do at ten and a hundred times the load.
#[doc = include_str!("scaling.md")]
#[cfg(all(feature = "redis", feature = "rabbitmq"))]
pub mod scaling {}

/// Privacy: what is recorded, how to record less, the switch `content: off`, and where events are stored.
#[doc = include_str!("privacy.md")]
pub mod privacy {}

/// Operation: the end of a process, disks, deploys that overlap, threads, and what to alert on.
#[doc = include_str!("running.md")]
pub mod running {}

/// Usage of models: the keys, every way to report it, how to add it up, and how to avoid counting twice.
#[doc = include_str!("usage.md")]
pub mod usage {}

/// Tests: of code that emits, of topologies, and of sinks and processors of your own.
#[doc = include_str!("testing.md")]
pub mod testing {}

/// Words: the terms of streamll beside those of OpenTelemetry, Broadway and RabbitMQ.
#[doc = include_str!("words.md")]
pub mod words {}
