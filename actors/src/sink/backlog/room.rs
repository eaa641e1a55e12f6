//! Who goes when a buffer on disk is full, or its disk does not keep up.
//!
//! What is shed counts as such at once, and the router waits for nothing: files shrink when their room is needed.

use tokio::time::Instant;

use super::super::buffer::{BufferPolicy, Entry, Inner, Item, WhenFull};
use super::super::disk::{HEADER, Kind};
use super::super::shed::{Evicted, evict};
use super::part::Shed;
use super::{Backlog, Unwritten};
use crate::event::Class;

/// A full buffer frees this part of itself at once.
const CHUNK: usize = 8;
/// Tokens may not use the last part of a buffer.
const RESERVE: usize = 16;

/// Makes room for one event; `false` when it must stay out itself.
pub(in crate::sink) fn make_room(
    inner: &mut Inner,
    policy: &BufferPolicy,
    class: Class,
    size: usize,
    name: &str,
    now: Instant,
) -> bool {
    let size = size + HEADER;
    if fits(inner, policy, class, size) {
        return true;
    }
    if policy.when_full == WhenFull::DropNewest {
        return false;
    }
    let chunk = (policy.max_size / CHUNK) as u64;
    for victim in [Class::Token, Class::Lifecycle] {
        let (least, most) = match (victim, class) {
            // A token displaces older tokens only where a whole chunk of them goes at once.
            (Class::Token, Class::Token) => (chunk, chunk),
            (Class::Token, _) => (1, chunk),
            // Lifecycle events are dear: no more of them go than must.
            _ if victim < class => (1, chunk / CHUNK as u64),
            _ => break,
        };
        let wanted = most.max(size as u64);
        if inner.resting(victim) >= least {
            inner.shed_on_disk(victim, wanted);
        }
        // What is in memory goes last, and never one token for another.
        if victim < class && !fits(inner, policy, class, size) {
            inner.shed_in_memory(victim, wanted, name, now);
        }
        if fits(inner, policy, class, size) {
            return true;
        }
    }
    false
}

fn fits(inner: &Inner, policy: &BufferPolicy, class: Class, size: usize) -> bool {
    let Some(backlog) = &inner.backlog else { return false };
    let reserved = |max: usize| if class == Class::Token { max - max / RESERVE } else { max };
    // The disk does not keep up, or cannot be written at all.
    let most = backlog.unwritten_max;
    let behind = match class {
        Class::Token => most - most / 4,
        Class::Lifecycle => most - most / RESERVE,
        Class::Audit => most,
    };
    inner.events < reserved(policy.max_events).max(1)
        && backlog.used() + size <= reserved(policy.max_size)
        && backlog.unwritten() + size <= behind
}

impl Inner {
    /// Bytes of one class that rest on disk alone.
    fn resting(&self, class: Class) -> u64 {
        self.backlog.iter().flat_map(|backlog| &backlog.parts).map(|part| part.of(class).1).sum()
    }

    /// Sheds the oldest of one class that rest on disk, a segment at a time.
    fn shed_on_disk(&mut self, victim: Class, mut wanted: u64) {
        let Some(backlog) = &mut self.backlog else { return };
        let (mut gone, mut bytes_gone) = (0, 0);
        for part in &mut backlog.parts {
            let (events, bytes) = part.take(victim);
            if events == 0 {
                continue;
            }
            let size = bytes + events * HEADER as u64;
            let from = part.segment.first.max(backlog.resting_from);
            backlog.shed_size += part.shed(Shed { up_to: victim, from, to: part.last }, size);
            // A gap rests in their place.
            part.notices += 1;
            backlog.resting = backlog.resting - events + 1;
            (gone, bytes_gone) = (gone + events, bytes_gone + bytes);
            wanted = wanted.saturating_sub(size);
            if wanted == 0 {
                break;
            }
        }
        self.balance.shed += gone;
        self.count_out(victim, gone as usize, bytes_gone as usize);
    }

    /// Sheds the oldest of one class that are in memory and neither with the sink nor being written.
    fn shed_in_memory(&mut self, victim: Class, wanted: u64, name: &str, now: Instant) {
        let Some(backlog) = &mut self.backlog else { return };
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let window = evict(&mut self.entries, self.leased, victim, 1, wanted, now);
        backlog.window = backlog.window.saturating_sub(window.bytes);
        backlog.forget(victim, &window.numbers);
        let tail = backlog.evict(victim, wanted.saturating_sub(window.bytes), name, now);
        for evicted in [window, tail] {
            self.balance.shed += evicted.numbers.len() as u64;
            self.count_out(victim, evicted.numbers.len(), evicted.bytes);
        }
    }
}

impl Backlog {
    /// Sheds from the tail.
    fn evict(&mut self, victim: Class, wanted: usize, name: &str, now: Instant) -> Evicted {
        if wanted == 0 {
            return Evicted::default();
        }
        let writing = self.tail.iter().take_while(|entry| entry.number < self.writing_to).count();
        let evicted = evict(&mut self.tail, writing, victim, 1, wanted, now);
        self.forget(victim, &evicted.numbers);
        // Gaps have come, have grown, and have become one: they are to be written as they are now.
        let is_open = |entry: &Entry| matches!(entry.item, Item::Gap(_)) && entry.number >= self.writing_to;
        let sealed = self.tail.len().saturating_sub(1);
        let gaps = self.tail.iter().take(sealed).filter(|entry| is_open(entry));
        let gaps: Vec<_> = gaps
            .filter_map(|entry| match &entry.item {
                Item::Gap(gap) => Some((entry.number, gap.delivery(name))),
                _ => None,
            })
            .collect();
        let writing_to = self.writing_to;
        self.unwritten.retain(|item| item.kind != Kind::Gap || item.number < writing_to);
        for (number, delivery) in gaps {
            let place = self.unwritten.partition_point(|item| item.number < number);
            let size = delivery.event.size() + HEADER;
            self.unwritten.insert(place, Unwritten { number, kind: Kind::Gap, delivery, size });
        }
        self.unwritten_size = self.unwritten.iter().map(|item| item.size).sum();
        evicted
    }
}
