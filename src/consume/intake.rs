//! What comes in: an entry is an event that somebody wants, one that nobody wants, or none at all.

use std::sync::Arc;

use streamll_actors::event::Event;
use streamll_actors::route::{Template, TopicPattern};

use super::decode::PayloadDecoder;
use super::entry::Entry;
use super::settings::Choice;
use super::worker::{Job, Work};

/// After so many deliveries without an end, an entry is taken for one that ends the process that handles it.
const MAX_DELIVERIES: u64 = 5;
/// The topic of events that bring none.
const USUAL_TOPIC: &str = "ai.{module_name}.{event_type}";

/// Decodes entries, and sorts out the events that nobody wants.
#[derive(Debug)]
pub(super) struct Intake {
    decoder: PayloadDecoder,
    usual_topic: Option<Template>,
    choice: Choice,
    work: Arc<Work>,
}

/// What an entry is to this consumer.
#[derive(Debug)]
pub(super) enum Incoming {
    Wanted(Job),
    Unwanted,
    /// The entry is no event, or must not be tried again, for this reason.
    Unusable(Entry, String),
}

impl Intake {
    /// `field_name` is the name of the setting `field`, for messages.
    pub(super) fn new(mut choice: Choice, field_name: &'static str, work: Arc<Work>) -> Intake {
        Intake {
            decoder: PayloadDecoder::new(choice.field.take(), field_name),
            usual_topic: Template::parse(USUAL_TOPIC).ok(),
            choice,
            work,
        }
    }

    pub(super) fn sort(&mut self, entry: Entry) -> Incoming {
        let event = match entry.deliveries {
            MAX_DELIVERIES.. => Err(format!(
                "was delivered {} times and never handled: does its handler end the process?",
                entry.deliveries
            )),
            _ => self.decoder.decode(&entry.payload),
        };
        let event = match event {
            Ok(event) => event,
            Err(why) => return Incoming::Unusable(entry, why),
        };
        let topic = self.topic_of(&event, &entry);
        match self.wants(&event, &topic, entry.topic().map(|key| &**key)) {
            true => Incoming::Wanted(Job { event, topic, entry }),
            false => Incoming::Unwanted,
        }
    }

    /// The topic that the event was routed by. Events of others have none, and get the usual one.
    fn topic_of(&self, event: &Event, entry: &Entry) -> Arc<str> {
        let known = event.topic().or(entry.topic());
        known.cloned().unwrap_or_else(|| {
            self.usual_topic.as_ref().map(|topic| topic.render(event)).unwrap_or_default().into()
        })
    }

    fn wants(&self, event: &Event, topic: &str, key: Option<&str>) -> bool {
        let Intake { choice, work, .. } = self;
        // A binding of RabbitMQ is about the key, which need not be the topic.
        let fits =
            |pattern: &TopicPattern| pattern.matches(topic) || key.is_some_and(|key| pattern.matches(key));
        (choice.topics.is_empty() || choice.topics.iter().any(fits))
            && (choice.kinds.is_empty() || choice.kinds.contains(event.kind()))
            && (work.reader.is_some() || work.handlers.iter().any(|handler| handler.wants(event, topic)))
            && choice.filters.iter().all(|filter| filter.takes(event))
    }
}
