//! The queue in front of one sink. It outlives every incarnation of the sink's actor, and never blocks the router.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::backlog::{self, Backlog, Read, Work};
use super::batch::Mark;
use super::disk::{Disk, Fsync, Record, Recovered};
use super::shed;
use super::status::Balance;
use crate::event::{Class, Confirmation, Delivery, EventId, Gap, GapReason};

/// What happens to an event that finds the buffer full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// Token events go first, then lifecycle, then audit events; one gap marker stands where some are missing.
    #[default]
    ShedTokens,
    /// The new event is not taken, whatever it is.
    DropNewest,
}

/// The bounds of a buffer: whichever is reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferPolicy {
    /// Most events; 100,000 by default.
    pub max_events: usize,
    /// Most bytes of JSON; 64 MiB by default.
    pub max_size: usize,
    /// What happens beyond.
    pub when_full: WhenFull,
    /// On disk, and how durably; `None`, the default, is in memory.
    pub disk: Option<Fsync>,
}

impl Default for BufferPolicy {
    fn default() -> BufferPolicy {
        BufferPolicy { max_events: 100_000, max_size: 64 << 20, when_full: WhenFull::ShedTokens, disk: None }
    }
}

impl BufferPolicy {
    /// On disk: 1 GiB, synced in groups before an event counts as held.
    #[must_use]
    pub fn disk() -> BufferPolicy {
        let disk = Some(Fsync::Group);
        BufferPolicy { max_events: usize::MAX, max_size: 1 << 30, disk, ..BufferPolicy::default() }
    }
}

/// What happens to new events while the circuit is open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum OnOpen {
    /// They wait.
    #[default]
    Buffer,
    /// They are shed, counted and marked.
    Drop,
    /// They go to another sink, by name.
    Fallback(Arc<str>),
}

/// Most alerts that wait in one buffer; markers need no such bound, because neighbours become one.
const MAX_NOTICES: usize = 1024;

/// A bounded, observable queue with at most one lease at a time.
pub struct Buffer {
    name: Arc<str>,
    policy: BufferPolicy,
    on_open: OnOpen,
    fallback: Mutex<Weak<Buffer>>,
    inner: Mutex<Inner>,
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

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) entries: VecDeque<Entry>,
    /// The position of the first entry, for leases.
    head: u64,
    /// How many entries ever came in.
    pub(super) appended: u64,
    /// How many of the first entries are with the sink.
    pub(super) leased: usize,
    incarnation: u64,
    /// Events, markers not counted.
    pub(super) events: usize,
    pub(super) bytes: usize,
    /// Events per class that are not with the sink.
    pub(super) idle: [usize; 3],
    pub(super) notices: usize,
    pub(super) balance: Balance,
    last_delivered: Option<Instant>,
    /// What is behind `entries`, where there is a disk.
    pub(super) backlog: Option<Backlog>,
    /// It is to be on a disk, and is not yet: nothing counts as held.
    awaits_disk: bool,
    /// Why it never came there.
    no_disk: Option<String>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) item: Item,
    /// It came in as the how-manieth; a gap has that of the first event that is missing.
    pub(super) number: u64,
    pub(super) size: u32,
    since: Instant,
    /// Deliveries begun; the next one is `attempts + 1`.
    pub(super) attempts: u32,
    /// How often an incarnation died with this event alone in flight.
    crashes: u32,
    first_attempt: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Item {
    Event(Delivery),
    /// A gap marker or an alert: delivered like an event, counted apart.
    Notice(Delivery),
    /// Stands where events were shed; becomes a marker when it is leased.
    Gap(Box<Gap>),
    /// Delivered or buried, but not yet at the front.
    Done,
}

/// Events that are with a sink; they stay in the buffer until they are marked.
#[derive(Debug)]
pub(crate) struct Lease {
    incarnation: u64,
    /// The position of each item.
    positions: Vec<u64>,
    /// The events, in order.
    pub(crate) items: Vec<Delivery>,
}

/// How often one event was tried, for its dead letter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tries {
    pub(crate) attempts: u32,
    pub(crate) first: Option<Duration>,
}

impl Buffer {
    /// An empty buffer for the sink of that name. `relief` is told whenever waiting senders may look again.
    pub(crate) fn new(
        name: Arc<str>,
        policy: BufferPolicy,
        on_open: OnOpen,
        relief: Arc<Notify>,
    ) -> Arc<Buffer> {
        Arc::new(Buffer {
            name,
            policy,
            on_open,
            fallback: Mutex::default(),
            inner: Mutex::new(Inner { awaits_disk: policy.disk.is_some(), ..Inner::default() }),
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
    fn fallback(&self) -> Option<Arc<Buffer>> {
        let target = self.fallback.lock().unwrap_or_else(PoisonError::into_inner).upgrade()?;
        (!std::ptr::eq(&*target, self) && !target.is_retired()).then_some(target)
    }

    /// Queues events, in order, with one lock; or sheds them, or gives them to its fallback, as its policies say.
    pub(crate) fn push(&self, deliveries: impl IntoIterator<Item = Delivery>, now: Instant) {
        match (self.is_open(), &self.on_open) {
            (true, OnOpen::Drop) => {
                let mut inner = self.lock();
                for delivery in deliveries {
                    inner.balance.accepted += 1;
                    inner.shed(&delivery, GapReason::CircuitOpen, &self.name, now);
                }
                self.publish(inner, false);
            }
            (true, OnOpen::Fallback(_)) if let Some(target) = self.fallback() => {
                let diverted: Vec<Delivery> = deliveries.into_iter().collect();
                let count = diverted.len() as u64;
                // Not on to the target's own fallback: two sinks may be each other's.
                target.hold(diverted, now);
                let mut inner = self.lock();
                inner.balance.accepted += count;
                inner.balance.diverted += count;
            }
            _ => self.hold(deliveries, now),
        }
    }

    fn hold(&self, deliveries: impl IntoIterator<Item = Delivery>, now: Instant) {
        let mut inner = self.lock();
        for delivery in deliveries {
            inner.balance.accepted += 1;
            if self.make_room(&mut inner, &delivery, now) {
                inner.append(Item::Event(delivery), &self.name, now);
            } else {
                inner.shed(&delivery, GapReason::BufferFull, &self.name, now);
            }
        }
        self.publish(inner, false);
    }

    /// Queues one event if there is room without shedding anything.
    pub(crate) fn offer(&self, delivery: Delivery, now: Instant) -> bool {
        self.offer_again(delivery, 0, now)
    }

    /// Like [`offer`](Self::offer), for an event that was tried before.
    pub(crate) fn offer_again(&self, delivery: Delivery, attempts: u32, now: Instant) -> bool {
        let mut inner = self.lock();
        let size = delivery.event.size();
        let fits = match &inner.backlog {
            Some(backlog) => {
                backlog.used() + size <= self.policy.max_size
                    && backlog.unwritten() + size <= backlog.unwritten_max()
            }
            None => inner.bytes + size <= self.policy.max_size || inner.events == 0,
        };
        let fits = fits && inner.events < self.policy.max_events;
        if fits {
            inner.balance.accepted += 1;
            inner.append(Item::Event(delivery), &self.name, now);
            if let Some(entry) = inner.last() {
                entry.attempts = attempts;
            }
        }
        self.publish(inner, false);
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
        let mut inner = self.lock();
        if inner.notices < MAX_NOTICES {
            inner.notices += 1;
            inner.append(Item::Notice(delivery), &self.name, now);
        }
        self.publish(inner, false);
    }

    /// Marks that events are missing here which never came this far.
    pub(crate) fn gap(&self, gap: &Gap, now: Instant) {
        let mut inner = self.lock();
        match inner.gap_at_the_end() {
            Some(last) => last.absorb(gap),
            None => inner.append(Item::Gap(Box::new(gap.clone())), &self.name, now),
        }
        self.publish(inner, false);
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
        let mut inner = self.lock();
        if inner.incarnation != incarnation {
            return None;
        }
        inner.unlease();
        let (mut positions, mut items, mut bytes, mut taken) = (Vec::new(), Vec::new(), 0, 0);
        let (head, name) = (inner.head, self.name.clone());
        let (mut idle, mut gaps, mut last_gap) = ([0; 3], 0, None);
        for (entry, position) in inner.entries.iter_mut().zip(head..) {
            if items.len() >= max_events || (!items.is_empty() && bytes + entry.size as usize > max_size) {
                break;
            }
            taken += 1;
            last_gap = None;
            if let Item::Gap(gap) = &entry.item {
                let marker = Item::Notice(gap.delivery(&name));
                last_gap = Some(std::mem::replace(&mut entry.item, marker));
                gaps += 1;
            }
            let (Item::Event(delivery) | Item::Notice(delivery)) = &mut entry.item else { continue };
            bytes += entry.size as usize;
            delivery.attempt = entry.attempts + 1;
            entry.first_attempt.get_or_insert(now);
            positions.push(position);
            items.push(delivery.clone());
            if let Item::Event(delivery) = &entry.item {
                count(&mut idle, delivery.event.class(), 1);
            }
        }
        // A gap at the end waits for the next lease: what is shed behind it until then belongs to it.
        if items.len() > 1
            && let Some(gap) = last_gap
            && let Some(entry) = inner.entries.get_mut(taken - 1)
        {
            entry.item = gap;
            (taken, gaps) = (taken - 1, gaps - 1);
            items.pop();
            positions.pop();
        }
        for (all, lent) in inner.idle.iter_mut().zip(idle) {
            *all -= lent;
        }
        inner.leased = taken;
        inner.notices += gaps;
        let sent =
            taken.checked_sub(1).and_then(|last| inner.entries.get(last)).map(|entry| entry.number + 1);
        drop(inner);
        if let (Some(disk), Some(sent)) = (self.disk.get(), sent) {
            disk.sent(sent);
        }
        (!items.is_empty()).then_some(Lease { incarnation, positions, items })
    }

    /// Takes in what became of a lease's events; returns how many arrived. A stale lease changes nothing.
    pub(crate) fn settle(&self, lease: &Lease, marks: &[Mark], now: Instant) -> usize {
        let mut inner = self.lock();
        if lease.incarnation != inner.incarnation {
            return 0;
        }
        let mut arrived = 0;
        for (position, mark) in lease.positions.iter().zip(marks) {
            if *mark == Mark::Delivered && inner.remove(*position, |balance| &mut balance.delivered) {
                arrived += 1;
            }
        }
        if arrived > 0 {
            inner.last_delivered = Some(now);
        }
        self.publish(inner, true);
        arrived
    }

    /// How often the event at place `i` of a lease was tried.
    pub(crate) fn tries(&self, lease: &Lease, i: usize, now: Instant) -> Tries {
        let inner = self.lock();
        let entry = lease.positions.get(i).and_then(|position| inner.at(*position));
        entry.map_or(Tries { attempts: 1, first: None }, |index| {
            let entry = inner.entries.get(index);
            Tries {
                attempts: entry.map_or(1, |entry| entry.attempts + 1),
                first: entry.and_then(|entry| entry.first_attempt).map(|first| now.duration_since(first)),
            }
        })
    }

    /// The event at place `i` of a lease is in the dead letters now.
    pub(crate) fn bury(&self, lease: &Lease, i: usize) {
        let mut inner = self.lock();
        if lease.incarnation == inner.incarnation
            && let Some(position) = lease.positions.get(i)
        {
            inner.remove(*position, |balance| &mut balance.dead_lettered);
        }
        self.publish(inner, true);
    }

    /// Ends a lease: what has not left stays, in its place, one attempt older unless its mark says that it was not
    /// sent. Without marks nothing was.
    pub(crate) fn release(&self, lease: &Lease, marks: &[Mark]) {
        let mut inner = self.lock();
        if lease.incarnation == inner.incarnation {
            for (position, mark) in lease.positions.iter().zip(marks) {
                if *mark != Mark::Unsent
                    && let Some(index) = inner.at(*position)
                    && let Some(entry) = inner.entries.get_mut(index)
                {
                    entry.attempts += 1;
                }
            }
            inner.unlease();
        }
        self.publish(inner, true);
    }

    /// Takes back whatever is leased: marks of that lease count no more. An event that was alone in flight when its
    /// incarnation `crashed` remembers it.
    pub(crate) fn revoke(&self, crashed: bool) {
        let mut inner = self.lock();
        inner.incarnation += 1;
        let leased = inner.leased;
        let alone =
            inner.entries.iter().take(leased).filter(|entry| !matches!(entry.item, Item::Done)).count() == 1;
        for entry in inner.entries.iter_mut().take(leased) {
            entry.attempts += 1;
            entry.crashes += u32::from(crashed && alone);
        }
        inner.unlease();
        self.publish(inner, true);
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
        let inner = self.lock();
        inner.entries.is_empty() && inner.backlog.as_ref().is_none_or(Backlog::is_empty)
    }

    /// How many entries came in so far: what is before this place has left once [`Self::has_passed`] says so.
    pub(crate) fn tail(&self) -> u64 {
        self.lock().appended
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
        if over(self.events.load(Ordering::Relaxed), more_events, self.policy.max_events) {
            return true;
        }
        match self.disk.get() {
            Some(_) => {
                over(self.on_disk.load(Ordering::Relaxed), more_bytes, self.policy.max_size)
                    || self.unwritten.load(Ordering::Relaxed).saturating_add(more_bytes)
                        > self.unwritten_max.load(Ordering::Relaxed) / 2
            }
            None => over(self.bytes.load(Ordering::Relaxed), more_bytes, self.policy.max_size),
        }
    }

    /// The numbers of this sink, as of one moment.
    pub(crate) fn balance(&self, now: Instant) -> Balance {
        let inner = self.lock();
        let mut balance = inner.balance;
        balance.waiting = inner.events as u64;
        balance.waiting_bytes = inner.bytes as u64;
        balance.on_disk = inner.on_disk();
        balance.in_flight =
            inner.entries.iter().take(inner.leased).filter(|entry| entry.is_event()).count() as u64;
        let oldest = inner.entries.iter().find(|entry| entry.is_event());
        balance.oldest_waiting_age = oldest.map(|entry| now.duration_since(entry.since));
        balance.last_delivered_age = inner.last_delivered.map(|at| now.duration_since(at));
        balance
    }

    /// From now on it is on disk, too, behind what was found there. Before anybody leases from it.
    pub(super) fn put_on_disk(&self, recovered: &Recovered, disk: Disk) {
        let mut inner = self.lock();
        let early = std::mem::take(&mut inner.entries);
        let came = inner.appended;
        let backlog = Backlog::new(&self.policy, recovered, &mut inner);
        let base = inner.appended;
        (inner.backlog, inner.awaits_disk) = (Some(backlog), false);
        inner.appended += came;
        let Inner { backlog, entries, .. } = &mut *inner;
        if let Some(backlog) = backlog {
            for mut entry in early {
                entry.number += base;
                backlog.append_staged(entry, entries, &self.name);
            }
        }
        let _ = self.disk.set(disk);
        self.publish(inner, false);
    }

    /// It cannot be put on its disk, and stays in memory: what it holds counts as held once it has left.
    pub(crate) fn stay_in_memory(&self, why: String) {
        let mut inner = self.lock();
        inner.no_disk = Some(why);
    }

    pub(super) fn disk(&self) -> Option<&Disk> {
        self.disk.get()
    }

    pub(crate) fn policy(&self) -> &BufferPolicy {
        &self.policy
    }

    /// What the disk is to do next.
    pub(super) fn work(&self) -> Work {
        let mut inner = self.lock();
        let (first, next) = (inner.first(), inner.appended);
        let backlog = inner.backlog.as_mut();
        backlog.map(|backlog| backlog.work(first, next, self.policy.max_size)).unwrap_or_default()
    }

    /// Changes what is behind the window, from the disk's side.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Backlog, &mut VecDeque<Entry>) -> T,
    ) -> Option<T> {
        let mut inner = self.lock();
        let Inner { backlog, entries, .. } = &mut *inner;
        let changed = backlog.as_mut().map(|backlog| change(backlog, entries));
        self.tell(inner, true);
        changed
    }

    pub(super) fn loaded(&self, first: u64, records: Vec<(Record, Read)>, sent: u64) {
        let mut inner = self.lock();
        inner.loaded(first, records, sent, Instant::now());
        self.tell(inner, true);
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
        self.lock().backlog.as_ref().is_some_and(|backlog| backlog.trouble.is_none())
    }

    /// Why nothing can be written to its disk, while that is so, and how many places of it could not be read.
    pub(crate) fn disk_trouble(&self) -> (Option<String>, u64) {
        let inner = self.lock();
        inner.backlog.as_ref().map_or((inner.no_disk.clone(), 0), |b| (b.trouble.clone(), b.damaged))
    }

    fn make_room(&self, inner: &mut Inner, delivery: &Delivery, now: Instant) -> bool {
        let (class, size) = (delivery.event.class(), delivery.event.size());
        match inner.backlog {
            Some(_) => backlog::make_room(inner, &self.policy, class, size, &self.name, now),
            None => {
                let mut policy = self.policy;
                if policy.disk.is_some() {
                    // As long as it is in memory, it is as large as a memory may be.
                    let memory = BufferPolicy::default();
                    policy.max_events = policy.max_events.min(memory.max_events);
                    policy.max_size = policy.max_size.min(memory.max_size);
                }
                shed::make_room(inner, &policy, class, size, now)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a change: copies the numbers out, and tells whoever waits for events, or for some to have `left`.
    fn publish(&self, inner: MutexGuard<'_, Inner>, left: bool) {
        let urgent = !left || inner.backlog.as_ref().is_some_and(Backlog::wants_more);
        self.tell(inner, left);
        if let Some(disk) = self.disk.get() {
            disk.wake(self, urgent);
        }
    }

    fn tell(&self, inner: MutexGuard<'_, Inner>, left: bool) {
        let empty = inner.entries.is_empty();
        self.events.store(inner.events, Ordering::Relaxed);
        self.bytes.store(inner.bytes, Ordering::Relaxed);
        if let Some(backlog) = &inner.backlog {
            self.on_disk.store(backlog.used(), Ordering::Relaxed);
            self.unwritten.store(backlog.unwritten(), Ordering::Relaxed);
            self.unwritten_max.store(backlog.unwritten_max(), Ordering::Relaxed);
        }
        drop(inner);
        if !empty {
            self.filled.notify_one();
        }
        if left {
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

impl Inner {
    pub(super) fn append(&mut self, item: Item, name: &str, now: Instant) {
        let mut size = 0;
        if let Item::Event(delivery) = &item {
            size = delivery.event.size();
            self.count_in(delivery.event.class(), 1, size);
        }
        let number = self.appended;
        self.appended += 1;
        let entry = Entry::new(item, number, u32::try_from(size).unwrap_or(u32::MAX), now);
        match &mut self.backlog {
            Some(backlog) => backlog.append(entry, &mut self.entries, name),
            None => {
                if let Item::Event(delivery) = &entry.item
                    && let Some(receipt) = delivery.event.receipt().filter(|_| self.awaits_disk)
                {
                    receipt.staged();
                }
                self.entries.push_back(entry);
            }
        }
    }

    /// More events wait.
    pub(super) fn count_in(&mut self, class: Class, events: usize, size: usize) {
        self.events += events;
        self.bytes += size;
        count(&mut self.idle, class, events);
    }

    /// Some that were not with the sink wait no more.
    pub(super) fn count_out(&mut self, class: Class, events: usize, size: usize) {
        self.events -= events;
        self.bytes = self.bytes.saturating_sub(size);
        if let Some(idle) = self.idle.get_mut(class as usize) {
            *idle -= events;
        }
    }

    /// The number of the first entry that has not left, or of the next to come.
    fn first(&self) -> u64 {
        match &self.backlog {
            Some(backlog) => backlog.first(&self.entries, self.appended),
            None => self.entries.front().map_or(self.appended, |entry| entry.number),
        }
    }

    /// How many of the waiting events are on disk.
    fn on_disk(&self) -> u64 {
        let Some(backlog) = &self.backlog else { return 0 };
        (self.events as u64).saturating_sub(backlog.unwritten_events(self.first()))
    }

    /// Counts an event that does not come in, and marks its place at the end.
    pub(super) fn shed(&mut self, delivery: &Delivery, reason: GapReason, name: &str, now: Instant) {
        self.balance.shed += 1;
        if let Some(receipt) = delivery.event.receipt() {
            receipt.answer(Confirmation::Lost);
        }
        if let Some(last) = self.gap_at_the_end() {
            return last.add(&delivery.event, reason);
        }
        let mut gap = Gap::default();
        gap.add(&delivery.event, reason);
        self.append(Item::Gap(Box::new(gap)), name, now);
    }

    /// The last entry, where it is in memory.
    fn last(&mut self) -> Option<&mut Entry> {
        match &mut self.backlog {
            Some(backlog) => backlog.last(&mut self.entries),
            None => self.entries.back_mut(),
        }
    }

    /// Neighbouring gaps become one, whatever their reasons: so there are never more markers than events and one.
    fn gap_at_the_end(&mut self) -> Option<&mut Gap> {
        // One that is with the sink has become a marker.
        match &mut self.last()?.item {
            Item::Gap(gap) => Some(gap),
            _ => None,
        }
    }

    /// Takes an entry out and counts it; `false` when it is gone already.
    fn remove(&mut self, position: u64, counter: impl FnOnce(&mut Balance) -> &mut u64) -> bool {
        let Some(entry) = self.at(position).and_then(|index| self.entries.get_mut(index)) else {
            return false;
        };
        match std::mem::replace(&mut entry.item, Item::Done) {
            Item::Event(delivery) => {
                let size = entry.size as usize;
                self.events -= 1;
                self.bytes = self.bytes.saturating_sub(size);
                *counter(&mut self.balance) += 1;
                if let Some(backlog) = &mut self.backlog {
                    backlog.left(size);
                } else if let Some(receipt) = delivery.event.receipt().filter(|_| self.awaits_disk) {
                    receipt.written();
                }
            }
            Item::Notice(_) => {
                self.notices -= 1;
                self.balance.notices += 1;
            }
            Item::Gap(_) | Item::Done => return false,
        }
        self.drop_done();
        true
    }

    fn at(&self, position: u64) -> Option<usize> {
        usize::try_from(position.checked_sub(self.head)?).ok()
    }

    fn drop_done(&mut self) {
        while self.entries.front().is_some_and(|entry| matches!(entry.item, Item::Done)) {
            self.entries.pop_front();
            self.head += 1;
            self.leased = self.leased.saturating_sub(1);
        }
        if let Some(backlog) = &mut self.backlog {
            backlog.refill(&mut self.entries);
        }
    }

    /// Ends the lease: what is left of it is idle again, and what was done in its middle is cleared away.
    fn unlease(&mut self) {
        let leased = std::mem::take(&mut self.leased);
        let mut kept = 0;
        for entry in self.entries.iter().take(leased) {
            if let Item::Event(delivery) = &entry.item {
                count(&mut self.idle, delivery.event.class(), 1);
            }
            kept += usize::from(!matches!(entry.item, Item::Done));
        }
        if kept < leased {
            let front: Vec<Entry> = self.entries.drain(..leased).collect();
            self.head += (leased - kept) as u64;
            front.into_iter().filter(|entry| !matches!(entry.item, Item::Done)).rev().for_each(|entry| {
                self.entries.push_front(entry);
            });
        }
    }
}

impl Entry {
    pub(super) fn is_event(&self) -> bool {
        matches!(self.item, Item::Event(_))
    }

    pub(super) fn new(item: Item, number: u64, size: u32, since: Instant) -> Entry {
        Entry { item, number, size, since, attempts: 0, crashes: 0, first_attempt: None }
    }
}

/// Adds to the number of one class.
pub(super) fn count(idle: &mut [usize; 3], class: Class, n: usize) {
    if let Some(slot) = idle.get_mut(class as usize) {
        *slot += n;
    }
}

#[cfg(test)]
#[path = "buffer_model.rs"]
mod model;
