//! The bounds of a buffer, and what happens at them.

use std::sync::Arc;
use std::time::Duration;

/// What happens to an event that finds the buffer full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// Token events go first, then lifecycle, then audit events; one gap marker stands where some are missing.
    #[default]
    ShedTokens,
    /// The new event is not taken, whatever it is.
    DropNewest,
}

/// The bounds of a buffer: whichever is reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferPolicy {
    /// Most events; 100,000 by default.
    pub max_events: usize,
    /// Most bytes of JSON; 64 MiB by default.
    pub max_size: usize,
    /// What happens beyond.
    pub when_full: WhenFull,
    /// On disk, and how durably; `None`, the default, is in memory.
    pub disk: Option<Fsync>,
}

impl Default for BufferPolicy {
    fn default() -> BufferPolicy {
        BufferPolicy { max_events: 100_000, max_size: 64 << 20, when_full: WhenFull::ShedTokens, disk: None }
    }
}

impl BufferPolicy {
    /// On disk: 1 GiB, synced in groups before an event counts as held.
    #[must_use]
    pub fn disk() -> BufferPolicy {
        let disk = Some(Fsync::Group);
        BufferPolicy { max_events: usize::MAX, max_size: 1 << 30, disk, ..BufferPolicy::default() }
    }
}

/// When what was written is made to survive a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// Before it counts as held: with each write, for all that gathered meanwhile.
    #[default]
    Group,
    /// So often; a loss of power costs as much.
    Every(Duration),
    /// When the system likes to.
    Never,
}

/// What happens to new events while the circuit is open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum OnOpen {
    /// They wait.
    #[default]
    Buffer,
    /// They are shed, counted and marked.
    Drop,
    /// They go to another sink, by name.
    Fallback(Arc<str>),
}
