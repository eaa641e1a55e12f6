//! A line of processors that every event passes, between two inboxes of the path.

use std::sync::Arc;

use super::{Source, Taken};
use crate::event::Event;
use crate::ingress::{Batch, Inbox, Ingress, Tally};

/// Takes batches out of one inbox and puts them into the next.
pub(crate) struct Between {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) next: Arc<Inbox>,
    pub(crate) ingress: Arc<Ingress>,
}

impl Source for Between {
    type Work = Batch;

    fn take(&self) -> Option<Taken<Batch>> {
        let mut work = if self.next.has_room() { self.inbox.take()? } else { return None };
        let events = std::mem::take(&mut work.events);
        let last = work.is_last();
        Some(Taken { work, events, last })
    }

    async fn ready(&self) {
        self.inbox.passable(&self.next).await;
    }

    fn has_room(&self) -> bool {
        self.next.has_room()
    }

    fn hand_on(&self, work: Option<Batch>, events: Vec<Event>, tally: Tally) {
        let mut batch = work.unwrap_or_else(|| Batch::of(&self.ingress, Vec::new()));
        batch.events = events;
        batch.tally.add(&tally);
        self.next.put(batch);
    }
}
