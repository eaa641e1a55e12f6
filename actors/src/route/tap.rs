//! Events for the application itself: bounded, counted, and never in the way of a sink.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_stream::Stream;

use crate::event::Event;

/// How many events a subscription holds for its reader.
const CAPACITY: usize = 1024;

/// The subscriptions of a graph.
#[derive(Default)]
pub(crate) struct Taps {
    taps: ArcSwap<Vec<Arc<Tap>>>,
    closed: AtomicBool,
}

struct Tap {
    key: Key,
    value: String,
    events: mpsc::Sender<Event>,
    missed: Arc<AtomicU64>,
}

enum Key {
    Data(String),
    Tag(String),
}

/// A stream of the events that carry one value. If its reader is too slow, events are dropped and counted.
pub struct Subscription {
    events: mpsc::Receiver<Event>,
    missed: Arc<AtomicU64>,
}

impl Taps {
    /// `key` is `data.x` or `tags.x`. Any other key is taken as a key of `data`.
    pub(crate) fn subscribe(&self, key: &str, value: &str) -> Subscription {
        let key = match key.strip_prefix("tags.") {
            Some(tag) => Key::Tag(tag.to_owned()),
            None => Key::Data(key.strip_prefix("data.").unwrap_or(key).to_owned()),
        };
        let (tx, events) = mpsc::channel(CAPACITY);
        let missed = Arc::new(AtomicU64::new(0));
        let tap = Arc::new(Tap { key, value: value.to_owned(), events: tx, missed: missed.clone() });
        self.taps.rcu(|taps| {
            let mut taps: Vec<_> = taps.iter().filter(|tap| !tap.events.is_closed()).cloned().collect();
            taps.push(tap.clone());
            taps
        });
        // After the end there is nothing to wait for.
        if self.closed.load(Ordering::SeqCst) {
            self.taps.store(Arc::default());
        }
        Subscription { events, missed }
    }

    /// Ends all subscriptions.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.taps.store(Arc::default());
    }

    pub(crate) fn offer(&self, event: &Event) {
        let mut is_stale = false;
        for tap in self.taps.load().iter() {
            if tap.events.is_closed() {
                is_stale = true;
            } else if tap.wants(event)
                && let Err(mpsc::error::TrySendError::Full(_)) = tap.events.try_send(event.clone())
            {
                tap.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
        if is_stale {
            self.taps.rcu(|taps| -> Vec<_> {
                taps.iter().filter(|tap| !tap.events.is_closed()).cloned().collect()
            });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taps.load().is_empty()
    }
}

impl Tap {
    fn wants(&self, event: &Event) -> bool {
        match &self.key {
            Key::Tag(tag) => event.tag(tag) == Some(&self.value),
            Key::Data(key) => event.look(key).is_some_and(|found| found.reads(&self.value)),
        }
    }
}

impl Subscription {
    /// Returns how many events were dropped because they were not read in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

impl Stream for Subscription {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(cx)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("missed", &self.missed()).finish_non_exhaustive()
    }
}
