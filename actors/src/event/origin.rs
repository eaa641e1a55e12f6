//! The origin of an event, the tags that its graph adds, and the receipt of a sender that waits for a confirmation.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Its sender, and its sequence number among that sender's events. Together they identify an event, for example to find
/// duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The name of the emitting process. It is new at each start.
    pub source: Arc<str>,
    /// The sequence number. It rises in the source. After a filter, missing numbers mean nothing: gap markers report
    /// losses.
    pub seq: u64,
}

/// What one graph adds to all its events: tags that are the same for all of them, encoded once.
#[derive(Debug, Default)]
pub struct Statics {
    /// The topology's `service`.
    pub service: Arc<str>,
    /// The environment that runs, for example `production`.
    pub environment: Arc<str>,
    /// The name of the emitting process. It is new at each start, and empty outside of a graph.
    pub source: Arc<str>,
    tags: Vec<(Arc<str>, Arc<str>)>,
    /// `"key":"value"` of each tag, in the same order.
    pub(super) encoded: Vec<Vec<u8>>,
}

impl Statics {
    /// Makes the tags of a service and an environment, with `tags` for every event. An event's own tag of the same name
    /// wins.
    #[must_use]
    pub fn new(
        service: &str,
        environment: &str,
        tags: impl IntoIterator<Item = (Arc<str>, Arc<str>)>,
    ) -> Statics {
        let tags: Vec<_> = tags.into_iter().collect();
        let encoded = tags.iter().map(|(key, value)| super::write::tag(key, value)).collect();
        Statics {
            service: service.into(),
            environment: environment.into(),
            source: Arc::default(),
            tags,
            encoded,
        }
    }

    /// Returns the same with this name of the emitting process.
    #[must_use]
    pub fn of_source(self, source: impl Into<Arc<str>>) -> Statics {
        Statics { source: source.into(), ..self }
    }

    /// Returns the value of one tag.
    #[must_use]
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find(|(k, _)| &**k == key).map(|(_, value)| &**value)
    }

    /// Returns the tags.
    #[must_use]
    pub fn tags(&self) -> &[(Arc<str>, Arc<str>)] {
        &self.tags
    }
}

/// What a graph writes on an event: shared by all events of one name, because a count of references that several
/// threads move with every event would cost more than all else.
#[derive(Debug)]
pub(crate) struct Stamp {
    pub(crate) statics: Arc<Statics>,
    /// The rendered topic, once the router knows it.
    pub(crate) topic: Option<Arc<str>>,
}

/// The outcome of an event whose sender waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Confirmation {
    /// Every sink that wants the event holds it: a disk buffer on disk, a memory buffer in memory. The number says how
    /// many sinks that are.
    Held(usize),
    /// No sink wants the event, or a processor removed it.
    NotWanted,
    /// The event was shed, refused or lost, and was counted as such.
    Lost,
}

/// Reports the outcome of an event to one waiting sender. If it is dropped without an answer, no sink wanted the event,
/// or the event was lost.
pub struct Receipt(Mutex<Answer>);

struct Answer {
    waiting: Option<oneshot::Sender<Confirmation>>,
    /// How many disks are still to write it.
    unwritten: usize,
    /// How many sinks want it, once the router knows.
    targets: Option<usize>,
}

impl Receipt {
    pub(crate) fn new() -> (Arc<Receipt>, oneshot::Receiver<Confirmation>) {
        let (tx, rx) = oneshot::channel();
        let answer = Answer { waiting: Some(tx), unwritten: 0, targets: None };
        (Arc::new(Receipt(Mutex::new(answer))), rx)
    }

    /// Answers the sender; only the first answer counts.
    pub(crate) fn answer(&self, confirmation: Confirmation) {
        if let Some(waiting) = self.lock().waiting.take() {
            let _ = waiting.send(confirmation);
        }
    }

    /// One disk is to write it, before it counts as held.
    pub(crate) fn staged(&self) {
        self.lock().unwritten += 1;
    }

    /// One of those has written it, or need not any more.
    pub(crate) fn written(&self) {
        let mut answer = self.lock();
        answer.unwritten = answer.unwritten.saturating_sub(1);
        answer.held();
    }

    /// It is in the buffers of so many sinks.
    pub(crate) fn routed(&self, targets: usize) {
        let mut answer = self.lock();
        answer.targets = Some(targets);
        answer.held();
    }

    fn lock(&self) -> MutexGuard<'_, Answer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    fn held(&mut self) {
        if let (0, Some(targets)) = (self.unwritten, self.targets)
            && let Some(waiting) = self.waiting.take()
        {
            let _ = waiting.send(Confirmation::Held(targets));
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let was_wanted = self.lock().targets.is_some_and(|targets| targets > 0);
        self.answer(if was_wanted { Confirmation::Lost } else { Confirmation::NotWanted });
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt")
    }
}
