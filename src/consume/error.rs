//! What keeps a consumer from starting: a mistake in its settings. A broker that is down is none.

use streamll_actors::route::PatternError;

/// Why a consumer cannot work, whatever its broker says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// This build cannot read from that address.
    #[error("url: {0}")]
    Url(String),
    /// A text is no topic pattern.
    #[error(transparent)]
    Topic(#[from] PatternError),
    /// A value cannot be right. The text begins with the name of the setting.
    #[error("{0}")]
    Setting(String),
    /// The consumer has no handler, and nobody reads its events as a stream.
    #[error(
        "nothing handles the events: add `.on(\"error\", …)` or `.on_topic(\"ai.#\", …)`, or read `.into_stream()`"
    )]
    NoHandler,
}
