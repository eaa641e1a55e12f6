//! What a buffer holds: events in order, some of them with the sink, and markers where events are missing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::any_store::AnyStore;
use super::backlog::Backlog;
use super::balance::Balance;
use super::batch::Mark;
use super::counts::Counts;
use super::disk::Recovered;
use super::entry::{Entry, Item};
use super::memory::Memory;
use super::overflow::{self, Fill, Newcomer, Room, Victims};
use super::policy::{BufferPolicy, WhenFull};
use super::window::{Lent, Window};
use crate::event::{CLASSES, Class, Confirmation, Delivery, Gap, GapReason};

/// Changed under the lock of its [`Buffer`](super::buffer::Buffer), which tells whoever waits.
#[derive(Debug)]
pub(super) struct Queue {
    name: Arc<str>,
    when_full: WhenFull,
    pub(super) window: Window,
    pub(super) counts: Counts,
    pub(super) store: AnyStore,
    /// How many entries ever came in.
    appended: u64,
    incarnation: u64,
    last_delivered: Option<Instant>,
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

/// How an incarnation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Crash,
    Other,
}

impl Queue {
    pub(super) fn new(name: Arc<str>, when_full: WhenFull, memory: Memory) -> Queue {
        Queue {
            name,
            when_full,
            window: Window::default(),
            counts: Counts::default(),
            store: AnyStore::Memory(memory),
            appended: 0,
            incarnation: 0,
            last_delivered: None,
        }
    }

    /// Counts an event that is given to the buffer, and takes it in, or sheds it where there is no room.
    pub(super) fn push(&mut self, delivery: Delivery, now: Instant) {
        self.counts.balance.accepted += 1;
        let newcomer = self.newcomer(&delivery);
        if overflow::make_room(self.when_full, newcomer, &mut Crowd { queue: self, now }) {
            self.append(Item::Event(delivery), now);
        } else {
            self.shed(&delivery, GapReason::BufferFull, now);
        }
    }

    /// Takes an event in that was tried so often before, if there is room without shedding anything.
    pub(super) fn offer(&mut self, delivery: Delivery, attempts: u32, now: Instant) -> bool {
        // Whatever its class, all of the room may be used: what is offered can wait outside.
        let newcomer = Newcomer { class: Class::Audit, ..self.newcomer(&delivery) };
        let has_room = self.fill().has_room_for(newcomer);
        if has_room {
            self.counts.balance.accepted += 1;
            self.append(Item::Event(delivery), now);
            if let Some(entry) = self.store.last(&mut self.window) {
                entry.attempts = attempts;
            }
        }
        has_room
    }

    fn newcomer(&self, delivery: &Delivery) -> Newcomer {
        Newcomer { class: delivery.event.class(), size: self.store.cost(delivery.event.size()) }
    }

    /// Counts an event that does not come in, and marks its place at the end.
    pub(super) fn shed(&mut self, delivery: &Delivery, reason: GapReason, now: Instant) {
        self.counts.balance.shed += 1;
        if let Some(receipt) = delivery.event.receipt() {
            receipt.answer(Confirmation::Lost);
        }
        if let Some(last) = self.gap_at_the_end() {
            return last.add(&delivery.event, reason);
        }
        let mut gap = Gap::default();
        gap.add(&delivery.event, reason);
        self.append(Item::Gap(Box::new(gap)), now);
    }

    /// Takes in a marker of events that are missing; neighbours become one.
    pub(super) fn append_gap(&mut self, gap: &Gap, now: Instant) {
        match self.gap_at_the_end() {
            Some(last) => last.absorb(gap),
            None => self.append(Item::Gap(Box::new(gap.clone())), now),
        }
    }

    /// Takes in an alert.
    pub(super) fn append_notice(&mut self, delivery: Delivery, now: Instant) {
        self.counts.notices += 1;
        self.append(Item::Notice(delivery), now);
    }

    fn append(&mut self, item: Item, now: Instant) {
        let mut size = 0;
        if let Item::Event(delivery) = &item {
            size = delivery.event.size();
            self.counts.count_in(delivery.event.class(), 1, size);
        }
        let number = self.appended;
        self.appended += 1;
        self.store.append(Entry::new(item, number, size, now), &mut self.window);
    }

    /// Neighbouring gaps become one, whatever their reasons: so there are never more markers than events and one.
    fn gap_at_the_end(&mut self) -> Option<&mut Gap> {
        // One that is with the sink has become a marker.
        match &mut self.store.last(&mut self.window)?.item {
            Item::Gap(gap) => Some(gap),
            _ => None,
        }
    }

    /// Lends the oldest events, see [`Buffer::lease`](super::buffer::Buffer::lease).
    pub(super) fn lease(
        &mut self,
        incarnation: u64,
        max_events: usize,
        max_size: usize,
        now: Instant,
    ) -> Option<Lease> {
        if self.incarnation != incarnation {
            return None;
        }
        self.window.take_back(&mut self.counts);
        let lent = self.window.lend(max_events, max_size, &self.name, now, &mut self.counts);
        let Lent { positions, items } = lent;
        (!items.is_empty()).then_some(Lease { incarnation, positions, items })
    }

    /// The number behind the last entry that is with the sink.
    pub(super) fn end_of_lease(&self) -> Option<u64> {
        self.window.leased().last().map(|entry| entry.number + 1)
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Takes in what became of a lease's events; returns how many arrived. A stale lease changes nothing.
    pub(super) fn complete(&mut self, lease: &Lease, marks: &[Mark], now: Instant) -> usize {
        if lease.incarnation != self.incarnation {
            return 0;
        }
        let mut arrived = 0;
        for (position, mark) in lease.positions.iter().zip(marks) {
            if *mark == Mark::Delivered && self.remove(*position, |balance| &mut balance.delivered) {
                arrived += 1;
            }
        }
        if arrived > 0 {
            self.last_delivered = Some(now);
        }
        arrived
    }

    /// How often the event at place `i` of a lease was tried.
    pub(super) fn tries(&self, lease: &Lease, i: usize, now: Instant) -> Tries {
        let entry = lease.positions.get(i).and_then(|position| self.window.at(*position));
        Tries {
            attempts: entry.map_or(1, |entry| entry.attempts + 1),
            first: entry.and_then(|entry| entry.first_attempt).map(|first| now.duration_since(first)),
        }
    }

    /// The event at place `i` of a lease is in the dead letters now.
    pub(super) fn dead_letter(&mut self, lease: &Lease, i: usize) {
        if lease.incarnation == self.incarnation
            && let Some(position) = lease.positions.get(i)
        {
            self.remove(*position, |balance| &mut balance.dead_lettered);
        }
    }

    /// Ends a lease: what has not left stays, in its place, one attempt older unless its mark says that it was not
    /// sent. Without marks nothing was.
    pub(super) fn release(&mut self, lease: &Lease, marks: &[Mark]) {
        if lease.incarnation != self.incarnation {
            return;
        }
        for (position, mark) in lease.positions.iter().zip(marks) {
            if *mark != Mark::Unsent
                && let Some(entry) = self.window.at_mut(*position)
            {
                entry.attempts += 1;
            }
        }
        self.window.take_back(&mut self.counts);
    }

    /// Takes back whatever is leased: marks of that lease count no more. An event that was alone in flight when its
    /// incarnation crashed remembers it.
    pub(super) fn revoke(&mut self, ending: Ending) {
        self.incarnation += 1;
        let alone = self.window.leased().filter(|entry| !entry.is_done()).count() == 1;
        for entry in self.window.leased_mut() {
            entry.attempts += 1;
            entry.crashes += u32::from(ending == Ending::Crash && alone);
        }
        self.window.take_back(&mut self.counts);
    }

    /// Takes an entry out and counts it; `false` when it is gone already.
    fn remove(&mut self, position: u64, counter: impl FnOnce(&mut Balance) -> &mut u64) -> bool {
        let Some(entry) = self.window.at_mut(position) else { return false };
        let size = entry.size as usize;
        match std::mem::replace(&mut entry.item, Item::Done) {
            Item::Event(delivery) => {
                self.counts.events -= 1;
                self.counts.bytes = self.counts.bytes.saturating_sub(size);
                *counter(&mut self.counts.balance) += 1;
                self.store.left(&delivery, size);
            }
            Item::Notice(_) => {
                self.counts.notices -= 1;
                self.counts.balance.notices += 1;
            }
            Item::Gap(_) | Item::Done => return false,
        }
        self.window.drop_done();
        self.store.refill(&mut self.window);
        true
    }

    /// The numbers of this sink, as of one moment.
    pub(super) fn balance(&self, now: Instant) -> Balance {
        let mut balance = self.counts.balance;
        balance.waiting = self.counts.events as u64;
        balance.waiting_bytes = self.counts.bytes as u64;
        balance.on_disk = self.on_disk();
        balance.in_flight = self.window.leased().filter(|entry| entry.is_event()).count() as u64;
        let oldest = self.window.entries.iter().find(|entry| entry.is_event());
        balance.oldest_waiting_age = oldest.map(|entry| now.duration_since(entry.since));
        balance.last_delivered_age = self.last_delivered.map(|at| now.duration_since(at));
        balance
    }

    /// How many entries came in so far.
    pub(super) fn appended(&self) -> u64 {
        self.appended
    }

    /// The number of the first entry that has not left, or of the next to come.
    pub(super) fn first(&self) -> u64 {
        match self.window.entries.front() {
            Some(entry) => entry.number,
            None => self.store.first().unwrap_or(self.appended),
        }
    }

    /// Whether nothing waits, markers included.
    pub(super) fn is_empty(&self) -> bool {
        self.window.entries.is_empty() && self.store.first().is_none()
    }

    /// How many of the waiting events are on disk.
    pub(super) fn on_disk(&self) -> u64 {
        self.store.on_disk(self.first(), &self.counts)
    }

    pub(super) fn fill(&self) -> Fill {
        self.store.fill(&self.counts)
    }

    pub(super) fn memory(&mut self) -> Option<&mut Memory> {
        match &mut self.store {
            AnyStore::Memory(memory) => Some(memory),
            AnyStore::Backlog(_) => None,
        }
    }

    /// What the disk writes behind the queue, with all that it may change of it.
    pub(super) fn backlog(&mut self) -> Option<(&mut Backlog, &mut Window, &mut Counts)> {
        match &mut self.store {
            AnyStore::Memory(_) => None,
            AnyStore::Backlog(backlog) => Some((backlog, &mut self.window, &mut self.counts)),
        }
    }

    /// From now on it is on disk, too, behind what was found there. Before anybody leases from it.
    pub(super) fn put_on_disk(&mut self, recovered: &Recovered, policy: &BufferPolicy) {
        let early = std::mem::take(&mut self.window.entries);
        for stored in &recovered.segments {
            self.counts.notices += usize::try_from(stored.alerts).unwrap_or(0);
            for ((class, events), bytes) in CLASSES.into_iter().zip(stored.events).zip(stored.bytes) {
                self.counts.balance.recovered += events;
                self.counts.count_in(class, events as usize, bytes as usize);
            }
        }
        let mut backlog = Backlog::new(self.name.clone(), policy, recovered);
        self.appended += recovered.next;
        backlog.expect_early(early.iter().map(|entry| entry.size as usize).sum());
        for mut entry in early {
            entry.number += recovered.next;
            backlog.append_staged(entry, &mut self.window);
        }
        self.store = AnyStore::Backlog(Box::new(backlog));
    }
}

/// A queue that is to make room.
struct Crowd<'a> {
    queue: &'a mut Queue,
    now: Instant,
}

impl Room for Crowd<'_> {
    fn fill(&self) -> Fill {
        self.queue.fill()
    }

    fn shed(&mut self, victims: Victims, newcomer: Newcomer) {
        let Queue { store, window, counts, .. } = &mut *self.queue;
        store.shed(victims, newcomer, window, counts, self.now);
    }
}
