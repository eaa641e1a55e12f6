//! Reads the queue in chunks, numbers the events, and sends on one batch at a time.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::thread;
use std::time::Duration;

use actix::prelude::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Recipient, StreamHandler,
    WrapFuture as _,
};
use tokio_stream::Stream;
use tracing::warn;

use super::{Batch, Emitter, FlushRequest, Ingress};
use crate::event::{Confirmation, Gap, MAX_EVENT_BYTES};
use crate::supervise::{DeathWatch, Exit};

/// The most events in one batch of the spine.
const BATCH: usize = 512;
/// How long the pacer sleeps while events arrive, so that an emit need not wake a thread.
const NAP: Duration = Duration::from_micros(100);
/// After this many sleeps without an event, the pacer sleeps until it is woken.
const SILENCE: u32 = 200;

/// Wakes the reader while events arrive, so that emitting threads need not. A wake costs them 1–9 µs, a push 40 ns.
#[derive(Debug)]
pub(crate) struct Pacer;

impl Pacer {
    /// Starts its thread. The thread ends when the emitter is closed and the queue is empty.
    pub(crate) fn start(emitter: &Emitter) -> std::io::Result<()> {
        let ingress = emitter.ingress().clone();
        let spawned = thread::Builder::new().name("streamll-ingress".to_owned()).spawn({
            let ingress = ingress.clone();
            move || run(&ingress)
        })?;
        let _ = ingress.pacer.set(spawned.thread().clone());
        Ok(())
    }
}

fn run(ingress: &Ingress) {
    let mut silent = 0;
    loop {
        let closed = ingress.closed.load(Ordering::SeqCst);
        if !ingress.queue.is_empty() || closed || ingress.has_flushes.load(Ordering::SeqCst) {
            silent = 0;
            ingress.reader.wake();
            if closed && ingress.queue.is_empty() {
                return;
            }
        } else {
            silent += 1;
        }
        if silent < SILENCE {
            thread::park_timeout(NAP);
            continue;
        }
        ingress.asleep.store(true, Ordering::SeqCst);
        let work = !ingress.queue.is_empty()
            || ingress.closed.load(Ordering::SeqCst)
            || ingress.has_flushes.load(Ordering::SeqCst);
        if !work {
            thread::park();
        }
        ingress.asleep.store(false, Ordering::SeqCst);
        silent = 0;
    }
}

/// The queue as a stream of batches. It ends after the last batch.
struct Batches {
    ingress: Arc<Ingress>,
    seq: Arc<AtomicU64>,
    /// The flushes that were requested, and how many queued events they still wait for.
    flushing: Option<(Vec<FlushRequest>, usize)>,
    incarnation: u64,
    ended: bool,
}

impl Stream for Batches {
    type Item = Batch;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Batch>> {
        if self.ended || self.ingress.incarnation() != self.incarnation {
            return Poll::Ready(None);
        }
        if let Some(batch) = self.drain() {
            return Poll::Ready(Some(batch));
        }
        self.ingress.reader.register(cx.waker());
        if self.ingress.pacer.get().is_none() {
            self.ingress.asleep.store(true, Ordering::SeqCst);
        }
        // Whatever came in between the first look and the registration would not wake anybody.
        match self.drain() {
            Some(batch) => Poll::Ready(Some(batch)),
            None if self.ingress.incarnation() != self.incarnation => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl Batches {
    fn drain(&mut self) -> Option<Batch> {
        let ingress = self.ingress.clone();
        let closed = ingress.closed.load(Ordering::SeqCst);
        self.take_flushes();
        let queued = ingress.queue.len();
        let (mut taken, mut sent) = (0, (0, 0));
        let mut batch = Batch::of(&ingress, Vec::with_capacity(queued.min(BATCH)));
        while taken < BATCH {
            let Some(slot) = ingress.queue.pop() else { break };
            taken += 1;
            self.lost(&mut batch, slot.lost);
            let mut event = slot.event;
            batch.tally.received += 1;
            if let Some(size) = slot.sent {
                sent = (sent.0 + 1, sent.1 + size);
            }
            let size = event.size();
            if size > MAX_EVENT_BYTES {
                warn!(?event, size, "event refused: larger than 1 MiB");
                batch.tally.rejected += 1;
                if let Some(receipt) = event.receipt() {
                    receipt.answer(Confirmation::Lost);
                }
                continue;
            }
            if event.seq().is_none() {
                let seq = self.seq.fetch_add(1, Ordering::Relaxed);
                event.set_seq(seq);
            }
            batch.events.push(event);
        }
        batch.sent = sent;
        let dry = taken < BATCH && ingress.queue.is_empty();
        if dry {
            let lost = ingress.take_lost();
            self.lost(&mut batch, lost);
        }
        if let Some((requests, left)) = self.flushing.take() {
            match left.saturating_sub(taken) {
                left if left > 0 && !dry => self.flushing = Some((requests, left)),
                _ => batch.flushes = requests,
            }
        }
        if closed && dry {
            batch.last = true;
            self.ended = true;
        }
        let something = taken > 0 || !batch.events.is_empty() || !batch.flushes.is_empty() || batch.last;
        something.then_some(batch)
    }

    /// Takes in flush requests. A flush covers the events that are queued now. These are at least those that were
    /// queued when it was requested.
    fn take_flushes(&mut self) {
        if self.flushing.is_none() && self.ingress.has_flushes.swap(false, Ordering::SeqCst) {
            let mut asked = self.ingress.flushes.lock().unwrap_or_else(PoisonError::into_inner);
            self.flushing = Some((std::mem::take(&mut *asked), self.ingress.queue.len()));
        }
    }

    /// Counts the events that were shed at this place, increases the sequence number by as many, and adds one marker.
    fn lost(&self, batch: &mut Batch, lost: super::Lost) {
        let (tokens, others) = (u64::from(lost.tokens), u64::from(lost.others));
        let n = lost.count();
        if n > 0 {
            batch.tally.received += i64::try_from(n).unwrap_or(i64::MAX);
            batch.tally.shed += n;
            let from = self.seq.fetch_add(n, Ordering::Relaxed);
            batch.events.push(Gap::ingress(tokens, others, from).event("ingress"));
        }
    }
}

/// The first actor of the spine.
pub(crate) struct IngressActor {
    next: Recipient<Batch>,
    batches: Option<Batches>,
    watch: DeathWatch,
}

impl IngressActor {
    /// Makes the actor. Events get numbers from `seq` on, unless they came in with a source and a number.
    pub(crate) fn new(
        emitter: &Emitter,
        seq: Arc<AtomicU64>,
        next: Recipient<Batch>,
        watch: DeathWatch,
    ) -> IngressActor {
        let ingress = emitter.ingress().clone();
        let incarnation = ingress.incarnation();
        let batches = Batches { ingress, seq, flushing: None, incarnation, ended: false };
        IngressActor { next, batches: Some(batches), watch }
    }
}

impl Actor for IngressActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        if let Some(batches) = self.batches.take() {
            ctx.add_stream(batches);
        }
    }
}

impl StreamHandler<Batch> for IngressActor {
    fn handle(&mut self, batch: Batch, ctx: &mut Context<Self>) {
        let sent = self.next.send(batch);
        ctx.wait(sent.into_actor(self).map(|sent, actor, ctx| {
            if sent.is_err() {
                actor.watch.because(Exit::Failed("the next stage is gone".to_owned()));
                ctx.stop();
            }
        }));
    }

    fn finished(&mut self, ctx: &mut Context<Self>) {
        self.watch.because(Exit::Stopped);
        ctx.stop();
    }
}
