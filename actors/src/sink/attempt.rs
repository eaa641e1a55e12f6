//! One attempt of a sink: open if need be, lease, deliver, dead-letter what can never arrive.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::batch::{Deliveries, Mark};
use super::context::SinkContext;
use super::dead_letter::DeadLetter;
use super::error::{Cost, DeliveryError, ErrorClass};
use super::fence::Fenced;
use super::queue::Lease;
use super::worker::{Control, Worker, seconds};
use crate::event::{Confirmation, Delivery, Timestamp};
use crate::supervise::Backoff;

/// How long to wait for what the disk is to read.
const LOOK: Duration = Duration::from_millis(100);

/// One attempt.
pub(super) struct Attempt {
    pub(super) worker: Arc<Worker>,
    pub(super) context: SinkContext,
    pub(super) instance: Option<Instance>,
    pub(super) incarnation: u64,
    pub(super) limit: usize,
}

/// The sink that an incarnation has made.
pub(super) struct Instance {
    pub(super) sink: Fenced,
    pub(super) is_opened: bool,
}

/// What is left of an attempt.
pub(super) struct Attempted {
    /// `None` once it has panicked.
    pub(super) instance: Option<Instance>,
    pub(super) end: End,
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
    pub(super) async fn run(mut self) -> Attempted {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => match Fenced::make(&self.worker.factory) {
                Ok(sink) => Instance { sink, is_opened: false },
                Err(panic) => return Attempted { instance: None, end: End::Panicked(panic) },
            },
        };
        let end = self.run_with(&mut instance).await;
        let is_gone = matches!(end, End::Panicked(_));
        Attempted { instance: (!is_gone).then_some(instance), end }
    }

    async fn run_with(&self, instance: &mut Instance) -> End {
        let worker = &self.worker;
        if worker.poison_after > 0 && worker.buffer.crashes_of_oldest() >= worker.poison_after {
            self.condemn().await;
            return End::Condemned;
        }
        if !instance.is_opened
            && let Err(end) = self.open(instance).await
        {
            return end;
        }
        self.gather().await;
        let lease = worker.buffer.lease(self.incarnation, self.limit, worker.batch.max_size, Instant::now());
        let Some(mut lease) = lease else { return End::Arrived };
        let mut batch = Deliveries::new(std::mem::take(&mut lease.items));
        let answer = timeout(worker.deliver_timeout, instance.sink.deliver(&mut batch)).await;
        let result = match answer {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => {
                // What it marked before did arrive; the rest is taken back by the supervisor.
                self.arrived(&lease, &batch.into_parts().1);
                return End::Panicked(panic);
            }
            Err(_) => {
                let took = format!("no answer within {:?}", worker.deliver_timeout);
                Err(DeliveryError::unknown(took))
            }
        };
        if let Err(error) = &result {
            let reopen = [ErrorClass::Unavailable, ErrorClass::Unknown, ErrorClass::Misconfigured];
            instance.is_opened = !reopen.contains(&error.class());
        }
        self.take_in(&lease, batch, result).await
    }

    async fn open(&self, instance: &mut Instance) -> Result<(), End> {
        let longest = self.worker.deliver_timeout;
        match timeout(longest, instance.sink.open(&self.context)).await {
            Ok(Ok(Ok(()))) => {
                instance.is_opened = true;
                Ok(())
            }
            Ok(Ok(Err(error))) => Err(End::Failed(error)),
            Ok(Err(panic)) => Err(End::Panicked(panic)),
            Err(_) => {
                let took = format!("opening took longer than {longest:?}");
                Err(End::Failed(DeliveryError::unavailable(took).with_cost(Cost::Something)))
            }
        }
    }

    /// Waits for what is to come along, where something waits.
    async fn gather(&self) {
        let Worker { batch, buffer, .. } = &*self.worker;
        if !batch.linger.is_zero() && !self.worker.has_order(Control::Drain) && !buffer.is_empty() {
            let _ = timeout(batch.linger, buffer.filled(self.limit)).await;
        }
        if !buffer.is_empty() {
            // All of it may rest on disk; it is looked at again now and then, whatever becomes of that.
            let _ = timeout(LOOK, buffer.filled(1)).await;
        }
    }

    /// Takes in what became of a batch.
    async fn take_in(&self, lease: &Lease, mut batch: Deliveries, result: Result<(), DeliveryError>) -> End {
        let why = batch.take_why();
        if result.is_ok() {
            batch.rest_delivered();
        }
        let (items, mut marks) = batch.into_parts();
        let among = marks.iter().filter(|mark| **mark == Mark::Open).count();
        let is_rejected = |error: &DeliveryError| error.class() == ErrorClass::Rejected;
        if let Err(error) = &result
            && is_rejected(error)
            && among == 1
            && let Some(bad) = marks.iter_mut().find(|mark| **mark == Mark::Open)
        {
            *bad = Mark::Poison(error.to_string());
        }
        let arrived = self.arrived(lease, &marks);
        for (i, (mark, delivery)) in marks.iter().zip(&items).enumerate() {
            if let Mark::Poison(reason) = mark {
                self.dead_letter(lease, i, delivery, "poison", reason).await;
            }
        }
        self.worker.buffer.release(lease, &marks);
        match result {
            Ok(()) => end_of(&marks, arrived, why),
            Err(error) if is_rejected(&error) && among == 1 => End::Condemned,
            Err(error) if is_rejected(&error) && among > 1 => End::Bad { among, why: error.to_string() },
            Err(error) => End::Failed(error),
        }
    }

    fn arrived(&self, lease: &Lease, marks: &[Mark]) -> usize {
        let arrived = self.worker.buffer.complete(lease, marks, Instant::now());
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
            self.dead_letter(&lease, 0, delivery, "panic", &reason).await;
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
    async fn dead_letter(
        &self,
        lease: &Lease,
        i: usize,
        delivery: &Delivery,
        class: &'static str,
        reason: &str,
    ) {
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
        let (mut retry, began, mut known) = (Backoff::retries(), Instant::now(), None);
        while let Err(error) = self.hand_over(&letter).await {
            if known.as_ref() != Some(&error) {
                warn!(sink = %worker.name, %error, "a dead letter waits");
                worker.publish(Some(format!("a dead letter waits: {error}")));
                known = Some(error);
            }
            sleep(retry.next()).await;
        }
        if known.is_some() {
            warn!(sink = %worker.name, after = %seconds(began.elapsed()), "the dead letter is kept");
        }
        worker.dead_letters.log(&letter, Instant::now());
        worker.buffer.dead_letter(lease, i);
    }
}

/// How a delivery went that the sink calls a success.
fn end_of(marks: &[Mark], arrived: usize, why: Option<String>) -> End {
    if marks.iter().any(|mark| matches!(mark, Mark::Retry | Mark::Unsent)) {
        let none = || (arrived == 0).then(|| "it wants the same events once more".to_owned());
        return End::Partly { arrived, why: why.or_else(none) };
    }
    let is_dead = |mark: &Mark| matches!(mark, Mark::Poison(_));
    if arrived == 0 && !marks.is_empty() && marks.iter().all(is_dead) { End::Condemned } else { End::Arrived }
}
