//! Guides: longer texts about one subject each.

/// Which sink for what, how they fail, and what to do.
#[doc = include_str!("sinks.md")]
pub mod sinks {}
