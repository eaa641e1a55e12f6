//! How the sink reaches its broker: the connection and the channel, made and given up, and why it cannot be reached.

use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use streamll_actors::sink::{Cost, DeliveryError, ErrorClass};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::sink::{CAUSE, CLOSE, RabbitMqSink};
use crate::brokers::rabbitmq::connect::{Change, Link, connect};
use crate::brokers::rabbitmq::error::{Stage, explain_connect};

/// How long declaring may take.
pub(super) const DECLARE: Duration = Duration::from_secs(5);
/// How often to declare anew for what no queue takes.
const DECLARE_ANEW: Duration = Duration::from_secs(1);
/// Between a connection and the one that replaces it because its channels are used up.
const REPLACE: Duration = Duration::from_millis(100);

impl RabbitMqSink {
    /// Why the broker takes nothing, if it said so.
    pub(super) fn blocked(&mut self) -> Option<DeliveryError> {
        let link = self.link.as_ref().filter(|link| link.is_alive())?;
        let reason = link.health.borrow().blocked.clone()?;
        self.was_blocked = true;
        Some(DeliveryError::overload(reason))
    }

    /// Gives the connection up, with everything under way.
    pub(super) fn disconnect(&mut self) {
        self.outstanding.abandon();
        self.channel = None;
        if self.link.take().is_some() {
            self.context.connected(false);
        }
    }

    /// A channel on which events can be published.
    pub(super) async fn ready(&mut self) -> Result<Arc<Channel>, DeliveryError> {
        if self.link.as_ref().is_some_and(|link| !link.is_alive()) {
            self.disconnect();
            self.outstanding.forget_lost();
        }
        if let Some(channel) = self.channel.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        if self.channel.take().is_some() {
            self.outstanding.abandon();
            self.outstanding.forget_lost();
        }
        self.linked().await?;
        let Some(link) = &mut self.link else { return Err(DeliveryError::fatal("no connection")) };
        let declared = &self.declared;
        let prepare = async {
            let channel = link.channel().await?;
            self.channel_since = Instant::now();
            declared.prepare(&channel).await?;
            Ok(channel)
        };
        match timeout(DECLARE, prepare).await {
            Ok(Ok(channel)) => {
                self.context.connected(true);
                self.declared_at = Instant::now();
                Ok(self.channel.insert(Arc::new(channel)).clone())
            }
            Ok(Err(error)) => {
                let error = self.cause(error).await;
                Err(self.explain(&error, Stage::Declare))
            }
            Err(_) => Err(self.unanswered()),
        }
    }

    /// Makes queues and bindings that were deleted meanwhile, as what no queue takes shows.
    pub(super) async fn declare_anew(&mut self) -> Result<(), DeliveryError> {
        let Some(channel) = self.channel.clone().filter(|_| self.declared_at.elapsed() >= DECLARE_ANEW)
        else {
            return Ok(());
        };
        self.prepare(&channel).await
    }

    /// Declares or looks for everything, on a channel that has done so before.
    pub(super) async fn prepare(&mut self, channel: &Channel) -> Result<(), DeliveryError> {
        self.declared_at = Instant::now();
        match timeout(DECLARE, self.declared.prepare(channel)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let error = self.cause(error).await;
                Err(self.explain(&error, Stage::Declare))
            }
            Err(_) => Err(self.unanswered()),
        }
    }

    /// A connection that has another channel.
    pub(super) async fn linked(&mut self) -> Result<(), DeliveryError> {
        // What is known of keys holds on: the broker did not end this one.
        let is_replaced = self.link.as_ref().is_some_and(Link::is_used_up);
        if is_replaced && let Some(used_up) = self.link.take() {
            used_up.close(CLOSE).await;
            self.context.connected(false);
            sleep_until(self.link_since + REPLACE).await;
        }
        if self.link.is_none() {
            let (link, warnings) = self.connect().await?;
            self.frame = link.connection.configuration().frame_max();
            (self.link, self.link_since) = (Some(link), Instant::now());
            if !is_replaced {
                self.unroutable.forget();
                self.refusals.forget_keys();
                self.context.warnings(warnings);
            }
        }
        Ok(())
    }

    /// Declaring was not answered in time.
    pub(super) fn unanswered(&mut self) -> DeliveryError {
        let blocked = self.blocked();
        blocked.unwrap_or_else(|| {
            let target = self.targets.get(self.current).map(ToString::to_string).unwrap_or_default();
            self.disconnect();
            self.outstanding.forget_lost();
            self.turn_away();
            DeliveryError::unavailable(format!(
                "{target} does not answer within {DECLARE:?} to what is declared: is it frozen, or is the majority of the \
                 nodes away that a new quorum queue needs?"
            ))
            .with_cost(Cost::Something)
        })
    }

    /// Connects to the first address that works, beginning with the one that worked last.
    /// Also returns what is wrong although it works.
    async fn connect(&mut self) -> Result<(Link, Vec<String>), DeliveryError> {
        let mut failed: Option<DeliveryError> = None;
        let (mut lines, mut cost) = (Vec::new(), Cost::Something);
        let first = self.current;
        for turn in 0..self.targets.len() {
            let at = (first + turn) % self.targets.len();
            let Some(target) = self.targets.get(at) else { continue };
            // Should this future be dropped meanwhile, the next one is tried.
            self.current = (at + 1) % self.targets.len();
            let context = self.context.clone();
            let on_change = move |change| match change {
                Change::Blocked(reason) => context.block(reason),
                Change::Unblocked => context.unblock(),
                Change::Ended => context.connected(false),
            };
            match connect(target, self.ca_file.as_deref(), self.context.name(), on_change).await {
                Ok(link) => {
                    self.current = at;
                    let mut warnings = Vec::new();
                    if !lines.is_empty() {
                        // Nobody else tells of an address that never works, such as one with a wrong password.
                        let passed_by = lines.join("; ");
                        warn!(sink = %self.context.name(), to = %target, passed_by, "connected to the next address");
                        warnings.push(format!("connected to {target}, as others do not work: {passed_by}"));
                    }
                    if !self.declared.durable {
                        warnings.push(
                            "a restart of the broker loses exchange, queues and events: set durable: true"
                                .to_owned(),
                        );
                    }
                    return Ok((link, warnings));
                }
                Err(trouble) => {
                    let error = explain_connect(&trouble, self.place(target));
                    lines.push(error.to_string());
                    // One that refuses is asked again soon, although another is silent.
                    if error.cost() == Cost::Nothing {
                        cost = Cost::Nothing;
                    }
                    // What a person must mend tells more than what may pass.
                    if failed.as_ref().is_none_or(|known| known.class() != ErrorClass::Misconfigured) {
                        failed = Some(error);
                    }
                }
            }
        }
        let class = failed.map_or(ErrorClass::Unavailable, |error| error.class());
        let line = lines.join("; ");
        Err(match class {
            ErrorClass::Misconfigured => DeliveryError::misconfigured(line),
            ErrorClass::Overload => DeliveryError::overload(line),
            _ => DeliveryError::unavailable(line).with_cost(cost),
        })
    }

    /// The reason behind an error of the channel that says no more than that something ended.
    pub(super) async fn cause(&self, error: lapin::Error) -> lapin::Error {
        match &self.link {
            Some(link) => link.cause(error, self.channel_since, CAUSE).await,
            None => error,
        }
    }

    /// The next address is to be tried first.
    pub(super) fn turn_away(&mut self) {
        self.current = (self.current + 1) % self.targets.len().max(1);
    }
}
