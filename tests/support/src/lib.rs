//! What tests and benchmarks of several targets share: real servers on private ports, a network that misbehaves, the books of
//! what was sent and what arrived, and waiting.

pub mod brokers;
mod built;
pub mod oracle;
pub mod outage;
pub mod proxy;
pub mod redis_cluster;
pub mod servers;
mod wait;

pub use built::built;
pub use wait::{LONG, until, until_true, wait_for, wait_until};
