//! Which keys no queue takes, and for how long: making a binding takes a moment. No clock is read here.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// How often events of a key are tried, at the least.
const TRIES: u8 = 5;
/// For how long events of a key are tried, at the least.
const TRIED: Duration = Duration::from_secs(2);
/// What counts as another try: a flood of a key's events comes back all at once.
const TRY: Duration = Duration::from_millis(100);
/// When a key that did not come back begins anew.
const FORGET: Duration = Duration::from_secs(60);
/// Most keys that are counted.
const COUNTED: usize = 1 << 16;

/// The keys whose events came back. All events of a key go the same way, so that a flood of them costs one wait for its
/// binding, not one for each event.
#[derive(Debug, Default)]
pub(super) struct Unroutable(HashMap<Box<str>, Returns>);

#[derive(Debug, Clone, Copy)]
struct Returns {
    tries: u8,
    first: Instant,
    counted: Instant,
    last: Instant,
}

impl Unroutable {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes that an event of this key came back. Returns for how long such events have, once that is too long.
    pub(super) fn came_back(&mut self, key: &str, now: Instant) -> Option<Duration> {
        let fresh = Returns { tries: 1, first: now, counted: now, last: now };
        let Some(returns) = self.0.get_mut(key) else {
            if self.0.len() >= COUNTED {
                self.0.clear();
            }
            self.0.insert(key.into(), fresh);
            return None;
        };
        if now.saturating_duration_since(returns.last) >= FORGET {
            *returns = fresh;
        }
        returns.last = now;
        if now.saturating_duration_since(returns.counted) >= TRY {
            *returns = Returns { tries: returns.tries.saturating_add(1), counted: now, ..*returns };
        }
        let so_far = now.saturating_duration_since(returns.first);
        (returns.tries >= TRIES && so_far >= TRIED).then_some(so_far)
    }

    /// A queue took an event of this key.
    pub(super) fn arrived(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Everything may be different now.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an event of the key dies, at each of these moments in milliseconds.
    #[track_caller]
    fn dies(unroutable: &mut Unroutable, start: Instant, times: &[(u64, bool)]) {
        for (at, dies) in times {
            let now = start + Duration::from_millis(*at);
            assert_eq!(unroutable.came_back("a", now).is_some(), *dies, "at {at}");
        }
    }

    #[test]
    fn a_key_has_five_tries_over_two_seconds_however_many_its_events() {
        let (mut unroutable, start) = (Unroutable::default(), Instant::now());
        dies(&mut unroutable, start, &[(0, false), (0, false), (499, false), (500, false), (999, false)]);
        dies(
            &mut unroutable,
            start,
            &[(1000, false), (1500, false), (1999, false), (2000, true), (2000, true)],
        );
        assert_eq!(unroutable.came_back("b", start + TRY), None, "another key has tries of its own");
        let later = Duration::from_secs(3);
        assert_eq!(unroutable.came_back("a", start + later), Some(later), "at its first return");
    }

    #[test]
    fn a_key_that_is_tried_seldom_or_often_has_its_time_and_its_tries_all_the_same() {
        let (mut unroutable, start) = (Unroutable::default(), Instant::now());
        for at in 0..20 {
            dies(&mut unroutable, start, &[(100 * at, false)]);
        }
        dies(&mut unroutable, start, &[(2000, true)]);
        unroutable.forget();
        dies(
            &mut unroutable,
            start,
            &[(0, false), (2000, false), (4000, false), (6000, false), (8000, true)],
        );
    }

    #[test]
    fn a_key_begins_anew_once_it_arrived_after_a_while_and_when_all_is_forgotten() {
        let (mut unroutable, start) = (Unroutable::default(), Instant::now());
        let condemned = [(0, false), (500, false), (1000, false), (1500, false), (2000, true)];
        dies(&mut unroutable, start, &condemned);
        unroutable.arrived("a");
        dies(&mut unroutable, start, &condemned);
        dies(&mut unroutable, start, &[(61_999, true), (121_999, false), (122_000, false)]);
        unroutable.forget();
        dies(&mut unroutable, start, &condemned);
    }

    #[test]
    fn it_holds_no_more_than_it_may() {
        let (mut unroutable, now) = (Unroutable::default(), Instant::now());
        (0..3 * COUNTED).for_each(|n| assert_eq!(unroutable.came_back(&n.to_string(), now), None));
        assert!(unroutable.0.len() <= COUNTED);
    }
}
