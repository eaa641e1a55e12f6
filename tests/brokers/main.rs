//! The sinks for brokers, against real servers that are started here, killed, frozen, cut off and misconfigured.

mod alone;
mod brokers;
#[path = "../chaos/mod.rs"]
mod chaos;
mod clients;
mod cluster;
mod faults;
mod machine;
mod oracle;
mod orders;
mod outage;
mod proxy;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
mod redis_cluster;
mod servers;
