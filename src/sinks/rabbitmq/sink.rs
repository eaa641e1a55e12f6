//! Publishes batches: groups of messages within the window, then the confirms of all of them.

use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::BasicPublishOptions;
use streamll_actors::sink::{Cost, Deliveries, DeliveryError, ErrorClass, Sink, SinkContext};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::config::ExchangeType;
use super::confirm::{Answer, Outcome, Outstanding};
use super::connect::{Health, Link, connect};
use super::declare::Declared;
use super::error::{Place, Stage, explain, explain_connect, is_vague};
use super::message::Message;
use super::place::Target;
use super::unroutable::Unroutable;

/// Messages that are handed to the client at once.
const GROUP: usize = 64;
/// How long to wait for a confirm.
const CONFIRM: Duration = Duration::from_secs(10);
/// How long a broker may be silent before its connection is given up.
const GIVE_UP: Duration = Duration::from_secs(60);
/// How long declaring may take.
const DECLARE: Duration = Duration::from_secs(5);
/// How long closing may take, within the two seconds that the machine grants.
const CLOSE: Duration = Duration::from_secs(1);
/// How long the client may take to tell what it knows of an end that it has noticed.
const CAUSE: Duration = Duration::from_millis(200);

/// Publishes events and waits for their confirms; see the [module](super).
pub struct RabbitMqSink {
    targets: Vec<Target>,
    /// The target that worked last.
    current: usize,
    declared: Declared,
    window: usize,
    strict: bool,
    ca_file: Option<PathBuf>,
    context: SinkContext,
    link: Option<Link>,
    channel: Option<Arc<Channel>>,
    /// The broker took nothing, the last time it was looked at.
    was_blocked: bool,
    /// When it took something again.
    calm_since: Option<Instant>,
    /// What ended before this was another channel.
    channel_since: Instant,
    outstanding: Outstanding,
    unroutable: Unroutable,
    /// Set while a delivery is under way: still set at the next call where its future was dropped.
    delivering: bool,
}

/// How waiting ended.
enum Waited {
    Answered,
    Blocked(String),
    Silent,
}

impl RabbitMqSink {
    pub(super) fn new(
        targets: Vec<Target>,
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
            channel: None,
            was_blocked: false,
            calm_since: None,
            channel_since: Instant::now(),
            outstanding: Outstanding::default(),
            unroutable: Unroutable::default(),
            delivering: false,
        }
    }

    fn explain(&self, error: &lapin::Error, stage: Stage) -> DeliveryError {
        match self.targets.get(self.current) {
            Some(target) => explain(error, stage, self.place(target)),
            None => DeliveryError::fatal("no address"),
        }
    }

    fn place<'a>(&'a self, target: &'a Target) -> Place<'a> {
        Place { target, exchange: self.declared.exchange.as_str() }
    }

    /// Why the broker takes nothing, if it said so.
    fn blocked(&mut self) -> Option<DeliveryError> {
        let link = self.link.as_ref().filter(|link| link.is_alive())?;
        let reason = link.health.borrow().blocked.clone()?;
        self.was_blocked = true;
        Some(DeliveryError::overload(reason))
    }

    /// Gives the connection up, with everything under way.
    fn disconnect(&mut self) {
        self.outstanding.abandon();
        self.channel = None;
        if self.link.take().is_some() {
            self.context.connected(false);
        }
    }

    /// A channel on which events can be published.
    async fn ready(&mut self) -> Result<Arc<Channel>, DeliveryError> {
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
        if self.link.is_none() {
            self.link = Some(self.connect().await?);
            self.unroutable.forget();
        }
        let Some(link) = &self.link else { return Err(DeliveryError::fatal("no connection")) };
        let declared = &self.declared;
        let prepare = async {
            let channel = link.connection.create_channel().await?;
            self.channel_since = Instant::now();
            declared.prepare(&channel).await?;
            Ok(channel)
        };
        match timeout(DECLARE, prepare).await {
            Ok(Ok(channel)) => {
                self.context.connected(true);
                Ok(self.channel.insert(Arc::new(channel)).clone())
            }
            Ok(Err(error)) => {
                let error = self.cause(error).await;
                Err(self.explain(&error, Stage::Declare))
            }
            Err(_) => Err(self.unanswered()),
        }
    }

    /// Declaring was not answered in time.
    fn unanswered(&mut self) -> DeliveryError {
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
    async fn connect(&mut self) -> Result<Link, DeliveryError> {
        let mut failed: Option<DeliveryError> = None;
        let (mut lines, mut cost) = (Vec::new(), Cost::Something);
        let first = self.current;
        for turn in 0..self.targets.len() {
            let at = (first + turn) % self.targets.len();
            let Some(target) = self.targets.get(at) else { continue };
            // Should this future be dropped meanwhile, the next one is tried.
            self.current = (at + 1) % self.targets.len();
            match connect(target, self.ca_file.as_deref(), &self.context).await {
                Ok(link) => {
                    self.current = at;
                    if !lines.is_empty() {
                        // Nobody else tells of an address that never works, such as one with a wrong password.
                        let passed_by = lines.join("; ");
                        warn!(sink = %self.context.name(), to = %target, passed_by, "connected to the next address");
                    }
                    return Ok(link);
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

    /// The reason behind an error that says no more than that something ended: the last word of the broker.
    async fn cause(&self, error: lapin::Error) -> lapin::Error {
        let Some(link) = self.link.as_ref().filter(|_| is_vague(&error)) else { return error };
        let mut health = link.health.clone();
        let since = self.channel_since;
        let last_word = |health: &Health| {
            let channel = health.channel.as_ref().filter(|(at, _)| *at >= since).map(|(_, error)| error);
            let ended = health.ended.as_ref();
            // That a channel was closed may have ended the connection in turn.
            ended.filter(|error| !is_vague(error)).or(channel).or(ended).cloned()
        };
        let told = timeout(CAUSE, health.wait_for(|health| last_word(health).is_some())).await;
        match told {
            Ok(Ok(health)) => last_word(&health).unwrap_or(error),
            _ => error,
        }
    }

    async fn attempt(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        if let Some(blocked) = self.blocked() {
            (0..batch.len()).for_each(|i| batch.unsent(i));
            return Err(blocked);
        }
        if std::mem::take(&mut self.was_blocked) {
            self.calm_since = Some(Instant::now());
        }
        let channel = match self.ready().await {
            Ok(channel) => channel,
            Err(error) => {
                (0..batch.len()).for_each(|i| batch.unsent(i));
                return Err(error);
            }
        };
        // Half of its time is for sending, the rest for what is under way then: cut off, nothing would count.
        let until = Instant::now() + self.context.deliver_timeout() / 2;
        let known = self.outstanding.claim(batch, |i| self.key(batch, i).into());
        let step = if self.strict { 1 } else { batch.len().max(1) };
        for from in (0..batch.len()).step_by(step) {
            if from > 0 && Instant::now() > until {
                (from..batch.len()).for_each(|i| batch.unsent(i));
                return Ok(());
            }
            let range = from..(from + step).min(batch.len());
            let rest = range.end..batch.len();
            let went = self.publish(batch, range, &known, &channel, until).await;
            if !matches!(went, Ok(true)) {
                rest.for_each(|i| batch.unsent(i));
                return went.map(|_| ());
            }
        }
        Ok(())
    }

    /// The key of an event at the broker.
    fn key<'a>(&'a self, batch: &'a Deliveries, i: usize) -> &'a str {
        batch.as_slice().get(i).map(|delivery| self.declared.key(delivery)).unwrap_or_default()
    }

    /// Publishes some events of a batch, and waits for their confirms. `false` says that one is to be tried again.
    async fn publish(
        &mut self,
        batch: &mut Deliveries,
        range: Range<usize>,
        known: &[Option<usize>],
        channel: &Arc<Channel>,
        until: Instant,
    ) -> Result<bool, DeliveryError> {
        let mut range = range;
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
                    let number = match known.get(i).copied().flatten() {
                        Some(number) => Some(number),
                        None => self.send(batch, i, channel),
                    };
                    sent.extend(number.map(|number| (i, number)));
                }
                next = until;
            }
            let most = if next < range.end { self.window - step } else { 0 };
            let anew = |i: &usize| known.get(*i).copied().flatten().is_some();
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

    /// Hands one event to the client; `None` where it can never be sent.
    fn send(&mut self, batch: &mut Deliveries, i: usize, channel: &Arc<Channel>) -> Option<usize> {
        let delivery = batch.as_slice().get(i)?;
        let key = self.key(batch, i);
        let message = match Message::of(delivery, key, self.declared.durable) {
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

    /// The next address is to be tried first.
    fn turn_away(&mut self) {
        self.current = (self.current + 1) % self.targets.len().max(1);
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
    ) -> Result<bool, DeliveryError> {
        let failure = self.outstanding.take_failure();
        let mut strangers = false;
        let stage = match failure {
            Some(_) => {
                // Everything else on this channel has failed with it.
                self.outstanding.abandon();
                self.channel = None;
                strangers = self.outstanding.has_lost_others(sent);
                Stage::Confirm
            }
            None => {
                self.outstanding.conclude(true);
                Stage::Publish
            }
        };
        let (mut nacked, mut unknown, mut again) = (0_usize, 0_usize, false);
        for (i, number) in sent {
            match self.outstanding.settle(*number) {
                Outcome::Delivered => {
                    if !self.unroutable.is_empty()
                        && let Some(delivery) = batch.as_slice().get(*i)
                    {
                        self.unroutable.arrived(&self.declared.way(delivery));
                    }
                    batch.delivered(*i);
                }
                Outcome::Returned => again |= self.came_back(batch, *i),
                Outcome::Nacked => nacked += 1,
                Outcome::Unsent => batch.unsent(*i),
                Outcome::Unknown => unknown += 1,
            }
        }
        self.outstanding.forget_settled();
        if let Some(error) = failure {
            let error = self.cause(error).await;
            let stage = if unknown == 0 { Stage::Publish } else { stage };
            let explained = self.explain(&error, stage);
            self.outstanding.forget_lost();
            if self.link.as_ref().is_some_and(|link| !link.is_alive()) {
                self.disconnect();
            }
            // What is bad may be of an earlier delivery: then it will be found when that comes again.
            if strangers && explained.class() == ErrorClass::Rejected {
                return Err(DeliveryError::unknown(explained.to_string()));
            }
            return Err(explained);
        }
        if nacked > 0 {
            // A channel that first met a quorum queue while its leader was down refuses whatever is for it, for good:
            // the next attempt is made on another.
            self.channel = None;
            if nacked == sent.len() && self.targets.len() > 1 {
                // It may be cut off from the majority, which the others are not.
                self.disconnect();
                self.turn_away();
            }
            let vhost = self.targets.get(self.current).map(Target::vhost).unwrap_or_default();
            return Err(DeliveryError::overload(format!(
                "a queue behind {} in vhost `{vhost}` refused {nacked} of {} events: it is full (`x-overflow: \
                 reject-publish`) or going down, or a quorum queue without the majority of its nodes; drain it or raise \
                 its limit, or bring its nodes back",
                self.exchange(),
                sent.len()
            )));
        }
        Ok(!again)
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
        let vhost = self.targets.get(self.current).map(Target::vhost).unwrap_or_default();
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

    fn exchange(&self) -> String {
        match self.declared.exchange.as_str() {
            "" => "the default exchange".to_owned(),
            name => format!("exchange `{name}`"),
        }
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
            let declared = &self.declared;
            match timeout(DECLARE, declared.prepare(&channel)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let error = self.cause(error).await;
                    return Err(self.explain(&error, Stage::Declare));
                }
                Err(_) => return Err(self.unanswered()),
            }
        }
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        if std::mem::replace(&mut self.delivering, true) {
            self.disconnect();
            self.outstanding.forget_lost();
        }
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
