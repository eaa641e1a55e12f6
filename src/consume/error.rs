//! What keeps a consumer from starting: a mistake in how it was made. Brokers that are away are none.

use streamll_actors::route::PatternError;

/// Why a consumer cannot work, whatever its broker says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// The address is none that this build reads.
    #[error("url: {0}")]
    Url(String),
    /// A topic pattern is none.
    #[error(transparent)]
    Topic(#[from] PatternError),
    /// A value cannot be right; the text begins with the name of its setter.
    #[error("{0}")]
    Setting(String),
    /// Nothing is to be done with the events.
    #[error(
        "nothing handles the events: add `.on(\"error\", …)` or `.on_topic(\"ai.#\", …)`, or read `.into_stream()`"
    )]
    NoHandler,
}
