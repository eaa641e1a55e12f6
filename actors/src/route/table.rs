//! The routes of a graph: replaced as a whole when a sink is added or removed, and read without waiting.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{Named, Template, TopicPattern};
use crate::enrich::Classes;
use crate::event::{Class, Delivery, Event, Statics};
use crate::ingress::{Patience, Pressure};
use crate::sink::Buffer;

/// The route to one sink.
pub(crate) struct Route {
    pub(crate) name: Arc<str>,
    /// Patterns of the topics that it takes. `None` takes nothing: the sink only gets dead letters or diverted events.
    pub(crate) topics: Option<Vec<TopicPattern>>,
    pub(crate) except: Vec<TopicPattern>,
    /// The template of the key of its events at the broker, if that differs from the topic.
    pub(crate) routing_key: Option<Template>,
    /// The buffer in front of its own processors, if it has some.
    pub(crate) front: Option<Arc<Buffer>>,
    pub(crate) buffer: Arc<Buffer>,
}

impl Route {
    /// Returns the buffer that its events are put into.
    pub(crate) fn entry(&self) -> &Arc<Buffer> {
        self.front.as_ref().unwrap_or(&self.buffer)
    }

    /// Whether it takes events of that topic.
    pub(crate) fn wants(&self, topic: &str) -> bool {
        self.topics.as_ref().is_some_and(|topics| topics.iter().any(|pattern| pattern.matches(topic)))
            && !self.except.iter().any(|pattern| pattern.matches(topic))
    }
}

/// The routes, for the router and for all other readers.
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

    /// Returns the class of events of that topic, if `classes` sets one.
    pub(crate) fn class(&self, topic: &str) -> Option<Class> {
        self.classes.iter().find(|(pattern, _)| pattern.matches(topic)).map(|(_, class)| *class)
    }

    /// Gives an alert to every sink that takes its topic, except the sink that it is about.
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
