//! The duplicate filter: a set of the events that were handled last. A high-water mark would not do, because a repeat may
//! come late, and a first delivery may come after its neighbours.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;

use streamll_actors::event::{Event, EventId};

/// What identifies an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Identity {
    Origin(Arc<str>, u64),
    Id(EventId),
}

impl Identity {
    fn of(event: &Event) -> Identity {
        match event.origin() {
            Some(origin) => Identity::Origin(origin.source, origin.seq),
            None => Identity::Id(event.id().clone()),
        }
    }
}

/// Remembers at least the last `window` events, and at most twice as many.
#[derive(Debug)]
pub(super) struct Duplicates {
    window: usize,
    recent: HashSet<Identity>,
    earlier: HashSet<Identity>,
}

impl Duplicates {
    pub(super) fn new(window: usize) -> Duplicates {
        Duplicates { window, recent: HashSet::new(), earlier: HashSet::new() }
    }

    /// Whether the event was handled before.
    pub(super) fn knows(&self, event: &Event) -> bool {
        let identity = Identity::of(event);
        self.recent.contains(&identity) || self.earlier.contains(&identity)
    }

    /// Remembers an event that was handled.
    pub(super) fn add(&mut self, event: &Event) {
        if self.recent.len() >= self.window {
            self.earlier = mem::take(&mut self.recent);
        }
        self.recent.insert(Identity::of(event));
    }
}

#[cfg(test)]
mod tests {
    use streamll_actors::event::Decoder;

    use super::*;

    fn numbered(seq: u64) -> Event {
        let line = format!(r#"{{"event_type":"x","source":"a","seq":{seq}}}"#);
        Decoder::default().received(line.as_bytes()).unwrap()
    }

    #[test]
    fn a_repeat_within_the_window_is_known_and_an_event_that_comes_late_is_not() {
        let mut seen = Duplicates::new(10);
        for seq in [5, 9, 7] {
            assert!(!seen.knows(&numbered(seq)), "{seq} is new, whatever came before");
            seen.add(&numbered(seq));
        }
        assert!(seen.knows(&numbered(5)) && !seen.knows(&numbered(6)));
    }

    #[test]
    fn the_window_is_kept_and_its_memory_is_bounded() {
        let mut seen = Duplicates::new(100);
        for seq in 0..1000 {
            seen.add(&numbered(seq));
            let first_kept = (seq + 1).saturating_sub(100);
            assert!((first_kept..=seq).all(|seq| seen.knows(&numbered(seq))));
            assert!(seen.recent.len() + seen.earlier.len() <= 200);
        }
        assert!(!seen.knows(&numbered(0)));
    }

    #[test]
    fn without_a_number_the_id_tells() {
        let read = |id: &str| {
            let line = format!(r#"{{"event_type":"x","event_id":"{id}"}}"#);
            Decoder::default().received(line.as_bytes()).unwrap()
        };
        let mut seen = Duplicates::new(1);
        seen.add(&read("a"));
        assert!(seen.knows(&read("a")) && !seen.knows(&read("b")));
    }
}
