//! Delivers batches stretch by stretch, and judges whose trouble it is what the broker refused.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use streamll_actors::sink::{Deliveries, DeliveryError, Sink, SinkContext};
use tokio::time::Instant;

use super::advice::{advice, of_key};
use super::confirm::Outstanding;
use super::declare::Declared;
use super::publish::{REFUSED, Went};
use super::refusals::Refusals;
use super::unroutable::Unroutable;
use crate::brokers::rabbitmq::address::Address;
use crate::brokers::rabbitmq::connect::Link;
use crate::brokers::rabbitmq::error::{Place, Stage, explain};
use crate::sinks::blame::Blame;

/// How long closing may take, within the two seconds that the machine grants.
pub(super) const CLOSE: Duration = Duration::from_secs(1);
/// How long a delivery goes on once an event was refused, before the status says why it takes so long.
const TELL: Duration = Duration::from_secs(2);
/// How long the client may take to tell what it knows of an end that it has noticed.
pub(super) const CAUSE: Duration = Duration::from_millis(200);

/// Publishes events and waits for their confirms; see the [module](super).
pub struct RabbitMqSink {
    pub(super) targets: Vec<Address>,
    /// The target that worked last.
    pub(super) current: usize,
    pub(super) declared: Declared,
    pub(super) window: usize,
    pub(super) strict: bool,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) context: SinkContext,
    pub(super) link: Option<Link>,
    pub(super) link_since: Instant,
    /// Most bytes of a frame of the connection.
    pub(super) frame: u32,
    pub(super) channel: Option<Arc<Channel>>,
    /// The broker took nothing, the last time it was looked at.
    pub(super) was_blocked: bool,
    /// When it took something again.
    pub(super) calm_since: Option<Instant>,
    /// What ended before this was another channel.
    pub(super) channel_since: Instant,
    /// When exchange, queues and bindings were declared last.
    pub(super) declared_at: Instant,
    pub(super) outstanding: Outstanding,
    pub(super) unroutable: Unroutable,
    pub(super) refusals: Refusals,
    pub(super) blame: Blame,
    /// Events of this delivery whose key is refused.
    pub(super) suspects: Vec<usize>,
    /// The broker took another event of this delivery, whether or not a queue did.
    pub(super) has_taken: bool,
    /// The broker refused an event of this delivery for what it is.
    pub(super) has_refused: bool,
    /// Set while a delivery is under way: still set at the next call where its future was dropped.
    delivering: bool,
}

impl RabbitMqSink {
    pub(super) fn new(
        targets: Vec<Address>,
        declared: Declared,
        window: usize,
        strict: bool,
        ca_file: Option<PathBuf>,
    ) -> RabbitMqSink {
        RabbitMqSink {
            targets,
            current: 0,
            declared,
            window,
            strict,
            ca_file,
            context: SinkContext::detached("rabbitmq"),
            link: None,
            link_since: Instant::now(),
            frame: 0,
            channel: None,
            was_blocked: false,
            calm_since: None,
            channel_since: Instant::now(),
            declared_at: Instant::now(),
            outstanding: Outstanding::default(),
            unroutable: Unroutable::default(),
            refusals: Refusals::default(),
            blame: Blame::default(),
            suspects: Vec::new(),
            has_taken: false,
            has_refused: false,
            delivering: false,
        }
    }

    pub(super) fn explain(&self, error: &lapin::Error, stage: Stage) -> DeliveryError {
        match self.targets.get(self.current) {
            Some(target) => explain(error, stage, self.place(target)),
            None => DeliveryError::fatal("no address"),
        }
    }

    pub(super) fn place<'a>(&'a self, target: &'a Address) -> Place<'a> {
        Place { target, exchange: self.declared.exchange.as_str(), advice }
    }

    async fn attempt(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        if let Some(blocked) = self.blocked() {
            (0..batch.len()).for_each(|i| batch.unsent(i));
            return Err(blocked);
        }
        if std::mem::take(&mut self.was_blocked) {
            self.calm_since = Some(Instant::now());
        }
        self.refusals.expire(Instant::now());
        let was_wary = self.refusals.are_wary();
        self.suspects.clear();
        (self.has_taken, self.has_refused) = (false, false);
        // Half of its time is for sending, the rest for what is under way then: cut off, nothing would count.
        let mut until = Instant::now() + self.context.deliver_timeout() / 2;
        let (mut from, mut is_slow) = (0, false);
        while from < batch.len() && (from == 0 || Instant::now() <= until) {
            let channel = match self.ready().await {
                Ok(channel) => channel,
                Err(error) => {
                    (from..batch.len()).for_each(|i| batch.unsent(i));
                    return Err(error);
                }
            };
            let is_known = self.refusals.knows(self.key(batch, from));
            let to = from + self.stretch(batch, from);
            let went = self.publish(batch, from..to, &channel, until).await;
            from = to;
            if std::mem::take(&mut self.has_refused) && !is_slow {
                (is_slow, until) = (true, until.min(Instant::now() + TELL));
            }
            if matches!(went, Ok(Went::Well | Went::Again)) && !is_known {
                self.refusals.none_of(self.window);
            }
            match went {
                Ok(Went::Well | Went::Refused) => {}
                Ok(Went::Again) if !self.strict => {}
                // Nothing may overtake what is to be sent again.
                Ok(Went::Again | Went::Lost) => break,
                Err(error) => {
                    (from..batch.len()).for_each(|i| batch.unsent(i));
                    return Err(error);
                }
            }
        }
        (from..batch.len()).for_each(|i| batch.unsent(i));
        if is_slow && from < batch.len() {
            batch.because(REFUSED);
        }
        self.judge(batch, was_wary).await
    }

    /// How many events from here on are sent together.
    fn stretch(&self, batch: &Deliveries, from: usize) -> usize {
        let rest = batch.as_slice().get(from..).unwrap_or_default();
        let most = if self.strict { 1 } else { rest.len() };
        self.refusals.stretch(rest.iter().map(|delivery| self.declared.key(delivery))).min(most)
    }

    /// Whether events whose keys are refused can never arrive, or wait for a person with all others.
    async fn judge(&mut self, batch: &mut Deliveries, was_wary: bool) -> Result<(), DeliveryError> {
        let suspects = std::mem::take(&mut self.suspects);
        let keys: HashSet<String> = suspects.iter().map(|i| self.key(batch, *i).to_owned()).collect();
        let is_any_untold = || (0..batch.len()).any(|i| !keys.contains(self.key(batch, i)));
        if keys.is_empty() || (!self.has_taken && !was_wary && is_any_untold()) {
            // They are told apart at the next attempt.
            return Ok(());
        }
        let theirs = self.has_taken || self.blame.is_certain() || self.is_any_taken().await;
        let Some(target) = self.targets.get(self.current) else {
            return Err(DeliveryError::fatal("no address"));
        };
        let place = self.place(target);
        let why = |i: &usize| of_key(self.key(batch, *i), place);
        let reasons: Vec<_> = suspects.iter().map(|i| (*i, why(i))).collect();
        if theirs {
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

    /// The key of an event at the broker.
    pub(super) fn key<'a>(&'a self, batch: &'a Deliveries, i: usize) -> &'a str {
        batch.as_slice().get(i).map(|delivery| self.declared.key(delivery)).unwrap_or_default()
    }
}

impl Sink for RabbitMqSink {
    async fn open(&mut self, ctx: &SinkContext) -> Result<(), DeliveryError> {
        self.context = ctx.clone();
        if std::mem::take(&mut self.delivering) {
            self.disconnect();
            self.outstanding.forget_lost();
        }
        if let Some(blocked) = self.blocked() {
            return Err(blocked);
        }
        let had = self.channel.is_some();
        let channel = self.ready().await?;
        if had {
            // The connection stands; this finds out whether all that is needed is still there.
            self.prepare(&channel).await?;
        }
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        if std::mem::replace(&mut self.delivering, true) {
            self.disconnect();
            self.outstanding.forget_lost();
        }
        self.context.probe_widely(false);
        let result = self.attempt(batch).await;
        self.delivering = false;
        result
    }

    async fn close(&mut self) {
        // Ends with its connection: dropped before, the client would close it meanwhile, and log an error.
        let _channel = self.channel.take();
        if let Some(link) = self.link.take() {
            link.close(CLOSE).await;
        }
    }
}

impl fmt::Debug for RabbitMqSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqSink")
            .field("targets", &self.targets)
            .field("exchange", &self.declared.exchange)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
