//! How full a buffer is, for readers who must not wait for its lock.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::overflow::{Fill, Level};

/// Copies of what the store says.
#[derive(Debug)]
pub(super) struct Gauges {
    events: Gauge,
    size: Gauge,
    unwritten: Gauge,
}

#[derive(Debug)]
struct Gauge {
    used: AtomicUsize,
    max: AtomicUsize,
}

impl Gauges {
    pub(super) fn new(fill: &Fill) -> Gauges {
        let Fill { events, size, unwritten, .. } = *fill;
        Gauges { events: Gauge::new(events), size: Gauge::new(size), unwritten: Gauge::new(unwritten) }
    }

    /// Copies them anew; returns whether one has fallen.
    pub(super) fn publish(&self, fill: &Fill) -> bool {
        self.events.publish(fill.events)
            | self.size.publish(fill.size)
            | self.unwritten.publish(fill.unwritten)
    }

    /// Whether with so many more events and bytes the buffer would be over three quarters full, or its disk behind by half
    /// of what may wait for it.
    pub(super) fn are_pressed(&self, more_events: usize, more_bytes: usize) -> bool {
        let quarters = |max: usize| max - max / 4;
        self.events.is_over(more_events, quarters)
            || self.size.is_over(more_bytes, quarters)
            || self.unwritten.is_over(more_bytes, |max| max / 2)
    }
}

impl Gauge {
    fn new(level: Level) -> Gauge {
        Gauge { used: AtomicUsize::new(level.used), max: AtomicUsize::new(level.max) }
    }

    fn publish(&self, level: Level) -> bool {
        self.max.store(level.max, Ordering::Relaxed);
        self.used.swap(level.used, Ordering::Relaxed) > level.used
    }

    fn is_over(&self, more: usize, part: impl FnOnce(usize) -> usize) -> bool {
        let (used, max) = (self.used.load(Ordering::Relaxed), self.max.load(Ordering::Relaxed));
        used.saturating_add(more) > part(max)
    }
}
