//! Which events go when a buffer on disk is full, or its disk does not keep up.
//!
//! What is shed counts as such at once, and the router waits for nothing: files shrink when their room is needed.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::super::counts::Counts;
use super::super::disk::{HEADER, Kind};
use super::super::entry::{Entry, Item};
use super::super::overflow::{Newcomer, Victims};
use super::super::store::Store as _;
use super::super::window::{Evicted, Window, evict};
use super::part::Shed;
use super::state::{Backlog, UNWRITTEN};
use super::unwritten::Unwritten;
use crate::event::Class;

/// What is to go from memory.
struct Wanted {
    class: Class,
    bytes: usize,
    /// Only from that number on.
    from: u64,
}

impl Backlog {
    /// Sheds some of one class: from disk first, then from memory.
    pub(super) fn shed_for(
        &mut self,
        newcomer: Newcomer,
        victims: Victims,
        window: &mut Window,
        counts: &mut Counts,
        now: Instant,
    ) {
        let class = victims.class;
        let fill = self.fill(counts);
        if !fill.has_place_for(newcomer) {
            let chunk = victims.bytes(self.policy.max_size);
            let by_count = !fill.is_within_count(newcomer.class);
            let bytes = if by_count { 1 } else { chunk.max(newcomer.size) };
            if victims.are_worth_it(self.resting_bytes(class), chunk) {
                self.shed_on_disk(class, bytes as u64, counts);
            }
            if victims.are_cheaper() && !self.fill(counts).has_place_for(newcomer) {
                self.shed_in_memory(&Wanted { class, bytes, from: 0 }, window, counts, now);
            }
        }
        // What is written is safe where it is: only what is not can make room there.
        if victims.are_cheaper() && !self.fill(counts).can_stage(newcomer) {
            let bytes = victims.bytes(UNWRITTEN).max(newcomer.size);
            self.shed_in_memory(&Wanted { class, bytes, from: self.writing_to }, window, counts, now);
        }
    }

    /// Bytes of one class that rest on disk alone.
    fn resting_bytes(&self, class: Class) -> usize {
        let bytes = self.parts.iter().map(|part| part.of(class).1).sum::<u64>();
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Sheds the oldest of one class that rest on disk, a segment at a time.
    fn shed_on_disk(&mut self, class: Class, mut wanted: u64, counts: &mut Counts) {
        let (mut gone, mut bytes_gone) = (0, 0);
        for part in &mut self.parts {
            let (events, bytes) = part.take(class);
            if events == 0 {
                continue;
            }
            let size = bytes + events * HEADER as u64;
            let from = part.segment.first.max(self.resting_from);
            self.shed_size += part.shed(Shed { class, from, to: part.last }, size);
            // A gap rests in their place.
            part.notices += 1;
            self.resting = self.resting - events + 1;
            (gone, bytes_gone) = (gone + events, bytes_gone + bytes);
            wanted = wanted.saturating_sub(size);
            if wanted == 0 {
                break;
            }
        }
        counts.count_shed(class, gone as usize, bytes_gone as usize);
    }

    /// Sheds the oldest of one class that are in memory and neither with the sink nor being written.
    fn shed_in_memory(&mut self, wanted: &Wanted, window: &mut Window, counts: &mut Counts, now: Instant) {
        let Wanted { class, bytes, from } = *wanted;
        let resting: u64 = self.parts.iter().map(|part| part.of(class).0).sum();
        // To look for victims means to walk the queue.
        if counts.idle(class) as u64 <= resting {
            return;
        }
        let before = window.entries.partition_point(|entry| entry.number < from);
        let in_window = evict(&mut window.entries, before.max(window.leased), class, 1, bytes, now);
        self.in_window = self.in_window.saturating_sub(in_window.bytes);
        self.forget(class, &in_window.numbers);
        let mut in_tail = Evicted::default();
        if in_window.bytes < bytes {
            let writing = self.tail.iter().take_while(|entry| entry.number < self.writing_to).count();
            in_tail = evict(&mut self.tail, writing, class, 1, bytes - in_window.bytes, now);
            self.forget(class, &in_tail.numbers);
        }
        self.stage_gaps(&window.entries);
        for evicted in [in_window, in_tail] {
            counts.count_shed(class, evicted.numbers.len(), evicted.bytes);
        }
    }

    /// Events of one class that were shed from memory: what of them is not written need not be, and the files of the others
    /// are to shrink.
    fn forget(&mut self, class: Class, numbers: &[(u64, u32)]) {
        let (Some((first, _)), Some((last, _))) = (numbers.first(), numbers.last()) else { return };
        let is_gone = |number: u64| numbers.binary_search_by_key(&number, |(number, _)| *number).is_ok();
        let unwritten = self.unwritten.front().map_or(u64::MAX, |item| item.number);
        let mut freed = 0;
        self.unwritten.retain(|item| {
            let is_gone = item.is_event() && is_gone(item.number);
            freed += if is_gone { item.size } else { 0 };
            !is_gone
        });
        self.unwritten_size = self.unwritten_size.saturating_sub(freed);
        for part in self.parts.iter_mut().filter(|part| part.segment.first <= *last && part.last >= *first) {
            let (from, to) = (part.segment.first.max(*first), part.last.min(*last));
            let of_it =
                numbers.iter().filter(|(number, _)| (from..=to).contains(number) && *number < unwritten);
            let size = of_it.map(|(_, size)| u64::from(*size) + HEADER as u64).sum();
            if size > 0 {
                self.shed_size += part.shed(Shed { class, from, to }, size);
            }
        }
    }

    /// Gaps have come, have grown, and have become one: they are to be written as they are now, all but one at the very end.
    fn stage_gaps(&mut self, entries: &VecDeque<Entry>) {
        let writing_to = self.writing_to;
        let all = entries.len() + self.tail.len();
        let gaps = entries.iter().chain(&self.tail).take(all.saturating_sub(1)).filter_map(|entry| {
            match &entry.item {
                Item::Gap(gap) if entry.number >= writing_to => {
                    Some(Unwritten::new(entry.number, Kind::Gap, gap.delivery(&self.name)))
                }
                _ => None,
            }
        });
        let gaps: Vec<_> = gaps.collect();
        self.unwritten.retain(|item| item.kind != Kind::Gap || item.number < writing_to);
        for gap in gaps {
            let place = self.unwritten.partition_point(|item| item.number < gap.number);
            self.unwritten.insert(place, gap);
        }
        self.unwritten_size = self.unwritten.iter().map(|item| item.size).sum();
    }
}
