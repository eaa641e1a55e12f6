//! The heart of a consumer: it reads while there is room, hands out by key, acknowledges what is done, and connects again.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use streamll_actors::sink::DeliveryError;
use streamll_actors::supervise::Backoff;
use tokio::time::{Instant, interval, sleep, sleep_until};

use super::entry::Entry;
use super::in_flight::InFlight;
use super::intake::Intake;
use super::outbox::{Keeper, Outbox};
use super::pool::Pool;
use super::settings::Settings;
use super::source::Source;
use super::status::{ConsumerState, Shared};
use super::worker::Work;

/// The pause between two attempts to connect, at first and at most.
const RECONNECT: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// A connection that lasts so long, or has acknowledged something, is a good one: after it the first attempt comes soon.
const GOOD: Duration = Duration::from_secs(5);

/// A consumer at work.
pub(super) struct Engine<S> {
    source: S,
    intake: Intake,
    pool: Pool,
    in_flight: InFlight,
    /// How many entries may be in hand.
    prefetch: usize,
    pace: Pace,
    /// What is read from, for the log.
    target: String,
    shared: Arc<Shared>,
    /// Whether this connection has acknowledged something.
    has_acknowledged: bool,
}

/// The times that an engine keeps.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Between two calls of [`Source::maintain`].
    maintain: Duration,
    /// How long events in hand may take after a stop.
    stop_timeout: Duration,
}

/// Why reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The consumer was stopped while it had no connection.
    Unconnected,
    Stopped,
    /// Reading has come to the end that was asked for.
    Reached,
}

impl<S: Source> Engine<S> {
    pub(super) fn new(source: S, settings: Settings, work: Work, shared: Arc<Shared>) -> Engine<S> {
        let Settings { reading, choice, handling, dead_letters, names, .. } = settings;
        let work = Arc::new(work);
        let keeper = Keeper::new(dead_letters, &reading.target, reading.group.as_deref());
        let prefetch = usize::from(reading.prefetch);
        Engine {
            source,
            intake: Intake::new(choice, names.field, work.clone()),
            pool: Pool::new(&work, handling.workers, handling.key, &shared),
            in_flight: InFlight::new(Outbox::new(keeper), prefetch, shared.clone()),
            prefetch,
            pace: Pace {
                maintain: (reading.claim_after / 4).min(Duration::from_secs(1)),
                stop_timeout: handling.stop_timeout,
            },
            target: reading.target,
            shared,
            has_acknowledged: false,
        }
    }

    /// Works until it is stopped, or has read to its end.
    pub(super) async fn run(mut self) {
        let end = self.read_to_end().await;
        self.shared.set_state(ConsumerState::Stopping);
        let is_connected = self.finish_in_hand(end).await;
        self.in_flight.outbox.cancel();
        self.pool.end().await;
        self.take_finished();
        let left = self.in_flight.give_back();
        if is_connected {
            let acknowledged = self.source.acknowledge(&mut self.in_flight.window).await;
            if acknowledged.is_ok() && left == 0 {
                self.source.leave().await;
            }
            self.source.close().await;
        }
        self.shared.set_state(ConsumerState::Stopped);
    }

    /// Connects and consumes, again and again.
    async fn read_to_end(&mut self) -> End {
        let mut backoff = Backoff::new(RECONNECT[0], RECONNECT[1]);
        while !self.shared.is_stopping() {
            let error = match self.connect().await {
                None => break,
                Some(Err(error)) => error,
                Some(Ok(())) => {
                    self.has_acknowledged = false;
                    let since = Instant::now();
                    let ended = self.consume().await;
                    if self.has_acknowledged || since.elapsed() >= GOOD {
                        backoff.reset();
                    }
                    match ended {
                        Ok(end) => return end,
                        Err(error) => error,
                    }
                }
            };
            self.shared.disconnected(&error);
            self.wait(backoff.next()).await;
        }
        End::Unconnected
    }

    /// `None` if the consumer is to stop instead.
    async fn connect(&mut self) -> Option<Result<(), DeliveryError>> {
        let shared = self.shared.clone();
        let connected = tokio::select! {
            () = shared.stopped() => return None,
            connected = self.source.connect(&mut self.in_flight.window) => connected,
        };
        if connected.is_ok() {
            shared.set_state(ConsumerState::Consuming);
            shared.change(|status| status.connections += 1);
            tracing::info!(target = %self.target, "consuming");
        }
        Some(connected)
    }

    async fn consume(&mut self) -> Result<End, DeliveryError> {
        let shared = self.shared.clone();
        let mut maintain = interval(self.pace.maintain);
        loop {
            self.acknowledge_finished().await?;
            let Engine { source, pool, in_flight, .. } = self;
            let room = in_flight.room(self.prefetch);
            let (letter_at, due) = (in_flight.outbox.next_at(), in_flight.acknowledge_at());
            tokio::select! {
                // What came in is handed out first. What is finished is taken note of at every turn all the same.
                biased;
                () = shared.stopped() => return Ok(End::Stopped),
                sent = in_flight.outbox.sent() => in_flight.note_sent(sent),
                _ = maintain.tick() => {
                    source.maintain(&mut in_flight.window).await?;
                    // However long that took, reading has its turn.
                    maintain.reset();
                }
                entries = source.next(room.max(1)), if room > 0 || source.is_reading() => match entries? {
                    Some(entries) => self.take(entries),
                    None => return Ok(End::Reached),
                },
                Some(finished) = pool.finished() => in_flight.note_finished(finished),
                () = at(letter_at) => {}
                () = at(due) => {}
            }
        }
    }

    fn take(&mut self, entries: Vec<Entry>) {
        let jobs = self.in_flight.take(entries, &mut self.intake);
        self.pool.hand_out(jobs);
    }

    /// Takes note of what is finished already.
    fn take_finished(&mut self) {
        while let Some(finished) = self.pool.finished_now() {
            self.in_flight.note_finished(finished);
        }
    }

    /// Takes note of what is finished, has a dead letter kept, and acknowledges.
    async fn acknowledge_finished(&mut self) -> Result<(), DeliveryError> {
        self.take_finished();
        self.in_flight.send_letter(&self.source);
        if self.in_flight.is_acknowledging_due() {
            self.has_acknowledged |= self.in_flight.acknowledge(&mut self.source).await?;
        }
        Ok(())
    }

    /// Waits before the next attempt to connect, and takes note of what is finished meanwhile.
    async fn wait(&mut self, time: Duration) {
        let shared = self.shared.clone();
        let (mut time, mut stop) = (pin!(sleep(time)), pin!(shared.stopped()));
        loop {
            tokio::select! {
                () = &mut time => return,
                () = &mut stop => return,
                Some(finished) = self.pool.finished() => self.in_flight.note_finished(finished),
            }
        }
    }

    /// Finishes what is in hand, as far as there is time. Returns whether the connection still stands.
    async fn finish_in_hand(&mut self, end: End) -> bool {
        let shared = self.shared.clone();
        let stop_timeout = self.pace.stop_timeout;
        let patience = async {
            // At an end that the consumer has reached by itself, it takes the time it needs, until somebody stops it.
            if end == End::Reached {
                shared.stopped().await;
            }
            sleep(stop_timeout).await;
        };
        let mut patience = pin!(patience);
        let mut is_connected = end != End::Unconnected;
        if is_connected {
            let entries = self.source.stop_reading().await;
            self.take(entries);
        }
        let mut maintain = interval(self.pace.maintain);
        loop {
            if is_connected && self.acknowledge_finished().await.is_err() {
                is_connected = false;
            }
            let Engine { source, pool, in_flight, .. } = self;
            if in_flight.count() == 0 || (!is_connected && in_flight.is_letters_only()) {
                return is_connected;
            }
            let letter_at = in_flight.outbox.next_at();
            tokio::select! {
                // Others are not to take over meanwhile what is in hand.
                _ = maintain.tick(), if is_connected => {
                    is_connected = source.maintain(&mut in_flight.window).await.is_ok();
                }
                Some(finished) = pool.finished() => in_flight.note_finished(finished),
                sent = in_flight.outbox.sent() => in_flight.note_sent(sent),
                () = at(letter_at), if is_connected => {}
                () = &mut patience => return is_connected,
            }
        }
    }
}

/// Waits until a time; for ever, if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
