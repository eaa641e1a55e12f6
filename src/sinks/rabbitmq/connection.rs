//! The connection and the channel of the sink: made and given up, and why there is none.

use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use streamll_actors::sink::{Cost, DeliveryError, ErrorClass};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::publisher::{Block, Connected, Publisher, ReadyChannel};
use crate::brokers::rabbitmq::connect::{Change, Link, connect};
use crate::brokers::rabbitmq::error::{Stage, explain_connect};

/// How long closing may take, within the two seconds that the machine grants.
pub(super) const CLOSE: Duration = Duration::from_secs(1);
/// How long the client may take to say why something ended.
pub(super) const CAUSE: Duration = Duration::from_millis(200);
/// How long declaring may take.
const DECLARE: Duration = Duration::from_secs(5);
/// How often to declare anew for what no queue takes.
const DECLARE_ANEW: Duration = Duration::from_secs(1);
/// Between a connection and the one that replaces it because its channels are used up.
const REPLACE: Duration = Duration::from_millis(100);

impl Publisher {
    /// Why the broker takes nothing, if it said so.
    pub(super) fn blocked(&mut self) -> Option<DeliveryError> {
        let Connected { link, .. } = self.connected.as_ref().filter(|connected| connected.link.is_alive())?;
        let reason = link.health.borrow().blocked.clone()?;
        self.block = Block::Now;
        Some(DeliveryError::overload(reason))
    }

    /// Gives the connection up, with everything under way.
    pub(super) fn disconnect(&mut self) {
        self.outstanding.abandon();
        if self.connected.take().is_some() {
            self.context.connected(false);
        }
    }

    /// Gives up the connection of a delivery that was dropped, or one that has ended, with what may have arrived on it.
    pub(super) fn forget_connection(&mut self) {
        self.disconnect();
        self.outstanding.forget_lost();
    }

    /// Gives the channel up; the connection stays.
    pub(super) fn drop_channel(&mut self) -> Option<ReadyChannel> {
        self.connected.as_mut()?.channel.take()
    }

    /// The channel, whether or not it still stands.
    pub(super) fn channel(&self) -> Option<&ReadyChannel> {
        self.connected.as_ref()?.channel.as_ref()
    }

    /// Returns a channel on which events can be published, made where there is none.
    pub(super) async fn ready(&mut self) -> Result<Arc<Channel>, DeliveryError> {
        if self.connected.as_ref().is_some_and(|connected| !connected.link.is_alive()) {
            self.forget_connection();
        }
        if let Some(ready) = self.channel().filter(|ready| ready.channel.status().connected()) {
            return Ok(ready.channel.clone());
        }
        if self.drop_channel().is_some() {
            self.outstanding.abandon();
            self.outstanding.forget_lost();
        }
        self.have_a_channel_left().await?;
        let declared = &self.settings.declared;
        let Some(connected) = &mut self.connected else { return Err(DeliveryError::fatal("no connection")) };
        let prepare = async {
            let channel = connected.link.channel().await?;
            connected.channel_since = Instant::now();
            declared.prepare(&channel).await?;
            let channel = Arc::new(channel);
            connected.channel = Some(ReadyChannel { channel: channel.clone(), declared_at: Instant::now() });
            Ok(channel)
        };
        let prepared = timeout(DECLARE, prepare).await;
        if let Ok(Ok(_)) = prepared {
            self.context.connected(true);
        }
        self.answer_to_declaring(prepared).await
    }

    /// Makes queues and bindings that were deleted meanwhile, as an event that no queue takes shows.
    pub(super) async fn declare_anew(&mut self) -> Result<(), DeliveryError> {
        let ready = self.channel().filter(|ready| ready.declared_at.elapsed() >= DECLARE_ANEW);
        let Some(channel) = ready.map(|ready| ready.channel.clone()) else { return Ok(()) };
        self.prepare(&channel).await
    }

    /// Declares or looks for everything, on a channel that has done so before.
    pub(super) async fn prepare(&mut self, channel: &Channel) -> Result<(), DeliveryError> {
        if let Some(ready) = self.connected.as_mut().and_then(|connected| connected.channel.as_mut()) {
            ready.declared_at = Instant::now();
        }
        let prepared = timeout(DECLARE, self.settings.declared.prepare(channel)).await;
        self.answer_to_declaring(prepared).await
    }

    async fn answer_to_declaring<T>(
        &mut self,
        answer: Result<lapin::Result<T>, Elapsed>,
    ) -> Result<T, DeliveryError> {
        match answer {
            Ok(Ok(declared)) => Ok(declared),
            Ok(Err(error)) => {
                let error = self.cause(error).await;
                Err(self.explain(&error, Stage::Declare))
            }
            Err(_) => Err(self.unanswered()),
        }
    }

    /// Makes sure of a connection that has another channel: the one that stands, or a new one.
    pub(super) async fn have_a_channel_left(&mut self) -> Result<(), DeliveryError> {
        // What is known of keys stays known when a connection is replaced: the broker did not end it.
        let is_used_up = |connected: &mut Connected| connected.link.is_used_up();
        let used_up = self.connected.take_if(is_used_up);
        let is_replaced = used_up.is_some();
        if let Some(Connected { link, since, .. }) = used_up {
            link.close(CLOSE).await;
            self.context.connected(false);
            sleep_until(since + REPLACE).await;
        }
        if self.connected.is_none() {
            let (link, warnings) = self.connect().await?;
            let (frame, now) = (link.connection.configuration().frame_max(), Instant::now());
            self.connected = Some(Connected { channel: None, channel_since: now, link, since: now, frame });
            if !is_replaced {
                self.unroutable.forget();
                self.refusals.forget_keys();
                self.context.warnings(warnings);
            }
        }
        Ok(())
    }

    /// The broker did not answer in time to what was declared.
    fn unanswered(&mut self) -> DeliveryError {
        let blocked = self.blocked();
        blocked.unwrap_or_else(|| {
            let target = self.shown_target();
            self.forget_connection();
            self.turn_away();
            DeliveryError::unavailable(format!(
                "{target} does not answer within {DECLARE:?} to what is declared: is the broker frozen, or is the \
                 majority of its nodes away, which a new quorum queue needs?"
            ))
            .with_cost(Cost::Something)
        })
    }

    /// Connects to the first address that works, beginning with the one that worked last.
    /// Also returns warnings: what is wrong although it works.
    async fn connect(&mut self) -> Result<(Link, Vec<String>), DeliveryError> {
        let mut failed: Option<DeliveryError> = None;
        let (mut lines, mut cost) = (Vec::new(), Cost::Something);
        let first = self.current;
        for turn in 0..self.settings.targets.len() {
            let at = (first + turn) % self.settings.targets.len();
            let Some(target) = self.settings.targets.get(at) else { continue };
            // If this future is dropped meanwhile, the next attempt begins with the next address.
            self.current = (at + 1) % self.settings.targets.len();
            let context = self.context.clone();
            let on_change = move |change| match change {
                Change::Blocked(reason) => context.block(reason),
                Change::Unblocked => context.unblock(),
                Change::Ended => context.connected(false),
            };
            match connect(target, self.settings.ca_file.as_deref(), self.context.name(), on_change).await {
                Ok(link) => {
                    self.current = at;
                    let mut warnings = Vec::new();
                    if !lines.is_empty() {
                        // Nothing else reports an address that never works, such as one with a wrong password.
                        let passed_by = lines.join("; ");
                        warn!(sink = %self.context.name(), to = %target, passed_by, "connected to the next address: the ones before do not work");
                        warnings.push(format!("connected to {target}, as others do not work: {passed_by}"));
                    }
                    if !self.settings.declared.durable {
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
                    // An address that refuses is asked again soon, although another is silent.
                    if error.cost() == Cost::Nothing {
                        cost = Cost::Nothing;
                    }
                    // What a person must mend is reported rather than what may pass.
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

    /// The reason behind an error of the channel that only says that something ended.
    pub(super) async fn cause(&self, error: lapin::Error) -> lapin::Error {
        match &self.connected {
            Some(connected) => connected.link.cause(error, connected.channel_since, CAUSE).await,
            None => error,
        }
    }

    /// The next address is to be tried first.
    pub(super) fn turn_away(&mut self) {
        self.current = (self.current + 1) % self.settings.targets.len().max(1);
    }
}
