//! Ids of events (UUID v7), and of executions and steps (random hexadecimal digits).

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// The id of one event. It never changes: a retry has the same id.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum EventId {
    /// An id that was made here: a UUID v7, which sorts by time.
    Uuid(Uuid),
    /// An id that the sender of the event has given.
    Text(Arc<str>),
}

impl EventId {
    /// Makes a new id. `micros` is the time of the event in microseconds since the Unix epoch.
    #[must_use]
    pub fn generate(micros: i64) -> EventId {
        let mut random = [0; 10];
        let high = fastrand::u64(..).to_le_bytes();
        let low = fastrand::u16(..).to_le_bytes();
        for (to, from) in random.iter_mut().zip(high.into_iter().chain(low)) {
            *to = from;
        }
        let millis = u64::try_from(micros / 1000).unwrap_or(0);
        EventId::Uuid(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// Appends the id as it stands in JSON, without quotes.
    pub(crate) fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            EventId::Uuid(id) => {
                let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
                out.extend_from_slice(id.as_hyphenated().encode_lower(&mut text).as_bytes());
            }
            EventId::Text(text) => super::write::write_inner(text, out),
        }
    }
}

impl From<&str> for EventId {
    fn from(text: &str) -> EventId {
        EventId::Text(text.into())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventId::Uuid(id) => id.as_hyphenated().fmt(f),
            EventId::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A fresh name for a whole run: 32 hexadecimal digits, as in a W3C trace id.
pub(crate) fn execution_id() -> Arc<str> {
    hex(fastrand::u128(..), 32)
}

/// A fresh name for one step: 16 hexadecimal digits, as in a W3C span id.
pub(crate) fn span_id() -> Arc<str> {
    hex(fastrand::u128(..), 16)
}

/// Every step gets one: written without a piece of memory in between.
fn hex(number: u128, digits: usize) -> Arc<str> {
    let mut text = [0; uuid::fmt::Simple::LENGTH];
    let text = Uuid::from_u128(number).as_simple().encode_lower(&mut text);
    text.get(..digits).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_never_repeat() {
        let early = EventId::generate(1_000_000).to_string();
        let late = EventId::generate(9_000_000_000).to_string();
        assert!(early < late, "{early} {late}");
        let mut seen = std::collections::HashSet::new();
        assert!((0..10_000).all(|_| seen.insert(EventId::generate(5).to_string())));
    }

    #[test]
    fn step_names_have_the_lengths_of_trace_context() {
        assert_eq!(execution_id().len(), 32);
        assert_eq!(span_id().len(), 16);
    }
}
