//! A handle of a running consumer: it stops the consumer, and reads its status.

use std::sync::Arc;

use super::status::{ConsumerStatus, Shared};

/// Stops a consumer, and reads its status. Clones are cheap.
#[derive(Debug, Clone)]
pub struct ConsumerHandle(pub(super) Arc<Shared>);

impl ConsumerHandle {
    /// Asks the consumer to end. The consumer reads no more events, and [`run`](crate::consume::Consumer::run) returns when
    /// the events in hand are handled. A consumer that waits for its broker, or to try an event again, stops waiting.
    pub fn stop(&self) {
        self.0.stop();
    }

    /// State, reason, lag and the numbers, all of one moment.
    ///
    /// ```
    /// use streamll::consume::{Consumer, ConsumerState};
    ///
    /// let consumer = Consumer::connect("redis://localhost", "ai_events").group("alerts").on("error", |_| ());
    /// let status = consumer.handle().status();
    /// assert!(status.state == ConsumerState::Disconnected && status.balances());
    /// ```
    #[must_use]
    pub fn status(&self) -> ConsumerStatus {
        self.0.status()
    }
}
