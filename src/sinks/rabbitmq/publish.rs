//! Publishes one stretch of a batch: groups of messages within the window, and the wait for their confirms.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::BasicPublishOptions;
use streamll_actors::sink::DeliveryError;
use tokio::time::{Instant, sleep_until, timeout};

use super::advice::of_size;
use super::confirm::Answer;
use super::connection::CAUSE;
use super::message::Message;
use super::publisher::{Block, Publisher, Sending};
use super::read_confirms::Went;

/// Messages that are handed to the client at once.
const GROUP: usize = 64;
/// How long to wait for a confirm.
const CONFIRM: Duration = Duration::from_secs(10);
/// How long a broker may be silent before its connection is given up.
const GIVE_UP: Duration = Duration::from_secs(60);

/// How waiting ended.
enum Waited {
    Answered,
    Blocked(String),
    Silent,
}

impl Publisher {
    /// Publishes some events of a batch, and waits for their confirms.
    pub(super) async fn publish(
        &mut self,
        sending: &mut Sending<'_>,
        range: Range<usize>,
        channel: &Arc<Channel>,
    ) -> Result<Went, DeliveryError> {
        let (first, mut range) = (range.start, range);
        let events = sending.batch.as_slice().get(range.clone()).unwrap_or_default();
        let declared = &self.settings.declared;
        let known = self.outstanding.claim(events, |delivery| declared.key(delivery).into());
        let known = |i: usize| known.get(i - first).copied().flatten();
        let since = Instant::now();
        let window = self.settings.window;
        let step = GROUP.min(window);
        let mut sent: Vec<(usize, usize)> = Vec::with_capacity(range.len());
        let mut next = range.start;
        loop {
            if next > range.start && Instant::now() > sending.until {
                (next..range.end).for_each(|i| sending.batch.unsent(i));
                range.end = next;
            }
            while next < range.end && self.outstanding.flying() + step <= window {
                let end = (next + step).min(range.end);
                for i in next..end {
                    let number = known(i).or_else(|| self.send(sending, i, channel));
                    sent.extend(number.map(|number| (i, number)));
                }
                next = end;
            }
            let most = if next < range.end { window - step } else { 0 };
            if let Some(error) = self.wait_for_confirms(most, since).await {
                // What was sent stays known here, for the next delivery of the same events.
                let is_unsent = |i: &usize| *i >= next || known(*i).is_some();
                range.clone().filter(is_unsent).for_each(|i| sending.batch.unsent(i));
                return Err(error);
            }
            if self.outstanding.has_failed() {
                (next..range.end).for_each(|i| sending.batch.unsent(i));
                break;
            }
            if next >= range.end && self.outstanding.flying() == 0 {
                break;
            }
        }
        self.read_confirms(sending, &sent).await
    }

    /// Hands one event to the client; `None` where it can never be sent, or is known to be refused.
    fn send(&mut self, sending: &mut Sending<'_>, i: usize, channel: &Arc<Channel>) -> Option<usize> {
        let delivery = sending.batch.as_slice().get(i)?;
        let declared = &self.settings.declared;
        let key = declared.key(delivery);
        if self.refusals.refuses_key(key) {
            sending.batch.unsent(i);
            sending.refused.push(i);
            return None;
        }
        let bytes = delivery.event.json().len();
        if let Some(largest) = self.refusals.refuses_size(bytes) {
            sending.batch.poison(i, of_size(bytes, largest));
            return None;
        }
        let frame = self.connected.as_ref().map_or(0, |connected| connected.frame);
        let message = match Message::of(delivery, key, declared.durable, frame) {
            Ok(message) => message,
            Err(why) => {
                sending.batch.poison(i, why);
                return None;
            }
        };
        let (event, key) = (delivery.event.clone(), key.into());
        let (exchange, body, channel) = (declared.exchange.clone(), event.clone(), channel.clone());
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

    /// Waits until at most `most` messages are under way or one has failed. Returns why there is nothing to wait for.
    async fn wait_for_confirms(&mut self, most: usize, since: Instant) -> Option<DeliveryError> {
        match self.wait(most, since).await {
            Waited::Answered => None,
            Waited::Blocked(reason) => {
                self.block = Block::Now;
                Some(DeliveryError::overload(reason))
            }
            Waited::Silent => Some(self.silent()),
        }
    }

    async fn wait(&mut self, most: usize, since: Instant) -> Waited {
        let Some(connected) = &self.connected else { return Waited::Silent };
        let mut health = connected.link.health.clone();
        loop {
            // The time counts from the last answer. For what was sent before, it counts from the start of this delivery, but
            // it never goes beyond the end.
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
                    // The connection has ended, and all that is under way fails with it.
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
        let quiet = self.outstanding.quiet_since()?;
        Some(if let Block::Until(end) = self.block { end.max(quiet) } else { quiet })
    }

    /// No confirm came for a while.
    fn silent(&mut self) -> DeliveryError {
        let waiting = self.outstanding.flying();
        let quiet = self.quiet_since().map(|since| since.elapsed()).unwrap_or_default();
        let target = self.shown_target();
        if quiet < GIVE_UP {
            return DeliveryError::overload(format!(
                "{target} has not confirmed {waiting} events for {}s: has a quorum queue or a stream lost the majority \
                 of its nodes, or is the broker frozen? They are waited for, not sent again",
                quiet.as_secs()
            ));
        }
        self.forget_connection();
        self.turn_away();
        DeliveryError::unknown(format!(
            "{target} did not confirm {waiting} events within {}s: the connection is given up, and they are sent again",
            GIVE_UP.as_secs()
        ))
    }
}
