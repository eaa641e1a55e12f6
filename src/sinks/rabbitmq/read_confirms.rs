//! Reads the confirms of one stretch: what the broker said of each event, and what that means for the batch.

use std::collections::HashSet;

use streamll_actors::sink::{Cost, Deliveries, DeliveryError, ErrorClass};
use tokio::time::Instant;

use super::advice::of_size;
use super::confirm::Outcome;
use super::publisher::{Publisher, Sending};
use super::queues::ExchangeType;
use super::refusals::{Word, read};
use crate::brokers::rabbitmq::error::{Stage, is_no_exchange};

/// Why what waits goes out slowly.
pub(super) const REFUSED: &str = "the broker refuses events for their keys or their sizes, and ends a channel for each that \
                                  is new: what waits behind them goes out slowly; permit them, or leave them out by `except`";

/// How a stretch went.
pub(super) enum Went {
    /// All of it has its outcome.
    Well,
    /// No queue took some of it, which is to be tried again.
    Again,
    /// The broker refused an event for what it is, and ended the channel.
    Refused,
    /// The broker refused one likewise, and others that were under way may have arrived.
    Lost,
}

/// What became of the events of a stretch, beside those that have arrived.
#[derive(Default)]
struct Outcomes {
    /// How many were refused by a queue.
    nacked: usize,
    /// No queue took some of them, which are to be tried again.
    has_returned: bool,
    /// The only queue is not there.
    is_queue_gone: bool,
    /// Those that may have arrived.
    unknown: Vec<usize>,
}

impl Publisher {
    /// Marks what the broker said of each event. `sent` are their places in the batch, and their numbers in what is
    /// outstanding.
    pub(super) async fn read_confirms(
        &mut self,
        sending: &mut Sending<'_>,
        sent: &[(usize, usize)],
    ) -> Result<Went, DeliveryError> {
        let Some(error) = self.outstanding.take_failure() else {
            self.outstanding.conclude();
            let outcomes = self.mark(sending, sent);
            return self.went(&outcomes, sent.len()).await;
        };
        // Everything else on this channel has failed with it.
        self.outstanding.abandon();
        self.drop_channel();
        let has_lost_others = self.outstanding.has_lost_others(sent);
        let outcomes = self.mark(sending, sent);
        self.failed(error, sending, outcomes.unknown, has_lost_others).await
    }

    fn mark(&mut self, sending: &mut Sending<'_>, sent: &[(usize, usize)]) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for (i, number) in sent {
            let outcome = self.outstanding.take_outcome(*number);
            if matches!(outcome, Outcome::Delivered | Outcome::Returned) {
                self.note_taken(sending, *i);
            }
            match outcome {
                Outcome::Delivered => {
                    self.note_arrived(sending.batch, *i);
                    sending.batch.delivered(*i);
                }
                // There is but one queue, and it is not there: that concerns all events.
                Outcome::Returned if self.settings.declared.only_queue.is_some() => {
                    outcomes.is_queue_gone = true;
                    sending.batch.unsent(*i);
                }
                Outcome::Returned => outcomes.has_returned |= self.came_back(sending.batch, *i),
                Outcome::Nacked => outcomes.nacked += 1,
                Outcome::Unsent => sending.batch.unsent(*i),
                Outcome::Unknown => outcomes.unknown.push(*i),
            }
        }
        self.outstanding.forget_read();
        outcomes
    }

    /// The broker took an event, with or without a queue for it.
    fn note_taken(&mut self, sending: &mut Sending<'_>, i: usize) {
        let Some(delivery) = sending.batch.as_slice().get(i) else { return };
        let key = self.settings.declared.key(delivery);
        self.refusals.took(key);
        self.suspects.worked(key);
        sending.has_taken = true;
    }

    /// A queue took an event.
    fn note_arrived(&mut self, batch: &Deliveries, i: usize) {
        let delivery = batch.as_slice().get(i).filter(|_| !self.unroutable.is_empty());
        if let Some(delivery) = delivery {
            self.unroutable.arrived(&self.settings.declared.way(delivery));
        }
    }

    /// What the outcomes mean where the channel stands.
    async fn went(&mut self, outcomes: &Outcomes, sent: usize) -> Result<Went, DeliveryError> {
        if outcomes.nacked > 0 {
            return Err(self.nacked(outcomes.nacked, sent));
        }
        let declared = &self.settings.declared;
        if let Some(queue) = declared.only_queue.as_ref().filter(|_| outcomes.is_queue_gone) {
            return Err(DeliveryError::unavailable(format!(
                "queue `{queue}` in vhost `{}` is gone: it is looked for, or declared anew, before anything else is sent",
                self.vhost()
            )));
        }
        if outcomes.has_returned && self.may_be_missing() {
            self.declare_anew().await?;
        }
        Ok(if outcomes.has_returned { Went::Again } else { Went::Well })
    }

    /// What it means that the channel has failed.
    async fn failed(
        &mut self,
        error: lapin::Error,
        sending: &mut Sending<'_>,
        unknown: Vec<usize>,
        has_lost_others: bool,
    ) -> Result<Went, DeliveryError> {
        let error = self.cause(error).await;
        self.outstanding.forget_lost();
        if self.connected.as_ref().is_some_and(|connected| !connected.link.is_alive()) {
            self.disconnect();
        } else if let Some(word) = read(&error) {
            return Ok(self.refused(&word, sending, unknown));
        }
        if self.may_be_missing()
            && let Some(gone) = self.exchange_is_gone(&error)
        {
            return Err(gone);
        }
        let stage = if unknown.is_empty() { Stage::Publish } else { Stage::Confirm };
        let explained = self.explain(&error, stage);
        // What is bad may be of an earlier delivery: then it will be found when that comes again.
        if has_lost_others && explained.class() == ErrorClass::Rejected {
            return Err(DeliveryError::unknown(explained.to_string()));
        }
        Err(explained)
    }

    /// Whether what is missing at the broker is declared anew by this sink.
    fn may_be_missing(&self) -> bool {
        self.settings.declared.declare && self.settings.declared.only_queue.is_none()
    }

    /// The exchange was deleted: the sink declares it anew.
    fn exchange_is_gone(&self, error: &lapin::Error) -> Option<DeliveryError> {
        let gone = format!("{} in vhost `{}` is gone: it is declared anew", self.exchange(), self.vhost());
        is_no_exchange(error).then(|| DeliveryError::unavailable(gone).with_cost(Cost::Nothing))
    }

    /// A queue refused some of so many events.
    fn nacked(&mut self, nacked: usize, sent: usize) -> DeliveryError {
        // A channel that first met a quorum queue while its leader was down refuses whatever is for it, for good:
        // the next attempt is made on another.
        self.drop_channel();
        let vhost = self.vhost().to_owned();
        if nacked == sent && self.settings.targets.len() > 1 {
            // This node may be cut off from the majority, and the others not.
            self.disconnect();
            self.turn_away();
        }
        DeliveryError::overload(format!(
            "a queue behind {} in vhost `{vhost}` refused {nacked} of {sent} events: it is full (`x-overflow: \
             reject-publish`) or going down, or a quorum queue without the majority of its nodes; drain it or raise \
             its limit, or bring its nodes back",
            self.exchange(),
        ))
    }

    /// The broker refused one of these events for what it is, and ended the channel with the others.
    fn refused(&mut self, word: &Word, sending: &mut Sending<'_>, mut lost: Vec<usize>) -> Went {
        match word {
            Word::Size(largest) => {
                self.refusals.refused_size(*largest, Instant::now());
                lost.retain(|i| {
                    let delivery = sending.batch.as_slice().get(*i);
                    let bytes = delivery.map_or(0, |delivery| delivery.event.json().len());
                    if bytes > *largest {
                        sending.batch.poison(*i, of_size(bytes, *largest));
                    }
                    bytes <= *largest
                });
            }
            Word::Topic(topic, whole) => match self.refused_key(topic, *whole, sending.batch, &lost) {
                Some(key) => {
                    self.refusals.refused_key(&key, Instant::now());
                    self.suspects.refused(&key);
                    lost.retain(|i| {
                        let is_refused = self.key(sending.batch, *i) == key;
                        if is_refused {
                            sending.batch.unsent(*i);
                            sending.refused.push(*i);
                        }
                        !is_refused
                    });
                }
                None => self.refusals.beware(),
            },
        }
        lost.iter().for_each(|i| sending.batch.retry_because(*i, REFUSED));
        if lost.is_empty() { Went::Refused } else { Went::Lost }
    }

    /// The key that the broker means, where only one of these events' keys fits.
    fn refused_key(&self, topic: &str, whole: bool, batch: &Deliveries, lost: &[usize]) -> Option<String> {
        let keys: HashSet<&str> = lost.iter().map(|i| self.key(batch, *i)).collect();
        let fits = |key: &&&str| if whole { **key == topic } else { key.starts_with(topic) };
        let mut fitting = keys.iter().filter(fits).copied();
        // Where what the broker said is cut, or not as we wrote it, the next refusal is of an event alone.
        let key = match (fitting.next(), fitting.next()) {
            (Some(key), None) => Some(key),
            _ if keys.len() == 1 => keys.into_iter().next(),
            _ => None,
        };
        key.map(str::to_owned)
    }

    /// No queue took the event. Whether it is to be tried again.
    fn came_back(&mut self, batch: &mut Deliveries, i: usize) -> bool {
        let Some(delivery) = batch.as_slice().get(i) else { return false };
        let Some(since) = self.unroutable.came_back(&self.settings.declared.way(delivery), Instant::now())
        else {
            let key = self.settings.declared.key(delivery).to_owned();
            batch.retry_because(
                i,
                format!("no queue takes events with the key `{key}`: they are tried again"),
            );
            return true;
        };
        let vhost = self.vhost();
        let what = match self.settings.declared.kind {
            ExchangeType::Headers => "headers like its own".to_owned(),
            _ => format!("key `{}`", self.settings.declared.key(delivery)),
        };
        let why = format!(
            "no queue takes it: {} in vhost `{vhost}` has had no binding for {what} for {}s; bind a queue, or leave it out \
             by `except`",
            self.exchange(),
            since.as_secs()
        );
        batch.poison(i, why);
        false
    }
}
