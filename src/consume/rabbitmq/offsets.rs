//! How far a consumer is in a queue that is a stream. The broker does not remember that.

use std::collections::VecDeque;

use lapin::message::Delivery;
use lapin::types::AMQPValue;

use crate::consume::settings::Start;

/// Which messages came, and which of them are done. For other queues it stays empty.
#[derive(Debug)]
pub(super) struct Offsets {
    start: Start,
    /// Up to this offset everything is done.
    done: Option<u64>,
    /// The delivery tags of this connection that are not done yet, with their offsets.
    under_way: VecDeque<(u64, u64)>,
    /// The offset that this connection begins with, if that is known. Cleared by the first message.
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
    /// For a queue of the consumer's own, which is no stream.
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

    /// Whether the queue has to be a stream. If such a queue is missing, the consumer cannot make it.
    pub(super) fn wants_stream(&self) -> bool {
        self.is_stream() || matches!(self.start, Start::After(_))
    }

    /// There is a new connection to the queue.
    pub(super) fn resume(&mut self) {
        self.under_way.clear();
        // Messages that came and were not done come again.
        self.expected = self.done.map(|done| done + 1).or(self.first);
    }

    /// There is a new connection, and the queue had to be made. Such a queue is no stream, but one may take its place.
    pub(super) fn begin_anew(&mut self) {
        (self.done, self.first, self.queue) = (None, None, Queue::Unknown);
        self.resume();
    }

    /// The offset to continue with, for the broker. `None` if the queue is known to be no stream.
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

    /// The broker took the offset, so the queue is a stream.
    pub(super) fn note_taken(&mut self) {
        self.queue = Queue::Stream;
    }

    /// The broker refused the offset, so the queue is no stream. Returns the offset, if the user has asked for it.
    pub(super) fn note_refused(&mut self) -> Option<String> {
        if let Start::After(offset) = &self.start {
            return Some(offset.clone());
        }
        self.queue = Queue::Other;
        None
    }

    /// Whether this connection leaves out what came while there was none.
    pub(super) fn skips(&self) -> bool {
        self.is_stream() && self.expected.is_none() && self.start == Start::Now
    }

    pub(super) fn is_stream(&self) -> bool {
        self.queue == Queue::Stream
    }

    /// A message came. Returns how many are gone before it, at most.
    pub(super) fn note(&mut self, delivery: &Delivery) -> Option<u64> {
        let headers = delivery.properties.headers().as_ref()?;
        let AMQPValue::LongLongInt(offset) = headers.inner().get("x-stream-offset")? else { return None };
        let offset = u64::try_from(*offset).ok()?;
        self.queue = Queue::Stream;
        self.first.get_or_insert(offset);
        self.under_way.push_back((delivery.delivery_tag, offset));
        // Later holes are no loss: the broker numbers things of its own, too.
        let expected = self.expected.take()?;
        Some(offset.saturating_sub(expected)).filter(|missed| *missed > 0)
    }

    /// Everything up to a tag is done. Returns the offset of the last of that, if there is any.
    pub(super) fn done_up_to(&mut self, tag: u64) -> Option<u64> {
        let mut new = None;
        while let Some((_, offset)) = self.under_way.pop_front_if(|(first, _)| *first <= tag) {
            new = Some(offset);
        }
        self.done = new.or(self.done);
        new
    }

    /// Everything that came is done. Returns the offset of the last of that, if there is any.
    pub(super) fn done_all(&mut self) -> Option<u64> {
        self.done_up_to(u64::MAX)
    }
}
