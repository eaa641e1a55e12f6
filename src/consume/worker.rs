//! A worker: the events of its keys, one after the other, each until it is handled or given up.

use std::collections::VecDeque;
use std::future::Future;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::poll_immediate;
use streamll_actors::event::Event;
use streamll_actors::supervise::Backoff;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;

use super::dead_letter::Letter;
use super::duplicates::Duplicates;
use super::handler::Handler;
use super::source::{Entry, Ticket};
use super::status::Shared;

/// How many outcomes are told together.
const TOGETHER: usize = 64;
/// How long an outcome may wait for others, as long as handlers take their time without giving up the thread.
const SOON: Duration = Duration::from_millis(2);

/// An event to handle, and the entry that it came from.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) event: Event,
    pub(super) topic: Arc<str>,
    pub(super) entry: Entry,
}

/// What became of one entry.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) ticket: Ticket,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Handled,
    Duplicate,
    /// The broker delivers it again.
    Returned,
    Dead(Box<Letter>),
}

/// What all workers of a consumer do.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) handlers: Vec<Handler>,
    pub(super) max_attempts: u32,
    /// What was handled before, where that matters. What the reader of a stream has not had yet was not.
    pub(super) seen: Option<Arc<Mutex<Duplicates>>>,
    /// Who gets what the handlers have taken, and settles it.
    pub(super) reader: Option<Sender<Receipt>>,
}

/// An event that its reader has not settled yet. Dropped, it is given back.
#[derive(Debug)]
pub(super) struct Receipt {
    event: Event,
    ticket: Ticket,
    seen: Option<Arc<Mutex<Duplicates>>>,
    shared: Arc<Shared>,
    settled: Option<UnboundedSender<Vec<Settled>>>,
}

impl Receipt {
    /// The event, unless it is not to be read any more: it comes again, or has come before and was read meanwhile.
    pub(super) fn event(&mut self) -> Option<Event> {
        if self.ticket.is_of_before(self.shared.epoch()) {
            self.tell(Outcome::Returned);
        } else if knows(self.seen.as_deref(), &self.event) {
            self.tell(Outcome::Duplicate);
        }
        self.settled.is_some().then(|| self.event.clone())
    }

    pub(super) fn done(mut self) {
        add(self.seen.as_deref(), &self.event);
        self.tell(Outcome::Handled);
    }

    fn tell(&mut self, outcome: Outcome) {
        if let Some(settled) = self.settled.take() {
            let _ = settled.send(vec![Settled { ticket: self.ticket, outcome }]);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.tell(Outcome::Returned);
    }
}

fn knows(seen: Option<&Mutex<Duplicates>>, event: &Event) -> bool {
    seen.is_some_and(|seen| seen.lock().unwrap_or_else(PoisonError::into_inner).knows(event))
}

fn add(seen: Option<&Mutex<Duplicates>>, event: &Event) {
    if let Some(seen) = seen {
        seen.lock().unwrap_or_else(PoisonError::into_inner).add(event);
    }
}

/// What waits for a worker.
struct Inbox {
    waiting: VecDeque<Job>,
    jobs: UnboundedReceiver<Vec<Job>>,
    shared: Arc<Shared>,
    settled: UnboundedSender<Vec<Settled>>,
}

impl Inbox {
    /// Waits for something that takes its time. What waits behind it, and comes again after a lost connection, is given
    /// back meanwhile: else it would pile up with each of them.
    async fn wait_for<T>(&mut self, mut epoch: u64, mut slow: Pin<&mut impl Future<Output = T>>) -> T {
        loop {
            tokio::select! {
                ended = &mut slow => return ended,
                () = self.shared.outlived(epoch) => epoch = self.give_back(),
            }
        }
    }

    fn give_back(&mut self) -> u64 {
        let epoch = self.shared.epoch();
        while let Ok(batch) = self.jobs.try_recv() {
            self.waiting.extend(batch);
        }
        let mut returned = Vec::new();
        self.waiting.retain(|Job { entry: Entry { ticket, .. }, .. }| {
            let stays = !ticket.is_of_before(epoch);
            if !stays {
                returned.push(Settled { ticket: *ticket, outcome: Outcome::Returned });
            }
            stays
        });
        tell(&self.settled, &mut returned);
        epoch
    }
}

/// Works until there are no more jobs.
pub(super) async fn work(
    work: Arc<Work>,
    shared: Arc<Shared>,
    jobs: UnboundedReceiver<Vec<Job>>,
    settled: UnboundedSender<Vec<Settled>>,
) {
    let seen = work.seen.as_deref();
    let mut inbox =
        Inbox { waiting: VecDeque::new(), jobs, shared: shared.clone(), settled: settled.clone() };
    // Told together, as long as handlers answer at once: waking who hears it costs more than most of them.
    let mut told = Vec::with_capacity(TOGETHER);
    while let Some(batch) = inbox.jobs.recv().await {
        inbox.waiting.extend(batch);
        let mut told_at = Instant::now();
        while let Some(job) = inbox.waiting.pop_front() {
            let ticket = job.entry.ticket;
            let outcome = if ticket.is_of_before(shared.epoch()) {
                Outcome::Returned
            } else if knows(seen, &job.event) {
                Outcome::Duplicate
            } else {
                let event = job.event.clone();
                let mut handling = pin!(handle(&work, &shared, job));
                let outcome = match poll_immediate(&mut handling).await {
                    Some(outcome) => outcome,
                    None => {
                        tell(&settled, &mut told);
                        inbox.wait_for(ticket.connection(), handling).await
                    }
                };
                match (&work.reader, &outcome) {
                    (Some(reader), Outcome::Handled) => {
                        tell(&settled, &mut told);
                        let (seen, shared) = (work.seen.clone(), shared.clone());
                        let receipt = Receipt { event, ticket, seen, shared, settled: Some(settled.clone()) };
                        // With nobody there to read, it is given back.
                        let _ = inbox.wait_for(ticket.connection(), pin!(reader.send(receipt))).await;
                        continue;
                    }
                    (None, Outcome::Handled) => add(seen, &event),
                    _ => {}
                }
                outcome
            };
            told.push(Settled { ticket, outcome });
            if told_at.elapsed() >= SOON {
                tell(&settled, &mut told);
                // Who hears it may be waiting for this very thread.
                tokio::task::yield_now().await;
                told_at = Instant::now();
            } else if told.len() >= TOGETHER {
                tell(&settled, &mut told);
            }
            // Handlers that never wait would keep a thread from everybody else.
            tokio::task::consume_budget().await;
        }
        tell(&settled, &mut told);
    }
}

fn tell(settled: &UnboundedSender<Vec<Settled>>, told: &mut Vec<Settled>) {
    if !told.is_empty() {
        // Nobody listens any more at the end of everything.
        let _ = settled.send(mem::replace(told, Vec::with_capacity(TOGETHER)));
    }
}

/// Runs the handlers that want the event, each until it succeeds or has failed often enough.
async fn handle(work: &Work, shared: &Shared, job: Job) -> Outcome {
    let Job { event, topic, entry } = job;
    let mut failed: Option<(String, u32)> = None;
    for handler in work.handlers.iter().filter(|handler| handler.wants(&event, &topic)) {
        let mut backoff = Backoff::retries();
        let mut attempts = 1;
        while let Err(why) = handler.call(event.clone()).await {
            if attempts >= work.max_attempts {
                tracing::warn!(event_id = %event.id(), attempts, "a handler has given an event up: {why}");
                failed.get_or_insert((why, attempts));
                break;
            }
            tracing::debug!(event_id = %event.id(), attempts, "a handler failed and is tried again: {why}");
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = shared.stopped() => return Outcome::Returned,
            }
            attempts += 1;
            shared.count(|balance| balance.retried += 1);
        }
    }
    match failed {
        None => Outcome::Handled,
        Some((why, attempts)) => Outcome::Dead(Box::new(Letter::new(entry, why, attempts))),
    }
}
