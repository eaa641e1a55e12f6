//! Whether a dead actor is started again, and when.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;

/// How an actor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It stopped because it was told to.
    Stopped,
    /// It ended without a report: its thread ended, or it never started.
    Lost,
    /// It could not continue. The text says why.
    Failed(String),
    /// It, or the code inside it, panicked with this message.
    Panicked(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Stopped => f.write_str("stopped"),
            Exit::Lost => f.write_str("lost: its thread is gone"),
            Exit::Failed(why) => write!(f, "failed: {why}"),
            Exit::Panicked(message) => write!(f, "panicked: {message}"),
        }
    }
}

/// How many restarts are too many. Default: more than 5 within 60 s with no delivery between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// The number of restarts within the window. After one more crash the actor is given up. With zero, the first crash
    /// gives it up.
    pub max: u32,
    /// The length of the window. A restart exactly this long ago no longer counts.
    pub within: Duration,
}

impl Default for RestartPolicy {
    fn default() -> RestartPolicy {
        RestartPolicy { max: 5, within: Duration::from_secs(60) }
    }
}

/// The decision of the supervisor about one exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start a fresh incarnation after this time.
    RestartAfter(Duration),
    /// It ended as it should. Do not start it again.
    LeaveDown,
    /// Too many restarts without progress: it has failed.
    GiveUp,
}

/// Counts the restarts of one actor and decides about the next one.
///
/// Only restarts without progress count. After a delivery, the earlier restarts are forgotten, and the next delay is
/// the shortest again.
#[derive(Debug)]
pub struct RestartTracker {
    policy: RestartPolicy,
    backoff: Backoff,
    restarts: VecDeque<Instant>,
}

impl RestartTracker {
    /// Makes a tracker without restarts, and with delays of 100 ms to 5 s.
    #[must_use]
    pub fn new(policy: RestartPolicy) -> RestartTracker {
        RestartTracker::with_backoff(policy, Backoff::restarts())
    }

    /// Like [`RestartTracker::new`], with delays of your own.
    #[must_use]
    pub fn with_backoff(policy: RestartPolicy, backoff: Backoff) -> RestartTracker {
        RestartTracker { policy, backoff, restarts: VecDeque::new() }
    }

    /// Decides what follows `exit`. `progressed` says whether something was delivered since the last restart.
    #[must_use]
    pub fn decide(&mut self, exit: &Exit, progressed: bool, now: Instant) -> Verdict {
        if matches!(exit, Exit::Stopped) {
            return Verdict::LeaveDown;
        }
        if progressed {
            self.restarts.clear();
        }
        self.restarts.retain(|at| now.saturating_duration_since(*at) < self.policy.within);
        if self.restarts.len() >= self.policy.max as usize {
            return Verdict::GiveUp;
        }
        if self.restarts.is_empty() {
            self.backoff.reset();
        }
        self.restarts.push_back(now);
        Verdict::RestartAfter(self.backoff.next())
    }

    /// Returns how many restarts counted at the last decision.
    #[must_use]
    pub fn recent(&self) -> usize {
        self.restarts.len()
    }

    /// Forgets all restarts. Use it if the actor is started by hand after it was given up.
    pub fn reset(&mut self) {
        self.restarts.clear();
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tracker(max: u32) -> RestartTracker {
        let backoff = Backoff::without_jitter(SECOND / 10, 5 * SECOND);
        RestartTracker::with_backoff(RestartPolicy { max, within: 60 * SECOND }, backoff)
    }

    fn panicked() -> Exit {
        Exit::Panicked("index out of bounds".into())
    }

    /// Crashes at these seconds, without progress; true where it came back.
    #[track_caller]
    fn crashes(max: u32, at: &[u64], expected: &[bool]) {
        let (mut tracker, start) = (tracker(max), Instant::now());
        let came_back: Vec<bool> = at
            .iter()
            .map(|s| {
                let verdict = tracker.decide(&panicked(), false, start + Duration::from_secs(*s));
                matches!(verdict, Verdict::RestartAfter(_))
            })
            .collect();
        assert_eq!(came_back, expected);
    }

    #[test]
    fn the_maximum_is_allowed_and_one_more_gives_up() {
        crashes(5, &[0, 1, 2, 3, 4], &[true; 5]);
        crashes(5, &[0, 1, 2, 3, 4, 5], &[true, true, true, true, true, false]);
        crashes(5, &[0, 0, 0, 0, 0, 0], &[true, true, true, true, true, false]);
        crashes(1, &[0, 1], &[true, false]);
        crashes(0, &[0], &[false]);
    }

    #[test]
    fn a_restart_leaves_the_window_exactly_at_its_end() {
        crashes(2, &[0, 1, 59], &[true, true, false]);
        crashes(2, &[0, 1, 60], &[true, true, true]);
        crashes(2, &[0, 1, 60, 61], &[true, true, true, true]);
        crashes(2, &[0, 1, 60, 60], &[true, true, true, false]);
        let (mut tracker, start) = (tracker(1), Instant::now());
        let _ = tracker.decide(&panicked(), false, start);
        let just_before = start + 60 * SECOND - Duration::from_nanos(1);
        assert_eq!(tracker.decide(&panicked(), false, just_before), Verdict::GiveUp);
    }

    #[test]
    fn a_delivery_between_them_forgets_the_earlier_restarts() {
        let (mut tracker, now) = (tracker(2), Instant::now());
        for _ in 0..100 {
            assert_eq!(tracker.decide(&panicked(), true, now), Verdict::RestartAfter(SECOND / 10));
            assert_eq!(tracker.recent(), 1);
        }
        assert_eq!(tracker.decide(&panicked(), false, now), Verdict::RestartAfter(SECOND / 5));
        assert_eq!(tracker.decide(&panicked(), false, now), Verdict::GiveUp);
        assert_eq!(tracker.recent(), 2);
    }

    #[test]
    fn the_delay_grows_with_each_restart_and_begins_again_after_a_quiet_time() {
        let (mut tracker, start) = (tracker(5), Instant::now());
        for tenths in [1, 2, 4, 8] {
            let verdict = tracker.decide(&Exit::Lost, false, start);
            assert_eq!(verdict, Verdict::RestartAfter(SECOND / 10 * tenths));
        }
        let verdict = tracker.decide(&Exit::Lost, false, start + 120 * SECOND);
        assert_eq!(verdict, Verdict::RestartAfter(SECOND / 10));
    }

    #[test]
    fn every_exit_but_a_stop_is_a_crash() {
        let now = Instant::now();
        for exit in [Exit::Lost, Exit::Failed("no memory".into()), panicked()] {
            assert_eq!(tracker(1).decide(&exit, false, now), Verdict::RestartAfter(SECOND / 10), "{exit}");
        }
        assert_eq!(tracker(1).decide(&Exit::Stopped, false, now), Verdict::LeaveDown);
    }

    #[test]
    fn a_stop_spends_nothing() {
        let (mut tracker, now) = (tracker(1), Instant::now());
        assert_eq!(tracker.decide(&Exit::Stopped, false, now), Verdict::LeaveDown);
        assert_eq!(tracker.recent(), 0);
        assert!(matches!(tracker.decide(&Exit::Lost, false, now), Verdict::RestartAfter(_)));
    }

    #[test]
    fn started_by_hand_it_has_its_whole_budget_again() {
        let (mut tracker, now) = (tracker(1), Instant::now());
        let _ = tracker.decide(&Exit::Lost, false, now);
        assert_eq!(tracker.decide(&Exit::Lost, false, now), Verdict::GiveUp);
        tracker.reset();
        assert_eq!(tracker.decide(&Exit::Lost, false, now), Verdict::RestartAfter(SECOND / 10));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6000))]

        /// The model: the moments of all restarts since the last delivery, none forgotten.
        #[test]
        fn it_agrees_with_its_model(
            max in 0_u32..6,
            exits in proptest::collection::vec((0_u64..30, any::<bool>(), 0_u32..5), 1..50),
        ) {
            let (mut tracker, start) = (tracker(max), Instant::now());
            let (mut now, mut restarts): (u64, Vec<u64>) = (0, Vec::new());
            for (pause, progressed, kind) in exits {
                now += pause;
                let at = start + Duration::from_secs(now);
                let exit = match kind {
                    0 => Exit::Stopped,
                    1 => Exit::Lost,
                    2 => Exit::Failed("no memory".into()),
                    _ => panicked(),
                };
                let verdict = tracker.decide(&exit, progressed, at);
                if exit == Exit::Stopped {
                    prop_assert_eq!(verdict, Verdict::LeaveDown);
                    continue;
                }
                if progressed {
                    restarts.clear();
                }
                let recent = restarts.iter().filter(|then| now - **then < 60).count();
                prop_assert_eq!(verdict == Verdict::GiveUp, recent >= max as usize);
                if let Verdict::RestartAfter(delay) = verdict {
                    prop_assert!((SECOND / 10..=5 * SECOND).contains(&delay), "{:?}", delay);
                    prop_assert!(recent > 0 || delay == SECOND / 10, "a fresh start is quick");
                    restarts.push(now);
                }
            }
        }
    }

    #[test]
    fn people_can_read_how_it_ended() {
        assert_eq!(panicked().to_string(), "panicked: index out of bounds");
        assert_eq!(Exit::Failed("disk full".into()).to_string(), "failed: disk full");
    }
}
