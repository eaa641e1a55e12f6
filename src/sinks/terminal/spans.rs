//! What the terminal remembers of steps that stream: enough for the numbers on their last line.

use std::collections::HashMap;
use std::sync::Arc;

use streamll_actors::event::{Text, Timestamp};

/// Most steps remembered; the one that was silent longest goes first.
const SPANS: usize = 1024;

/// Most fields of one step that are counted each by itself.
const FIELDS: usize = 8;

/// The open steps, by `span_id`.
#[derive(Debug, Default)]
pub(super) struct Spans(HashMap<Arc<str>, Span>);

/// One open step.
#[derive(Debug)]
pub(super) struct Span {
    started: Option<Timestamp>,
    /// When the first and the last token came.
    first: Option<Timestamp>,
    last: Timestamp,
    tokens: u64,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    name: Text,
    next: u64,
    whole: bool,
}

impl Spans {
    pub(super) fn open(&mut self, id: &Arc<str>, at: Timestamp) {
        self.entry(id, at).started = Some(at);
    }

    /// Counts a token; says whether its field is another one than the first that the step streamed.
    pub(super) fn token(
        &mut self,
        id: &Arc<str>,
        at: Timestamp,
        field: &Text,
        index: u64,
        merged: u32,
    ) -> bool {
        let span = self.entry(id, at);
        span.first.get_or_insert(at);
        span.last = at;
        span.tokens += u64::from(merged);
        let next = index.saturating_add(u64::from(merged));
        let room = span.fields.len() < FIELDS;
        match span.fields.iter_mut().find(|known| known.name == *field) {
            Some(known) => {
                known.whole &= known.next == index;
                known.next = next;
            }
            None if room => span.fields.push(Field { name: field.clone(), next, whole: index == 0 }),
            None => {}
        }
        span.fields.first().is_some_and(|first| first.name != *field)
    }

    pub(super) fn close(&mut self, id: &str) -> Option<Span> {
        self.0.remove(id)
    }

    fn entry(&mut self, id: &Arc<str>, at: Timestamp) -> &mut Span {
        if self.0.len() >= SPANS && !self.0.contains_key(id) {
            let stalest = self.0.iter().min_by_key(|(_, span)| span.last).map(|(id, _)| id.clone());
            stalest.and_then(|id| self.0.remove(&id));
        }
        self.0.entry(id.clone()).or_insert_with(|| Span {
            started: None,
            first: None,
            last: at,
            tokens: 0,
            fields: Vec::new(),
        })
    }
}

impl Span {
    /// Seconds from the start to `end`, where the start was seen.
    pub(super) fn duration(&self, end: Timestamp) -> Option<f64> {
        Some(end.since(self.started?).as_secs_f64())
    }

    /// Seconds from the start to the first token of a stream of two and more.
    pub(super) fn time_to_first_token(&self) -> Option<f64> {
        let first = self.first.filter(|_| self.tokens > 1)?;
        Some(first.since(self.started?).as_secs_f64())
    }

    /// Tokens per second behind the first.
    pub(super) fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.last.since(self.first?).as_secs_f64();
        // Every count of tokens that occurs fits a float exactly.
        (self.tokens > 1 && seconds > 0.0).then(|| (self.tokens - 1) as f64 / seconds)
    }

    /// Whether all of `field` was shown as tokens.
    pub(super) fn has_shown(&self, field: &str) -> bool {
        self.fields.iter().any(|known| *known.name == *field && known.whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn the_numbers_are_of_the_stream_and_not_of_the_step() {
        let (mut spans, id, field) = (Spans::default(), Arc::from("s"), Text::from("answer"));
        spans.open(&id, at(10));
        spans.token(&id, at(12), &field, 0, 1);
        spans.token(&id, at(13), &field, 1, 3);
        spans.token(&id, at(14), &field, 4, 1);
        let span = spans.close("s").unwrap();
        assert_eq!(span.duration(at(15)), Some(5.0));
        assert_eq!(span.time_to_first_token(), Some(2.0));
        assert_eq!(span.tokens_per_second(), Some(2.0));
        assert!(span.has_shown("answer") && !span.has_shown("reason"));
    }

    #[test]
    fn a_stream_with_a_hole_was_not_shown() {
        let (mut spans, id, field) = (Spans::default(), Arc::from("s"), Text::from("answer"));
        spans.token(&id, at(1), &field, 0, 1);
        spans.token(&id, at(2), &field, 2, 1);
        assert!(!spans.close("s").unwrap().has_shown("answer"));
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_stalest() {
        let mut spans = Spans::default();
        for i in 0..2 * SPANS as i64 {
            spans.open(&format!("{i}").into(), at(i));
        }
        assert_eq!(spans.0.len(), SPANS);
        assert!(spans.close("0").is_none());
        assert!(spans.close(&format!("{}", 2 * SPANS - 1)).is_some());
    }
}
