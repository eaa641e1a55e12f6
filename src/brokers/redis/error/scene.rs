//! What a failure is about: how far things had come, and what the caller advises.

/// A refusal that the caller can mend by one of its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The memory of the server is full.
    OutOfMemory,
    /// The key lives on another node of a cluster.
    OtherNode,
    /// The key holds something else.
    WrongType,
    /// The user may not run the command, or not for this key.
    NotPermitted,
    /// The stream has used its last possible id.
    Exhausted,
    /// The server is too old.
    UnknownCommand,
    /// The server is no node of a cluster.
    NoCluster,
}

/// What a command is about, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Topic<'a> {
    /// The key; `*` for any.
    pub(crate) key: &'a str,
    /// What the caller advises against a refusal: only the caller knows its own settings.
    pub(crate) advice: fn(cause: Cause, key: &str) -> String,
}

impl Topic<'_> {
    pub(super) fn advice(self, cause: Cause) -> String {
        (self.advice)(cause, self.key)
    }
}

/// How far things had come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) stage: Stage,
    /// What the server said last; needed when it hung up.
    pub(crate) last_words: &'a [u8],
    pub(crate) topic: Topic<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Logging in and asking the first questions.
    Connecting,
    /// Nothing of the transaction was written.
    Unwritten,
    /// Some of it was.
    Written,
    /// Something that may be asked again: the time of streams, a read, an acknowledgement.
    Repeatable,
}
