//! What is missing in one place, and the marker that says so.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Class, Delivery, Event};

/// Why events are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GapReason {
    BufferFull,
    CircuitOpen,
    IngressFull,
}

impl GapReason {
    fn as_str(self) -> &'static str {
        match self {
            GapReason::BufferFull => "buffer full",
            GapReason::CircuitOpen => "circuit open",
            GapReason::IngressFull => "ingress full",
        }
    }
}

/// Events that are missing in one place: how many, of which class, from and to which number, why.
#[derive(Debug)]
pub(crate) struct Gap {
    pub(crate) reason: GapReason,
    classes: [u64; 3],
    from: Option<u64>,
    to: Option<u64>,
}

impl Gap {
    pub(crate) fn new(reason: GapReason) -> Gap {
        Gap { reason, classes: [0; 3], from: None, to: None }
    }

    /// Tokens and others that the ingress shed, numbered from `from`.
    pub(crate) fn ingress(tokens: u64, others: u64, from: u64) -> Gap {
        let to = (from + tokens + others).saturating_sub(1);
        Gap { reason: GapReason::IngressFull, classes: [tokens, others, 0], from: Some(from), to: Some(to) }
    }

    pub(crate) fn add(&mut self, event: &Event) {
        if let Some(slot) = self.classes.get_mut(event.class() as usize) {
            *slot += 1;
        }
        if let Some(seq) = event.origin().map(|origin| origin.seq) {
            self.from = Some(self.from.map_or(seq, |from| from.min(seq)));
            self.to = Some(self.to.map_or(seq, |to| to.max(seq)));
        }
    }

    pub(crate) fn absorb(&mut self, other: &Gap) {
        for (mine, its) in self.classes.iter_mut().zip(other.classes) {
            *mine += its;
        }
        self.from = [self.from, other.from].into_iter().flatten().min();
        self.to = [self.to, other.to].into_iter().flatten().max();
    }

    /// The marker that a sink gets in the place of the missing events.
    pub(crate) fn delivery(&self, sink: &str) -> Delivery {
        let event = self.event(sink);
        let key = event.topic().cloned().unwrap_or_else(|| Arc::from("ai.streamll.gap"));
        Delivery::new(event, key)
    }

    pub(crate) fn event(&self, sink: &str) -> Event {
        let names = [Class::Token, Class::Lifecycle, Class::Audit].map(Class::as_str);
        let classes = names.into_iter().zip(self.classes).filter(|(_, n)| *n > 0);
        let mut data = Map::new();
        data.insert("sink".to_owned(), sink.into());
        data.insert("count".to_owned(), self.classes.iter().sum::<u64>().into());
        data.insert("from_seq".to_owned(), self.from.into());
        data.insert("to_seq".to_owned(), self.to.into());
        data.insert("reason".to_owned(), self.reason.as_str().into());
        data.insert(
            "classes".to_owned(),
            Value::Object(classes.map(|(k, n)| (k.to_owned(), n.into())).collect()),
        );
        Event::system("gap", data)
    }
}
