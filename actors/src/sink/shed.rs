//! Which events go when a buffer is full.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::policy::{BufferPolicy, WhenFull};
use super::queue::{Entry, Item, Queue};
use crate::event::{Class, Confirmation, Gap, GapReason};

/// A full buffer frees this part of itself at once, so that the search for victims is paid for by many events.
const CHUNK: usize = 8;
/// Tokens may not use the last part of a buffer: lifecycle events find room without a search.
const RESERVE: usize = 16;

/// Makes room for one event of `class` and `size`; `false` when it must stay out itself.
pub(super) fn make_room(
    queue: &mut Queue,
    policy: &BufferPolicy,
    class: Class,
    size: usize,
    now: Instant,
) -> bool {
    let reserved = |max: usize| if class == Class::Token { max - max / RESERVE } else { max };
    let (max_events, max_size) = (reserved(policy.max_events).max(1), reserved(policy.max_size).max(1));
    let fits =
        |queue: &Queue| queue.events < max_events && (queue.bytes + size <= max_size || queue.events == 0);
    if fits(queue) {
        return true;
    }
    if policy.when_full == WhenFull::DropNewest || size > max_size {
        return false;
    }
    for victim in [Class::Token, Class::Lifecycle] {
        let least = match (victim, class) {
            // A token displaces older tokens only where a whole chunk of them goes at once.
            (Class::Token, Class::Token) => policy.max_events.div_ceil(CHUNK),
            _ if victim < class => 1,
            _ => break,
        };
        // Lifecycle events are dear: no more of them go than must.
        let chunk = if victim == Class::Token { CHUNK } else { 8 * CHUNK };
        if queue.idle.get(victim as usize).is_some_and(|n| *n >= least) {
            let events = policy.max_events.div_ceil(chunk);
            let bytes = if queue.bytes + size > max_size { (policy.max_size / chunk).max(size) } else { 0 };
            let gone = evict(&mut queue.entries, queue.leased, victim, events, bytes, now);
            queue.balance.shed += gone.numbers.len() as u64;
            queue.count_out(victim, gone.numbers.len(), gone.bytes);
            if fits(queue) {
                return true;
            }
        }
    }
    false
}

/// What was evicted: the number and the size of each event, in order, and the sum of the sizes.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    pub(super) numbers: Vec<(u64, u32)>,
    pub(super) bytes: usize,
}

/// Replaces the oldest events of one class by gaps, until so many events and bytes are gone or none is left. The first
/// `leased` entries stay.
pub(super) fn evict(
    entries: &mut VecDeque<Entry>,
    leased: usize,
    victim: Class,
    events: usize,
    bytes: usize,
    now: Instant,
) -> Evicted {
    let mut gone = Evicted::default();
    let mut kept: VecDeque<Entry> = VecDeque::with_capacity(entries.len());
    for (index, entry) in std::mem::take(entries).into_iter().enumerate() {
        let mergeable = kept.len() > leased;
        let last = kept.back_mut().filter(|_| mergeable).map(|entry| &mut entry.item);
        match (&entry.item, last) {
            (Item::Event(delivery), last)
                if index >= leased
                    && (gone.numbers.len() < events || gone.bytes < bytes)
                    && delivery.event.class() == victim =>
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
                        kept.push_back(Entry::new(Item::Gap(Box::new(gap)), entry.number, 0, now));
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
