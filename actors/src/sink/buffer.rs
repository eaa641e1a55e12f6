//! The queue in front of one sink. It outlives every incarnation of the sink's actor, and never blocks the router.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::backlog::{self, Backlog, Read, Work};
use super::batch::Mark;
use super::disk::{Disk, Record, Recovered};
use super::policy::{BufferPolicy, OnOpen};
use super::queue::{Entry, Item, Lease, Queue, Tries};
use super::shed;
use super::status::Balance;
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
    /// Copies for readers who must not wait for the lock.
    events: AtomicUsize,
    bytes: AtomicUsize,
    /// What there is on disk and will be, and what of it is still to be written.
    on_disk: AtomicUsize,
    unwritten: AtomicUsize,
    unwritten_max: AtomicUsize,
    open: AtomicBool,
    failed: AtomicBool,
    retired: AtomicBool,
    filled: Notify,
    disk: OnceLock<Disk>,
    /// Told after every change that may let a waiting sender go on.
    relief: Arc<Notify>,
}

impl Buffer {
    /// An empty buffer for the sink of that name. `relief` is told whenever waiting senders may look again.
    pub(crate) fn new(
        name: Arc<str>,
        policy: BufferPolicy,
        on_open: OnOpen,
        relief: Arc<Notify>,
    ) -> Arc<Buffer> {
        Buffer::with_queue(name, policy, on_open, relief, Queue::new(policy.disk.is_some()))
    }

    /// One in memory, in front of a sink's processors: what waits here does not count as held before it has left.
    pub(crate) fn before(
        name: Arc<str>,
        policy: BufferPolicy,
        on_open: OnOpen,
        relief: Arc<Notify>,
    ) -> Arc<Buffer> {
        Buffer::with_queue(name, policy, on_open, relief, Queue::new(true))
    }

    fn with_queue(
        name: Arc<str>,
        policy: BufferPolicy,
        on_open: OnOpen,
        relief: Arc<Notify>,
        queue: Queue,
    ) -> Arc<Buffer> {
        Arc::new(Buffer {
            name,
            policy,
            on_open,
            fallback: Mutex::default(),
            queue: Mutex::new(queue),
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            on_disk: AtomicUsize::new(0),
            unwritten: AtomicUsize::new(0),
            unwritten_max: AtomicUsize::new(0),
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

    pub(crate) fn on_open(&self) -> &OnOpen {
        &self.on_open
    }

    pub(crate) fn set_fallback(&self, target: &Arc<Buffer>) {
        *self.fallback.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(target);
    }

    /// Where new events go instead right now. Never back to itself, nor into a buffer that nobody empties any more.
    pub(super) fn fallback(&self) -> Option<Arc<Buffer>> {
        let target = self.fallback.lock().unwrap_or_else(PoisonError::into_inner).upgrade()?;
        (!std::ptr::eq(&*target, self) && !target.is_retired()).then_some(target)
    }

    /// Queues events, in order, with one lock; or sheds them, or gives them to its fallback, as its policies say.
    pub(crate) fn push(&self, deliveries: impl IntoIterator<Item = Delivery>, now: Instant) {
        match (self.is_open(), &self.on_open) {
            (true, OnOpen::Drop) => {
                let mut queue = self.lock();
                for delivery in deliveries {
                    queue.balance.accepted += 1;
                    queue.shed(&delivery, GapReason::CircuitOpen, &self.name, now);
                }
                self.publish(queue, false);
            }
            (true, OnOpen::Fallback(_)) if let Some(target) = self.fallback() => {
                let diverted: Vec<Delivery> = deliveries.into_iter().collect();
                let count = diverted.len() as u64;
                // Not on to the target's own fallback: two sinks may be each other's.
                target.hold(diverted, now);
                let mut queue = self.lock();
                queue.balance.accepted += count;
                queue.balance.diverted += count;
            }
            _ => self.hold(deliveries, now),
        }
    }

    fn hold(&self, deliveries: impl IntoIterator<Item = Delivery>, now: Instant) {
        let mut queue = self.lock();
        for delivery in deliveries {
            queue.balance.accepted += 1;
            if self.make_room(&mut queue, &delivery, now) {
                queue.append(Item::Event(delivery), &self.name, now);
            } else {
                queue.shed(&delivery, GapReason::BufferFull, &self.name, now);
            }
        }
        self.publish(queue, false);
    }

    /// Queues one event if there is room without shedding anything.
    pub(crate) fn offer(&self, delivery: Delivery, now: Instant) -> bool {
        self.offer_again(delivery, 0, now)
    }

    /// Like [`offer`](Self::offer), for an event that was tried before.
    pub(crate) fn offer_again(&self, delivery: Delivery, attempts: u32, now: Instant) -> bool {
        let mut queue = self.lock();
        let size = delivery.event.size();
        let policy = self.bounds();
        let fits = match &queue.backlog {
            Some(backlog) => {
                backlog.used() + size <= policy.max_size
                    && backlog.unwritten() + size <= backlog.unwritten_max()
            }
            None => queue.bytes + size <= policy.max_size || queue.events == 0,
        };
        let fits = fits && queue.events < policy.max_events;
        if fits {
            queue.balance.accepted += 1;
            queue.append(Item::Event(delivery), &self.name, now);
            if let Some(entry) = queue.last() {
                entry.attempts = attempts;
            }
        }
        self.publish(queue, false);
        fits
    }

    /// The ids of the events in memory, oldest first.
    pub(crate) fn ids(&self) -> Vec<EventId> {
        let id = |entry: &Entry| match &entry.item {
            Item::Event(delivery) => Some(delivery.event.id().clone()),
            _ => None,
        };
        self.lock().entries.iter().filter_map(id).collect()
    }

    /// Queues an alert; it takes no room and is counted apart. When too many of them wait, it is left out.
    pub(crate) fn notice(&self, delivery: Delivery, now: Instant) {
        let mut queue = self.lock();
        if queue.notices < MAX_NOTICES {
            queue.notices += 1;
            queue.append(Item::Notice(delivery), &self.name, now);
        }
        self.publish(queue, false);
    }

    /// Marks that events are missing here which never came this far.
    pub(crate) fn gap(&self, gap: &Gap, now: Instant) {
        let mut queue = self.lock();
        match queue.gap_at_the_end() {
            Some(last) => last.absorb(gap),
            None => queue.append(Item::Gap(Box::new(gap.clone())), &self.name, now),
        }
        self.publish(queue, false);
    }

    /// Which incarnation of the sink may lease.
    pub(crate) fn incarnation(&self) -> u64 {
        self.lock().incarnation
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
        let lease = queue.lease(incarnation, max_events, max_size, &self.name, now);
        let sent = lease.as_ref().and_then(|_| queue.end_of_lease());
        drop(queue);
        if let (Some(disk), Some(sent)) = (self.disk.get(), sent) {
            disk.sent(sent);
        }
        lease
    }

    /// Takes in what became of a lease's events; returns how many arrived. A stale lease changes nothing.
    pub(crate) fn settle(&self, lease: &Lease, marks: &[Mark], now: Instant) -> usize {
        let mut queue = self.lock();
        let arrived = queue.settle(lease, marks, now);
        self.publish(queue, true);
        arrived
    }

    /// How often the event at place `i` of a lease was tried.
    pub(crate) fn tries(&self, lease: &Lease, i: usize, now: Instant) -> Tries {
        self.lock().tries(lease, i, now)
    }

    /// The event at place `i` of a lease is in the dead letters now.
    pub(crate) fn bury(&self, lease: &Lease, i: usize) {
        let mut queue = self.lock();
        queue.bury(lease, i);
        self.publish(queue, true);
    }

    /// Ends a lease: what has not left stays, in its place, one attempt older unless its mark says that it was not
    /// sent. Without marks nothing was.
    pub(crate) fn release(&self, lease: &Lease, marks: &[Mark]) {
        let mut queue = self.lock();
        queue.release(lease, marks);
        self.publish(queue, true);
    }

    /// Takes back whatever is leased: marks of that lease count no more. An event that was alone in flight when its
    /// incarnation `crashed` remembers it.
    pub(crate) fn revoke(&self, crashed: bool) {
        let mut queue = self.lock();
        queue.revoke(crashed);
        self.publish(queue, true);
    }

    /// How often incarnations died with the oldest event alone in flight.
    pub(crate) fn crashes_of_oldest(&self) -> u32 {
        self.lock().entries.front().map_or(0, |entry| entry.crashes)
    }

    /// Waits until there are so many entries to lease. For one waiter at a time.
    pub(crate) async fn filled(&self, entries: usize) {
        loop {
            let notified = self.filled.notified();
            if self.lock().entries.len() >= entries {
                return;
            }
            notified.await;
        }
    }

    /// Whether nothing waits, markers included.
    pub(crate) fn is_empty(&self) -> bool {
        let queue = self.lock();
        queue.entries.is_empty() && queue.backlog.as_ref().is_none_or(Backlog::is_empty)
    }

    /// How many entries came in so far: what is before this place has left once [`Self::has_passed`] says so.
    pub(crate) fn tail(&self) -> u64 {
        self.lock().appended
    }

    /// The place of the oldest entry that has not left.
    pub(crate) fn head(&self) -> u64 {
        self.lock().first()
    }

    pub(crate) fn has_passed(&self, tail: u64) -> bool {
        self.lock().first() >= tail
    }

    /// The sink's actor says whether its circuit is open, and whether it was given up for good.
    pub(crate) fn set_open(&self, open: bool, failed: bool) {
        self.open.store(open, Ordering::Relaxed);
        self.failed.store(failed, Ordering::Relaxed);
        self.relief.notify_waiters();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

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
        let over = |have: usize, more: usize, max: usize| have.saturating_add(more) > max - max / 4;
        let policy = self.bounds();
        if over(self.events.load(Ordering::Relaxed), more_events, policy.max_events) {
            return true;
        }
        match self.disk.get() {
            Some(_) => {
                over(self.on_disk.load(Ordering::Relaxed), more_bytes, policy.max_size)
                    || self.unwritten.load(Ordering::Relaxed).saturating_add(more_bytes)
                        > self.unwritten_max.load(Ordering::Relaxed) / 2
            }
            None => over(self.bytes.load(Ordering::Relaxed), more_bytes, policy.max_size),
        }
    }

    /// How much it may hold now: one that is to be on disk is, as long as it is in memory, as large as a memory may be.
    fn bounds(&self) -> BufferPolicy {
        let mut policy = self.policy;
        if policy.disk.is_some() && self.disk.get().is_none() {
            let memory = BufferPolicy::default();
            policy.max_events = policy.max_events.min(memory.max_events);
            policy.max_size = policy.max_size.min(memory.max_size);
        }
        policy
    }

    /// The numbers of this sink, as of one moment.
    pub(crate) fn balance(&self, now: Instant) -> Balance {
        self.lock().balance(now)
    }

    /// From now on it is on disk, too, behind what was found there. Before anybody leases from it.
    pub(super) fn put_on_disk(&self, recovered: &Recovered, disk: Disk) {
        let mut queue = self.lock();
        queue.put_on_disk(recovered, &self.policy, &self.name);
        let _ = self.disk.set(disk);
        self.publish(queue, true);
        if let Some(disk) = self.disk.get() {
            disk.wake(self, true);
        }
    }

    /// Says why it is not on its disk yet, where that is no other process.
    pub(crate) fn cannot_be_written_yet(&self, why: Option<String>) {
        self.lock().no_disk_yet = why;
    }

    /// Whether it is to be on a disk that another process still has, or that cannot be written yet.
    pub(crate) fn awaits_disk(&self) -> bool {
        self.lock().awaits_disk()
    }

    /// It cannot be put on its disk, and stays in memory: what it holds counts as held once it has left.
    pub(crate) fn stay_in_memory(&self, why: String) {
        let mut queue = self.lock();
        queue.no_disk = Some(why);
    }

    pub(super) fn disk(&self) -> Option<&Disk> {
        self.disk.get()
    }

    pub(crate) fn policy(&self) -> &BufferPolicy {
        &self.policy
    }

    /// What the disk is to do next.
    pub(super) fn work(&self) -> Work {
        let mut queue = self.lock();
        let (first, next) = (queue.first(), queue.appended);
        let backlog = queue.backlog.as_mut();
        let mut work =
            backlog.map(|backlog| backlog.work(first, next, self.policy.max_size)).unwrap_or_default();
        work.waiting = queue.on_disk();
        self.tell(queue, false);
        work
    }

    /// Changes what is behind the window, from the disk's side.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Backlog, &mut VecDeque<Entry>) -> T,
    ) -> Option<T> {
        let mut queue = self.lock();
        let Queue { backlog, entries, .. } = &mut *queue;
        let changed = backlog.as_mut().map(|backlog| change(backlog, entries));
        self.tell(queue, true);
        changed
    }

    pub(super) fn loaded(&self, first: u64, records: Vec<(Record, Read)>, sent: u64) {
        let mut queue = self.lock();
        queue.loaded(first, records, sent, Instant::now());
        self.tell(queue, true);
    }

    /// Segments of its disk are not there any more; returns how many events are lost, and how many are still in memory.
    pub(super) fn taken_away(&self, gone: &[u64]) -> (u64, u64) {
        let mut queue = self.lock();
        let counted = queue.taken_away(gone, &self.name, Instant::now());
        self.tell(queue, true);
        counted
    }

    /// Writes what is to be written, and lets go of the disk. Nothing comes in any more.
    pub(crate) async fn close(&self) {
        let Some(disk) = self.disk.get() else { return };
        self.change(|backlog, entries| backlog.close(entries, &self.name));
        disk.wake(self, true);
        disk.closed().await;
    }

    /// Whether what waits here survives the process.
    pub(crate) fn is_kept(&self) -> bool {
        let queue = self.lock();
        queue.backlog.as_ref().is_some_and(|backlog| backlog.trouble(queue.first()).is_none())
    }

    /// Why nothing can be written to its disk, while that is so.
    pub(crate) fn disk_trouble(&self) -> Option<String> {
        let queue = self.lock();
        let Some(backlog) = &queue.backlog else {
            return queue.no_disk.clone().or_else(|| queue.no_disk_yet.clone());
        };
        backlog.trouble(queue.first()).map(str::to_owned)
    }

    /// How many places of its disk could not be read, and how many events should have been there at its start and were not.
    pub(crate) fn disk_damage(&self) -> (u64, u64) {
        self.lock().backlog.as_ref().map_or((0, 0), |backlog| (backlog.damaged, backlog.missing))
    }

    fn make_room(&self, queue: &mut Queue, delivery: &Delivery, now: Instant) -> bool {
        let (class, size) = (delivery.event.class(), delivery.event.size());
        match queue.backlog {
            Some(_) => backlog::make_room(queue, &self.policy, class, size, &self.name, now),
            None => shed::make_room(queue, &self.bounds(), class, size, now),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a change: copies the numbers out, and tells whoever waits for events, or for some to have `left`.
    fn publish(&self, queue: MutexGuard<'_, Queue>, left: bool) {
        let urgent = !left || queue.backlog.as_ref().is_some_and(Backlog::wants_more);
        self.tell(queue, left);
        if let Some(disk) = self.disk.get() {
            disk.wake(self, urgent);
        }
    }

    fn tell(&self, queue: MutexGuard<'_, Queue>, left: bool) {
        let empty = queue.entries.is_empty();
        let falls = |gauge: &AtomicUsize, to: usize| gauge.swap(to, Ordering::Relaxed) > to;
        let mut has_room = falls(&self.events, queue.events) | falls(&self.bytes, queue.bytes);
        if let Some(backlog) = &queue.backlog {
            has_room |= falls(&self.on_disk, backlog.used()) | falls(&self.unwritten, backlog.unwritten());
            self.unwritten_max.store(backlog.unwritten_max(), Ordering::Relaxed);
        }
        drop(queue);
        if !empty {
            self.filled.notify_one();
        }
        // Room counts, however it came to be.
        if left || has_room {
            self.relief.notify_waiters();
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("name", &self.name)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "buffer_model.rs"]
mod model;
