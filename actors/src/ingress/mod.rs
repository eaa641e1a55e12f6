//! The ingress: a bounded queue that any thread may push into, at a cost that no application notices.

mod actor;
mod batch;
mod inbox;
mod ledger;

pub(crate) use actor::{IngressActor, Pacer};
pub use batch::Batch;
pub(crate) use batch::{Originals, Tally, Ticket};
pub(crate) use inbox::{Inbox, Inlet, Outlet};
pub use ledger::{GraphBalance, Ledger};

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;

use crossbeam_queue::ArrayQueue;
use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, oneshot};

use crate::event::{Class, Confirmation, Event, Receipt};

/// How many events the ingress holds by default.
pub const INGRESS_CAPACITY: usize = 65_536;

/// The outcome of an emit. There is nothing to handle: every lost event is counted and marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emitted {
    /// The graph has the event.
    Accepted,
    /// The ingress is full. The event is counted, and a gap marker will take its place.
    Shed,
    /// The graph is draining or has ended. The event is counted as shed.
    Closed,
}

/// Which sinks a sender waits for. It never waits for a sink whose policy is to drop (`when_full: drop_newest`, or
/// `on_open: drop` while the sink is open).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Patience {
    /// Waits for the ingress and for sinks that deliver. Never waits for a sink that is open or failed.
    #[default]
    Healthy,
    /// Also waits for sinks that are open. Never waits for a sink that is failed.
    Open,
}

/// Whether there is room behind the ingress. The graph implements it.
pub(crate) trait Pressure: Send + Sync {
    /// Whether every buffer that wants this event has room, together with the events that are already on their way.
    fn is_relieved(&self, event: &Event, patience: Patience, events: usize, bytes: usize) -> bool;
}

/// Sends events into a running graph, from any thread and any task. Clones are cheap and belong to the same graph.
#[derive(Clone)]
pub struct Emitter(Arc<Ingress>);

/// The queue, and the state that its two sides share.
pub(crate) struct Ingress {
    queue: ArrayQueue<Slot>,
    /// Set when the queue is three quarters full, until it is half empty. While it is set, tokens are shed.
    crowded: AtomicBool,
    shed_tokens: AtomicU32,
    shed_others: AtomicU32,
    closed: AtomicBool,
    /// The last batch has left, and the queue is no longer read.
    ended: AtomicBool,
    /// Rises when the spine dies. Readers of the old spine must not read on.
    incarnation: AtomicU64,
    /// The reader sleeps and wants to be woken by the next push.
    asleep: AtomicBool,
    reader: AtomicWaker,
    /// The thread that wakes the reader while events arrive. Without it, pushes wake the reader.
    pacer: OnceLock<Thread>,
    flushes: Mutex<Vec<FlushRequest>>,
    has_flushes: AtomicBool,
    /// Events of waiting senders on their way from here to the buffers.
    pub(crate) transit_events: AtomicUsize,
    pub(crate) transit_bytes: AtomicUsize,
    pub(crate) pressure: OnceLock<Arc<dyn Pressure>>,
    pub(crate) relief: Arc<Notify>,
    pub(crate) ledger: Arc<Ledger>,
}

/// The router answers here once it has noted how far each buffer must get for a flush.
pub(crate) type FlushRequest = oneshot::Sender<()>;

struct Slot {
    event: Event,
    /// The events that were shed right before this event.
    lost: Lost,
    /// The size with which the event counts as in transit, if its sender waited.
    sent: Option<usize>,
}

/// Events that found no room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) tokens: u32,
    pub(crate) others: u32,
}

impl Lost {
    pub(crate) fn count(self) -> u64 {
        u64::from(self.tokens) + u64::from(self.others)
    }
}

impl Emitter {
    pub(crate) fn new(capacity: usize, relief: Arc<Notify>, ledger: Arc<Ledger>) -> Emitter {
        Emitter(Arc::new(Ingress {
            queue: ArrayQueue::new(capacity.max(4)),
            crowded: AtomicBool::new(false),
            shed_tokens: AtomicU32::new(0),
            shed_others: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            incarnation: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            pacer: OnceLock::new(),
            flushes: Mutex::default(),
            has_flushes: AtomicBool::new(false),
            transit_events: AtomicUsize::new(0),
            transit_bytes: AtomicUsize::new(0),
            pressure: OnceLock::new(),
            relief,
            ledger,
        }))
    }

    pub(crate) fn ingress(&self) -> &Arc<Ingress> {
        &self.0
    }

    /// Emits one event. Does no I/O, never blocks, never panics, and needs no async runtime.
    pub fn emit(&self, event: Event) -> Emitted {
        self.0.push(event, false)
    }

    /// Emits one event. It first waits while the ingress, or the buffer of a delivering sink that wants the event, is
    /// more than three quarters full. It never waits for a sink whose policy is to drop.
    ///
    /// If the future is dropped before it is done, the event is not emitted.
    pub async fn send(&self, event: Event) -> Emitted {
        self.send_patiently(event, Patience::Healthy).await
    }

    /// Like [`send`](Self::send), with a choice of the sinks to wait for.
    pub async fn send_patiently(&self, event: Event, patience: Patience) -> Emitted {
        loop {
            let relieved = self.0.relief.notified();
            if self.0.is_relieved(&event, patience) || self.is_closed() {
                return self.0.push(event, true);
            }
            relieved.await;
        }
    }

    /// Like [`send`](Self::send), and then waits until every sink that wants the event holds it safely: on disk, if the
    /// buffer of the sink is a disk buffer.
    pub async fn send_confirmed(&self, event: Event) -> Confirmation {
        self.send_with_receipt(event, Patience::Healthy).await.confirmation().await
    }

    /// The first half of [`send_confirmed`](Self::send_confirmed). Use it to send many events in order, and to wait for
    /// their confirmations later.
    pub async fn send_with_receipt(&self, mut event: Event, patience: Patience) -> Unconfirmed {
        let (receipt, answer) = Receipt::new();
        event.set_receipt(receipt);
        match self.send_patiently(event, patience).await {
            Emitted::Accepted => Unconfirmed(Some(answer)),
            Emitted::Shed | Emitted::Closed => Unconfirmed(None),
        }
    }

    /// Counts an input that should be an event but is not, such as a malformed line.
    pub fn reject(&self) {
        self.0.ledger.add(&Tally { received: 1, rejected: 1, ..Tally::default() });
    }

    /// Returns whether both belong to the same graph.
    #[must_use]
    pub fn same(&self, other: &Emitter) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns whether the graph takes no more events.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }

    /// Returns when every event that was emitted before has passed the router. Its sinks may still hold it.
    pub(crate) async fn routed(&self) {
        loop {
            let (done, wait) = oneshot::channel();
            self.0.flushes.lock().unwrap_or_else(PoisonError::into_inner).push(done);
            self.0.has_flushes.store(true, Ordering::SeqCst);
            self.0.wake_now();
            // Should the spine die with the question in hand, the next one is asked.
            if self.0.ended.load(Ordering::SeqCst) || wait.await.is_ok() {
                return;
            }
        }
    }
}

/// An event that was sent, and whose outcome is not known yet.
#[derive(Debug)]
#[must_use = "the confirmation is what it was sent for"]
pub struct Unconfirmed(Option<oneshot::Receiver<Confirmation>>);

impl Unconfirmed {
    /// Waits until every sink that wants the event holds it safely, or until it is known that this will not happen.
    pub async fn confirmation(self) -> Confirmation {
        match self.0 {
            Some(answer) => answer.await.unwrap_or(Confirmation::Lost),
            None => Confirmation::Lost,
        }
    }
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter").field("queued", &self.0.queue.len()).finish_non_exhaustive()
    }
}

impl Ingress {
    fn push(&self, event: Event, sent: bool) -> Emitted {
        let emitted = self.take(event, sent);
        // The reader may have ended since the look at `closed`: then nobody else would count what came in behind it.
        if self.ended.load(Ordering::SeqCst) {
            self.sweep();
        }
        emitted
    }

    fn take(&self, event: Event, sent: bool) -> Emitted {
        let class = event.class();
        if self.closed.load(Ordering::Relaxed) {
            self.ledger.add(&Tally { received: 1, shed: 1, ..Tally::default() });
            return Emitted::Closed;
        }
        if class == Class::Token && !sent && self.is_crowded() {
            self.shed_tokens.fetch_add(1, Ordering::SeqCst);
            return Emitted::Shed;
        }
        let sent = sent.then(|| event.size());
        if let Some(size) = sent {
            self.transit_events.fetch_add(1, Ordering::Relaxed);
            self.transit_bytes.fetch_add(size, Ordering::Relaxed);
        }
        let lost = self.take_lost();
        if let Err(slot) = self.queue.push(Slot { event, lost, sent }) {
            self.shed_tokens.fetch_add(lost.tokens, Ordering::Relaxed);
            self.shed_others.fetch_add(lost.others, Ordering::Relaxed);
            let counter = if class == Class::Token { &self.shed_tokens } else { &self.shed_others };
            counter.fetch_add(1, Ordering::SeqCst);
            if let Some(size) = sent {
                self.left(1, size);
            }
            if let Some(receipt) = slot.event.receipt() {
                receipt.answer(Confirmation::Lost);
            }
            return Emitted::Shed;
        }
        self.wake();
        Emitted::Accepted
    }

    /// Whether the queue is three quarters full, or was and is not half empty yet. Then the rest is for lifecycle and
    /// audit events.
    fn is_crowded(&self) -> bool {
        let (len, capacity) = (self.queue.len(), self.queue.capacity());
        if len >= capacity - capacity / 4 {
            self.crowded.store(true, Ordering::Relaxed);
            return true;
        }
        if len < capacity / 2 && self.crowded.load(Ordering::Relaxed) {
            self.crowded.store(false, Ordering::Relaxed);
        }
        self.crowded.load(Ordering::Relaxed)
    }

    fn is_relieved(&self, event: &Event, patience: Patience) -> bool {
        let capacity = self.queue.capacity();
        if self.queue.len() >= capacity - capacity / 4 {
            return false;
        }
        let events = self.transit_events.load(Ordering::Relaxed);
        let bytes = self.transit_bytes.load(Ordering::Relaxed);
        self.pressure.get().is_none_or(|pressure| pressure.is_relieved(event, patience, events, bytes))
    }

    /// A batch has arrived in the buffers, or is lost, and with it this many events and bytes of waiting senders.
    pub(crate) fn left(&self, events: usize, bytes: usize) {
        self.transit_events.fetch_sub(events, Ordering::Relaxed);
        self.transit_bytes.fetch_sub(bytes, Ordering::Relaxed);
        // Also when none of them was: the queue has moved.
        self.relief.notify_waiters();
    }

    /// The reader has ended, or its time is over. The remaining events are counted as shed.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.sweep();
    }

    fn sweep(&self) {
        let mut lost = self.take_lost().count();
        while let Some(slot) = self.queue.pop() {
            lost += slot.lost.count() + 1;
            if let Some(size) = slot.sent {
                self.left(1, size);
            }
            if let Some(receipt) = slot.event.receipt() {
                receipt.answer(Confirmation::Lost);
            }
        }
        if lost > 0 {
            let received = i64::try_from(lost).unwrap_or(i64::MAX);
            self.ledger.add(&Tally { received, shed: lost, ..Tally::default() });
        }
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Returns the incarnation of the spine that reads.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::SeqCst)
    }

    /// Stops the readers of a dead spine, so that the queue waits for the next spine.
    pub(crate) fn disown_reader(&self) {
        self.incarnation.fetch_add(1, Ordering::SeqCst);
        self.reader.wake();
    }

    fn take_lost(&self) -> Lost {
        let take = |counter: &AtomicU32| {
            if counter.load(Ordering::SeqCst) == 0 { 0 } else { counter.swap(0, Ordering::SeqCst) }
        };
        Lost { tokens: take(&self.shed_tokens), others: take(&self.shed_others) }
    }

    /// Wakes the reader after a push, if it sleeps. The reader first notes that it sleeps, and then looks a last time.
    /// Both sides are sequentially consistent: either the reader sees the event, or this function sees that the reader
    /// sleeps.
    fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.wake_now();
        }
    }

    fn wake_now(&self) {
        match self.pacer.get() {
            Some(pacer) => pacer.unpark(),
            None => self.reader.wake(),
        }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.wake_now();
        self.relief.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Step;

    fn emitter() -> Emitter {
        Emitter::new(8, Arc::default(), Arc::default())
    }

    #[test]
    fn what_the_last_reader_left_behind_is_counted_as_shed() {
        let (emitter, step) = (emitter(), Step::new("M"));
        // One of them is a token beyond the last quarter.
        for n in 0..7 {
            emitter.emit(Event::token(&step, "answer", "x", n));
        }
        emitter.0.close();
        emitter.0.end();
        assert_eq!(emitter.emit(Event::new(&step, "start")), Emitted::Closed);
        let balance = emitter.0.ledger.balance();
        assert_eq!((balance.received, balance.shed), (8, 8));
    }

    #[test]
    fn an_event_that_slips_in_behind_the_last_reader_is_counted_too() {
        let (emitter, step) = (emitter(), Step::new("M"));
        // As if the look at `closed` had come before.
        emitter.0.end();
        assert_eq!(emitter.emit(Event::new(&step, "start")), Emitted::Accepted);
        let balance = emitter.0.ledger.balance();
        assert_eq!((balance.received, balance.shed), (1, 1));
    }
}
