//! What becomes of an event that a processor could not take.

use std::sync::Arc;

use tokio::time::Instant;

use crate::event::{Event, Timestamp};
use crate::process::OnFailed;
use crate::sink::{DeadLetter, DeadLetters};

/// Handles an event that a processor could not take.
pub(super) fn on_failed(name: Arc<str>, dead_letters: DeadLetters) -> OnFailed {
    Arc::new(move |event: &Event, why: &str| {
        let now = Timestamp::now();
        let letter = DeadLetter {
            event: event.clone(),
            sink: name.clone(),
            class: "processor",
            reason: why.to_owned(),
            attempts: 1,
            first_attempt: now,
            last_attempt: now,
        };
        if let Err(error) = dead_letters.accept(&letter, Instant::now()) {
            tracing::error!(
                event = %letter.event.id(),
                %error,
                "an event is lost: its processor failed, and its dead letter cannot be kept"
            );
        }
    })
}
