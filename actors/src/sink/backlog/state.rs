//! What of a buffer with a disk is not in its window, and how it comes there and goes on.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::counts::Counts;
use super::super::disk::{HEADER, Kind, Recovered, Segment};
use super::super::entry::{Entry, Item};
use super::super::overflow::{Fill, Level, Newcomer, Victims};
use super::super::policy::BufferPolicy;
use super::super::store::Store;
use super::super::window::Window;
use super::part::Part;
use super::unwritten::Unwritten;
use crate::event::{Class, Confirmation, Delivery};

/// Most bytes of events in the window.
const WINDOW: usize = 8 << 20;
/// Most bytes that wait to be written.
pub(super) const UNWRITTEN: usize = 16 << 20;
/// Most bytes of one write.
const WRITE: usize = 1 << 20;
/// A log has about so many segments when it is full; the largest are so large.
const SEGMENTS: usize = 16;
const SEGMENT: usize = 8 << 20;

/// The size of the segments of a disk buffer that may have so many bytes.
pub(in crate::sink) fn segment_size(max_size: usize) -> usize {
    (max_size / SEGMENTS).clamp(64 << 10, SEGMENT)
}

/// How much may wait to be written for a disk buffer that may have so many bytes.
pub(super) fn unwritten_max(max_size: usize) -> usize {
    UNWRITTEN.min(max_size)
}

#[derive(Debug)]
pub(in crate::sink) struct Backlog {
    pub(super) name: Arc<str>,
    pub(super) policy: BufferPolicy,
    pub(super) window_max: usize,
    pub(super) write_max: usize,
    pub(super) unwritten_max: usize,
    /// Bytes of events in the window.
    pub(super) in_window: usize,
    /// Behind what rests on disk.
    pub(super) tail: VecDeque<Entry>,
    pub(super) unwritten: VecDeque<Unwritten>,
    pub(super) unwritten_size: usize,
    /// What is before this number is written, or is being written just now.
    pub(super) writing_to: u64,
    pub(super) parts: VecDeque<Part>,
    /// The sizes of all parts, and what of that their files are still to shrink by.
    pub(super) disk_size: u64,
    pub(super) shed_size: u64,
    /// Records that rest on disk alone, and the number of the first.
    pub(super) resting: u64,
    pub(super) resting_from: u64,
    /// The last write that failed, until what it was to write is written, or has left.
    pub(super) failed: Option<Failed>,
    /// Places of the disk that could not be read.
    pub(super) damaged: u64,
    /// Events that should have been on the disk at its start, and were not.
    missing: u64,
    /// Nothing more comes: what is there is to be written, and that is all.
    pub(super) closing: bool,
}

/// A write that failed.
#[derive(Debug)]
pub(super) struct Failed {
    why: String,
    /// When to try again.
    pub(super) retry: Instant,
}

impl Backlog {
    /// What was found on disk.
    pub(in crate::sink) fn new(name: Arc<str>, policy: &BufferPolicy, recovered: &Recovered) -> Backlog {
        let found = &recovered.segments;
        let parts: VecDeque<Part> = found.iter().map(Part::stored).collect();
        Backlog {
            name,
            policy: *policy,
            window_max: WINDOW.min(policy.max_size / 4),
            write_max: WRITE.min(segment_size(policy.max_size)),
            unwritten_max: unwritten_max(policy.max_size),
            in_window: 0,
            tail: VecDeque::new(),
            unwritten: VecDeque::new(),
            unwritten_size: 0,
            writing_to: recovered.next,
            disk_size: found.iter().map(|stored| stored.segment.size).sum(),
            shed_size: 0,
            resting: parts.iter().map(Part::resting).sum(),
            resting_from: found.iter().map(|stored| stored.from).fold(recovered.next, u64::min),
            parts,
            failed: None,
            damaged: recovered.damaged,
            missing: recovered.missing,
            closing: false,
        }
    }

    /// So many bytes of events waited in memory for the disk: until they are written, what comes in has its usual room
    /// beside them.
    pub(in crate::sink) fn expect_early(&mut self, size: usize) {
        self.unwritten_max += size;
    }

    /// Takes in an entry whose receipt knows of the disk.
    pub(in crate::sink) fn append_staged(&mut self, entry: Entry, window: &mut Window) {
        // Once something stands behind it, nothing is added to a gap any more.
        self.stage_gap_at_the_end(window);
        match &entry.item {
            Item::Event(delivery) => self.stage(entry.number, Kind::Event, delivery.clone()),
            Item::Notice(delivery) => self.stage(entry.number, Kind::Notice, delivery.clone()),
            Item::Gap(_) | Item::Done => {}
        }
        self.tail.push_back(entry);
        self.refill(window);
    }

    fn stage(&mut self, number: u64, kind: Kind, delivery: Delivery) {
        let item = Unwritten::new(number, kind, delivery);
        self.unwritten_size += item.size;
        self.unwritten.push_back(item);
    }

    fn stage_gap_at_the_end(&mut self, window: &mut Window) {
        if let Some(Entry { item: Item::Gap(gap), number, .. }) = self.last(window) {
            let (number, gap) = (*number, gap.clone());
            let delivery = gap.delivery(&self.name);
            self.stage(number, Kind::Gap, delivery);
        }
    }

    /// What the disk holds and will hold.
    fn used(&self) -> usize {
        usize::try_from(self.disk_size - self.shed_size).unwrap_or(usize::MAX) + self.unwritten_size
    }

    /// Nothing more comes in.
    pub(in crate::sink) fn close(&mut self, window: &mut Window) {
        if !std::mem::replace(&mut self.closing, true) {
            self.stage_gap_at_the_end(window);
        }
    }

    /// Nothing will be written any more: what is not is in memory alone.
    pub(in crate::sink) fn abandon(&mut self) {
        for receipt in self.unwritten.iter().filter_map(Unwritten::receipt) {
            receipt.answer(Confirmation::Lost);
        }
    }

    pub(super) fn written_one(&mut self, item: &Unwritten) {
        self.unwritten_size = self.unwritten_size.saturating_sub(item.size);
        if let Some(receipt) = item.receipt() {
            receipt.written();
        }
    }

    /// A write has failed.
    pub(in crate::sink) fn not_written(&mut self, why: String, retry: Instant) {
        self.failed = Some(Failed { why, retry });
    }

    /// Everything up to a number is on disk now, the latest of it in this segment.
    pub(in crate::sink) fn written(&mut self, up_to: u64, segment: Segment, window: &mut Window) {
        self.failed = None;
        while let Some(item) = self.unwritten.pop_front_if(|item| item.number <= up_to) {
            self.written_one(&item);
        }
        match self.parts.back_mut().filter(|part| part.segment.first == segment.first) {
            Some(part) => {
                self.disk_size += segment.size - part.segment.size;
                part.segment = segment;
            }
            None => {
                self.disk_size += segment.size;
                self.parts.push_back(Part::new(segment));
            }
        }
        self.refill(window);
        let Some(part) = self.parts.back_mut() else { return };
        part.last = up_to;
        while let Some(entry) = self.tail.pop_front_if(|entry| entry.number <= up_to) {
            if self.resting == 0 {
                self.resting_from = entry.number;
            }
            self.resting += 1;
            match &entry.item {
                Item::Event(delivery) => part.rest(Kind::Event, delivery.event.class(), entry.size as usize),
                _ => part.rest(Kind::Notice, Class::Audit, 0),
            }
        }
    }

    pub(in crate::sink) fn rewritten(&mut self, segment: Segment) {
        if let Some(part) = self.parts.iter_mut().find(|part| part.segment.first == segment.first) {
            self.disk_size = self.disk_size - part.segment.size + segment.size;
            self.shed_size -= part.shrinks;
            (part.segment, part.shrinks) = (segment, 0);
            part.shed.clear();
        }
    }

    /// That segment could not be rewritten: it stays as it is, and its room is not to be had.
    pub(in crate::sink) fn not_rewritten(&mut self, first: u64) {
        if let Some(part) = self.parts.iter_mut().find(|part| part.segment.first == first) {
            self.shed_size -= part.shrinks;
            part.shrinks = 0;
        }
    }
}

impl Store for Backlog {
    fn fill(&self, counts: &Counts) -> Fill {
        Fill {
            events: Level { used: counts.events, max: self.policy.max_events },
            size: Level { used: self.used(), max: self.policy.max_size },
            unwritten: Level { used: self.unwritten_size, max: self.unwritten_max },
            takes_any_size_alone: false,
        }
    }

    fn cost(&self, size: usize) -> usize {
        size + HEADER
    }

    fn append(&mut self, entry: Entry, window: &mut Window) {
        if let Item::Event(delivery) = &entry.item
            && let Some(receipt) = delivery.event.receipt()
        {
            receipt.staged();
        }
        self.append_staged(entry, window);
    }

    fn last<'a>(&'a mut self, window: &'a mut Window) -> Option<&'a mut Entry> {
        match self.first() {
            None => window.entries.back_mut(),
            Some(_) => self.tail.back_mut(),
        }
    }

    fn left(&mut self, _: &Delivery, size: usize) {
        self.in_window = self.in_window.saturating_sub(size);
    }

    /// Nothing on disk may come before it.
    fn refill(&mut self, window: &mut Window) {
        while self.resting == 0
            && self.in_window < self.window_max
            && let Some(entry) = self.tail.pop_front()
        {
            self.in_window += entry.size as usize;
            window.entries.push_back(entry);
        }
    }

    fn first(&self) -> Option<u64> {
        match self.resting {
            0 => self.tail.front().map(|entry| entry.number),
            _ => Some(self.resting_from),
        }
    }

    fn shed(
        &mut self,
        victims: Victims,
        newcomer: Newcomer,
        window: &mut Window,
        counts: &mut Counts,
        now: Instant,
    ) {
        self.shed_for(newcomer, victims, window, counts, now);
    }

    fn on_disk(&self, from: u64, counts: &Counts) -> u64 {
        let unwritten = self.unwritten.iter().filter(|item| item.is_event() && item.number >= from).count();
        (counts.events as u64).saturating_sub(unwritten as u64)
    }

    fn is_kept(&self, from: u64) -> bool {
        self.trouble(from).is_none()
    }

    /// Only while something waits in memory that is to be on disk.
    fn trouble(&self, from: u64) -> Option<&str> {
        let is_left = self.unwritten.back().is_some_and(|item| item.number >= from);
        self.failed.as_ref().filter(|_| is_left).map(|failed| &*failed.why)
    }

    fn damage(&self) -> (u64, u64) {
        (self.damaged, self.missing)
    }

    fn awaits_disk(&self) -> bool {
        false
    }

    fn wants_more(&self) -> bool {
        self.resting > 0 && self.in_window < self.window_max / 2
    }
}
