//! The processors of one sink. Events wait in a buffer in front of the processors, and then go into the sink's buffer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Named, Table, Template};
use crate::event::{Delivery, Event, Gap, Stamp};
use crate::ingress::Tally;
use crate::process::{Source, Taken};
use crate::sink::{Buffer, BufferPolicy, Lease, Mark, OnOpen, Processed, SinkStatus};

/// Most events that are with the processors at once.
const BATCH: usize = 256;
/// And most bytes.
const BATCH_SIZE: usize = 4 << 20;

/// What is in front of one sink's processors, and behind them.
pub(crate) struct Lane {
    /// Bounded like the sink's own buffer would be in memory: what does not fit is shed by class, and marked.
    front: Arc<Buffer>,
    target: Arc<Buffer>,
    routing_key: Option<Template>,
    table: Arc<Table>,
    seq: Arc<AtomicU64>,
    ending: AtomicBool,
    end: Notify,
    ended: Notify,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    tally: Tally,
    passed: u64,
    /// Nothing comes out any more.
    ended: bool,
}

impl Lane {
    pub(crate) fn new(
        target: &Arc<Buffer>,
        relief: Arc<Notify>,
        routing_key: Option<Template>,
        table: Arc<Table>,
        seq: Arc<AtomicU64>,
    ) -> Lane {
        let (own, memory) = (target.policy(), BufferPolicy::default());
        let policy = BufferPolicy {
            max_events: own.max_events.min(memory.max_events),
            max_size: own.max_size.min(memory.max_size),
            when_full: own.when_full,
            disk: None,
        };
        // While a processor hangs it counts as open: then nobody waits where the sink is told to drop.
        let on_open = if *target.on_open() == OnOpen::Drop { OnOpen::Drop } else { OnOpen::Buffer };
        Lane {
            front: Buffer::before(target.name().clone(), policy, on_open, relief),
            target: target.clone(),
            routing_key,
            table,
            seq,
            ending: AtomicBool::new(false),
            end: Notify::new(),
            ended: Notify::new(),
            books: Mutex::default(),
        }
    }

    pub(crate) fn front(&self) -> &Arc<Buffer> {
        &self.front
    }

    /// Nothing comes in any more: once what waits is through, the processors finish.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.end.notify_one();
    }

    /// Waits until nothing comes out any more.
    pub(crate) async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.books().ended {
                return;
            }
            ended.await;
        }
    }

    /// Adds its numbers to the status of its sink; see [`Line::still`](crate::process::Line::still).
    pub(crate) fn show(&self, status: &mut SinkStatus, now: Instant) {
        let (front, books) = (self.front.balance(now), self.books());
        let tally = &books.tally;
        let held = u64::try_from(-tally.received).unwrap_or(0);
        status.processed = Processed {
            received: front.accepted,
            filtered: tally.filtered,
            merged: tally.merged,
            created: tally.created,
            failed: tally.failed,
            shed: front.shed,
            passed: books.passed,
            waiting: front.waiting + held,
        };
        // Dropped under overload like any other event of that sink.
        status.balance.accepted += front.shed;
        status.balance.shed += front.shed;
    }

    fn delivery(&self, event: Event, key: Option<&str>) -> Delivery {
        match (&self.routing_key, key) {
            (None, _) => Delivery::by_topic(event),
            (Some(_), Some(key)) => Delivery::new(event, key.into()),
            (Some(template), None) => {
                let key = template.render(&Named(&event, &self.table.statics));
                Delivery::new(event, key.into())
            }
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Lane {
    /// At the end there is none.
    type Work = Option<Lease>;

    fn take(&self) -> Option<Taken<Option<Lease>>> {
        let lease = self.front.lease(0, BATCH, BATCH_SIZE, Instant::now());
        let last = lease.is_none() && self.ending.load(Ordering::SeqCst);
        if lease.is_none() && !last {
            return None;
        }
        let items = lease.iter().flat_map(|lease| &lease.items);
        let events = items.map(|delivery| delivery.event.clone()).collect();
        Some(Taken { work: lease, events, last })
    }

    async fn ready(&self) {
        if self.ending.load(Ordering::SeqCst) {
            return;
        }
        tokio::select! {
            () = self.front.filled(1) => {}
            () = self.end.notified() => {}
        }
    }

    fn has_room(&self) -> bool {
        // The sink's buffer sheds by its own rules.
        true
    }

    fn hand_on(&self, work: Option<Option<Lease>>, events: Vec<Event>, tally: Tally) {
        let now = Instant::now();
        let came = work.iter().flatten().flat_map(|lease| &lease.items);
        let mut came = came.collect::<std::collections::VecDeque<_>>();
        let (mut gathered, mut passed) = (Vec::with_capacity(events.len()), 0);
        for mut event in events {
            if event.is_system() {
                // In its place: behind what came before it.
                self.target.push(gathered.drain(..), now);
                if let Some(gap) = Gap::read(&event) {
                    self.target.gap(&gap, now);
                }
                continue;
            }
            passed += 1;
            // An unchanged event keeps its key; a changed one is named again.
            let place = came.iter().position(|delivery| delivery.event.same(&event));
            let unchanged = place.and_then(|place| came.drain(..=place).next_back());
            // A processor made it.
            let is_new = event.topic().is_none();
            if is_new || unchanged.is_none() && self.table.routing_key.shows_data() {
                // What a processor took out must not show in the topic either.
                let (statics, topic) = (self.table.statics.clone(), Some(self.table.topic(&event)));
                event.set_stamp(&Arc::new(Stamp { statics, topic }));
            }
            if is_new {
                event.set_seq(self.seq.fetch_add(1, Ordering::Relaxed));
            }
            let key = unchanged.and_then(|delivery| delivery.own_key());
            gathered.push(self.delivery(event, key));
        }
        if !gathered.is_empty() {
            self.target.push(gathered, now);
        }
        // Only now they may count as held.
        if let Some(Some(lease)) = &work {
            self.front.complete(lease, &vec![Mark::Delivered; lease.items.len()], now);
        }
        let mut books = self.books();
        books.tally.add(&tally);
        books.passed += passed;
        if matches!(work, Some(None)) {
            books.ended = true;
            self.ended.notify_waiters();
        }
    }
}
