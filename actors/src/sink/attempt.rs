//! One attempt of a sink: open if need be, lease, deliver, bury what is dead.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::actor::{Control, Worker, seconds};
use super::batch::Mark;
use super::fence::Fenced;
use super::queue::Lease;
use super::{Cost, DeadLetter, Deliveries, DeliveryError, ErrorClass, SinkContext};
use crate::event::{Confirmation, Delivery, Timestamp};
use crate::supervise::Backoff;

/// How long to wait for what the disk is to read.
const LOOK: Duration = Duration::from_millis(100);

/// One attempt: open if need be, lease, deliver, bury what is dead.
pub(super) struct Attempt {
    pub(super) worker: Arc<Worker>,
    pub(super) context: SinkContext,
    pub(super) sink: Option<Fenced>,
    pub(super) incarnation: u64,
    pub(super) opened: bool,
    pub(super) limit: usize,
}

/// How an attempt went.
pub(super) enum End {
    /// Everything that was lent arrived, or there was nothing and the sink is open.
    Arrived,
    /// The sink wants some of it again.
    Partly {
        arrived: usize,
        /// Why, where the sink says so, or nothing arrived.
        why: Option<String>,
    },
    /// Nothing but dead letters.
    Condemned,
    /// One of so many events is bad.
    Bad {
        among: usize,
        why: String,
    },
    /// Opening it, or the delivery.
    Failed(DeliveryError),
    Panicked(String),
}

impl Attempt {
    pub(super) async fn run(mut self) -> (Option<Fenced>, bool, End) {
        let mut sink = match self.sink.take() {
            Some(sink) => sink,
            None => match Fenced::make(&self.worker.factory) {
                Ok(sink) => sink,
                Err(panic) => return (None, false, End::Panicked(panic)),
            },
        };
        let worker = self.worker.clone();
        if worker.poison_after > 0 && worker.buffer.crashes_of_oldest() >= worker.poison_after {
            self.condemn().await;
            return (Some(sink), self.opened, End::Condemned);
        }
        if !self.opened {
            let answer = timeout(worker.deliver_timeout, sink.open(&self.context)).await;
            match answer {
                Ok(Ok(Ok(()))) => self.opened = true,
                Ok(Ok(Err(error))) => return (Some(sink), false, End::Failed(error)),
                Ok(Err(panic)) => return (None, false, End::Panicked(panic)),
                Err(_) => {
                    let took = format!("opening took longer than {:?}", worker.deliver_timeout);
                    let error = DeliveryError::unavailable(took).with_cost(Cost::Something);
                    return (Some(sink), false, End::Failed(error));
                }
            }
        }
        if !worker.batch.linger.is_zero() && !worker.is_told(Control::Drain) && !worker.buffer.is_empty() {
            let _ = timeout(worker.batch.linger, worker.buffer.filled(self.limit)).await;
        }
        if !worker.buffer.is_empty() {
            // All of it may rest on disk; it is looked at again now and then, whatever becomes of that.
            let _ = timeout(LOOK, worker.buffer.filled(1)).await;
        }
        let lease = worker.buffer.lease(self.incarnation, self.limit, worker.batch.max_size, Instant::now());
        let Some(mut lease) = lease else {
            return (Some(sink), true, End::Arrived);
        };
        let mut batch = Deliveries::new(std::mem::take(&mut lease.items));
        let size = batch.len();
        let answer = timeout(worker.deliver_timeout, sink.deliver(&mut batch)).await;
        let result = match answer {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => {
                // What it marked before did arrive; the rest is taken back by the supervisor.
                self.arrived(&lease, &batch.into_parts(false).1);
                return (None, false, End::Panicked(panic));
            }
            Err(_) => {
                let took = format!("no answer within {:?}", worker.deliver_timeout);
                Err(DeliveryError::unknown(took))
            }
        };
        let why = batch.take_why();
        let (items, mut marks) = batch.into_parts(result.is_ok());
        let open = marks.iter().filter(|mark| **mark == Mark::Open).count();
        if let Err(error) = &result
            && error.class() == ErrorClass::Rejected
            && open == 1
        {
            let reason = error.to_string();
            marks
                .iter_mut()
                .filter(|mark| **mark == Mark::Open)
                .for_each(|mark| *mark = Mark::Poison(reason.clone()));
        }
        let arrived = self.arrived(&lease, &marks);
        for (i, (mark, delivery)) in marks.iter().zip(&items).enumerate() {
            if let Mark::Poison(reason) = mark {
                self.bury(&lease, i, delivery, "poison", reason).await;
            }
        }
        worker.buffer.release(&lease, &marks);
        let end = match result {
            Ok(()) if marks.iter().any(|mark| matches!(mark, Mark::Retry | Mark::Unsent)) => {
                let none = || (arrived == 0).then(|| "it wants the same events once more".to_owned());
                End::Partly { arrived, why: why.or_else(none) }
            }
            Ok(())
                if arrived == 0 && size > 0 && marks.iter().all(|mark| matches!(mark, Mark::Poison(_))) =>
            {
                End::Condemned
            }
            Ok(()) => End::Arrived,
            Err(error) if error.class() == ErrorClass::Rejected && open == 1 => End::Condemned,
            Err(error) if error.class() == ErrorClass::Rejected && open > 1 => {
                End::Bad { among: open, why: error.to_string() }
            }
            Err(error) => {
                let class = error.class();
                let reopen = [ErrorClass::Unavailable, ErrorClass::Unknown, ErrorClass::Misconfigured];
                self.opened &= !reopen.contains(&class);
                End::Failed(error)
            }
        };
        (Some(sink), self.opened, end)
    }

    fn arrived(&self, lease: &Lease, marks: &[Mark]) -> usize {
        let arrived = self.worker.buffer.settle(lease, marks, Instant::now());
        if arrived > 0 {
            self.worker.cell.progress();
        }
        arrived
    }

    /// Dead-letters the oldest event, which has killed too many incarnations.
    async fn condemn(&self) {
        let worker = &self.worker;
        let lease = worker.buffer.lease(self.incarnation, 1, usize::MAX, Instant::now());
        let Some(mut lease) = lease else { return };
        let items = std::mem::take(&mut lease.items);
        if let Some(delivery) = items.first() {
            let reason = format!("the sink crashed {} times with this event alone", worker.poison_after);
            self.bury(&lease, 0, delivery, "panic", &reason).await;
        }
        worker.buffer.release(&lease, &[]);
    }

    /// Hands a letter over, and waits until it is held: on disk, where that is where it goes.
    async fn hand_over(&self, letter: &DeadLetter) -> Result<(), String> {
        match self.worker.dead_letters.accept(letter, Instant::now())? {
            None => Ok(()),
            Some(held) => match held.await {
                Ok(Confirmation::Held(_)) => Ok(()),
                _ => Err("the dead-letter sink has lost it again".to_owned()),
            },
        }
    }

    /// Hands an event to the dead letters, for as long as it takes.
    async fn bury(&self, lease: &Lease, i: usize, delivery: &Delivery, class: &'static str, reason: &str) {
        let worker = &self.worker;
        let tries = worker.buffer.tries(lease, i, Instant::now());
        let now = Timestamp::now();
        let first = i64::try_from(tries.first.unwrap_or_default().as_micros()).unwrap_or(0);
        let letter = DeadLetter {
            event: delivery.event.clone(),
            sink: worker.name.clone(),
            class,
            reason: reason.to_owned(),
            attempts: tries.attempts,
            first_attempt: Timestamp::from_micros(now.as_micros() - first),
            last_attempt: now,
        };
        let (mut retry, began, mut told) = (Backoff::retries(), Instant::now(), None);
        while let Err(error) = self.hand_over(&letter).await {
            if told.as_ref() != Some(&error) {
                warn!(sink = %worker.name, %error, "a dead letter waits");
                worker.publish(Some(format!("a dead letter waits: {error}")));
                told = Some(error);
            }
            sleep(retry.next()).await;
        }
        if told.is_some() {
            warn!(sink = %worker.name, after = %seconds(began.elapsed()), "the dead letter is kept");
        }
        worker.dead_letters.tell(&letter, Instant::now());
        worker.buffer.bury(lease, i);
    }
}
