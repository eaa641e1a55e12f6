//! A worker: it handles the events of its keys one after the other, each until it is handled or given up.

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
use super::entry::{Entry, Ticket};
use super::handler::Handler;
use super::settings::Handling;
use super::status::Shared;

/// How many outcomes are reported together.
const BATCH: usize = 64;
/// How long an outcome may wait for others, while handlers take their time without giving up the thread.
const MAX_WAIT: Duration = Duration::from_millis(2);

/// An event to handle, and the entry that it came from.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) event: Event,
    pub(super) topic: Arc<str>,
    pub(super) entry: Entry,
}

/// What became of one entry.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) ticket: Ticket,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Handled,
    Duplicate,
    /// The broker delivers the entry again.
    Returned,
    DeadLetter(Box<Letter>),
}

/// What all workers of a consumer do.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) handlers: Vec<Handler>,
    max_attempts: u32,
    /// The events that were handled before, if there is a duplicate filter. Those that wait for the reader of a stream are not
    /// among them.
    seen: Option<Arc<Mutex<Duplicates>>>,
    /// The reader of a stream, which gets events after the handlers.
    pub(super) reader: Option<Sender<Receipt>>,
}

impl Work {
    pub(super) fn new(handlers: Vec<Handler>, how: &Handling, reader: Option<Sender<Receipt>>) -> Work {
        let seen = how.duplicate_window.map(|window| Arc::new(Mutex::new(Duplicates::new(window))));
        Work { handlers, max_attempts: how.max_attempts, seen, reader }
    }
}

/// An event that the reader of a stream has not completed yet. If the receipt is dropped, the event is given back.
#[derive(Debug)]
pub(super) struct Receipt {
    event: Event,
    ticket: Ticket,
    seen: Option<Arc<Mutex<Duplicates>>>,
    shared: Arc<Shared>,
    /// Where to report the outcome, until that has been done.
    finished: Option<UnboundedSender<Vec<Finished>>>,
}

impl Receipt {
    /// The event. `None` if it is not to be read any more: it comes again, or it came before and was read meanwhile.
    pub(super) fn event(&mut self) -> Option<Event> {
        if self.ticket.is_before(self.shared.epoch()) {
            self.report(Outcome::Returned);
        } else if knows(self.seen.as_deref(), &self.event) {
            self.report(Outcome::Duplicate);
        }
        self.finished.is_some().then(|| self.event.clone())
    }

    /// The event was read.
    pub(super) fn complete(mut self) {
        add(self.seen.as_deref(), &self.event);
        self.report(Outcome::Handled);
    }

    fn report(&mut self, outcome: Outcome) {
        if let Some(finished) = self.finished.take() {
            let _ = finished.send(vec![Finished { ticket: self.ticket, outcome }]);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.report(Outcome::Returned);
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

/// One worker: the jobs that wait for it, and the outcomes that are not reported yet.
struct Worker {
    jobs: UnboundedReceiver<Vec<Job>>,
    waiting: VecDeque<Job>,
    report_to: UnboundedSender<Vec<Finished>>,
    /// Reported together as long as handlers answer at once: to wake the consumer costs more than most handlers do.
    finished: Vec<Finished>,
}

/// Works until there are no more jobs.
pub(super) async fn work(
    work: Arc<Work>,
    shared: Arc<Shared>,
    jobs: UnboundedReceiver<Vec<Job>>,
    report_to: UnboundedSender<Vec<Finished>>,
) {
    let (waiting, finished) = (VecDeque::new(), Vec::with_capacity(BATCH));
    Worker { jobs, waiting, report_to, finished }.run(&work, &shared).await;
}

impl Worker {
    async fn run(mut self, work: &Work, shared: &Arc<Shared>) {
        while let Some(batch) = self.jobs.recv().await {
            self.waiting.extend(batch);
            let mut reported_at = Instant::now();
            while let Some(job) = self.waiting.pop_front() {
                let ticket = job.entry.ticket;
                let Some(outcome) = self.outcome(work, shared, job).await else { continue };
                self.finished.push(Finished { ticket, outcome });
                if reported_at.elapsed() >= MAX_WAIT {
                    self.report();
                    // The consumer may be waiting for this very thread.
                    tokio::task::yield_now().await;
                    reported_at = Instant::now();
                } else if self.finished.len() >= BATCH {
                    self.report();
                }
                // Handlers that never wait would keep a thread from everybody else.
                tokio::task::consume_budget().await;
            }
            self.report();
        }
    }

    /// What became of a job. `None` if the reader of a stream has the event now, and its receipt will say.
    async fn outcome(&mut self, work: &Work, shared: &Arc<Shared>, job: Job) -> Option<Outcome> {
        let ticket = job.entry.ticket;
        if ticket.is_before(shared.epoch()) {
            return Some(Outcome::Returned);
        }
        if knows(work.seen.as_deref(), &job.event) {
            return Some(Outcome::Duplicate);
        }
        let event = job.event.clone();
        let mut handling = pin!(handle(work, shared, job));
        let outcome = match poll_immediate(&mut handling).await {
            Some(outcome) => outcome,
            None => {
                self.report();
                self.wait_for(shared, ticket.connection(), handling).await
            }
        };
        match (&work.reader, &outcome) {
            (Some(reader), Outcome::Handled) => {
                self.report();
                let (seen, finished) = (work.seen.clone(), Some(self.report_to.clone()));
                let receipt = Receipt { event, ticket, seen, shared: shared.clone(), finished };
                // If there is no reader any more, the receipt is dropped, and the event is given back.
                let _ = self.wait_for(shared, ticket.connection(), pin!(reader.send(receipt))).await;
                None
            }
            (None, Outcome::Handled) => {
                add(work.seen.as_deref(), &event);
                Some(outcome)
            }
            _ => Some(outcome),
        }
    }

    /// Waits for something that takes its time. Meanwhile, waiting jobs that come again after a lost connection are given
    /// back: otherwise they would pile up with each lost connection.
    async fn wait_for<T>(
        &mut self,
        shared: &Shared,
        mut epoch: u64,
        mut slow: Pin<&mut impl Future<Output = T>>,
    ) -> T {
        loop {
            tokio::select! {
                ended = &mut slow => return ended,
                () = shared.epoch_after(epoch) => {
                    epoch = shared.epoch();
                    self.give_back(epoch);
                }
            }
        }
    }

    /// Gives back what comes again since this connection.
    fn give_back(&mut self, epoch: u64) {
        while let Ok(batch) = self.jobs.try_recv() {
            self.waiting.extend(batch);
        }
        let finished = &mut self.finished;
        self.waiting.retain(|Job { entry: Entry { ticket, .. }, .. }| {
            let stays = !ticket.is_before(epoch);
            if !stays {
                finished.push(Finished { ticket: *ticket, outcome: Outcome::Returned });
            }
            stays
        });
        self.report();
    }

    fn report(&mut self) {
        if !self.finished.is_empty() {
            // At the end of everything nobody listens any more.
            let _ = self.report_to.send(mem::replace(&mut self.finished, Vec::with_capacity(BATCH)));
        }
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
                tracing::warn!(event_id = %event.id(), attempts, "a handler has given up an event: {why}");
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
        Some((why, attempts)) => Outcome::DeadLetter(Box::new(Letter::new(entry, why, attempts))),
    }
}
