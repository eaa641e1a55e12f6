//! The front of a buffer: entries in memory, in order, the first of them with the sink.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::counts::Counts;
use super::entry::{Entry, Item};
use crate::event::{Class, Confirmation, Delivery, Gap, GapReason};

/// A leased entry keeps its position, whatever leaves before it.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) entries: VecDeque<Entry>,
    /// The position of the first entry.
    head: u64,
    /// How many of the first entries are with the sink.
    pub(super) leased: usize,
}

/// What is lent at once.
#[derive(Debug, Default)]
pub(super) struct Lent {
    pub(super) positions: Vec<u64>,
    pub(super) items: Vec<Delivery>,
}

impl Window {
    /// Lends the oldest entries, with markers in the place of gaps.
    pub(super) fn lend(
        &mut self,
        max_events: usize,
        max_size: usize,
        name: &str,
        now: Instant,
        counts: &mut Counts,
    ) -> Lent {
        let (mut lent, mut bytes, mut taken) = (Lent::default(), 0, 0);
        let (mut gaps, mut last_gap) = (0, None);
        for (entry, position) in self.entries.iter_mut().zip(self.head..) {
            let is_enough = !lent.items.is_empty() && bytes + entry.size as usize > max_size;
            if lent.items.len() >= max_events || is_enough {
                break;
            }
            taken += 1;
            last_gap = None;
            if let Item::Gap(gap) = &entry.item {
                let marker = Item::Notice(gap.delivery(name));
                last_gap = Some(std::mem::replace(&mut entry.item, marker));
                gaps += 1;
            }
            if let Item::Event(delivery) = &entry.item {
                counts.lend(delivery.event.class(), 1);
            }
            let (Item::Event(delivery) | Item::Notice(delivery)) = &mut entry.item else { continue };
            bytes += entry.size as usize;
            delivery.attempt = entry.attempts + 1;
            entry.first_attempt.get_or_insert(now);
            lent.positions.push(position);
            lent.items.push(delivery.clone());
        }
        // A gap at the end waits for the next lease: what is shed behind it until then belongs to it.
        if lent.items.len() > 1
            && let Some(gap) = last_gap
            && let Some(entry) = self.entries.get_mut(taken - 1)
        {
            entry.item = gap;
            (taken, gaps) = (taken - 1, gaps - 1);
            lent.items.pop();
            lent.positions.pop();
        }
        self.leased = taken;
        counts.notices += gaps;
        lent
    }

    /// What was lent is idle again, and what was done in its middle is cleared away.
    pub(super) fn take_back(&mut self, counts: &mut Counts) {
        let leased = std::mem::take(&mut self.leased);
        let mut kept = 0;
        for entry in self.entries.iter().take(leased) {
            if let Item::Event(delivery) = &entry.item {
                counts.give_back(delivery.event.class(), 1);
            }
            kept += usize::from(!entry.is_done());
        }
        if kept < leased {
            let front: Vec<Entry> = self.entries.drain(..leased).collect();
            self.head += (leased - kept) as u64;
            let front = front.into_iter().filter(|entry| !entry.is_done());
            front.rev().for_each(|entry| self.entries.push_front(entry));
        }
    }

    pub(super) fn at(&self, position: u64) -> Option<&Entry> {
        self.entries.get(self.index(position)?)
    }

    pub(super) fn at_mut(&mut self, position: u64) -> Option<&mut Entry> {
        let index = self.index(position)?;
        self.entries.get_mut(index)
    }

    fn index(&self, position: u64) -> Option<usize> {
        usize::try_from(position.checked_sub(self.head)?).ok()
    }

    /// What is with the sink.
    pub(super) fn leased(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().take(self.leased)
    }

    pub(super) fn leased_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().take(self.leased)
    }

    /// Clears away what is done at the front.
    pub(super) fn drop_done(&mut self) {
        while self.entries.pop_front_if(|entry| entry.is_done()).is_some() {
            self.head += 1;
            self.leased = self.leased.saturating_sub(1);
        }
    }
}

/// What was evicted: the number and the size of each event, in order, and the sum of the sizes.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    pub(super) numbers: Vec<(u64, u32)>,
    pub(super) bytes: usize,
}

/// Replaces the oldest events of one class by gaps, until so many events and bytes are gone or none is left. The first
/// `spared` entries stay.
pub(super) fn evict(
    entries: &mut VecDeque<Entry>,
    spared: usize,
    class: Class,
    events: usize,
    bytes: usize,
    now: Instant,
) -> Evicted {
    let mut gone = Evicted::default();
    let mut kept: VecDeque<Entry> = VecDeque::with_capacity(entries.len());
    for (index, entry) in std::mem::take(entries).into_iter().enumerate() {
        let can_merge = kept.len() > spared;
        let last = kept.back_mut().filter(|_| can_merge).map(|entry| &mut entry.item);
        match (&entry.item, last) {
            (Item::Event(delivery), last)
                if index >= spared
                    && (gone.numbers.len() < events || gone.bytes < bytes)
                    && delivery.event.class() == class =>
            {
                gone.numbers.push((entry.number, entry.size));
                gone.bytes += entry.size as usize;
                if let Some(receipt) = delivery.event.receipt() {
                    receipt.answer(Confirmation::Lost);
                }
                match last {
                    Some(Item::Gap(gap)) => gap.add(&delivery.event, GapReason::BufferFull),
                    _ => {
                        let mut gap = Gap::default();
                        gap.add(&delivery.event, GapReason::BufferFull);
                        kept.push_back(Entry::gap(gap, entry.number, now));
                    }
                }
            }
            (Item::Gap(gap), Some(Item::Gap(last))) => last.absorb(gap),
            _ => kept.push_back(entry),
        }
    }
    *entries = kept;
    gone
}
