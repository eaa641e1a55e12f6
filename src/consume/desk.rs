//! What a consumer does with entries, whatever its broker: reads, sorts, hands out by key, and takes in what became of them.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use streamll_actors::event::{Event, Kind, Timestamp};
use streamll_actors::route::{Template, TopicPattern};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::dead_letter::Letter;
use super::filter::{Filter, Key};
use super::read::Reader;
use super::source::{Entry, Payload, Source, Ticket};
use super::status::{ConsumerBalance, Shared};
use super::window::Window;
use super::worker::{Job, Outcome, Settled, Work, work};

/// How many events are acknowledged together, where the next are done soon.
const TOGETHER: usize = 256;
/// How soon that is.
const SOON: Duration = Duration::from_millis(2);
/// Before dead letters that could not be kept are offered again.
const REBURY: Duration = Duration::from_secs(1);
/// After so many deliveries without an end, an entry is taken for one that ends whoever handles it.
const DELIVERIES: u64 = 5;

/// What to do with entries: everything about a consumer that its broker need not know.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) work: Arc<Work>,
    pub(super) topics: Vec<TopicPattern>,
    pub(super) filters: Vec<Filter>,
    /// Takes those alone, where there are some.
    pub(super) kinds: Vec<Kind>,
    /// Events with the same value are handled in order.
    pub(super) key: Key,
    pub(super) workers: usize,
    pub(super) prefetch: usize,
    pub(super) field: Option<String>,
    pub(super) dead: Dead,
    /// What is read from, for messages and letters.
    pub(super) target: String,
    /// How often the source wants to be tended.
    pub(super) tend: Duration,
    pub(super) stop_timeout: Duration,
}

/// Who keeps dead letters.
#[derive(Debug)]
pub(super) enum Dead {
    Nobody,
    Source,
    File(PathBuf),
}

/// A dead letter on its way to where it is kept.
pub(super) struct Burial {
    letter: Arc<Letter>,
    kept: Pin<Box<dyn Future<Output = Result<(), String>> + Send>>,
}

/// Waits until the letter under way is kept or refused; nothing is lost when that is dropped.
pub(super) async fn buried(burial: &mut Option<Burial>) -> (Arc<Letter>, Result<(), String>) {
    let Some(under_way) = burial else { return pending().await };
    let kept = under_way.kept.as_mut().await;
    let letter = under_way.letter.clone();
    *burial = None;
    (letter, kept)
}

/// Everything but the broker.
pub(super) struct Desk {
    pub(super) plan: Plan,
    pub(super) shared: Arc<Shared>,
    reader: Reader,
    topic: Option<Template>,
    hasher: RandomState,
    pub(super) window: Window,
    /// The dead letters that nobody keeps yet.
    pub(super) letters: VecDeque<Arc<Letter>>,
    pub(super) bury_at: Instant,
    /// One at a time.
    pub(super) burial: Option<Burial>,
    /// When what is done is acknowledged at the latest.
    pub(super) acknowledge_at: Option<Instant>,
    pub(super) jobs: Vec<UnboundedSender<Vec<Job>>>,
    pub(super) settled: UnboundedReceiver<Vec<Settled>>,
    // They end when it is dropped.
    pub(super) workers: JoinSet<()>,
}

impl Desk {
    pub(super) fn new(plan: Plan, shared: Arc<Shared>) -> Desk {
        let (tell, settled) = unbounded_channel();
        let mut workers = JoinSet::new();
        let jobs = (0..plan.workers.max(1)).map(|_| {
            let (jobs, inbox) = unbounded_channel();
            workers.spawn(work(plan.work.clone(), shared.clone(), inbox, tell.clone()));
            jobs
        });
        let jobs = jobs.collect();
        Desk {
            reader: Reader::of(plan.field.clone()),
            topic: Template::parse("ai.{module_name}.{event_type}").ok(),
            hasher: RandomState::new(),
            window: Window::default(),
            letters: VecDeque::new(),
            bury_at: Instant::now(),
            burial: None,
            acknowledge_at: None,
            plan,
            shared,
            jobs,
            settled,
            workers,
        }
    }

    /// Whether what is done is to be acknowledged now: it is much, or all there is, or has waited.
    pub(super) fn is_due(&mut self) -> bool {
        match self.window.done_len() {
            0 => false,
            done if done >= TOGETHER.min(self.plan.prefetch / 4) || done == self.window.len() => true,
            _ => {
                let now = Instant::now();
                *self.acknowledge_at.get_or_insert(now + SOON) <= now
            }
        }
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.shared.status().balance.in_flight
    }

    /// Reads entries, sorts out what nobody wants, and hands the rest to the workers.
    pub(super) fn take(&mut self, entries: Vec<Entry>) {
        let now = Instant::now();
        let (mut received, mut filtered, mut failed, mut gone) = (0, 0, 0, 0);
        let mut jobs: Vec<Vec<Job>> = self.jobs.iter().map(|_| Vec::new()).collect();
        for entry in entries {
            let ticket = entry.ticket;
            if self.window.contains(ticket) {
                continue;
            }
            self.window.take(ticket, now);
            if matches!(entry.payload, Payload::Gone) {
                gone += 1;
                self.window.done(ticket);
                continue;
            }
            received += 1;
            let event = match entry.deliveries {
                DELIVERIES.. => Err(format!(
                    "was delivered {} times and never handled: does its handler end the process?",
                    entry.deliveries
                )),
                _ => self.reader.read(&entry.payload),
            };
            match event {
                Err(why) => {
                    self.shared.change(|status| status.last_failure = Some(format!("an entry {why}")));
                    tracing::warn!(id = %format_args!("{}-{}", ticket.0, ticket.1), "an entry {why}");
                    if matches!(self.plan.dead, Dead::Nobody) {
                        failed += 1;
                        self.window.done(ticket);
                    } else {
                        self.letters.push_back(Arc::new(Letter::new(entry, why, 0)));
                    }
                }
                Ok(event) => {
                    let topic = self.topic_of(&event, &entry);
                    if !self.wants(&event, &topic) {
                        filtered += 1;
                        self.window.done(ticket);
                        continue;
                    }
                    let worker = self.worker_of(&event);
                    if let Some(jobs) = jobs.get_mut(worker) {
                        jobs.push(Job { event, topic, entry });
                    }
                }
            }
        }
        for (worker, jobs) in self.jobs.iter().zip(jobs).filter(|(_, jobs)| !jobs.is_empty()) {
            let _ = worker.send(jobs);
        }
        if gone > 0 {
            self.shared
                .gap(gone, "entries were trimmed while they were in hand, and nobody has handled them");
        }
        self.shared.change(|status| {
            let balance = &mut status.balance;
            balance.received += received;
            balance.filtered += filtered;
            balance.failed += failed;
            balance.in_flight += received - filtered - failed;
            if received > 0 {
                status.last_received_at = Some(Timestamp::now());
            }
        });
    }

    /// What the event was routed by; events of others have no topic, and get the usual one.
    fn topic_of(&self, event: &Event, entry: &Entry) -> Arc<str> {
        let known = event.topic().or(entry.key.as_ref());
        known.cloned().unwrap_or_else(|| {
            self.topic.as_ref().map(|topic| topic.render(event)).unwrap_or_default().into()
        })
    }

    fn wants(&self, event: &Event, topic: &str) -> bool {
        let plan = &self.plan;
        (plan.topics.is_empty() || plan.topics.iter().any(|pattern| pattern.matches(topic)))
            && (plan.kinds.is_empty() || plan.kinds.contains(event.kind()))
            && (plan.work.reader.is_some()
                || plan.work.handlers.iter().any(|handler| handler.wants(event, topic)))
            && plan.filters.iter().all(|filter| filter.takes(event))
    }

    /// Events with one value of the key go to one worker; those without it by their run.
    fn worker_of(&self, event: &Event) -> usize {
        if self.jobs.len() < 2 {
            return 0;
        }
        let hash = self.plan.key.look(event, |value| match value {
            serde_json::Value::String(text) => self.hasher.hash_one(text),
            other => self.hasher.hash_one(other.to_string()),
        });
        let hash = hash.unwrap_or_else(|| self.hasher.hash_one(&*event.step().parts().execution_id));
        usize::try_from(hash % self.jobs.len() as u64).unwrap_or(0)
    }

    /// Takes in what became of some entries.
    pub(super) fn note(&mut self, settled: Vec<Settled>) {
        settled.into_iter().for_each(|settled| self.note_one(settled));
    }

    fn note_one(&mut self, settled: Settled) {
        let Settled { ticket, outcome } = settled;
        if let Outcome::Dead(letter) = outcome {
            self.shared.change(|status| status.last_failure = Some(letter.reason.clone()));
            if matches!(self.plan.dead, Dead::Nobody) {
                self.close(ticket, |balance| balance.failed += 1);
            } else if ticket.0 < self.shared.epoch() {
                // It comes again, and its letter would be a second one.
                self.close(ticket, |balance| balance.returned += 1);
            } else {
                self.letters.push_back(Arc::from(letter));
            }
            return;
        }
        match outcome {
            Outcome::Handled => self.close(ticket, |balance| balance.handled += 1),
            Outcome::Duplicate => self.close(ticket, |balance| balance.duplicate += 1),
            Outcome::Returned | Outcome::Dead(_) => {
                // Not done: it stays unacknowledged.
                self.shared.count(|balance| {
                    balance.returned += 1;
                    balance.in_flight -= 1;
                });
            }
        }
    }

    fn close(&mut self, ticket: Ticket, count: impl FnOnce(&mut ConsumerBalance)) {
        self.window.done(ticket);
        self.shared.count(|balance| {
            count(balance);
            balance.in_flight -= 1;
        });
    }

    /// Whether a dead letter waits for its time.
    pub(super) fn may_bury(&self) -> bool {
        !self.letters.is_empty() && self.burial.is_none()
    }

    /// Begins to have the next dead letter kept, where it is time.
    pub(super) fn bury(&mut self, source: &impl Source) {
        if self.burial.is_some() || Instant::now() < self.bury_at {
            return;
        }
        while let Some(letter) = self.letters.pop_front() {
            let ticket = letter.entry.ticket;
            if ticket.0 < self.shared.epoch() {
                self.close(ticket, |balance| balance.returned += 1);
                continue;
            }
            let kept: Pin<Box<dyn Future<Output = _> + Send>> = match &self.plan.dead {
                Dead::Nobody => Box::pin(async { Ok(()) }),
                Dead::File(path) => {
                    let (letter, path, target) = (letter.clone(), path.clone(), self.plan.target.clone());
                    Box::pin(async move { letter.append(&path, &target).await })
                }
                Dead::Source => {
                    let kept = source.bury(letter.clone());
                    Box::pin(async move { kept.await.map_err(|error| error.to_string()) })
                }
            };
            self.burial = Some(Burial { letter, kept });
            return;
        }
    }

    /// Takes in what became of a dead letter; one that could not be kept is offered again later.
    pub(super) fn note_buried(&mut self, (letter, kept): (Arc<Letter>, Result<(), String>)) {
        match kept {
            Ok(()) => {
                self.shared.change(|status| status.reason = None);
                self.close(letter.entry.ticket, |balance| balance.dead_lettered += 1);
            }
            Err(why) => {
                self.shared.unkept(&why);
                self.letters.push_front(letter);
                self.bury_at = Instant::now() + REBURY;
            }
        }
    }

    /// Waits before the next attempt to connect, and takes in what is done meanwhile.
    pub(super) async fn pause(&mut self, time: Duration) {
        let shared = self.shared.clone();
        let (time, stop) = (sleep(time), shared.stopped());
        tokio::pin!(time, stop);
        loop {
            tokio::select! {
                () = &mut time => return,
                () = &mut stop => return,
                Some(settled) = self.settled.recv() => self.note(settled),
            }
        }
    }
}
