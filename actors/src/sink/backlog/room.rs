//! Which events go when a buffer on disk is full, or its disk does not keep up.
//!
//! What is shed counts as such at once, and the router waits for nothing: files shrink when their room is needed.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::super::disk::{HEADER, Kind};
use super::super::policy::{BufferPolicy, WhenFull};
use super::super::queue::{Entry, Item, Queue};
use super::super::shed::{Evicted, evict};
use super::part::Shed;
use super::{Backlog, UNWRITTEN, Unwritten};
use crate::event::Class;

/// A full buffer frees this part of itself at once.
const CHUNK: usize = 8;
/// Tokens may not use the last part of a buffer.
const RESERVE: usize = 16;

/// Makes room for one event; `false` when it must stay out itself.
pub(in crate::sink) fn make_room(
    queue: &mut Queue,
    policy: &BufferPolicy,
    class: Class,
    size: usize,
    name: &str,
    now: Instant,
) -> bool {
    let size = size + HEADER;
    let bounds = Bounds::of(policy, class);
    if bounds.hold(queue, size) {
        return true;
    }
    if policy.when_full == WhenFull::DropNewest || size > bounds.size {
        return false;
    }
    for victim in [Class::Token, Class::Lifecycle] {
        // Lifecycle events are dear: no more of them go than must.
        let chunk = if victim == Class::Token { CHUNK } else { CHUNK * CHUNK };
        let part = |of: usize| of / chunk;
        if !bounds.are_of_disk_held(queue, size) {
            // A token displaces older tokens only where a whole chunk of them goes at once.
            let least = if victim == class { part(policy.max_size) as u64 } else { 1 };
            if victim > class || (victim == class && class != Class::Token) {
                break;
            }
            let by_count = queue.events >= bounds.events;
            let wanted = if by_count { 1 } else { part(policy.max_size).max(size) };
            if queue.resting(victim) >= least {
                queue.shed_on_disk(victim, wanted as u64);
            }
            if victim < class && !bounds.are_of_disk_held(queue, size) {
                queue.shed_in_memory(victim, wanted, 0, name, now);
            }
        }
        // What is written is safe where it is: only what is not can make room there.
        if victim < class && !bounds.is_of_memory_held(queue, size) {
            let unwritten = queue.backlog.as_ref().map_or(0, |backlog| backlog.writing_to);
            queue.shed_in_memory(victim, part(UNWRITTEN).max(size), unwritten, name, now);
        }
        if bounds.hold(queue, size) {
            return true;
        }
    }
    false
}

/// How far events of one class may fill a buffer.
struct Bounds {
    events: usize,
    size: usize,
    class: Class,
}

impl Bounds {
    fn of(policy: &BufferPolicy, class: Class) -> Bounds {
        let reserved = |max: usize| if class == Class::Token { max - max / RESERVE } else { max };
        Bounds { events: reserved(policy.max_events).max(1), size: reserved(policy.max_size), class }
    }

    fn hold(&self, queue: &Queue, size: usize) -> bool {
        self.are_of_disk_held(queue, size) && self.is_of_memory_held(queue, size)
    }

    fn are_of_disk_held(&self, queue: &Queue, size: usize) -> bool {
        let used = queue.backlog.as_ref().map_or(0, Backlog::used);
        queue.events < self.events && used + size <= self.size
    }

    /// Whether the disk keeps up.
    fn is_of_memory_held(&self, queue: &Queue, size: usize) -> bool {
        let Some(backlog) = &queue.backlog else { return false };
        let most = backlog.unwritten_max;
        let most = match self.class {
            Class::Token => most - most / 4,
            Class::Lifecycle => most - most / RESERVE,
            Class::Audit => most,
        };
        backlog.unwritten() + size <= most
    }
}

impl Queue {
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
            backlog.shed_size += part.shed(Shed { class: victim, from, to: part.last }, size);
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

    /// Sheds the oldest of one class that are in memory and neither with the sink nor being written, from a number on.
    fn shed_in_memory(&mut self, victim: Class, wanted: usize, from: u64, name: &str, now: Instant) {
        let Some(backlog) = &mut self.backlog else { return };
        let resting: u64 = backlog.parts.iter().map(|part| part.of(victim).0).sum();
        // To look for victims means to walk the queue.
        if self.idle.get(victim as usize).is_none_or(|idle| *idle as u64 <= resting) {
            return;
        }
        let before = self.entries.partition_point(|entry| entry.number < from);
        let window = evict(&mut self.entries, before.max(self.leased), victim, 1, wanted, now);
        backlog.window = backlog.window.saturating_sub(window.bytes);
        backlog.forget(victim, &window.numbers);
        let mut tail = Evicted::default();
        if window.bytes < wanted {
            let writing = backlog.tail.iter().take_while(|entry| entry.number < backlog.writing_to).count();
            tail = evict(&mut backlog.tail, writing, victim, 1, wanted - window.bytes, now);
            backlog.forget(victim, &tail.numbers);
        }
        backlog.stage_gaps(&self.entries, name);
        for evicted in [window, tail] {
            self.balance.shed += evicted.numbers.len() as u64;
            self.count_out(victim, evicted.numbers.len(), evicted.bytes);
        }
    }
}

impl Backlog {
    /// Gaps have come, have grown, and have become one: they are to be written as they are now, all but one at the very end.
    fn stage_gaps(&mut self, entries: &VecDeque<Entry>, name: &str) {
        let writing_to = self.writing_to;
        let all = entries.len() + self.tail.len();
        let gaps = entries.iter().chain(&self.tail).take(all.saturating_sub(1)).filter_map(|entry| {
            match &entry.item {
                Item::Gap(gap) if entry.number >= writing_to => Some((entry.number, gap.delivery(name))),
                _ => None,
            }
        });
        let gaps: Vec<_> = gaps.collect();
        self.unwritten.retain(|item| item.kind != Kind::Gap || item.number < writing_to);
        for (number, delivery) in gaps {
            let place = self.unwritten.partition_point(|item| item.number < number);
            let size = delivery.event.size() + HEADER;
            self.unwritten.insert(place, Unwritten { number, kind: Kind::Gap, delivery, size });
        }
        self.unwritten_size = self.unwritten.iter().map(|item| item.size).sum();
    }
}
