//! What of a buffer with a disk is not in its window: written and at rest there, or still to be written.
//!
//! The window is the front of the queue, in memory, where the sink takes from. While it has room nothing else exists, and
//! the disk only follows; once it is full, events wait in the tail until they are written, and then rest on disk alone.

mod gone;
mod part;
mod reader;
mod room;

pub(super) use part::Shed;
pub(super) use reader::{Read, Reader};
pub(super) use room::make_room;

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use tokio::time::Instant;

use super::disk::{HEADER, Kind, Record, Recovered, Segment};
use super::policy::BufferPolicy;
use super::queue::{Entry, Item, Queue};
use crate::event::{CLASSES, Class, Confirmation, Delivery, Receipt};
use part::Part;

/// Most bytes of events in the window.
const WINDOW: usize = 8 << 20;
/// Most bytes that wait to be written; tokens may use three quarters of it, lifecycle events all but a sixteenth.
const UNWRITTEN: usize = 16 << 20;
/// Most bytes of one write.
const WRITE: usize = 1 << 20;
/// A log has about so many segments when it is full; the largest are so large.
const SEGMENTS: usize = 16;
const SEGMENT: usize = 8 << 20;

/// The size of the segments of a disk buffer that may have so many bytes.
pub(super) fn segment_size(max_size: usize) -> usize {
    (max_size / SEGMENTS).clamp(64 << 10, SEGMENT)
}

/// How much may wait to be written for a disk buffer that may have so many bytes.
fn unwritten_max(max_size: usize) -> usize {
    UNWRITTEN.min(max_size)
}

#[derive(Debug)]
pub(super) struct Backlog {
    window_max: usize,
    write_max: usize,
    unwritten_max: usize,
    /// Bytes of events in the window.
    window: usize,
    /// Behind what rests on disk.
    tail: VecDeque<Entry>,
    unwritten: VecDeque<Unwritten>,
    unwritten_size: usize,
    /// What is before this number is written, or is being written just now.
    writing_to: u64,
    parts: VecDeque<Part>,
    /// The sizes of all parts, and what of that their files are still to shrink by.
    disk_size: u64,
    shed_size: u64,
    /// Records that rest on disk alone, and the number of the first.
    resting: u64,
    resting_from: u64,
    /// The last write that failed, until what it was to write is written, or has left.
    failed: Option<Failed>,
    /// Places of the disk that could not be read.
    pub(super) damaged: u64,
    /// Events that should have been on the disk at its start, and were not.
    pub(super) missing: u64,
    /// Nothing more comes: what is there is to be written, and that is all.
    closing: bool,
}

/// What is to be written.
#[derive(Debug, Clone)]
pub(super) struct Unwritten {
    number: u64,
    kind: Kind,
    delivery: Delivery,
    size: usize,
}

/// A write that failed.
#[derive(Debug)]
struct Failed {
    why: String,
    /// When to try again.
    retry: Instant,
}

/// What the disk is to do next.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// To be written, in order.
    pub(super) write: Vec<Unwritten>,
    /// Not before that moment: the last write has failed.
    pub(super) retry: Option<Instant>,
    /// A segment to read, because the window has room, from and to these numbers.
    pub(super) load: Option<(u64, RangeInclusive<u64>)>,
    /// A segment to rewrite without what was shed from it.
    pub(super) compact: Option<(u64, Vec<Shed>)>,
    /// Segments whose records are all done, and the first that is left behind them.
    pub(super) remove: Vec<u64>,
    pub(super) front: Option<u64>,
    /// Everything before this number is done.
    pub(super) done: u64,
    /// So many events behind it are on disk.
    pub(super) waiting: u64,
    /// And nothing waits behind it.
    pub(super) all_done: bool,
    /// Nothing more will come, and nothing is left to be written.
    pub(super) ended: bool,
    pub(super) closing: bool,
}

impl Work {
    /// How many events are to be written.
    pub(super) fn events(&self) -> u64 {
        self.write.iter().filter(|item| item.kind == Kind::Event).count() as u64
    }
}

impl Backlog {
    /// What was found on disk; the numbers of what comes in go on behind it.
    pub(super) fn new(policy: &BufferPolicy, recovered: &Recovered, queue: &mut Queue) -> Backlog {
        let mut backlog = Backlog {
            window_max: WINDOW.min(policy.max_size / 4),
            write_max: WRITE.min(segment_size(policy.max_size)),
            unwritten_max: unwritten_max(policy.max_size),
            window: 0,
            tail: VecDeque::new(),
            unwritten: VecDeque::new(),
            unwritten_size: 0,
            writing_to: recovered.next,
            parts: VecDeque::new(),
            disk_size: 0,
            shed_size: 0,
            resting: 0,
            resting_from: recovered.next,
            failed: None,
            damaged: recovered.damaged,
            missing: recovered.missing,
            closing: false,
        };
        for stored in &recovered.segments {
            let part = Part::stored(stored);
            backlog.resting_from = backlog.resting_from.min(stored.from);
            queue.notices += usize::try_from(stored.alerts).unwrap_or(0);
            for class in CLASSES {
                let (events, bytes) = part.of(class);
                queue.balance.recovered += events;
                queue.count_in(class, events as usize, bytes as usize);
            }
            backlog.resting += part.resting();
            backlog.disk_size += stored.segment.size;
            backlog.parts.push_back(part);
        }
        queue.appended = recovered.next;
        backlog
    }

    /// The last entry, where it is in memory and not with the sink.
    pub(super) fn last<'a>(&'a mut self, entries: &'a mut VecDeque<Entry>) -> Option<&'a mut Entry> {
        match self.is_empty() {
            true => entries.back_mut(),
            false => self.tail.back_mut(),
        }
    }

    /// Takes in an entry at the end, and notes that it is to be written.
    pub(super) fn append(&mut self, entry: Entry, entries: &mut VecDeque<Entry>, name: &str) {
        if let Item::Event(delivery) = &entry.item
            && let Some(receipt) = delivery.event.receipt()
        {
            receipt.staged();
        }
        self.append_staged(entry, entries, name);
    }

    /// Like [`append`](Self::append), for one whose receipt knows of the disk.
    pub(super) fn append_staged(&mut self, entry: Entry, entries: &mut VecDeque<Entry>, name: &str) {
        // Once something stands behind it, nothing is added to a gap any more.
        if let Some(Entry { item: Item::Gap(gap), number, .. }) = self.last(entries) {
            let (number, delivery) = (*number, gap.delivery(name));
            self.stage(number, Kind::Gap, delivery);
        }
        match &entry.item {
            Item::Event(delivery) => self.stage(entry.number, Kind::Event, delivery.clone()),
            Item::Notice(delivery) => self.stage(entry.number, Kind::Notice, delivery.clone()),
            Item::Gap(_) | Item::Done => {}
        }
        self.tail.push_back(entry);
        self.refill(entries);
    }

    fn stage(&mut self, number: u64, kind: Kind, delivery: Delivery) {
        let item = Unwritten::new(number, kind, delivery);
        self.unwritten_size += item.size;
        self.unwritten.push_back(item);
    }

    /// Moves what is in memory into the window, as far as it has room and nothing on disk comes before it.
    pub(super) fn refill(&mut self, entries: &mut VecDeque<Entry>) {
        while self.resting == 0
            && self.window < self.window_max
            && let Some(entry) = self.tail.pop_front()
        {
            self.window += entry.size as usize;
            entries.push_back(entry);
        }
    }

    /// An entry has left the window.
    pub(super) fn left(&mut self, size: usize) {
        self.window = self.window.saturating_sub(size);
    }

    /// The number of the first entry that has not left, or of the next to come.
    pub(super) fn first(&self, entries: &VecDeque<Entry>, next: u64) -> u64 {
        match (entries.front(), self.tail.front()) {
            (Some(entry), _) => entry.number,
            (None, _) if self.resting > 0 => self.resting_from,
            (None, Some(entry)) => entry.number,
            (None, None) => next,
        }
    }

    /// Whether nothing waits behind the window.
    pub(super) fn is_empty(&self) -> bool {
        self.resting == 0 && self.tail.is_empty()
    }

    /// How many events of `entries` and behind are not written yet.
    pub(super) fn unwritten_events(&self, first: u64) -> u64 {
        self.unwritten.iter().filter(|item| item.kind == Kind::Event && item.number >= first).count() as u64
    }

    /// What the disk holds and will hold.
    pub(super) fn used(&self) -> usize {
        usize::try_from(self.disk_size - self.shed_size).unwrap_or(usize::MAX) + self.unwritten_size
    }

    /// So many bytes of events waited in memory for the disk: until they are written, what comes in has its usual room
    /// beside them.
    pub(super) fn expect_early(&mut self, size: usize) {
        self.unwritten_max += size;
    }

    /// What is still to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.unwritten_size
    }

    /// How much that may be.
    pub(super) fn unwritten_max(&self) -> usize {
        self.unwritten_max
    }

    pub(super) fn close(&mut self, entries: &mut VecDeque<Entry>, name: &str) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        if let Some(Entry { item: Item::Gap(gap), number, .. }) = self.last(entries) {
            let (number, delivery) = (*number, gap.delivery(name));
            self.stage(number, Kind::Gap, delivery);
        }
    }

    /// Nothing will be written any more: what is not is in memory alone.
    pub(super) fn abandon(&mut self) {
        for item in &self.unwritten {
            if let Some(receipt) = receipt(item.kind, &item.delivery) {
                receipt.answer(Confirmation::Lost);
            }
        }
    }

    /// Whether the window has room for what rests on disk.
    pub(super) fn wants_more(&self) -> bool {
        self.resting > 0 && self.window < self.window_max / 2
    }

    /// What is to be done next; `first` is the number of the first entry that has not left.
    pub(super) fn work(&mut self, first: u64, next: u64, max_size: usize) -> Work {
        // What has left before it was written need not be.
        while let Some(item) = self.unwritten.pop_front_if(|item| item.number < first) {
            self.written_one(&item);
        }
        if self.unwritten.is_empty() {
            self.failed = None;
            self.unwritten_max = unwritten_max(max_size);
        }
        let retry = self.failed.as_ref().map(|failed| failed.retry);
        let mut work =
            Work { done: first, all_done: first == next, closing: self.closing, retry, ..Work::default() };
        let mut size = 0;
        for item in &self.unwritten {
            size += item.size;
            if !work.write.is_empty() && size > self.write_max {
                break;
            }
            work.write.push(item.clone());
        }
        if let Some(last) = work.write.last() {
            self.writing_to = last.number + 1;
        }
        while let Some(part) = self.parts.front() {
            let is_over = match self.parts.get(1) {
                Some(next) => next.segment.first <= first,
                // The last one goes when it has grown, or at the end: files are not made and removed for each event.
                None => {
                    part.last < first
                        && (self.closing && next == first || part.segment.size > self.window_max as u64 / 2)
                }
            };
            if !is_over {
                break;
            }
            work.remove.push(part.segment.first);
            self.disk_size -= part.segment.size;
            self.shed_size -= part.shrinks;
            self.parts.pop_front();
        }
        work.front = self.parts.front().map(|part| part.segment.first);
        if self.wants_more() && !self.closing {
            let part = self.parts.iter().find(|part| part.resting() > 0);
            work.load = part.map(|part| (part.segment.first, self.resting_from..=part.last));
        }
        // At the end, too: what was shed is not to come back with the next process.
        if self.closing || self.disk_size + size as u64 > max_size as u64 {
            let part = self.parts.iter().find(|part| part.shrinks > 0);
            work.compact = part.map(|part| (part.segment.first, part.shed.clone()));
        }
        work.ended = self.closing && self.unwritten.is_empty();
        work
    }

    /// Events of one class that were shed from memory: what of them is not written need not be, and the files of the others
    /// are to shrink.
    fn forget(&mut self, class: Class, numbers: &[(u64, u32)]) {
        let (Some((first, _)), Some((last, _))) = (numbers.first(), numbers.last()) else { return };
        let is_gone = |number: u64| numbers.binary_search_by_key(&number, |(number, _)| *number).is_ok();
        let unwritten = self.unwritten.front().map_or(u64::MAX, |item| item.number);
        let mut freed = 0;
        self.unwritten.retain(|item| {
            let is_gone = item.kind == Kind::Event && is_gone(item.number);
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

    fn written_one(&mut self, item: &Unwritten) {
        self.unwritten_size = self.unwritten_size.saturating_sub(item.size);
        if let Some(receipt) = receipt(item.kind, &item.delivery) {
            receipt.written();
        }
    }

    /// Why events wait in memory that are to be on disk, while some do; `first` is the number of the first that has not left.
    pub(super) fn trouble(&self, first: u64) -> Option<&str> {
        let is_left = self.unwritten.back().is_some_and(|item| item.number >= first);
        self.failed.as_ref().filter(|_| is_left).map(|failed| &*failed.why)
    }

    /// A write has failed.
    pub(super) fn not_written(&mut self, why: String, retry: Instant) {
        self.failed = Some(Failed { why, retry });
    }

    /// Everything up to a number is on disk now, the latest of it in this segment.
    pub(super) fn written(&mut self, up_to: u64, segment: Segment, entries: &mut VecDeque<Entry>) {
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
        self.refill(entries);
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

    pub(super) fn rewritten(&mut self, segment: Segment) {
        if let Some(part) = self.parts.iter_mut().find(|part| part.segment.first == segment.first) {
            self.disk_size = self.disk_size - part.segment.size + segment.size;
            self.shed_size -= part.shrinks;
            (part.segment, part.shrinks) = (segment, 0);
            part.shed.clear();
        }
    }

    /// That segment could not be rewritten: it stays as it is, and its room is not to be had.
    pub(super) fn not_rewritten(&mut self, first: u64) {
        if let Some(part) = self.parts.iter_mut().find(|part| part.segment.first == first) {
            self.shed_size -= part.shrinks;
            part.shrinks = 0;
        }
    }
}

impl Unwritten {
    pub(super) fn new(number: u64, kind: Kind, delivery: Delivery) -> Unwritten {
        let size = delivery.event.size() + HEADER;
        Unwritten { number, kind, delivery, size }
    }

    pub(super) fn record(&self) -> Record {
        let Delivery { event, .. } = &self.delivery;
        let key = self.delivery.own_key().map(str::to_owned);
        let json = event.json().clone();
        Record {
            number: self.number,
            kind: self.kind,
            class: event.class(),
            system: event.is_system(),
            key,
            json,
        }
    }
}

fn receipt(kind: Kind, delivery: &Delivery) -> Option<&Receipt> {
    delivery.event.receipt().filter(|_| kind == Kind::Event).map(|receipt| &**receipt)
}
