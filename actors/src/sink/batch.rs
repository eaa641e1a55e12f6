//! What one call of `deliver` gets: events in order, and a mark for each.

use std::slice;

use crate::event::Delivery;

/// The events of one delivery, in order. What is not marked when `deliver` fails did not arrive.
#[derive(Debug)]
pub struct Deliveries {
    items: Vec<Delivery>,
    marks: Vec<Mark>,
    /// Why one of them is to be tried again.
    why: Option<String>,
}

/// What a sink says of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing yet.
    Open,
    Delivered,
    Retry,
    Unsent,
    Poison(String),
}

impl Deliveries {
    /// A batch with nothing marked.
    #[must_use]
    pub fn new(items: Vec<Delivery>) -> Deliveries {
        let marks = vec![Mark::Open; items.len()];
        Deliveries { items, marks, why: None }
    }

    /// How many events; never zero in a call of `deliver`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The events, in order.
    pub fn iter(&self) -> slice::Iter<'_, Delivery> {
        self.items.iter()
    }

    /// The events, in order, as a slice.
    #[must_use]
    pub fn as_slice(&self) -> &[Delivery] {
        &self.items
    }

    /// Event `i` arrived.
    pub fn delivered(&mut self, i: usize) {
        self.mark(i, Mark::Delivered);
    }

    /// Event `i` did not arrive and is to be tried again, also when `deliver` returns `Ok`. This never counts against the
    /// breaker: an error does.
    pub fn retry(&mut self, i: usize) {
        self.mark(i, Mark::Retry);
    }

    /// The same, and the status says why until something arrives.
    pub fn retry_because(&mut self, i: usize, why: impl Into<String>) {
        self.mark(i, Mark::Retry);
        self.because(why);
    }

    /// Says why some events are to be tried again, for the status until something arrives.
    pub fn because(&mut self, why: impl Into<String>) {
        self.why = Some(why.into());
    }

    /// Event `i` never left: like [`retry`](Deliveries::retry), but its next attempt is not marked as a repeat.
    pub fn unsent(&mut self, i: usize) {
        self.mark(i, Mark::Unsent);
    }

    /// Event `i` can never arrive: it is dead-lettered with this reason. This never moves the breaker.
    pub fn poison(&mut self, i: usize, why: impl Into<String>) {
        self.mark(i, Mark::Poison(why.into()));
    }

    fn mark(&mut self, i: usize, mark: Mark) {
        debug_assert!(i < self.marks.len(), "event {i} of {}", self.marks.len());
        if let Some(slot) = self.marks.get_mut(i) {
            *slot = mark;
        }
    }

    /// Why some are to be tried again, if the sink said so.
    pub(crate) fn take_why(&mut self) -> Option<String> {
        self.why.take()
    }

    /// What is unmarked arrived.
    pub(crate) fn rest_delivered(&mut self) {
        let rest = self.marks.iter_mut().filter(|mark| **mark == Mark::Open);
        rest.for_each(|mark| *mark = Mark::Delivered);
    }

    /// The events and their marks.
    pub(crate) fn into_parts(self) -> (Vec<Delivery>, Vec<Mark>) {
        (self.items, self.marks)
    }
}

impl<'a> IntoIterator for &'a Deliveries {
    type Item = &'a Delivery;
    type IntoIter = slice::Iter<'a, Delivery>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
