//! What a sink's actor is waiting for, and when it tries again.

use std::time::Duration;

use actix::prelude::SpawnHandle;
use tokio::time::Instant;

use super::attempt::Instance;
use crate::supervise::Backoff;

/// The longest pause between two tries while the graph ends.
const LAST_TRIES: Duration = Duration::from_secs(1);

/// What the actor is waiting for, and who has its sink.
pub(super) enum Turn {
    /// Nothing: it begins, is between two turns, or ends.
    Nothing,
    /// Work, a moment or a word: may be cut short.
    Idle { instance: Option<Instance>, wait: SpawnHandle },
    /// An attempt, which has the sink.
    Busy(SpawnHandle),
}

/// What ends an idle turn, beside a word for this sink.
pub(super) enum Until {
    Work,
    Moment(Instant),
    Word,
}

/// The pauses after attempts that failed.
pub(super) struct Retries {
    pub(super) pause: Backoff,
    /// Not before that moment.
    pub(super) at: Option<Instant>,
}

/// The probes of an open circuit once the end has begun: the first at once, then one each second.
#[derive(Default)]
pub(super) struct LastTries {
    pub(super) have_begun: bool,
    /// When the latest attempt of all was over.
    pub(super) latest: Option<Instant>,
}

impl Retries {
    pub(super) fn new() -> Retries {
        Retries { pause: Backoff::retries(), at: None }
    }

    /// The next attempt may be at once.
    pub(super) fn reset(&mut self) {
        self.pause.reset();
        self.at = None;
    }

    /// The graph ends: no pause is longer than between the last tries.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.at = self.at.map(|at| at.min(now + LAST_TRIES));
    }
}

impl LastTries {
    /// When the next one is due.
    pub(super) fn next(&self, now: Instant) -> Instant {
        self.latest.filter(|_| self.have_begun).map_or(now, |at| at + LAST_TRIES)
    }
}
