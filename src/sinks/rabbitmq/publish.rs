//! One stretch of a batch: groups of messages within the window, the confirms of all of them, and what they say.

use std::collections::HashSet;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::BasicPublishOptions;
use streamll_actors::sink::{Cost, Deliveries, DeliveryError, ErrorClass};
use tokio::time::{Instant, sleep_until, timeout};

use super::advice::of_size;
use super::config::ExchangeType;
use super::confirm::{Answer, Outcome};
use super::message::Message;
use super::refusals::{Word, read};
use super::sink::{CAUSE, RabbitMqSink};
use crate::brokers::rabbitmq::address::Address;
use crate::brokers::rabbitmq::error::{Stage, is_no_exchange};

/// Messages that are handed to the client at once.
const GROUP: usize = 64;
/// How long to wait for a confirm.
const CONFIRM: Duration = Duration::from_secs(10);
/// How long a broker may be silent before its connection is given up.
const GIVE_UP: Duration = Duration::from_secs(60);

/// Why what waits goes out slowly.
pub(super) const REFUSED: &str = "the broker refuses events for their keys or their sizes, and ends a channel for each that \
                                  is new: what waits behind them goes out slowly; permit them, or leave them out by `except`";

/// How waiting ended.
enum Waited {
    Answered,
    Blocked(String),
    Silent,
}

/// How a stretch went.
pub(super) enum Went {
    /// All of it is settled.
    Well,
    /// No queue took some of it, which is to be tried again.
    Again,
    /// The broker refused an event for what it is, and ended the channel.
    Refused,
    /// So it did, and others that were under way may have arrived.
    Lost,
}

impl RabbitMqSink {
    /// Publishes some events of a batch, and waits for their confirms.
    pub(super) async fn publish(
        &mut self,
        batch: &mut Deliveries,
        range: Range<usize>,
        channel: &Arc<Channel>,
        until: Instant,
    ) -> Result<Went, DeliveryError> {
        let (first, mut range) = (range.start, range);
        let events = batch.as_slice().get(range.clone()).unwrap_or_default();
        let known = self.outstanding.claim(events, |delivery| self.declared.key(delivery).into());
        let known = |i: usize| known.get(i - first).copied().flatten();
        let since = Instant::now();
        let step = GROUP.min(self.window);
        let mut sent: Vec<(usize, usize)> = Vec::with_capacity(range.len());
        let mut next = range.start;
        loop {
            if next > range.start && Instant::now() > until {
                (next..range.end).for_each(|i| batch.unsent(i));
                range.end = next;
            }
            while next < range.end && self.outstanding.flying() + step <= self.window {
                let until = (next + step).min(range.end);
                for i in next..until {
                    let number = match known(i) {
                        Some(number) => Some(number),
                        None => self.send(batch, i, channel),
                    };
                    sent.extend(number.map(|number| (i, number)));
                }
                next = until;
            }
            let most = if next < range.end { self.window - step } else { 0 };
            let anew = |i: &usize| known(*i).is_some();
            let stopped = match self.wait(most, since).await {
                Waited::Answered => None,
                Waited::Blocked(reason) => {
                    self.was_blocked = true;
                    Some(DeliveryError::overload(reason))
                }
                Waited::Silent => Some(self.silent()),
            };
            if let Some(error) = stopped {
                // What was sent stays known here, for the next delivery of the same events.
                range.clone().filter(|i| *i >= next || anew(i)).for_each(|i| batch.unsent(i));
                return Err(error);
            }
            if self.outstanding.has_failed() {
                (next..range.end).for_each(|i| batch.unsent(i));
                break;
            }
            if next >= range.end && self.outstanding.flying() == 0 {
                break;
            }
        }
        self.settle(batch, &sent).await
    }

    /// Hands one event to the client; `None` where it can never be sent, or is known to be refused.
    fn send(&mut self, batch: &mut Deliveries, i: usize, channel: &Arc<Channel>) -> Option<usize> {
        let delivery = batch.as_slice().get(i)?;
        let key = self.declared.key(delivery);
        if self.refusals.refuses_key(key) {
            batch.unsent(i);
            self.suspects.push(i);
            return None;
        }
        let bytes = delivery.event.json().len();
        if let Some(largest) = self.refusals.refuses_size(bytes) {
            batch.poison(i, of_size(bytes, largest));
            return None;
        }
        let message = match Message::of(delivery, key, self.declared.durable, self.frame) {
            Ok(message) => message,
            Err(why) => {
                batch.poison(i, why);
                return None;
            }
        };
        let (event, key) = (delivery.event.clone(), key.into());
        let (exchange, body, channel) = (self.declared.exchange.clone(), event.clone(), channel.clone());
        let publish = async move {
            let Message { key, properties } = message;
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            match channel.basic_publish(exchange, key, options, body.json(), properties).await {
                Err(error) => Answer::Unsent(error),
                Ok(confirm) => match confirm.await {
                    Ok(confirmation) => confirmation.into(),
                    Err(error) => Answer::Lost(error),
                },
            }
        };
        Some(self.outstanding.send(event, key, Box::pin(publish)))
    }

    /// Waits until at most so many messages are under way, one has failed, or the broker takes or says nothing.
    async fn wait(&mut self, most: usize, since: Instant) -> Waited {
        let Some(link) = &self.link else { return Waited::Silent };
        let mut health = link.health.clone();
        loop {
            // Since the last answer; for what was sent before, since this delivery began; but never beyond the end.
            let quiet = self.quiet_since().unwrap_or(since);
            let patience = CONFIRM.min(self.context.deliver_timeout() / 2);
            let until = (quiet.max(since) + patience).min(quiet + GIVE_UP).max(since);
            let outstanding = &mut self.outstanding;
            tokio::select! {
                biased;
                () = poll_fn(|cx| outstanding.poll(cx, most)) => return Waited::Answered,
                blocked = health.wait_for(|health| health.blocked.is_some()) => {
                    if let Ok(health) = blocked {
                        return Waited::Blocked(health.blocked.clone().unwrap_or_default());
                    }
                    // Nobody listens any more: the connection has ended, and all under way fails with it.
                    let _ = timeout(CAUSE, poll_fn(|cx| outstanding.poll(cx, most))).await;
                    return if outstanding.has_failed() || outstanding.flying() <= most {
                        Waited::Answered
                    } else {
                        Waited::Silent
                    };
                }
                () = sleep_until(until) => {
                    // The oldest may be the only one without an answer.
                    outstanding.sweep();
                    let moved = outstanding.quiet_since().is_none_or(|quiet| quiet + patience > Instant::now());
                    if !moved {
                        return Waited::Silent;
                    }
                }
            }
        }
    }

    /// Since when no answer came, although the broker was not blocked.
    fn quiet_since(&self) -> Option<Instant> {
        let calm = self.calm_since;
        self.outstanding.quiet_since().map(|quiet| calm.map_or(quiet, |calm| calm.max(quiet)))
    }

    /// No confirm came for a while.
    fn silent(&mut self) -> DeliveryError {
        let waiting = self.outstanding.flying();
        let quiet = self.quiet_since().map(|since| since.elapsed()).unwrap_or_default();
        let target = self.targets.get(self.current).map(ToString::to_string).unwrap_or_default();
        if quiet < GIVE_UP {
            return DeliveryError::overload(format!(
                "{target} has not confirmed {waiting} events for {}s: has a quorum queue or a stream lost the majority \
                 of its nodes, or is the broker frozen? They are waited for, not sent again",
                quiet.as_secs()
            ));
        }
        self.disconnect();
        self.outstanding.forget_lost();
        self.turn_away();
        DeliveryError::unknown(format!(
            "{target} did not confirm {waiting} events within {}s: the connection is given up, and they are sent again",
            GIVE_UP.as_secs()
        ))
    }

    /// Marks what the broker said of each event.
    async fn settle(
        &mut self,
        batch: &mut Deliveries,
        sent: &[(usize, usize)],
    ) -> Result<Went, DeliveryError> {
        let failure = self.outstanding.take_failure();
        let mut strangers = false;
        let may_be_missing = self.declared.declare && self.declared.only_queue.is_none();
        match failure {
            Some(_) => {
                // Everything else on this channel has failed with it.
                self.outstanding.abandon();
                self.channel = None;
                strangers = self.outstanding.has_lost_others(sent);
            }
            None => self.outstanding.conclude(true),
        }
        let (mut nacked, mut again, mut gone) = (0_usize, false, false);
        let mut unknown = Vec::new();
        for (i, number) in sent {
            let outcome = self.outstanding.settle(*number);
            let delivery = batch.as_slice().get(*i);
            if let Some(delivery) =
                delivery.filter(|_| matches!(outcome, Outcome::Delivered | Outcome::Returned))
            {
                self.refusals.took(self.declared.key(delivery));
                self.blame.worked(self.declared.key(delivery));
                self.has_taken = true;
            }
            match outcome {
                Outcome::Delivered => {
                    if let Some(delivery) = delivery.filter(|_| !self.unroutable.is_empty()) {
                        self.unroutable.arrived(&self.declared.way(delivery));
                    }
                    batch.delivered(*i);
                }
                // There is but one queue, and it is not there: that is no event's own trouble.
                Outcome::Returned if self.declared.only_queue.is_some() => {
                    gone = true;
                    batch.unsent(*i);
                }
                Outcome::Returned => again |= self.came_back(batch, *i),
                Outcome::Nacked => nacked += 1,
                Outcome::Unsent => batch.unsent(*i),
                Outcome::Unknown => unknown.push(*i),
            }
        }
        self.outstanding.forget_settled();
        if let Some(error) = failure {
            let error = self.cause(error).await;
            self.outstanding.forget_lost();
            if self.link.as_ref().is_some_and(|link| !link.is_alive()) {
                self.disconnect();
            } else if let Some(word) = read(&error) {
                return Ok(self.refused(&word, batch, unknown));
            }
            if may_be_missing && let Some(gone) = self.exchange_is_gone(&error) {
                return Err(gone);
            }
            let stage = if unknown.is_empty() { Stage::Publish } else { Stage::Confirm };
            let explained = self.explain(&error, stage);
            // What is bad may be of an earlier delivery: then it will be found when that comes again.
            if strangers && explained.class() == ErrorClass::Rejected {
                return Err(DeliveryError::unknown(explained.to_string()));
            }
            return Err(explained);
        }
        if nacked > 0 {
            return Err(self.nacked(nacked, sent.len()));
        }
        if let Some(queue) = self.declared.only_queue.as_ref().filter(|_| gone) {
            return Err(DeliveryError::unavailable(format!(
                "queue `{queue}` in vhost `{}` is gone: it is looked for, or declared anew, before anything else is sent",
                self.vhost()
            )));
        }
        if again && may_be_missing {
            self.declare_anew().await?;
        }
        Ok(if again { Went::Again } else { Went::Well })
    }

    /// The exchange was deleted, which is no trouble where it is declared.
    fn exchange_is_gone(&self, error: &lapin::Error) -> Option<DeliveryError> {
        let gone = format!("{} in vhost `{}` is gone: it is declared anew", self.exchange(), self.vhost());
        is_no_exchange(error).then(|| DeliveryError::unavailable(gone).with_cost(Cost::Nothing))
    }

    /// A queue refused some of so many events.
    fn nacked(&mut self, nacked: usize, sent: usize) -> DeliveryError {
        // A channel that first met a quorum queue while its leader was down refuses whatever is for it, for good:
        // the next attempt is made on another.
        self.channel = None;
        let vhost = self.vhost().to_owned();
        if nacked == sent && self.targets.len() > 1 {
            // It may be cut off from the majority, which the others are not.
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
    fn refused(&mut self, word: &Word, batch: &mut Deliveries, mut lost: Vec<usize>) -> Went {
        let now = Instant::now();
        match word {
            Word::Size(largest) => {
                self.refusals.refused_size(*largest, now);
                lost.retain(|i| {
                    let bytes = batch.as_slice().get(*i).map_or(0, |delivery| delivery.event.json().len());
                    if bytes > *largest {
                        batch.poison(*i, of_size(bytes, *largest));
                    }
                    bytes <= *largest
                });
            }
            Word::Topic(topic, whole) => {
                let keys: HashSet<&str> = lost.iter().map(|i| self.key(batch, *i)).collect();
                let fits = |key: &&&str| if *whole { **key == topic } else { key.starts_with(&**topic) };
                let mut fitting = keys.iter().filter(fits).copied();
                // Where what the broker said is cut, or not as we wrote it, the next refusal is of an event alone.
                let key = match (fitting.next(), fitting.next()) {
                    (Some(key), None) => Some(key),
                    _ if keys.len() == 1 => keys.into_iter().next(),
                    _ => None,
                };
                match key.map(str::to_owned) {
                    Some(key) => {
                        self.refusals.refused_key(&key, now);
                        self.blame.refused(&key);
                        lost.retain(|i| {
                            let is_it = self.key(batch, *i) == key;
                            if is_it {
                                batch.unsent(*i);
                                self.suspects.push(*i);
                            }
                            !is_it
                        });
                    }
                    None => self.refusals.beware(),
                }
            }
        }
        self.has_refused = true;
        lost.iter().for_each(|i| batch.retry_because(*i, REFUSED));
        if lost.is_empty() { Went::Refused } else { Went::Lost }
    }

    /// No queue took the event. Whether it is to be tried again.
    fn came_back(&mut self, batch: &mut Deliveries, i: usize) -> bool {
        let Some(delivery) = batch.as_slice().get(i) else { return false };
        let Some(since) = self.unroutable.came_back(&self.declared.way(delivery), Instant::now()) else {
            let key = self.declared.key(delivery).to_owned();
            batch.retry_because(
                i,
                format!("no queue takes events with the key `{key}`: they are tried again"),
            );
            return true;
        };
        let vhost = self.vhost();
        let what = match self.declared.kind {
            ExchangeType::Headers => "headers like its own".to_owned(),
            _ => format!("key `{}`", self.declared.key(delivery)),
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

    fn vhost(&self) -> &str {
        self.targets.get(self.current).map(Address::vhost).unwrap_or_default()
    }

    fn exchange(&self) -> String {
        match self.declared.exchange.as_str() {
            "" => "the default exchange".to_owned(),
            name => format!("exchange `{name}`"),
        }
    }
}
