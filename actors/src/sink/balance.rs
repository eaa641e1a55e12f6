//! The numbers that a sink and its processors are held to.

use std::time::Duration;

use serde::Serialize;

/// The numbers of one sink, as of one moment:
/// `recovered + accepted = delivered + shed + dead_lettered + diverted + waiting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Balance {
    /// Found on disk at start.
    pub recovered: u64,
    /// Placed in its buffer, after its own processors.
    pub accepted: u64,
    /// Arrived.
    pub delivered: u64,
    /// Dropped under overload, counted and marked.
    pub shed: u64,
    /// Taken by the dead letters.
    pub dead_lettered: u64,
    /// Taken by the fallback.
    pub diverted: u64,
    /// In the buffer, those in flight included.
    pub waiting: u64,
    /// Those of them that are on disk, and survive the process.
    pub on_disk: u64,
    /// With the sink right now.
    pub in_flight: u64,
    /// Their size in bytes of JSON.
    pub waiting_bytes: u64,
    /// Gap markers and alerts that arrived; in none of the other numbers.
    pub notices: u64,
    /// How long the oldest of them waits.
    #[serde(skip)]
    pub oldest_waiting_age: Option<Duration>,
    /// How long ago the last delivery was.
    #[serde(skip)]
    pub last_delivered_age: Option<Duration>,
}

impl Balance {
    /// How many of the waiting events die with the process.
    #[must_use]
    pub fn in_memory(&self) -> u64 {
        self.waiting.saturating_sub(self.on_disk)
    }

    /// Adds the numbers of another sink.
    pub(crate) fn add(&mut self, other: &Balance) {
        self.recovered += other.recovered;
        self.accepted += other.accepted;
        self.delivered += other.delivered;
        self.shed += other.shed;
        self.dead_lettered += other.dead_lettered;
        self.diverted += other.diverted;
        self.waiting += other.waiting;
        self.on_disk += other.on_disk;
        self.waiting_bytes += other.waiting_bytes;
        self.notices += other.notices;
    }

    /// Whether the numbers balance.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.recovered + self.accepted
            == self.delivered + self.shed + self.dead_lettered + self.diverted + self.waiting
    }
}

/// What the processors in front of one sink did:
/// `received + created = filtered + merged + failed + shed + passed + waiting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Processed {
    /// Came from the router.
    pub received: u64,
    /// Made.
    pub created: u64,
    /// Taken out.
    pub filtered: u64,
    /// Left inside another event.
    pub merged: u64,
    /// Lost to a panic or a hang, and dead-lettered.
    pub failed: u64,
    /// Dropped under overload in front of them, counted and marked; the numbers of the sink hold these, too.
    pub shed: u64,
    /// Given to the sink's buffer.
    pub passed: u64,
    /// With them, or in front of them.
    pub waiting: u64,
}

impl Processed {
    /// Whether the numbers balance.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.received + self.created
            == self.filtered + self.merged + self.failed + self.shed + self.passed + self.waiting
    }

    pub(crate) fn add(&mut self, other: &Processed) {
        self.received += other.received;
        self.created += other.created;
        self.filtered += other.filtered;
        self.merged += other.merged;
        self.failed += other.failed;
        self.shed += other.shed;
        self.passed += other.passed;
        self.waiting += other.waiting;
    }
}
