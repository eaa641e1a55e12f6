//! Clusters of the tests' own, on the loopback.

#[cfg(feature = "redis")]
mod redis;
