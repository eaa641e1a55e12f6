//! Where a consumer is in a queue that is a stream: the broker does not remember it.

use std::collections::VecDeque;

use lapin::message::Delivery;
use lapin::types::AMQPValue;

use crate::consume::consumer::Start;

/// Which messages came, and which of them are done. Of other queues it stays empty.
#[derive(Debug)]
pub(super) struct Offsets {
    start: Start,
    /// Up to this offset everything is done.
    done: Option<u64>,
    /// Of this connection: the delivery tags that are not done yet, with their offsets.
    under_way: VecDeque<(u64, u64)>,
    /// The offset that this connection is to begin with, where that is known, until its first message is there.
    expected: Option<u64>,
    /// The very first offset that came.
    first: Option<u64>,
    queue: Queue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Unknown,
    Stream,
    Other,
}

impl Offsets {
    /// Of a queue of its own, which is no stream.
    pub(super) fn none() -> Offsets {
        let (under_way, queue) = (VecDeque::new(), Queue::Other);
        Offsets { start: Start::Begin, done: None, under_way, expected: None, first: None, queue }
    }

    pub(super) fn new(start: Option<&Start>) -> Result<Offsets, String> {
        let start = start.cloned().unwrap_or(Start::Begin);
        let done = match &start {
            Start::After(text) => Some(
                text.parse()
                    .map_err(|_| format!("start: `{text}` is no offset of a stream queue; write a number"))?,
            ),
            _ => None,
        };
        Ok(Offsets { start, done, queue: Queue::Unknown, ..Offsets::none() })
    }

    /// Whether the queue is a stream for all that is known: where it is missing, one that we made would be none.
    pub(super) fn wants_stream(&self) -> bool {
        self.is_stream() || matches!(self.start, Start::After(_))
    }

    /// There is a new connection; `anew` when the queue had to be made, which is no stream then.
    pub(super) fn begin(&mut self, anew: bool) {
        self.under_way.clear();
        if anew {
            // Another may be put in its place.
            (self.done, self.first, self.queue) = (None, None, Queue::Unknown);
        }
        // What came and was not done comes again.
        self.expected = self.done.map(|done| done + 1).or(self.first);
    }

    /// Where to go on, for the broker, unless it is known to be no stream.
    pub(super) fn next(&self) -> Option<AMQPValue> {
        if self.queue == Queue::Other {
            return None;
        }
        Some(match (self.expected, &self.start) {
            (Some(next), _) => AMQPValue::LongLongInt(i64::try_from(next).unwrap_or(i64::MAX)),
            (None, Start::Now) => AMQPValue::LongString("next".into()),
            (None, _) => AMQPValue::LongString("first".into()),
        })
    }

    /// The broker took the offset, which it does for streams alone.
    pub(super) fn is_taken(&mut self) {
        self.queue = Queue::Stream;
    }

    /// The broker refused the offset: it is another queue. Returns the offset that was asked for in vain.
    pub(super) fn is_refused(&mut self) -> Option<String> {
        if let Start::After(offset) = &self.start {
            return Some(offset.clone());
        }
        self.queue = Queue::Other;
        None
    }

    /// Whether going on leaves out what came while there was no connection.
    pub(super) fn skips(&self) -> bool {
        self.is_stream() && self.expected.is_none() && self.start == Start::Now
    }

    pub(super) fn is_stream(&self) -> bool {
        self.queue == Queue::Stream
    }

    /// A message came; returns how many are gone in front of it at most.
    pub(super) fn note(&mut self, delivery: &Delivery) -> Option<u64> {
        let headers = delivery.properties.headers().as_ref()?;
        let AMQPValue::LongLongInt(offset) = headers.inner().get("x-stream-offset")? else { return None };
        let offset = u64::try_from(*offset).ok()?;
        self.queue = Queue::Stream;
        self.first.get_or_insert(offset);
        self.under_way.push_back((delivery.delivery_tag, offset));
        // Holes further on are no loss: the broker numbers things of its own, too.
        let expected = self.expected.take()?;
        Some(offset.saturating_sub(expected)).filter(|missed| *missed > 0)
    }

    /// Everything up to a tag is done, or everything at all; returns the offset up to which that is, where it is new.
    pub(super) fn done(&mut self, tag: Option<u64>, all: bool) -> Option<u64> {
        let is_done = |under_way: &(u64, u64)| all || tag.is_some_and(|tag| under_way.0 <= tag);
        let mut new = None;
        while let Some((_, offset)) = self.under_way.pop_front_if(|first| is_done(first)) {
            new = Some(offset);
        }
        self.done = new.or(self.done);
        new
    }
}
