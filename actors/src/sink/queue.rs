//! What a buffer holds: events in order, some of them with the sink, and markers where events are missing.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::backlog::Backlog;
use super::batch::Mark;
use super::disk::Recovered;
use super::policy::BufferPolicy;
use super::status::Balance;
use crate::event::{Class, Confirmation, Delivery, Gap, GapReason};

/// Changed under the lock of its [`Buffer`](super::Buffer), which tells whoever waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) entries: VecDeque<Entry>,
    /// The position of the first entry, for leases.
    head: u64,
    /// How many entries ever came in.
    pub(super) appended: u64,
    /// How many of the first entries are with the sink.
    pub(super) leased: usize,
    pub(super) incarnation: u64,
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
    pub(super) no_disk: Option<String>,
    /// Why it is not there yet, where that is no other process.
    pub(super) no_disk_yet: Option<String>,
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
    pub(super) crashes: u32,
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

impl Queue {
    pub(super) fn new(awaits_disk: bool) -> Queue {
        Queue { awaits_disk, ..Queue::default() }
    }

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

    /// Lends the oldest events, see [`Buffer::lease`](super::Buffer::lease).
    pub(super) fn lease(
        &mut self,
        incarnation: u64,
        max_events: usize,
        max_size: usize,
        name: &str,
        now: Instant,
    ) -> Option<Lease> {
        if self.incarnation != incarnation {
            return None;
        }
        self.unlease();
        let (mut positions, mut items, mut bytes, mut taken) = (Vec::new(), Vec::new(), 0, 0);
        let head = self.head;
        let (mut idle, mut gaps, mut last_gap) = ([0; 3], 0, None);
        for (entry, position) in self.entries.iter_mut().zip(head..) {
            if items.len() >= max_events || (!items.is_empty() && bytes + entry.size as usize > max_size) {
                break;
            }
            taken += 1;
            last_gap = None;
            if let Item::Gap(gap) = &entry.item {
                let marker = Item::Notice(gap.delivery(name));
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
            && let Some(entry) = self.entries.get_mut(taken - 1)
        {
            entry.item = gap;
            (taken, gaps) = (taken - 1, gaps - 1);
            items.pop();
            positions.pop();
        }
        for (all, lent) in self.idle.iter_mut().zip(idle) {
            *all -= lent;
        }
        self.leased = taken;
        self.notices += gaps;
        (!items.is_empty()).then_some(Lease { incarnation, positions, items })
    }

    /// The number behind the last entry that is with the sink.
    pub(super) fn end_of_lease(&self) -> Option<u64> {
        let last = self.leased.checked_sub(1)?;
        self.entries.get(last).map(|entry| entry.number + 1)
    }

    /// Takes in what became of a lease's events; returns how many arrived. A stale lease changes nothing.
    pub(super) fn settle(&mut self, lease: &Lease, marks: &[Mark], now: Instant) -> usize {
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
        let entry = lease.positions.get(i).and_then(|position| self.at(*position));
        entry.map_or(Tries { attempts: 1, first: None }, |index| {
            let entry = self.entries.get(index);
            Tries {
                attempts: entry.map_or(1, |entry| entry.attempts + 1),
                first: entry.and_then(|entry| entry.first_attempt).map(|first| now.duration_since(first)),
            }
        })
    }

    /// The event at place `i` of a lease is in the dead letters now.
    pub(super) fn bury(&mut self, lease: &Lease, i: usize) {
        if lease.incarnation == self.incarnation
            && let Some(position) = lease.positions.get(i)
        {
            self.remove(*position, |balance| &mut balance.dead_lettered);
        }
    }

    /// Ends a lease: what has not left stays, in its place, one attempt older unless its mark says that it was not
    /// sent. Without marks nothing was.
    pub(super) fn release(&mut self, lease: &Lease, marks: &[Mark]) {
        if lease.incarnation == self.incarnation {
            for (position, mark) in lease.positions.iter().zip(marks) {
                if *mark != Mark::Unsent
                    && let Some(index) = self.at(*position)
                    && let Some(entry) = self.entries.get_mut(index)
                {
                    entry.attempts += 1;
                }
            }
            self.unlease();
        }
    }

    /// Takes back whatever is leased: marks of that lease count no more. An event that was alone in flight when its
    /// incarnation `crashed` remembers it.
    pub(super) fn revoke(&mut self, crashed: bool) {
        self.incarnation += 1;
        let leased = self.leased;
        let alone =
            self.entries.iter().take(leased).filter(|entry| !matches!(entry.item, Item::Done)).count() == 1;
        for entry in self.entries.iter_mut().take(leased) {
            entry.attempts += 1;
            entry.crashes += u32::from(crashed && alone);
        }
        self.unlease();
    }

    /// The numbers of this sink, as of one moment.
    pub(super) fn balance(&self, now: Instant) -> Balance {
        let mut balance = self.balance;
        balance.waiting = self.events as u64;
        balance.waiting_bytes = self.bytes as u64;
        balance.on_disk = self.on_disk();
        balance.in_flight =
            self.entries.iter().take(self.leased).filter(|entry| entry.is_event()).count() as u64;
        let oldest = self.entries.iter().find(|entry| entry.is_event());
        balance.oldest_waiting_age = oldest.map(|entry| now.duration_since(entry.since));
        balance.last_delivered_age = self.last_delivered.map(|at| now.duration_since(at));
        balance
    }

    /// From now on it is on disk, too, behind what was found there. Before anybody leases from it.
    pub(super) fn put_on_disk(&mut self, recovered: &Recovered, policy: &BufferPolicy, name: &str) {
        let early = std::mem::take(&mut self.entries);
        let came = self.appended;
        let backlog = Backlog::new(policy, recovered, self);
        let base = self.appended;
        (self.backlog, self.awaits_disk) = (Some(backlog), false);
        self.appended += came;
        let Queue { backlog, entries, .. } = self;
        if let Some(backlog) = backlog {
            backlog.expect_early(early.iter().map(|entry| entry.size as usize).sum());
            for mut entry in early {
                entry.number += base;
                backlog.append_staged(entry, entries, name);
            }
        }
    }

    /// Whether it is to be on a disk, and may come there yet.
    pub(super) fn awaits_disk(&self) -> bool {
        self.awaits_disk && self.no_disk.is_none()
    }

    /// The number of the first entry that has not left, or of the next to come.
    pub(super) fn first(&self) -> u64 {
        match &self.backlog {
            Some(backlog) => backlog.first(&self.entries, self.appended),
            None => self.entries.front().map_or(self.appended, |entry| entry.number),
        }
    }

    /// How many of the waiting events are on disk.
    pub(super) fn on_disk(&self) -> u64 {
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
    pub(super) fn last(&mut self) -> Option<&mut Entry> {
        match &mut self.backlog {
            Some(backlog) => backlog.last(&mut self.entries),
            None => self.entries.back_mut(),
        }
    }

    /// Neighbouring gaps become one, whatever their reasons: so there are never more markers than events and one.
    pub(super) fn gap_at_the_end(&mut self) -> Option<&mut Gap> {
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
