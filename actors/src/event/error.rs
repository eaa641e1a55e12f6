//! What is wrong with a text that is not an event.

/// How deep the `data` of an incoming event may nest, and whatever stands beside it.
pub(super) const MAX_DEPTH: usize = 64;

/// Why a text is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(pub(super) String);
