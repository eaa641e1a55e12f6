//! The sink: delivers batches stretch by stretch, and decides whom it concerns that the broker refused keys.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use streamll_actors::sink::{Deliveries, DeliveryError, Sink, SinkContext};
use tokio::time::Instant;

use super::advice::of_key;
use super::connection::CLOSE;
use super::publisher::{Block, Connected, Publisher, Sending};
use super::read_confirms::{REFUSED, Went};
use super::settings::{Ordering, Settings};

/// How long a delivery goes on once an event was refused, before the status says why it takes so long.
const SAY_WHY: Duration = Duration::from_secs(2);

/// Publishes events and waits for their confirms; see the [module](super).
pub struct RabbitMqSink {
    publisher: Publisher,
    /// Set while a delivery is under way: still set at the next call where its future was dropped.
    delivering: bool,
}

impl RabbitMqSink {
    pub(super) fn new(settings: Settings) -> RabbitMqSink {
        RabbitMqSink { publisher: Publisher::new(settings), delivering: false }
    }
}

impl Publisher {
    async fn attempt(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        // Half of its time is for sending, the rest for what is under way then: cut off, nothing would count.
        let until = Instant::now() + self.context.deliver_timeout() / 2;
        let mut sending = Sending::new(batch, until);
        if let Some(blocked) = self.blocked() {
            sending.unsent_from(0);
            return Err(blocked);
        }
        if self.block == Block::Now {
            self.block = Block::Until(Instant::now());
        }
        self.refusals.expire(Instant::now());
        let was_wary = self.refusals.are_wary();
        self.publish_all(&mut sending).await?;
        self.judge(sending, was_wary).await
    }

    /// Publishes stretch by stretch, as long as there is time and the broker goes along.
    async fn publish_all(&mut self, sending: &mut Sending<'_>) -> Result<(), DeliveryError> {
        let (mut from, mut is_slow) = (0, false);
        while from < sending.batch.len() && (from == 0 || Instant::now() <= sending.until) {
            let channel = match self.ready().await {
                Ok(channel) => channel,
                Err(error) => {
                    sending.unsent_from(from);
                    return Err(error);
                }
            };
            let is_known = self.refusals.knows(self.key(sending.batch, from));
            let to = from + self.stretch(sending.batch, from);
            let went = self.publish(sending, from..to, &channel).await;
            from = to;
            if matches!(went, Ok(Went::Refused | Went::Lost)) && !is_slow {
                (is_slow, sending.until) = (true, sending.until.min(Instant::now() + SAY_WHY));
            }
            if matches!(went, Ok(Went::Well | Went::Again)) && !is_known {
                self.refusals.none_of(self.settings.window);
            }
            match went {
                Ok(Went::Well | Went::Refused) => {}
                Ok(Went::Again) if self.settings.ordering == Ordering::Pipelined => {}
                // Nothing may overtake what is to be sent again.
                Ok(Went::Again | Went::Lost) => break,
                Err(error) => {
                    sending.unsent_from(from);
                    return Err(error);
                }
            }
        }
        sending.unsent_from(from);
        if is_slow && from < sending.batch.len() {
            sending.batch.because(REFUSED);
        }
        Ok(())
    }

    /// How many events from here on are sent together.
    fn stretch(&self, batch: &Deliveries, from: usize) -> usize {
        let rest = batch.as_slice().get(from..).unwrap_or_default();
        let most = match self.settings.ordering {
            Ordering::Strict => 1,
            Ordering::Pipelined => rest.len(),
        };
        let keys = rest.iter().map(|delivery| self.settings.declared.key(delivery));
        self.refusals.stretch(keys).min(most)
    }

    /// Decides whether events whose keys are refused can never arrive, or all events wait for a person.
    async fn judge(&mut self, sending: Sending<'_>, was_wary: bool) -> Result<(), DeliveryError> {
        let Sending { batch, refused, has_taken, .. } = sending;
        let keys: HashSet<String> = refused.iter().map(|i| self.key(batch, *i).to_owned()).collect();
        let has_other_keys = || (0..batch.len()).any(|i| !keys.contains(self.key(batch, i)));
        if keys.is_empty() || (!has_taken && !was_wary && has_other_keys()) {
            // The next attempt tells the keys apart.
            return Ok(());
        }
        let concerns_only_them = has_taken || self.suspects.is_certain() || self.is_any_taken().await;
        let Some(target) = self.target() else { return Err(DeliveryError::fatal("no address")) };
        let place = self.place(target);
        let why = |i: &usize| of_key(self.key(batch, *i), place);
        let reasons: Vec<_> = refused.iter().map(|i| (*i, why(i))).collect();
        if concerns_only_them {
            reasons.into_iter().for_each(|(i, why)| batch.poison(i, why));
            return Ok(());
        }
        self.refusals.forget_keys();
        self.context.probe_widely(true);
        let why = reasons.into_iter().next().map(|(_, why)| why).unwrap_or_default();
        Err(DeliveryError::misconfigured(format!(
            "{why}; no other key is known to be taken: all events wait"
        )))
    }
}

impl Sink for RabbitMqSink {
    async fn open(&mut self, ctx: &SinkContext) -> Result<(), DeliveryError> {
        let publisher = &mut self.publisher;
        publisher.context = ctx.clone();
        if std::mem::take(&mut self.delivering) {
            publisher.forget_connection();
        }
        if let Some(blocked) = publisher.blocked() {
            return Err(blocked);
        }
        let had = publisher.channel().is_some();
        let channel = publisher.ready().await?;
        if had {
            // The connection stands; this finds out whether all that is needed is still there.
            publisher.prepare(&channel).await?;
        }
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        if std::mem::replace(&mut self.delivering, true) {
            self.publisher.forget_connection();
        }
        self.publisher.context.probe_widely(false);
        let result = self.publisher.attempt(batch).await;
        self.delivering = false;
        result
    }

    async fn close(&mut self) {
        // The channel ends with its connection: dropped before, the client would close it meanwhile, and log an error.
        if let Some(Connected { channel: _channel, link, .. }) = self.publisher.connected.take() {
            link.close(CLOSE).await;
        }
    }
}

impl fmt::Debug for RabbitMqSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { targets, declared, window, .. } = &self.publisher.settings;
        f.debug_struct("RabbitMqSink")
            .field("targets", targets)
            .field("exchange", &declared.exchange)
            .field("window", window)
            .finish_non_exhaustive()
    }
}
