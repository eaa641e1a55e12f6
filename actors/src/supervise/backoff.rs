//! How long to wait before the next attempt. This is the only file that uses the `backoff` crate.

use std::time::Duration;

use backoff::Clock;
use backoff::backoff::Backoff as _;
use backoff::exponential::ExponentialBackoff;
use tokio::time::Instant;

/// The first delay between retries of a delivery while the breaker is closed: 100 ms.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest delay between retries of a delivery while the breaker is closed: 5 s.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// The first delay before a restart: 100 ms.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// The longest delay before a restart: 5 s.
const RESTART_MAX: Duration = Duration::from_secs(5);

/// Each delay is drawn from this far around the nominal one: 0.5 means 50 % to 150 %.
const JITTER: f64 = 0.5;
const GROWTH: f64 = 2.0;

/// Tokio's clock, which stands still in tests.
#[derive(Debug, Clone, Copy, Default)]
struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

/// A delay that doubles with each call up to a limit, ±50 % at random, and never gives up.
#[derive(Debug)]
pub struct Backoff {
    inner: ExponentialBackoff<TokioClock>,
    max: Duration,
}

impl Backoff {
    /// Makes a delay that starts at about `first` and never exceeds `max`. A `first` above `max` counts as `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Backoff {
        Backoff::with_jitter(first, max, JITTER)
    }

    /// Like [`Backoff::new`], with exact delays: for tests, and for a single client that cannot cause a stampede.
    #[must_use]
    pub fn without_jitter(first: Duration, max: Duration) -> Backoff {
        Backoff::with_jitter(first, max, 0.0)
    }

    /// Makes the delays between retries of a delivery while the breaker is closed: 100 ms to 5 s.
    #[must_use]
    pub fn retries() -> Backoff {
        Backoff::new(RETRY_FIRST, RETRY_MAX)
    }

    /// Makes the delays between restarts of an actor: 100 ms to 5 s.
    #[must_use]
    pub fn restarts() -> Backoff {
        Backoff::new(RESTART_FIRST, RESTART_MAX)
    }

    /// Returns the delay before the next attempt. Each call makes the following delay longer.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "never ends: an iterator would hide that")]
    pub fn next(&mut self) -> Duration {
        self.inner.next_backoff().unwrap_or(self.max).min(self.max)
    }

    /// Starts again at the first delay, after a successful attempt.
    pub fn reset(&mut self) {
        self.inner.reset();
    }

    fn with_jitter(first: Duration, max: Duration, jitter: f64) -> Backoff {
        let first = first.min(max);
        let inner = ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            randomization_factor: jitter,
            multiplier: GROWTH,
            max_interval: max,
            start_time: TokioClock.now(),
            max_elapsed_time: None, // the crate's default gives up for ever after 15 minutes
            clock: TokioClock,
        };
        Backoff { inner, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_delay_doubles_up_to_the_limit_and_stays_there() {
        let mut backoff = Backoff::without_jitter(100 * MS, 5000 * MS);
        let delays: Vec<u128> = (0..8).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn after_a_reset_it_begins_again() {
        let mut backoff = Backoff::without_jitter(100 * MS, 5000 * MS);
        let _ = (backoff.next(), backoff.next());
        backoff.reset();
        assert_eq!(backoff.next(), 100 * MS);
    }

    #[test]
    fn jitter_stays_around_the_delay_and_under_the_limit() {
        let mut sum = 0.0;
        for _ in 0..2000 {
            let mut backoff = Backoff::retries();
            let first = backoff.next();
            assert!((50 * MS..=150 * MS).contains(&first), "{first:?}");
            sum += first.as_secs_f64();
            assert!((0..20).map(|_| backoff.next()).all(|delay| delay <= RETRY_MAX));
        }
        assert!((0.09..0.11).contains(&(sum / 2000.0)), "the mean is off: {}", sum / 2000.0);
    }

    #[test]
    fn two_clients_do_not_retry_in_step() {
        let (mut one, mut other) = (Backoff::restarts(), Backoff::restarts());
        assert!((0..8).any(|_| one.next() != other.next()));
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_give_up_after_fifteen_minutes() {
        let mut backoff = Backoff::without_jitter(100 * MS, 5000 * MS);
        for expected in [100, 200, 400, 800] {
            tokio::time::advance(Duration::from_secs(16 * 60)).await;
            assert_eq!(backoff.next(), expected * MS);
        }
    }

    #[test]
    fn extreme_limits_are_harmless() {
        let mut none = Backoff::new(Duration::ZERO, Duration::ZERO);
        let mut huge = Backoff::new(Duration::MAX, Duration::MAX);
        let mut turned = Backoff::without_jitter(5000 * MS, 100 * MS);
        for _ in 0..100 {
            assert_eq!(none.next(), Duration::ZERO);
            assert!(huge.next() <= Duration::MAX);
            assert_eq!(turned.next(), 100 * MS);
        }
    }
}
