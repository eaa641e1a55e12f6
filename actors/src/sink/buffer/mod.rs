//! The queue in front of one sink. It outlives every incarnation of the sink's actor, and never blocks the router.

#[cfg(test)]
mod model;
mod on_disk;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::balance::Balance;
use super::batch::Mark;
use super::disk::Disk;
use super::entry::{Entry, Item};
use super::gauges::Gauges;
use super::memory::Memory;
use super::policy::{BufferPolicy, OnOpen};
use super::queue::{Ending, Lease, Queue, Tries};
use super::status::SinkState;
use crate::event::{Delivery, EventId, Gap, GapReason};

/// Most alerts that wait in one buffer; markers need no such bound, because neighbours become one.
const MAX_NOTICES: usize = 1024;

/// A bounded, observable queue with at most one lease at a time.
pub struct Buffer {
    name: Arc<str>,
    policy: BufferPolicy,
    on_open: OnOpen,
    fallback: Mutex<Weak<Buffer>>,
    queue: Mutex<Queue>,
    gauges: Gauges,
    open: AtomicBool,
    failed: AtomicBool,
    retired: AtomicBool,
    filled: Notify,
    disk: OnceLock<Disk>,
    /// Notified after every change that may let a waiting sender go on.
    relief: Arc<Notify>,
}

/// What entries did, as far as a change of the queue is of interest to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    In,
    Out,
}

impl Buffer {
    /// An empty buffer for the sink of that name. `relief` is notified whenever waiting senders may look again.
    pub(crate) fn new(
        name: Arc<str>,
        policy: BufferPolicy,
        on_open: OnOpen,
        relief: Arc<Notify>,
    ) -> Arc<Buffer> {
        Buffer::with_memory(name, policy, on_open, relief, Memory::new(&policy))
    }

    /// One in memory, in front of a sink's processors: what waits here does not count as held before it has left.
    pub(crate) fn before(
        name: Arc<str>,
        policy: BufferPolicy,
        on_open: OnOpen,
        relief: Arc<Notify>,
    ) -> Arc<Buffer> {
        Buffer::with_memory(name, policy, on_open, relief, Memory::in_front(&policy))
    }

    fn with_memory(
        name: Arc<str>,
        policy: BufferPolicy,
        on_open: OnOpen,
        relief: Arc<Notify>,
        memory: Memory,
    ) -> Arc<Buffer> {
        let queue = Queue::new(name.clone(), policy.when_full, memory);
        Arc::new(Buffer {
            name,
            policy,
            on_open,
            fallback: Mutex::default(),
            gauges: Gauges::new(&queue.fill()),
            queue: Mutex::new(queue),
            open: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            filled: Notify::new(),
            disk: OnceLock::new(),
            relief,
        })
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn policy(&self) -> &BufferPolicy {
        &self.policy
    }

    pub(crate) fn on_open(&self) -> &OnOpen {
        &self.on_open
    }

    pub(crate) fn set_fallback(&self, target: &Arc<Buffer>) {
        *self.fallback.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(target);
    }

    /// Where new events go instead right now. Never back to itself, nor into a buffer that nobody empties any more.
    pub(crate) fn fallback(&self) -> Option<Arc<Buffer>> {
        let target = self.fallback.lock().unwrap_or_else(PoisonError::into_inner).upgrade()?;
        (!std::ptr::eq(&*target, self) && !target.is_retired()).then_some(target)
    }

    /// Queues events, in order, with one lock; or sheds them, or gives them to its fallback, as its policies say.
    pub(crate) fn push(&self, deliveries: impl IntoIterator<Item = Delivery>, now: Instant) {
        match (self.is_open(), &self.on_open) {
            (true, OnOpen::Drop) => self.change(Moved::In, |queue| {
                for delivery in deliveries {
                    queue.counts.balance.accepted += 1;
                    queue.shed(&delivery, GapReason::CircuitOpen, now);
                }
            }),
            (true, OnOpen::Fallback(_)) if let Some(target) = self.fallback() => {
                let diverted: Vec<Delivery> = deliveries.into_iter().collect();
                let count = diverted.len() as u64;
                // Not on to the target's own fallback: two sinks may be each other's.
                target.hold(diverted, now);
                let balance = &mut self.lock().counts.balance;
                balance.accepted += count;
                balance.diverted += count;
            }
            _ => self.hold(deliveries, now),
        }
    }

    fn hold(&self, deliveries: impl IntoIterator<Item = Delivery>, now: Instant) {
        self.change(Moved::In, |queue| {
            deliveries.into_iter().for_each(|delivery| queue.push(delivery, now));
        });
    }

    /// Queues one event if there is room without shedding anything.
    pub(crate) fn offer(&self, delivery: Delivery, now: Instant) -> bool {
        self.offer_again(delivery, 0, now)
    }

    /// Like [`offer`](Self::offer), for an event that was tried before.
    pub(crate) fn offer_again(&self, delivery: Delivery, attempts: u32, now: Instant) -> bool {
        self.change(Moved::In, |queue| queue.offer(delivery, attempts, now))
    }

    /// The ids of the events in memory, oldest first.
    pub(crate) fn ids(&self) -> Vec<EventId> {
        let id = |entry: &Entry| match &entry.item {
            Item::Event(delivery) => Some(delivery.event.id().clone()),
            _ => None,
        };
        self.lock().window.entries.iter().filter_map(id).collect()
    }

    /// Queues an alert; it takes no room and is counted apart. When too many of them wait, it is left out.
    pub(crate) fn notice(&self, delivery: Delivery, now: Instant) {
        self.change(Moved::In, |queue| {
            if queue.counts.notices < MAX_NOTICES {
                queue.append_notice(delivery, now);
            }
        });
    }

    /// Marks that events are missing here which never came this far.
    pub(crate) fn gap(&self, gap: &Gap, now: Instant) {
        self.change(Moved::In, |queue| queue.append_gap(gap, now));
    }

    /// Which incarnation of the sink may lease.
    pub(crate) fn incarnation(&self) -> u64 {
        self.lock().incarnation()
    }

    /// Lends the oldest events until they are marked, or the lease is released or revoked. At most one lease at a
    /// time, and only to the `incarnation` that was not taken for dead since.
    pub(crate) fn lease(
        &self,
        incarnation: u64,
        max_events: usize,
        max_size: usize,
        now: Instant,
    ) -> Option<Lease> {
        let mut queue = self.lock();
        let lease = queue.lease(incarnation, max_events, max_size, now);
        let sent = lease.as_ref().and_then(|_| queue.end_of_lease());
        drop(queue);
        if let (Some(disk), Some(sent)) = (self.disk.get(), sent) {
            disk.sent(sent);
        }
        lease
    }

    /// Takes in what became of a lease's events; returns how many arrived. A stale lease changes nothing.
    pub(crate) fn complete(&self, lease: &Lease, marks: &[Mark], now: Instant) -> usize {
        self.change(Moved::Out, |queue| queue.complete(lease, marks, now))
    }

    /// How often the event at place `i` of a lease was tried.
    pub(crate) fn tries(&self, lease: &Lease, i: usize, now: Instant) -> Tries {
        self.lock().tries(lease, i, now)
    }

    /// The event at place `i` of a lease is in the dead letters now.
    pub(crate) fn dead_letter(&self, lease: &Lease, i: usize) {
        self.change(Moved::Out, |queue| queue.dead_letter(lease, i));
    }

    /// Ends a lease: what has not left stays, in its place, one attempt older unless its mark says that it was not
    /// sent. Without marks nothing was.
    pub(crate) fn release(&self, lease: &Lease, marks: &[Mark]) {
        self.change(Moved::Out, |queue| queue.release(lease, marks));
    }

    /// Takes back whatever is leased: marks of that lease count no more. An event that was alone in flight when its
    /// incarnation crashed remembers it.
    pub(crate) fn revoke(&self, ending: Ending) {
        self.change(Moved::Out, |queue| queue.revoke(ending));
    }

    /// How often incarnations died with the oldest event alone in flight.
    pub(crate) fn crashes_of_oldest(&self) -> u32 {
        self.lock().window.entries.front().map_or(0, |entry| entry.crashes)
    }

    /// Waits until there are so many entries to lease. For one waiter at a time.
    pub(crate) async fn filled(&self, entries: usize) {
        loop {
            let notified = self.filled.notified();
            if self.lock().window.entries.len() >= entries {
                return;
            }
            notified.await;
        }
    }

    /// Whether nothing waits, markers included.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// How many entries came in so far: what is before this place has left once [`Self::has_passed`] says so.
    pub(crate) fn tail(&self) -> u64 {
        self.lock().appended()
    }

    /// The place of the oldest entry that has not left.
    pub(crate) fn head(&self) -> u64 {
        self.lock().first()
    }

    pub(crate) fn has_passed(&self, tail: u64) -> bool {
        self.lock().first() >= tail
    }

    /// What its sink is doing, as far as new events are concerned.
    pub(crate) fn set_state(&self, state: SinkState) {
        self.open.store(state != SinkState::Closed, Ordering::Relaxed);
        self.failed.store(state == SinkState::Failed, Ordering::Relaxed);
        self.relief.notify_waiters();
    }

    /// Whether its sink does not send now: its circuit is not closed, or it was given up for good.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether its sink was given up for good.
    pub(crate) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Nobody will empty it any more: its sink was stopped for good.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.relief.notify_waiters();
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Whether with so many more events and bytes it would be over three quarters full.
    pub(crate) fn is_pressed(&self, more_events: usize, more_bytes: usize) -> bool {
        self.gauges.are_pressed(more_events, more_bytes)
    }

    /// The numbers of this sink, as of one moment.
    pub(crate) fn balance(&self, now: Instant) -> Balance {
        self.lock().balance(now)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the queue, and says so to all who wait for that: the disk, too.
    fn change<T>(&self, what: Moved, change: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.lock();
        let changed = change(&mut queue);
        let is_urgent = what == Moved::In || queue.store.wants_more();
        self.publish(queue, what);
        match self.disk.get() {
            Some(disk) if is_urgent => disk.wake(),
            Some(disk) => disk.look_soon(),
            None => {}
        }
        changed
    }

    /// Ends a change: copies the numbers out, and notifies whoever waits for events, or for some to have left.
    fn publish(&self, queue: MutexGuard<'_, Queue>, what: Moved) {
        let empty = queue.window.entries.is_empty();
        let has_room = self.gauges.publish(&queue.fill());
        drop(queue);
        if !empty {
            self.filled.notify_one();
        }
        // Room counts, however it came to be.
        if what == Moved::Out || has_room {
            self.relief.notify_waiters();
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("name", &self.name)
            .field("gauges", &self.gauges)
            .finish_non_exhaustive()
    }
}
