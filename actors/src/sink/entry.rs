//! What stands in a buffer: an event, an alert, or the place of events that are missing.

use tokio::time::Instant;

use crate::event::{Delivery, Gap};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) item: Item,
    /// How many entries came in before it; a gap has the number of the first event that is missing.
    pub(super) number: u64,
    pub(super) size: u32,
    pub(super) since: Instant,
    /// Deliveries begun; the next one is `attempts + 1`.
    pub(super) attempts: u32,
    /// How often an incarnation died with this event alone in flight.
    pub(super) crashes: u32,
    pub(super) first_attempt: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Item {
    Event(Delivery),
    /// A gap marker or an alert: delivered like an event, counted apart.
    Notice(Delivery),
    /// Stands where events were shed; becomes a marker when it is leased.
    Gap(Box<Gap>),
    /// Delivered or dead-lettered, but not yet at the front.
    Done,
}

impl Entry {
    pub(super) fn new(item: Item, number: u64, size: usize, since: Instant) -> Entry {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        Entry { item, number, size, since, attempts: 0, crashes: 0, first_attempt: None }
    }

    /// A gap in that place.
    pub(super) fn gap(gap: Gap, number: u64, since: Instant) -> Entry {
        Entry::new(Item::Gap(Box::new(gap)), number, 0, since)
    }

    pub(super) fn is_event(&self) -> bool {
        matches!(self.item, Item::Event(_))
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.item, Item::Done)
    }
}
