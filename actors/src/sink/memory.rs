//! The store that is memory alone: everything stands in the window.

use tokio::time::Instant;

use super::counts::Counts;
use super::entry::{Entry, Item};
use super::overflow::{Fill, Level, Newcomer, Victims};
use super::policy::BufferPolicy;
use super::store::Store;
use super::window::{Window, evict};
use crate::event::Delivery;

#[derive(Debug)]
pub(super) struct Memory {
    policy: BufferPolicy,
    held: Held,
}

/// When an event counts as held.
#[derive(Debug)]
enum Held {
    /// As soon as it is here.
    AtOnce,
    /// Once it has left, since it stands in front of processors.
    OnceGone,
    /// Once it has left or is written: it is to be on a disk, and is not there yet. Why, where that is no other process.
    OnDisk(Option<String>),
    /// Once it has left: it was to be on a disk, and never came there.
    WithoutDisk(String),
}

impl Memory {
    /// What waits in it for its disk has no more room than a memory has.
    pub(super) fn new(policy: &BufferPolicy) -> Memory {
        if policy.disk.is_none() {
            return Memory { policy: *policy, held: Held::AtOnce };
        }
        let memory = BufferPolicy::default();
        let policy = BufferPolicy {
            max_events: policy.max_events.min(memory.max_events),
            max_size: policy.max_size.min(memory.max_size),
            ..*policy
        };
        Memory { policy, held: Held::OnDisk(None) }
    }

    /// In front of a sink's processors.
    pub(super) fn in_front(policy: &BufferPolicy) -> Memory {
        Memory { policy: *policy, held: Held::OnceGone }
    }

    /// Says why it is not on its disk yet, where that is no other process.
    pub(super) fn cannot_be_written_yet(&mut self, why: Option<String>) {
        if let Held::OnDisk(known) = &mut self.held {
            *known = why;
        }
    }

    /// It cannot be put on its disk.
    pub(super) fn stay(&mut self, why: String) {
        self.held = Held::WithoutDisk(why);
    }

    fn is_held_at_once(&self) -> bool {
        matches!(self.held, Held::AtOnce)
    }
}

impl Store for Memory {
    fn fill(&self, counts: &Counts) -> Fill {
        Fill {
            events: Level { used: counts.events, max: self.policy.max_events },
            size: Level { used: counts.bytes, max: self.policy.max_size },
            unwritten: Level { used: 0, max: usize::MAX },
            takes_any_size_alone: true,
        }
    }

    fn cost(&self, size: usize) -> usize {
        size
    }

    fn append(&mut self, entry: Entry, window: &mut Window) {
        if !self.is_held_at_once()
            && let Item::Event(delivery) = &entry.item
            && let Some(receipt) = delivery.event.receipt()
        {
            receipt.staged();
        }
        window.entries.push_back(entry);
    }

    fn last<'a>(&'a mut self, window: &'a mut Window) -> Option<&'a mut Entry> {
        window.entries.back_mut()
    }

    fn left(&mut self, delivery: &Delivery, _: usize) {
        if !self.is_held_at_once()
            && let Some(receipt) = delivery.event.receipt()
        {
            receipt.written();
        }
    }

    fn refill(&mut self, _: &mut Window) {}

    fn first(&self) -> Option<u64> {
        None
    }

    fn shed(
        &mut self,
        victims: Victims,
        newcomer: Newcomer,
        window: &mut Window,
        counts: &mut Counts,
        now: Instant,
    ) {
        let BufferPolicy { max_events, max_size, .. } = self.policy;
        let events = victims.events(max_events);
        // To look for victims means to walk the queue.
        if !victims.are_worth_it(counts.idle(victims.class), events) {
            return;
        }
        let is_large = !self.fill(counts).is_within_size(newcomer);
        let bytes = if is_large { victims.bytes(max_size).max(newcomer.size) } else { 0 };
        let gone = evict(&mut window.entries, window.leased, victims.class, events, bytes, now);
        counts.count_shed(victims.class, gone.numbers.len(), gone.bytes);
    }

    fn on_disk(&self, _: u64, _: &Counts) -> u64 {
        0
    }

    fn is_kept(&self, _: u64) -> bool {
        false
    }

    fn trouble(&self, _: u64) -> Option<&str> {
        match &self.held {
            Held::AtOnce | Held::OnceGone => None,
            Held::OnDisk(why) => why.as_deref(),
            Held::WithoutDisk(why) => Some(why),
        }
    }

    fn damage(&self) -> (u64, u64) {
        (0, 0)
    }

    fn awaits_disk(&self) -> bool {
        matches!(self.held, Held::OnDisk(_))
    }

    fn wants_more(&self) -> bool {
        false
    }
}
