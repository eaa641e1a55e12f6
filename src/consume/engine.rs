//! The heart of a consumer: reads while there is room, hands out by key, acknowledges what is done, and connects again.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use streamll_actors::sink::DeliveryError;
use streamll_actors::supervise::Backoff;
use tokio::time::{Instant, interval, sleep, sleep_until};

use super::desk::{Desk, Plan, buried};
use super::source::Source;
use super::status::{ConsumerState, Shared};

/// Between two attempts to connect, at first and at most.
const RECONNECT: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// A connection that lasts so long, or has acknowledged something, is a good one: behind it the first attempt comes soon.
const GOOD: Duration = Duration::from_secs(5);

/// A consumer at work.
pub(super) struct Engine<S> {
    source: S,
    desk: Desk,
    /// Whether this connection has acknowledged something.
    has_acknowledged: bool,
}

/// Why reading ended.
enum End {
    Stopped,
    /// It has come to where it was to end.
    Reached,
}

impl<S: Source> Engine<S> {
    pub(super) fn new(source: S, plan: Plan, shared: Arc<Shared>) -> Engine<S> {
        Engine { source, desk: Desk::new(plan, shared), has_acknowledged: false }
    }

    /// Works until it is stopped, or has read to its end.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(RECONNECT[0], RECONNECT[1]);
        let (mut connected, mut has_reached) = (false, false);
        while !self.desk.shared.is_stopping() {
            let error = match self.open().await {
                None => break,
                Some(Err(error)) => error,
                Some(Ok(())) => {
                    connected = true;
                    self.has_acknowledged = false;
                    let since = Instant::now();
                    let ended = self.consume().await;
                    if self.has_acknowledged || since.elapsed() >= GOOD {
                        backoff.reset();
                    }
                    match ended {
                        Ok(End::Stopped) => break,
                        Ok(End::Reached) => {
                            has_reached = true;
                            break;
                        }
                        Err(error) => error,
                    }
                }
            };
            connected = false;
            self.desk.shared.lost(&error);
            self.desk.pause(backoff.next()).await;
        }
        self.finish(connected, has_reached).await;
    }

    /// `None` when it is to stop instead.
    async fn open(&mut self) -> Option<Result<(), DeliveryError>> {
        let shared = self.desk.shared.clone();
        let opened = tokio::select! {
            () = shared.stopped() => return None,
            opened = self.source.open(&mut self.desk.window) => opened,
        };
        if opened.is_ok() {
            shared.turn(ConsumerState::Consuming);
            shared.change(|status| status.connections += 1);
            tracing::info!(target = %self.desk.plan.target, "consuming");
        }
        Some(opened)
    }

    async fn consume(&mut self) -> Result<End, DeliveryError> {
        let shared = self.desk.shared.clone();
        let mut tend = interval(self.desk.plan.tend);
        loop {
            self.settle().await?;
            let Engine { source, desk, .. } = self;
            let room = desk.plan.prefetch.saturating_sub(desk.window.len());
            let (rebury, due) = (desk.bury_at, desk.acknowledge_at);
            tokio::select! {
                // What came in is handed out first; what is done is taken in at every turn all the same.
                biased;
                () = shared.stopped() => return Ok(End::Stopped),
                ended = buried(&mut desk.burial) => desk.note_buried(ended),
                _ = tend.tick() => {
                    source.tend(&mut desk.window).await?;
                    // However long that took, reading has its turn.
                    tend.reset();
                }
                entries = source.next(room.max(1)), if room > 0 || source.is_reading() => match entries? {
                    Some(entries) => desk.take(entries),
                    None => return Ok(End::Reached),
                },
                Some(settled) = desk.settled.recv() => desk.note(settled),
                () = sleep_until(rebury), if desk.may_bury() => {}
                () = sleep_until(due.unwrap_or(rebury)), if due.is_some() => {}
            }
        }
    }

    /// Takes in what is done, has a dead letter kept, and acknowledges.
    async fn settle(&mut self) -> Result<(), DeliveryError> {
        let Engine { source, desk, has_acknowledged } = self;
        while let Ok(settled) = desk.settled.try_recv() {
            desk.note(settled);
        }
        desk.bury(source);
        if desk.is_due() {
            *has_acknowledged |= desk.acknowledge(source).await?;
        }
        Ok(())
    }

    /// Finishes what is in hand, as far as there is time, and closes the connection.
    async fn finish(&mut self, connected: bool, has_reached: bool) {
        let shared = self.desk.shared.clone();
        shared.turn(ConsumerState::Stopping);
        // At an end that it has reached itself, as long as it takes, or until somebody has no more patience.
        let limit = self.desk.plan.stop_timeout;
        let until = async {
            if has_reached {
                shared.stopped().await;
            }
            sleep(limit).await;
        };
        let mut until = pin!(until);
        if connected {
            let entries = self.source.pause().await;
            self.desk.take(entries);
        }
        let mut connected = connected;
        let mut tend = interval(self.desk.plan.tend);
        loop {
            if connected && self.settle().await.is_err() {
                connected = false;
            }
            let desk = &mut self.desk;
            let letters = desk.letters.len() + usize::from(desk.burial.is_some());
            if desk.in_flight() == 0 || (!connected && letters as u64 == desk.in_flight()) {
                break;
            }
            let rebury = desk.bury_at;
            tokio::select! {
                // What is in hand is not to be taken over by others meanwhile.
                _ = tend.tick(), if connected => connected = self.source.tend(&mut desk.window).await.is_ok(),
                Some(settled) = desk.settled.recv() => desk.note(settled),
                ended = buried(&mut desk.burial) => desk.note_buried(ended),
                () = sleep_until(rebury), if connected && desk.may_bury() => {}
                () = &mut until => break,
            }
        }
        let desk = &mut self.desk;
        desk.burial = None;
        desk.jobs.clear();
        desk.workers.shutdown().await;
        while let Ok(settled) = desk.settled.try_recv() {
            desk.note(settled);
        }
        let left = desk.in_flight();
        if left > 0 {
            tracing::warn!(left, "stopped with events in hand, which the broker delivers again");
        }
        desk.shared.count(|balance| {
            balance.returned += balance.in_flight;
            balance.in_flight = 0;
        });
        let acknowledged = connected && self.source.acknowledge(&mut self.desk.window).await.is_ok();
        if connected {
            self.source.close(acknowledged && left == 0).await;
        }
        self.desk.shared.turn(ConsumerState::Stopped);
    }
}
