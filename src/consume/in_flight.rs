//! What is in flight: the entries in hand, what became of them, and when the broker hears of that.

use std::sync::Arc;
use std::time::Duration;

use streamll_actors::event::Timestamp;
use streamll_actors::sink::DeliveryError;
use tokio::time::Instant;

use super::dead_letter::Letter;
use super::entry::{Entry, Payload, Ticket};
use super::intake::{Incoming, Intake};
use super::outbox::{Outbox, Sent};
use super::source::Source;
use super::status::{ConsumerBalance, Shared};
use super::window::Window;
use super::worker::{Finished, Job, Outcome};

/// How many events are acknowledged together, if more of them are done soon.
const BATCH: usize = 256;
/// How soon that is.
const MAX_WAIT: Duration = Duration::from_millis(2);

/// The entries in hand.
#[derive(Debug)]
pub(super) struct InFlight {
    shared: Arc<Shared>,
    pub(super) window: Window,
    pub(super) outbox: Outbox,
    acknowledging: Acknowledging,
}

/// When to acknowledge.
#[derive(Debug)]
struct Acknowledging {
    batch: usize,
    /// When what is done is acknowledged at the latest.
    due_at: Option<Instant>,
    /// How many done entries the last acknowledgement had to leave in the window: a reader without a group only gets rid of
    /// those at the front.
    kept_back: usize,
}

impl InFlight {
    pub(super) fn new(outbox: Outbox, prefetch: usize, shared: Arc<Shared>) -> InFlight {
        let acknowledging = Acknowledging { batch: BATCH.min(prefetch / 4), due_at: None, kept_back: 0 };
        InFlight { shared, window: Window::default(), outbox, acknowledging }
    }

    /// How many events are in hand.
    pub(super) fn count(&self) -> u64 {
        self.shared.in_flight()
    }

    /// Whether nothing but dead letters is in hand.
    pub(super) fn is_letters_only(&self) -> bool {
        self.outbox.len() as u64 == self.count()
    }

    /// How many more entries may be taken.
    pub(super) fn room(&self, prefetch: usize) -> usize {
        prefetch.saturating_sub(self.window.len())
    }

    /// Takes entries in hand. Returns the jobs for the workers; the other entries are done, or are dead letters.
    pub(super) fn take(&mut self, entries: Vec<Entry>, intake: &mut Intake) -> Vec<Job> {
        let now = Instant::now();
        let (mut received, mut filtered, mut failed, mut gone) = (0, 0, 0, 0);
        let mut jobs = Vec::with_capacity(entries.len());
        for entry in entries {
            let ticket = entry.ticket;
            if self.window.contains(ticket) {
                continue;
            }
            self.window.take(ticket, now);
            if matches!(entry.payload, Payload::Gone) {
                gone += 1;
                self.window.done(ticket);
                continue;
            }
            received += 1;
            match intake.sort(entry) {
                Incoming::Wanted(job) => jobs.push(job),
                Incoming::Unwanted => {
                    filtered += 1;
                    self.window.done(ticket);
                }
                Incoming::Unusable(entry, why) => {
                    self.shared.change(|status| status.last_failure = Some(format!("an entry {why}")));
                    tracing::warn!(id = %ticket, "an entry {why}");
                    if self.outbox.keeps() {
                        self.dead_letter(Arc::new(Letter::new(entry, why, 0)));
                    } else {
                        failed += 1;
                        self.window.done(ticket);
                    }
                }
            }
        }
        if gone > 0 {
            self.shared
                .gap(gone, "entries were trimmed while they were in hand, and nobody has handled them");
        }
        self.shared.change(|status| {
            let balance = &mut status.balance;
            balance.received += received;
            balance.filtered += filtered;
            balance.failed += failed;
            balance.in_flight += received - filtered - failed;
            if received > 0 {
                status.last_received_at = Some(Timestamp::now());
            }
        });
        jobs
    }

    /// Takes note of what became of some entries.
    pub(super) fn note_finished(&mut self, finished: Vec<Finished>) {
        finished.into_iter().for_each(|finished| self.note_one(finished));
    }

    fn note_one(&mut self, Finished { ticket, outcome }: Finished) {
        match outcome {
            Outcome::Handled => self.complete(ticket, |balance| balance.handled += 1),
            Outcome::Duplicate => self.complete(ticket, |balance| balance.duplicate += 1),
            // The entry is not done: it stays unacknowledged.
            Outcome::Returned => self.shared.count(|balance| {
                balance.returned += 1;
                balance.in_flight -= 1;
            }),
            Outcome::DeadLetter(letter) => {
                self.shared.change(|status| status.last_failure = Some(letter.reason.clone()));
                if !self.outbox.keeps() {
                    self.complete(ticket, |balance| balance.failed += 1);
                } else if ticket.is_before(self.shared.epoch()) {
                    // The entry comes again, and this letter would be a second one.
                    self.complete(ticket, |balance| balance.returned += 1);
                } else {
                    self.dead_letter(Arc::from(letter));
                }
            }
        }
    }

    fn dead_letter(&mut self, letter: Arc<Letter>) {
        self.window.dead_letter(letter.entry.ticket);
        self.outbox.push(letter);
    }

    fn complete(&mut self, ticket: Ticket, count: impl FnOnce(&mut ConsumerBalance)) {
        self.window.done(ticket);
        self.shared.count(|balance| {
            count(balance);
            balance.in_flight -= 1;
        });
    }

    /// Begins to have the next dead letter kept, if it is time. Letters of an earlier connection are not kept, because their
    /// entries come again.
    pub(super) fn send_letter(&mut self, source: &impl Source) {
        while let Some(letter) = self.outbox.pop_due() {
            let ticket = letter.entry.ticket;
            if !ticket.is_before(self.shared.epoch()) {
                return self.outbox.send(letter, source);
            }
            self.complete(ticket, |balance| balance.returned += 1);
        }
    }

    /// Takes note of what became of a dead letter.
    pub(super) fn note_sent(&mut self, Sent { letter, kept }: Sent) {
        match kept {
            Ok(()) => {
                self.shared.letters_kept();
                self.complete(letter.entry.ticket, |balance| balance.dead_lettered += 1);
            }
            Err(why) => {
                self.shared.letters_wait(&why);
                self.outbox.push_again(letter);
            }
        }
    }

    /// Whether what is done is to be acknowledged now: because it is much, because it is all there is, or because it has
    /// waited.
    pub(super) fn is_acknowledging_due(&mut self) -> bool {
        let Acknowledging { batch, due_at, kept_back } = &mut self.acknowledging;
        // A lost connection may have taken some along.
        *kept_back = (*kept_back).min(self.window.done_len());
        match self.window.done_len() - *kept_back {
            0 => {
                *due_at = None;
                false
            }
            new if new >= *batch => true,
            _ if self.window.done_len() == self.window.len() => true,
            _ => {
                let now = Instant::now();
                *due_at.get_or_insert(now + MAX_WAIT) <= now
            }
        }
    }

    /// When what is done is acknowledged at the latest.
    pub(super) fn acknowledge_at(&self) -> Option<Instant> {
        self.acknowledging.due_at
    }

    /// Tells the broker what is done. Returns whether anything was acknowledged.
    pub(super) async fn acknowledge(&mut self, source: &mut impl Source) -> Result<bool, DeliveryError> {
        self.acknowledging.due_at = None;
        let in_hand = self.window.len();
        source.acknowledge(&mut self.window).await?;
        self.acknowledging.kept_back = self.window.done_len();
        Ok(self.window.len() < in_hand)
    }

    /// Counts everything in hand as given back. Returns how much that is.
    pub(super) fn give_back(&mut self) -> u64 {
        let left = self.count();
        if left > 0 {
            tracing::warn!(left, "stopped with events in hand, which the broker delivers again");
        }
        self.shared.count(|balance| {
            balance.returned += balance.in_flight;
            balance.in_flight = 0;
        });
        left
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox::Keeper;
    use super::*;

    fn in_flight() -> InFlight {
        InFlight::new(Outbox::new(Keeper::Nobody), 100, Arc::new(Shared::new()))
    }

    /// A time that has passed would wake its consumer again and again.
    #[tokio::test(start_paused = true)]
    async fn what_a_lost_connection_took_along_is_not_waited_for() {
        let mut in_flight = in_flight();
        (0..3).for_each(|n| in_flight.window.take(Ticket::delivery(1, n), Instant::now()));
        in_flight.window.done(Ticket::delivery(1, 0));
        assert!(!in_flight.is_acknowledging_due() && in_flight.acknowledge_at().is_some());
        in_flight.window.forget_before(Ticket::delivery(2, 0));
        assert!(!in_flight.is_acknowledging_due());
        assert_eq!(in_flight.acknowledge_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_only_be_acknowledged_behind_a_slow_one_is_not_tried_all_the_time() {
        let mut in_flight = in_flight();
        (0..9).for_each(|n| in_flight.window.take(Ticket::delivery(1, n), Instant::now()));
        in_flight.window.done(Ticket::delivery(1, 3));
        assert!(!in_flight.is_acknowledging_due());
        tokio::time::advance(MAX_WAIT).await;
        assert!(in_flight.is_acknowledging_due());
        // As a reader without a group does it.
        let kept_back = in_flight.window.done_len();
        in_flight.acknowledging = Acknowledging { due_at: None, kept_back, ..in_flight.acknowledging };
        assert!(!in_flight.is_acknowledging_due());
        assert_eq!(in_flight.acknowledge_at(), None);
        in_flight.window.done(Ticket::delivery(1, 0));
        assert!(
            !in_flight.is_acknowledging_due() && in_flight.acknowledge_at().is_some(),
            "something new is done"
        );
    }
}
