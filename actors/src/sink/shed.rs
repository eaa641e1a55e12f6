//! Who goes when a buffer is full.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::buffer::{BufferPolicy, Entry, Inner, Item, WhenFull};
use crate::event::{Class, Confirmation, Gap, GapReason};

/// A full buffer frees this part of itself at once, so that the search for victims is paid for by many events.
const CHUNK: usize = 8;
/// Tokens may not use the last part of a buffer: lifecycle events find room without a search.
const RESERVE: usize = 16;

/// Makes room for one event of `class` and `size`; `false` when it must stay out itself.
pub(super) fn make_room(
    inner: &mut Inner,
    policy: &BufferPolicy,
    class: Class,
    size: usize,
    now: Instant,
) -> bool {
    let reserved = |max: usize| if class == Class::Token { max - max / RESERVE } else { max };
    let (max_events, max_size) = (reserved(policy.max_events).max(1), reserved(policy.max_size).max(1));
    let fits =
        |inner: &Inner| inner.events < max_events && (inner.bytes + size <= max_size || inner.events == 0);
    if fits(inner) {
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
        if inner.idle.get(victim as usize).is_some_and(|n| *n >= least) {
            let events = policy.max_events.div_ceil(chunk);
            let bytes = if inner.bytes + size > max_size { (policy.max_size / chunk).max(size) } else { 0 };
            evict(inner, victim, events, bytes, now);
            if fits(inner) {
                return true;
            }
        }
    }
    false
}

/// Replaces the oldest idle events of one class by gaps, until so many events and bytes are gone or none is left.
fn evict(inner: &mut Inner, victim: Class, events: usize, bytes: usize, now: Instant) {
    let (mut gone, mut freed) = (0, 0);
    let leased = inner.leased;
    let mut kept: VecDeque<Entry> = VecDeque::with_capacity(inner.entries.len());
    for (index, entry) in std::mem::take(&mut inner.entries).into_iter().enumerate() {
        let mergeable = kept.len() > leased;
        let last = kept.back_mut().filter(|_| mergeable).map(|entry| &mut entry.item);
        match (&entry.item, last) {
            (Item::Event(delivery), last)
                if index >= leased
                    && (gone < events || freed < bytes)
                    && delivery.event.class() == victim =>
            {
                gone += 1;
                freed += entry.size as usize;
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
    inner.entries = kept;
    inner.events -= gone;
    inner.bytes -= freed;
    inner.balance.shed += gone as u64;
    if let Some(idle) = inner.idle.get_mut(victim as usize) {
        *idle -= gone;
    }
}
