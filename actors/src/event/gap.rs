//! Gaps: what is missing in one place, and the marker event that reports it.

use serde_json::{Map, Value};

use super::{CLASSES, Class, Delivery, Event};

/// Why events are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GapReason {
    BufferFull,
    CircuitOpen,
    IngressFull,
    Unreadable,
    Missing,
}

const REASONS: [&str; 5] =
    ["buffer full", "circuit open", "ingress full", "unreadable on disk", "missing on disk"];

/// Events that are missing in one place: how many, of which class, from and to which number, why.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Gap {
    reasons: [bool; 5],
    classes: [u64; 3],
    /// Those of a class that nobody knows any more.
    unknown: u64,
    from: Option<u64>,
    to: Option<u64>,
}

impl Gap {
    /// Tokens and others that the ingress shed, numbered from `from`.
    pub(crate) fn ingress(tokens: u64, others: u64, from: u64) -> Gap {
        let to = (from + tokens + others).saturating_sub(1);
        let mut gap = Gap { classes: [tokens, others, 0], from: Some(from), to: Some(to), ..Gap::default() };
        gap.because(GapReason::IngressFull);
        gap
    }

    /// So many events of one class that nobody can read any more.
    pub(crate) fn unreadable(classes: [u64; 3]) -> Gap {
        let mut gap = Gap { classes, ..Gap::default() };
        gap.because(GapReason::Unreadable);
        gap
    }

    /// So many events that were in a part of a disk buffer which is not there any more.
    pub(crate) fn missing(events: u64) -> Gap {
        let mut gap = Gap { unknown: events, ..Gap::default() };
        gap.because(GapReason::Missing);
        gap
    }

    /// Back from its event.
    pub(crate) fn read(event: &Event) -> Option<Gap> {
        let number = |key: &str| event.data(key).and_then(|value| value.as_u64());
        let classes = event.data("classes")?;
        let reason = event.data("reason")?;
        let reason = reason.as_str()?;
        let classes = CLASSES.map(|class| classes.get(class.as_str()).and_then(Value::as_u64).unwrap_or(0));
        Some(Gap {
            reasons: REASONS.map(|name| reason.contains(name)),
            classes,
            unknown: number("count").unwrap_or(0).saturating_sub(classes.iter().sum()),
            from: number("from_seq"),
            to: number("to_seq"),
        })
    }

    pub(crate) fn add(&mut self, event: &Event, reason: GapReason) {
        self.because(reason);
        if let Some(slot) = self.classes.get_mut(event.class() as usize) {
            *slot += 1;
        }
        if let Some(seq) = event.seq() {
            self.from = Some(self.from.map_or(seq, |from| from.min(seq)));
            self.to = Some(self.to.map_or(seq, |to| to.max(seq)));
        }
    }

    pub(crate) fn absorb(&mut self, other: &Gap) {
        for (mine, its) in self.reasons.iter_mut().zip(other.reasons) {
            *mine |= its;
        }
        for (mine, its) in self.classes.iter_mut().zip(other.classes) {
            *mine += its;
        }
        self.unknown += other.unknown;
        self.from = [self.from, other.from].into_iter().flatten().min();
        self.to = [self.to, other.to].into_iter().flatten().max();
    }

    /// The marker that a sink gets in the place of the missing events.
    pub(crate) fn delivery(&self, sink: &str) -> Delivery {
        Delivery::by_topic(self.event(sink))
    }

    pub(crate) fn event(&self, sink: &str) -> Event {
        let classes = CLASSES.map(Class::as_str).into_iter().zip(self.classes).filter(|(_, n)| *n > 0);
        let reasons = REASONS.into_iter().zip(self.reasons).filter(|(_, holds)| *holds);
        let mut data = Map::new();
        data.insert("sink".to_owned(), sink.into());
        data.insert("count".to_owned(), (self.classes.iter().sum::<u64>() + self.unknown).into());
        data.insert("from_seq".to_owned(), self.from.into());
        data.insert("to_seq".to_owned(), self.to.into());
        let reasons: Vec<&str> = reasons.map(|(name, _)| name).collect();
        data.insert("reason".to_owned(), reasons.join(", ").into());
        data.insert(
            "classes".to_owned(),
            Value::Object(classes.map(|(k, n)| (k.to_owned(), n.into())).collect()),
        );
        Event::system("gap", data)
    }

    fn because(&mut self, reason: GapReason) {
        if let Some(slot) = self.reasons.get_mut(reason as usize) {
            *slot = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_survives_the_way_into_an_event_and_back() {
        let mut gap = Gap::ingress(3, 2, 10);
        assert_eq!(Gap::read(&gap.event("live")), Some(gap.clone()));
        let other = Event::new(&super::super::Step::new("M"), "start");
        gap.add(&other, GapReason::BufferFull);
        assert_eq!(Gap::read(&gap.event("live")), Some(gap.clone()));
        assert_eq!(gap.event("live").data("reason").unwrap().as_str(), Some("buffer full, ingress full"));
        assert_eq!(Gap::read(&other), None);
        gap.absorb(&Gap::missing(7));
        assert_eq!(gap.event("live").data("count").unwrap().as_u64(), Some(13));
        assert_eq!(Gap::read(&gap.event("live")), Some(gap));
    }
}
