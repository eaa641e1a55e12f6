//! What of a buffer with a disk is not in its window: written and at rest there, or still to be written.
//!
//! The window is the front of the queue, in memory, where the sink takes from. While it has room nothing else exists, and
//! the disk only follows; once it is full, events wait in the tail until they are written, and then rest on disk alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::buffer::{BufferPolicy, Entry, Inner, Item, WhenFull};
use super::disk::{HEADER, Kind, Record, Recovered, Segment};
use crate::event::{Class, Decoder, Delivery, Event, Gap, GapReason, Receipt, Timestamp};

/// Most bytes of events in the window.
const WINDOW: usize = 8 << 20;
/// Most bytes that wait to be written; tokens may use three quarters of it, lifecycle events all but a sixteenth.
pub(super) const UNWRITTEN: usize = 16 << 20;
/// Most bytes of one write.
const WRITE: usize = 1 << 20;
/// A log has about so many segments when it is full; the largest are so large.
const SEGMENTS: usize = 16;
const SEGMENT: usize = 8 << 20;
/// A full disk buffer frees this part of itself at once.
const CHUNK: usize = 8;
/// Tokens may not use the last part of a buffer.
const RESERVE: usize = 16;
const CLASSES: [Class; 3] = [Class::Token, Class::Lifecycle, Class::Audit];

/// The size of the segments of a disk buffer that may have so many bytes.
pub(super) fn segment_size(max_size: usize) -> usize {
    (max_size / SEGMENTS).clamp(64 << 10, SEGMENT)
}

#[derive(Debug)]
pub(super) struct Backlog {
    window_max: usize,
    write_max: usize,
    /// Bytes of events in the window.
    window: usize,
    /// Behind what rests on disk.
    tail: VecDeque<Entry>,
    unwritten: VecDeque<Unwritten>,
    unwritten_size: usize,
    parts: VecDeque<Part>,
    /// The sizes of all parts, and what of that their files are still to shrink by.
    disk_size: u64,
    shed_size: u64,
    /// Records that rest on disk alone, and the number of the first.
    resting: u64,
    resting_from: u64,
    /// Why nothing can be written, while it cannot.
    pub(super) trouble: Option<String>,
    /// Places of the disk that could not be read.
    pub(super) damaged: u64,
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

/// One segment of the log, and what rests in it.
#[derive(Debug)]
struct Part {
    segment: Segment,
    last: u64,
    events: [u64; 3],
    /// Bytes of JSON.
    bytes: [u64; 3],
    /// Gaps and alerts.
    notices: u64,
    shed: Option<Shed>,
    /// Whether the file has been rewritten without them.
    is_compact: bool,
}

/// Events of this class, and of those below it, are shed from this number on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shed {
    up_to: Class,
    from: u64,
    /// What the file will shrink by.
    size: u64,
}

impl Shed {
    fn takes(&self, record: &Record) -> bool {
        record.kind == Kind::Event && record.class <= self.up_to && record.number >= self.from
    }
}

/// What the disk is to do next.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// To be written, in order.
    pub(super) write: Vec<Unwritten>,
    /// A segment to read, because the window has room.
    pub(super) load: Option<u64>,
    /// A segment to rewrite without what was shed from it.
    pub(super) compact: Option<(u64, Shed)>,
    /// Segments whose records are all done.
    pub(super) remove: Vec<u64>,
    /// Everything before this number is done.
    pub(super) done: u64,
    /// And nothing waits behind it.
    pub(super) all_done: bool,
    /// Nothing more will come, and nothing is left to be written.
    pub(super) ended: bool,
    pub(super) closing: bool,
}

impl Part {
    fn new(segment: Segment) -> Part {
        let (events, bytes) = ([0; 3], [0; 3]);
        Part { segment, last: segment.first, events, bytes, notices: 0, shed: None, is_compact: false }
    }

    fn resting(&self) -> u64 {
        self.events.iter().sum::<u64>() + self.notices
    }

    fn rest(&mut self, kind: Kind, class: Class, bytes: usize) {
        if kind != Kind::Event {
            self.notices += 1;
            return;
        }
        if let (Some(events), Some(all)) =
            (self.events.get_mut(class as usize), self.bytes.get_mut(class as usize))
        {
            *events += 1;
            *all += bytes as u64;
        }
    }

    /// What its file is still to shrink by. Sizes are estimates: never more than there is.
    fn to_shrink(&self) -> u64 {
        self.shed.filter(|_| !self.is_compact).map_or(0, |shed| shed.size.min(self.segment.size))
    }

    fn of(&self, class: Class) -> (u64, u64) {
        let at = |numbers: &[u64; 3]| numbers.get(class as usize).copied().unwrap_or(0);
        (at(&self.events), at(&self.bytes))
    }

    fn clear(&mut self, class: Class) {
        if let (Some(events), Some(bytes)) =
            (self.events.get_mut(class as usize), self.bytes.get_mut(class as usize))
        {
            (*events, *bytes) = (0, 0);
        }
    }
}

impl Backlog {
    /// What was found on disk; the numbers of what comes in go on behind it.
    pub(super) fn new(policy: &BufferPolicy, recovered: &Recovered, inner: &mut Inner) -> Backlog {
        let mut backlog = Backlog {
            window_max: WINDOW.min(policy.max_size / 4),
            write_max: WRITE.min(segment_size(policy.max_size)),
            window: 0,
            tail: VecDeque::new(),
            unwritten: VecDeque::new(),
            unwritten_size: 0,
            parts: VecDeque::new(),
            disk_size: 0,
            shed_size: 0,
            resting: 0,
            resting_from: recovered.next,
            trouble: None,
            damaged: recovered.damaged,
            closing: false,
        };
        for (segment, records) in &recovered.segments {
            let mut part = Part::new(*segment);
            for record in records {
                part.rest(record.kind, record.class, record.json.len());
                part.last = record.number;
                backlog.resting_from = backlog.resting_from.min(record.number);
                match record.kind {
                    Kind::Event => {
                        inner.balance.recovered += 1;
                        inner.count_in(record.class, record.json.len());
                    }
                    Kind::Notice => inner.notices += 1,
                    Kind::Gap => {}
                }
            }
            backlog.resting += part.resting();
            backlog.disk_size += segment.size;
            backlog.parts.push_back(part);
        }
        inner.appended = recovered.next;
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
        if let Some(receipt) = receipt(kind, &delivery) {
            receipt.staged();
        }
        let size = delivery.event.size() + HEADER;
        self.unwritten_size += size;
        self.unwritten.push_back(Unwritten { number, kind, delivery, size });
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

    /// What is still to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.unwritten_size
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
        let mut work =
            Work { done: first, all_done: first == next, closing: self.closing, ..Work::default() };
        let mut size = 0;
        for item in &self.unwritten {
            size += item.size;
            if !work.write.is_empty() && size > self.write_max {
                break;
            }
            work.write.push(item.clone());
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
            self.shed_size -= part.to_shrink();
            self.parts.pop_front();
        }
        if self.wants_more() && !self.closing {
            work.load = self.parts.iter().find(|part| part.resting() > 0).map(|part| part.segment.first);
        }
        // At the end, too: what was shed is not to come back with the next process.
        if self.closing || self.disk_size + size as u64 > max_size as u64 {
            let shrinks = |part: &&Part| !part.is_compact && part.shed.is_some();
            let part = self.parts.iter().find(shrinks);
            work.compact = part.and_then(|part| Some((part.segment.first, part.shed?)));
        }
        work.ended = self.closing && self.unwritten.is_empty();
        work
    }

    fn written_one(&mut self, item: &Unwritten) {
        self.unwritten_size = self.unwritten_size.saturating_sub(item.size);
        if let Some(receipt) = receipt(item.kind, &item.delivery) {
            receipt.written();
        }
    }

    /// Everything up to a number is on disk now, the latest of it in this segment.
    pub(super) fn written(&mut self, up_to: u64, segment: Segment, entries: &mut VecDeque<Entry>) {
        self.trouble = None;
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
            self.shed_size -= part.to_shrink();
            part.segment = segment;
            part.is_compact = true;
        }
    }

    /// That segment could not be rewritten: it stays as it is, and its room is not to be had.
    pub(super) fn not_rewritten(&mut self, first: u64) {
        if let Some(part) = self.parts.iter_mut().find(|part| part.segment.first == first) {
            self.shed_size -= part.to_shrink();
            part.is_compact = true;
        }
    }
}

impl Unwritten {
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

/// Makes room for one event on disk; `false` when it must stay out itself.
pub(super) fn make_room(inner: &mut Inner, policy: &BufferPolicy, class: Class, size: usize) -> bool {
    let reserved = |max: usize| if class == Class::Token { max - max / RESERVE } else { max };
    let (max_events, max_size) = (reserved(policy.max_events).max(1), reserved(policy.max_size));
    let size = size + HEADER;
    let fits = |inner: &Inner| {
        inner.events < max_events
            && inner.backlog.as_ref().is_some_and(|backlog| backlog.used() + size <= max_size)
    };
    let Some(backlog) = &inner.backlog else { return false };
    // The disk does not keep up, or cannot be written at all.
    let behind = match class {
        Class::Token => UNWRITTEN - UNWRITTEN / 4,
        Class::Lifecycle => UNWRITTEN - UNWRITTEN / RESERVE,
        Class::Audit => UNWRITTEN,
    };
    if backlog.unwritten_size > behind {
        return false;
    }
    if fits(inner) {
        return true;
    }
    if policy.when_full == WhenFull::DropNewest {
        return false;
    }
    for victim in [Class::Token, Class::Lifecycle] {
        let chunk = (policy.max_size / CHUNK) as u64;
        let (least, most) = match (victim, class) {
            (Class::Token, Class::Token) => (chunk, chunk),
            (Class::Token, _) => (1, chunk),
            // Lifecycle events are dear: no more of them go than must.
            _ if victim < class => (1, chunk / CHUNK as u64),
            _ => break,
        };
        if inner.idle_on_disk(victim) >= least {
            shed(inner, victim, most.max(size as u64));
            if fits(inner) {
                return true;
            }
        }
    }
    false
}

/// Sheds the oldest of one class (and of those below it) that rest on disk, a segment at a time.
fn shed(inner: &mut Inner, victim: Class, mut wanted: u64) {
    let Some(backlog) = &mut inner.backlog else { return };
    let sealed = backlog.parts.len().saturating_sub(1);
    let mut gone = Vec::new();
    for part in backlog.parts.iter_mut().take(sealed) {
        if part.of(victim).0 == 0 {
            continue;
        }
        let classes = [Class::Token, Class::Lifecycle].into_iter().filter(|class| *class <= victim);
        backlog.shed_size -= part.to_shrink();
        // What an earlier rewriting has freed is free.
        let mut size = part.to_shrink();
        for class in classes {
            let (events, bytes) = part.of(class);
            part.clear(class);
            size += bytes + events * HEADER as u64;
            wanted = wanted.saturating_sub(bytes + events * HEADER as u64);
            backlog.resting -= events;
            gone.push((class, events, bytes));
        }
        // A gap rests in their place.
        part.notices += 1;
        backlog.resting += 1;
        let from = part.segment.first.max(backlog.resting_from);
        part.shed = Some(Shed { up_to: victim, from, size });
        part.is_compact = false;
        backlog.shed_size += part.to_shrink();
        if wanted == 0 {
            break;
        }
    }
    for (class, events, bytes) in gone {
        inner.balance.shed += events;
        inner.count_out(class, events as usize, bytes as usize);
    }
}

/// Turns records back into entries, and those that were shed into gaps.
pub(super) struct Reader {
    decoder: Decoder,
    sink: Arc<str>,
}

/// What became of a record.
pub(super) enum Read {
    Entry(Kind, Delivery),
    Gap(Gap),
    /// Its checksum is right, but it makes no sense to us.
    Strange,
}

impl Reader {
    pub(super) fn new(sink: Arc<str>) -> Reader {
        Reader { decoder: Decoder::default(), sink }
    }

    pub(super) fn read(&mut self, record: &Record) -> Read {
        let Ok(event) = self.decoder.restore(record.json.clone(), Some(record.class), record.system) else {
            return Read::Strange;
        };
        if record.kind == Kind::Gap {
            return Gap::read(&event).map_or(Read::Strange, Read::Gap);
        }
        Read::Entry(
            record.kind,
            match &record.key {
                Some(key) => Delivery::new(event, key.as_str().into()),
                None => Delivery::by_topic(event),
            },
        )
    }

    /// A segment without what was shed from it.
    pub(super) fn without(&mut self, records: Vec<Record>, shed: &Shed) -> Vec<Record> {
        let mut kept: Vec<Record> = Vec::with_capacity(records.len());
        let mut open: Option<(u64, Gap)> = None;
        let close = |open: &mut Option<(u64, Gap)>, kept: &mut Vec<Record>, sink: &str| {
            if let Some((number, gap)) = open.take() {
                kept.push(gap_record(number, &gap, sink));
            }
        };
        for record in records {
            if !shed.takes(&record) {
                close(&mut open, &mut kept, &self.sink);
                kept.push(record);
            } else if let Read::Entry(_, delivery) = self.read(&record) {
                let (_, gap) = open.get_or_insert_with(|| (record.number, Gap::default()));
                gap.add(&delivery.event, GapReason::BufferFull);
            }
        }
        close(&mut open, &mut kept, &self.sink);
        kept
    }
}

fn gap_record(number: u64, gap: &Gap, sink: &str) -> Record {
    let event: Event = gap.event(sink);
    let json: Bytes = event.json().clone();
    Record { number, kind: Kind::Gap, class: Class::Lifecycle, system: true, key: None, json }
}

impl Inner {
    /// Takes a segment into the window. What it should hold and does not is counted as shed.
    pub(super) fn loaded(
        &mut self,
        first: u64,
        records: Vec<Record>,
        reader: &mut Reader,
        sent: u64,
        now: Instant,
    ) {
        let Some(backlog) = &mut self.backlog else { return };
        let Some(part) = backlog.parts.iter_mut().find(|part| part.segment.first == first) else { return };
        let (from, last, shed) = (backlog.resting_from, part.last, part.shed);
        backlog.resting -= part.resting();
        let mut missing = std::mem::take(&mut part.events);
        let estimated: u64 = std::mem::take(&mut part.bytes).iter().sum();
        (part.notices, backlog.resting_from) = (0, last + 1);
        let clock = Timestamp::now().as_micros();
        let mut loaded = 0;
        for record in records.iter().filter(|record| (from..=last).contains(&record.number)) {
            let is_shed = shed.is_some_and(|shed| shed.takes(record));
            let (item, size) = match reader.read(record) {
                Read::Strange => continue,
                Read::Gap(gap) => (Item::Gap(Box::new(gap)), 0),
                Read::Entry(_, delivery) if is_shed => {
                    let mut gap = Gap::default();
                    gap.add(&delivery.event, GapReason::BufferFull);
                    (Item::Gap(Box::new(gap)), 0)
                }
                Read::Entry(Kind::Notice, delivery) => (Item::Notice(delivery), 0),
                Read::Entry(_, delivery) => {
                    if let Some(events) = missing.get_mut(record.class as usize) {
                        *events = events.saturating_sub(1);
                    }
                    (Item::Event(delivery), record.json.len())
                }
            };
            if let Item::Gap(gap) = &item
                && let Some(Entry { item: Item::Gap(open), .. }) = self.entries.back_mut()
            {
                open.absorb(gap);
                continue;
            }
            let age = match &item {
                Item::Event(delivery) => {
                    u64::try_from(clock - delivery.event.timestamp().as_micros()).unwrap_or(0)
                }
                _ => 0,
            };
            let since = now.checked_sub(Duration::from_micros(age)).unwrap_or(now);
            backlog.window += size;
            loaded += size;
            let mut entry = Entry::new(item, record.number, u32::try_from(size).unwrap_or(u32::MAX), since);
            entry.attempts = u32::from(record.number < sent);
            self.entries.push_back(entry);
        }
        if missing.iter().sum::<u64>() > 0 {
            self.entries.push_back(Entry::new(Item::Gap(Box::new(Gap::unreadable(missing))), last, 0, now));
            backlog.damaged += 1;
        }
        backlog.refill(&mut self.entries);
        // Before they were encoded, sizes were estimates.
        self.bytes = (self.bytes + loaded).saturating_sub(estimated as usize);
        for (class, events) in CLASSES.into_iter().zip(missing) {
            self.balance.shed += events;
            self.count_out(class, events as usize, 0);
        }
    }

    /// Bytes of one class that could be shed from the disk.
    fn idle_on_disk(&self, class: Class) -> u64 {
        let Some(backlog) = &self.backlog else { return 0 };
        let sealed = backlog.parts.len().saturating_sub(1);
        backlog.parts.iter().take(sealed).map(|part| part.of(class).1).sum()
    }
}
