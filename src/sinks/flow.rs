//! Lines on their way into something that may stand still. What was begun is finished before anything else, and comes once.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use streamll_actors::event::{Event, EventId};
use streamll_actors::sink::{Deliveries, SinkContext};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep};

use crate::pipes::{Outlet, STILL};

/// How often to look whether somebody reads again.
const LOOK: Duration = Duration::from_millis(50);

/// Text that is written as far as somebody reads it.
#[derive(Debug)]
pub(super) struct Flow {
    outlet: Arc<Outlet>,
    text: Vec<u8>,
    done: usize,
    /// Where each event of the text ends, and which it is; without those that have left.
    events: VecDeque<(usize, EventId)>,
    /// Where the first of them begins.
    begin: usize,
    /// Events whose lines are out, and that were not marked.
    ahead: VecDeque<EventId>,
    /// Looks whether somebody reads again.
    watch: Option<JoinHandle<()>>,
}

impl Flow {
    pub(super) fn new(outlet: Outlet) -> Flow {
        Flow {
            outlet: Arc::new(outlet),
            text: Vec::new(),
            done: 0,
            events: VecDeque::new(),
            begin: 0,
            ahead: VecDeque::new(),
            watch: None,
        }
    }

    pub(super) fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    /// Lets go of the lines that were not begun: they come again.
    pub(super) fn cut(&mut self) {
        let begun = self.events.pop_front().filter(|_| self.done > self.begin);
        self.events.clear();
        self.text.truncate(begun.as_ref().map_or(self.done, |(end, _)| *end));
        self.events.extend(begun);
    }

    /// Finishes what an earlier delivery could not, and returns how many events of this batch were among it.
    pub(super) async fn resume(
        &mut self,
        batch: &mut Deliveries,
        patience: Option<Duration>,
    ) -> io::Result<usize> {
        while self.done < self.text.len() {
            self.step(patience).await?;
            while let Some(id) = self.finished() {
                self.ahead.push_back(id);
            }
        }
        self.clear();
        let mut next = 0;
        while let Some(id) = self.ahead.front()
            && batch.as_slice().get(next).is_some_and(|delivery| delivery.event.id() == id)
        {
            batch.delivered(next);
            self.ahead.pop_front();
            next += 1;
        }
        if next < batch.len() {
            self.ahead.clear();
        }
        Ok(next)
    }

    /// Waits until something is taken.
    pub(super) async fn ready(&mut self, patience: Option<Duration>) -> io::Result<()> {
        let since = Instant::now();
        while !self.outlet.is_ready() {
            self.still(since, patience).await?;
        }
        Ok(())
    }

    /// Adds an event's line to what is to be written.
    pub(super) fn add(&mut self, event: &Event, render: impl FnOnce(&mut Vec<u8>)) {
        render(&mut self.text);
        self.events.push_back((self.text.len(), event.id().clone()));
    }

    /// How much is to be written.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Writes all of it; what was added first is event number `first` of the batch. Fails with `TimedOut` when nobody has
    /// read for as long as `patience` says.
    pub(super) async fn write(
        &mut self,
        batch: &mut Deliveries,
        first: usize,
        patience: Option<Duration>,
    ) -> io::Result<()> {
        let mut next = first;
        while self.done < self.text.len() {
            self.step(patience).await?;
            // At once, as the delivery may be given up at the next wait.
            while self.finished().is_some() {
                batch.delivered(next);
                next += 1;
            }
        }
        self.clear();
        Ok(())
    }

    /// Writes text of no event, as far as it goes now.
    pub(super) fn close(&mut self, text: &[u8]) {
        if self.events.is_empty() {
            let _ = self.outlet.write(text);
        }
    }

    async fn step(&mut self, patience: Option<Duration>) -> io::Result<()> {
        let since = Instant::now();
        loop {
            match self.outlet.write(self.text.get(self.done..).unwrap_or_default()) {
                Ok(written) => {
                    self.done += written;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.still(since, patience).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// A moment in which nothing is taken.
    async fn still(&self, since: Instant, patience: Option<Duration>) -> io::Result<()> {
        if patience.is_some_and(|patience| since.elapsed() >= patience) {
            return Err(ErrorKind::TimedOut.into());
        }
        self.outlet.look();
        // Other tasks use this thread, and the delivery may be given up.
        yield_now().await;
        Ok(())
    }

    /// The next event whose line is out.
    fn finished(&mut self) -> Option<EventId> {
        let (end, id) = self.events.pop_front_if(|(end, _)| *end <= self.done)?;
        self.begin = end;
        Some(id)
    }

    fn clear(&mut self) {
        self.text.clear();
        self.events.clear();
        (self.done, self.begin) = (0, 0);
    }

    /// Whether the reader has got half a line.
    pub(super) fn is_torn(&self) -> bool {
        self.done > self.begin
    }

    /// Opens the circuit until somebody reads again.
    pub(super) fn block(&mut self, ctx: &SinkContext, reason: &str) {
        ctx.block(reason);
        self.stop_watching();
        let (outlet, ctx) = (self.outlet.clone(), ctx.clone());
        self.watch = Some(tokio::spawn(async move {
            while !outlet.is_ready() {
                sleep(LOOK).await;
            }
            ctx.unblock();
        }));
    }

    fn stop_watching(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop_watching();
    }
}

/// How long a sink waits before it says that nobody reads; `None`, without end, where it cannot say it.
pub(super) fn patience(ctx: Option<&SinkContext>) -> Option<Duration> {
    // Half of it is left to say so before the delivery is given up.
    ctx.map(|ctx| STILL.min(ctx.deliver_timeout() / 2))
}
