//! The sinks for brokers, against real servers that are started here, killed, frozen, cut off and misconfigured.

mod alone;
mod clients;
mod cluster;
mod faults;
mod machine;
mod orders;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;

use support::{brokers, oracle, outage, proxy, redis_cluster, servers};
