//! What a consumer does with entries, whatever its broker: reads, sorts, hands out by key, and takes in what became of them.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use streamll_actors::event::{Event, Kind, Timestamp};
use streamll_actors::route::{Template, TopicPattern};
use streamll_actors::sink::{DeliveryError, LetterFile};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::consumer::Options;
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
    pub(super) options: Options,
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
    File(Arc<LetterFile>),
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
    /// How much was done at the last acknowledgement that cannot be acknowledged: only the front counts for a reader.
    kept_back: usize,
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
            reader: Reader::of(plan.field.clone(), plan.options.field),
            topic: Template::parse("ai.{module_name}.{event_type}").ok(),
            hasher: RandomState::new(),
            window: Window::default(),
            letters: VecDeque::new(),
            bury_at: Instant::now(),
            burial: None,
            acknowledge_at: None,
            kept_back: 0,
            plan,
            shared,
            jobs,
            settled,
            workers,
        }
    }

    /// Whether what is done is to be acknowledged now: it is much, or all there is, or has waited.
    pub(super) fn is_due(&mut self) -> bool {
        // Fewer where a lost connection took some along.
        self.kept_back = self.kept_back.min(self.window.done_len());
        match self.window.done_len() - self.kept_back {
            0 => {
                self.acknowledge_at = None;
                false
            }
            new if new >= TOGETHER.min(self.plan.prefetch / 4) => true,
            _ if self.window.done_len() == self.window.len() => true,
            _ => {
                let now = Instant::now();
                *self.acknowledge_at.get_or_insert(now + SOON) <= now
            }
        }
    }

    /// Tells the broker what is done; returns whether anything was.
    pub(super) async fn acknowledge(&mut self, source: &mut impl Source) -> Result<bool, DeliveryError> {
        self.acknowledge_at = None;
        let in_hand = self.window.len();
        source.acknowledge(&mut self.window).await?;
        self.kept_back = self.window.done_len();
        Ok(self.window.len() < in_hand)
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.shared.in_flight()
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
                    tracing::warn!(id = %ticket, "an entry {why}");
                    if matches!(self.plan.dead, Dead::Nobody) {
                        failed += 1;
                        self.window.done(ticket);
                    } else {
                        self.letter(Arc::new(Letter::new(entry, why, 0)));
                    }
                }
                Ok(event) => {
                    let topic = self.topic_of(&event, &entry);
                    let key = entry.key.as_deref().filter(|_| entry.is_routed);
                    if !self.wants(&event, &topic, key) {
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
        let known = event.topic().or(entry.key.as_ref().filter(|_| entry.is_routed));
        known.cloned().unwrap_or_else(|| {
            self.topic.as_ref().map(|topic| topic.render(event)).unwrap_or_default().into()
        })
    }

    fn wants(&self, event: &Event, topic: &str, key: Option<&str>) -> bool {
        let plan = &self.plan;
        // A binding of RabbitMQ is of the key, which need not be the topic.
        let is_of =
            |pattern: &TopicPattern| pattern.matches(topic) || key.is_some_and(|key| pattern.matches(key));
        (plan.topics.is_empty() || plan.topics.iter().any(is_of))
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
        let hash = self.plan.key.look(event, |value| self.hasher.hash_one(&*value.text()));
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
            } else if ticket.is_of_before(self.shared.epoch()) {
                // It comes again, and its letter would be a second one.
                self.close(ticket, |balance| balance.returned += 1);
            } else {
                self.letter(Arc::from(letter));
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

    /// It is to be kept as a dead letter.
    fn letter(&mut self, letter: Arc<Letter>) {
        self.window.bury(letter.entry.ticket);
        self.letters.push_back(letter);
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
            if ticket.is_of_before(self.shared.epoch()) {
                self.close(ticket, |balance| balance.returned += 1);
                continue;
            }
            let kept: Pin<Box<dyn Future<Output = _> + Send>> = match &self.plan.dead {
                Dead::Nobody => Box::pin(async { Ok(()) }),
                Dead::File(file) => {
                    let (letter, file, target) = (letter.clone(), file.clone(), self.plan.target.clone());
                    Box::pin(async move { letter.append(&file, &target).await })
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

    /// Takes in what became of a dead letter; one that could not be kept is offered again later, behind the others.
    pub(super) fn note_buried(&mut self, (letter, kept): (Arc<Letter>, Result<(), String>)) {
        match kept {
            Ok(()) => {
                self.shared.kept();
                self.close(letter.entry.ticket, |balance| balance.dead_lettered += 1);
            }
            Err(why) => {
                self.shared.unkept(&why);
                self.letters.push_back(letter);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn desk() -> Desk {
        let work = Work { handlers: Vec::new(), max_attempts: 1, seen: None, reader: None };
        let plan = Plan {
            work: Arc::new(work),
            topics: Vec::new(),
            filters: Vec::new(),
            kinds: Vec::new(),
            key: Key::Tag("none".to_owned()),
            workers: 1,
            prefetch: 100,
            field: None,
            options: Options::default(),
            dead: Dead::Nobody,
            target: "ai_events".to_owned(),
            tend: Duration::from_secs(1),
            stop_timeout: Duration::ZERO,
        };
        Desk::new(plan, Arc::new(Shared::new()))
    }

    /// A time that has passed would wake its consumer again and again.
    #[tokio::test(start_paused = true)]
    async fn what_a_lost_connection_took_along_is_not_waited_for() {
        let mut desk = desk();
        (0..3).for_each(|n| desk.window.take(Ticket::delivery(1, n), Instant::now()));
        desk.window.done(Ticket::delivery(1, 0));
        assert!(!desk.is_due() && desk.acknowledge_at.is_some());
        desk.window.forget_before(Ticket::delivery(2, 0));
        assert!(!desk.is_due());
        assert_eq!(desk.acknowledge_at, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_only_be_acknowledged_behind_a_slow_one_is_not_tried_all_the_time() {
        let mut desk = desk();
        (0..9).for_each(|n| desk.window.take(Ticket::delivery(1, n), Instant::now()));
        desk.window.done(Ticket::delivery(1, 3));
        assert!(!desk.is_due());
        tokio::time::advance(SOON).await;
        assert!(desk.is_due());
        // As a reader without a group does it.
        (desk.acknowledge_at, desk.kept_back) = (None, desk.window.done_len());
        assert!(!desk.is_due());
        assert_eq!(desk.acknowledge_at, None);
        desk.window.done(Ticket::delivery(1, 0));
        assert!(!desk.is_due() && desk.acknowledge_at.is_some(), "something new is done");
    }
}
