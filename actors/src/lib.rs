//! The engine of streamll: a supervised graph of actors that carries events to sinks.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod enrich;
pub mod event;
pub mod graph;
pub mod ingress;
pub mod process;
pub mod route;
pub mod sink;
pub mod supervise;
pub mod testkit;
