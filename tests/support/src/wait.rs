//! Waiting for what a test looks at, never for time.

use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// For as long as a slow machine may need.
pub const LONG: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until something holds; `Err` says what is so instead.
#[track_caller]
pub fn wait_until(what: &str, holds: impl Fn() -> Result<(), String>) {
    let deadline = Instant::now() + LONG;
    while let Err(instead) = holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}: {instead}");
        thread::sleep(PAUSE);
    }
}

/// The same, where there is nothing to say.
#[track_caller]
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(PAUSE);
    }
}

/// [`wait_until`], without blocking the thread.
pub async fn until(what: &str, holds: impl Fn() -> Result<(), String>) {
    let deadline = Instant::now() + LONG;
    while let Err(instead) = holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}: {instead}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// [`wait_for`], without blocking the thread.
pub async fn until_true(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
