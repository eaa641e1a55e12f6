//! The routes of a graph: replaced as a whole when a sink is added or removed, and read without waiting.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{Named, Template, TopicPattern};
use crate::enrich::Classes;
use crate::event::{Class, Delivery, Event, Statics};
use crate::ingress::{Patience, Pressure};
use crate::sink::Buffer;

/// The way to one sink.
pub(crate) struct Route {
    pub(crate) name: Arc<str>,
    /// Patterns of the topics that it takes; `None` takes nothing (a mere target of dead letters or of a fallback).
    pub(crate) topics: Option<Vec<TopicPattern>>,
    pub(crate) except: Vec<TopicPattern>,
    /// Names the event at its broker, where it is not the topic.
    pub(crate) routing_key: Option<Template>,
    /// Where its events wait for processors of its own, if it has some.
    pub(crate) front: Option<Arc<Buffer>>,
    pub(crate) buffer: Arc<Buffer>,
}

impl Route {
    /// Where its events are put.
    pub(crate) fn entry(&self) -> &Arc<Buffer> {
        self.front.as_ref().unwrap_or(&self.buffer)
    }

    /// Whether it takes events of that topic.
    pub(crate) fn wants(&self, topic: &str) -> bool {
        self.topics.as_ref().is_some_and(|topics| topics.iter().any(|pattern| pattern.matches(topic)))
            && !self.except.iter().any(|pattern| pattern.matches(topic))
    }
}

/// What the router needs to know, and what others may ask.
pub(crate) struct Table {
    pub(crate) routing_key: Template,
    pub(crate) classes: Vec<(TopicPattern, Class)>,
    pub(crate) statics: Arc<Statics>,
    pub(crate) routes: ArcSwap<Vec<Arc<Route>>>,
}

impl Table {
    pub(crate) fn topic(&self, event: &Event) -> Arc<str> {
        match event.topic().filter(|_| event.is_system()) {
            Some(topic) => topic.clone(),
            None => self.routing_key.render(&Named(event, &self.statics)).into(),
        }
    }

    /// The class of events of that topic, where `classes` has a say.
    pub(crate) fn class(&self, topic: &str) -> Option<Class> {
        self.classes.iter().find(|(pattern, _)| pattern.matches(topic)).map(|(_, class)| *class)
    }

    /// Gives an alert to every sink that takes its topic, but not to the one that it is about.
    pub(crate) fn alert(&self, mut event: Event, about: &str, now: Instant) {
        event.set_statics(&self.statics);
        let topic = self.topic(&event);
        for route in self.routes.load().iter().filter(|route| &*route.name != about && route.wants(&topic)) {
            route.buffer.notice(Delivery::by_topic(event.clone()), now);
        }
    }
}

impl Classes for Table {
    fn class_of(&self, event: &Event) -> Option<Class> {
        self.class(&self.topic(event))
    }
}

impl Pressure for Table {
    fn is_relieved(&self, event: &Event, patience: Patience, events: usize, bytes: usize) -> bool {
        let mut topic = None;
        self.routes.load().iter().all(|route| {
            let presses = |buffer: &Arc<Buffer>| buffer.holds_up(patience, events, bytes);
            !(presses(&route.buffer) || route.front.as_ref().is_some_and(presses))
                || !route.wants(topic.get_or_insert_with(|| self.topic(event)))
        })
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("routing_key", &self.routing_key).finish_non_exhaustive()
    }
}
