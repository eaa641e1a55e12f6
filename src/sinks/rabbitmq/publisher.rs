//! What publishing needs: the settings, the connection while there is one, and what is known of keys and messages.

use std::sync::Arc;

use lapin::Channel;
use streamll_actors::sink::{Deliveries, DeliveryError, SinkContext};
use tokio::time::Instant;

use super::advice::advice;
use super::confirm::Outstanding;
use super::refusals::Refusals;
use super::settings::Settings;
use super::unroutable::Unroutable;
use crate::brokers::rabbitmq::address::Address;
use crate::brokers::rabbitmq::connect::Link;
use crate::brokers::rabbitmq::error::{Place, Stage, explain};
use crate::sinks::suspects::Suspects;

/// What outlives a batch.
pub(super) struct Publisher {
    pub(super) settings: Settings,
    /// The target that worked last.
    pub(super) current: usize,
    pub(super) context: SinkContext,
    pub(super) connected: Option<Connected>,
    pub(super) block: Block,
    pub(super) outstanding: Outstanding,
    pub(super) unroutable: Unroutable,
    pub(super) refusals: Refusals,
    pub(super) suspects: Suspects,
}

/// A connection that stands.
pub(super) struct Connected {
    // First: a channel is dropped into an open connection.
    pub(super) channel: Option<ReadyChannel>,
    /// When the last channel was opened: what ended before is another one.
    pub(super) channel_since: Instant,
    pub(super) link: Link,
    pub(super) since: Instant,
    /// Most bytes of a frame.
    pub(super) frame: u32,
}

/// A channel on which events can be published.
#[derive(Clone)]
pub(super) struct ReadyChannel {
    pub(super) channel: Arc<Channel>,
    /// When exchange, queues and bindings were declared last.
    pub(super) declared_at: Instant,
}

/// Whether the broker takes anything, when that was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// It has always taken what was sent.
    Never,
    /// It takes nothing.
    Now,
    /// It took nothing until then.
    Until(Instant),
}

/// A batch that is being published, and what the broker said of its events so far.
pub(super) struct Sending<'b> {
    pub(super) batch: &'b mut Deliveries,
    /// When sending ends, so that time is left for what is under way.
    pub(super) until: Instant,
    /// Events whose key is refused.
    pub(super) refused: Vec<usize>,
    /// Whether the broker took another event, with or without a queue for it.
    pub(super) has_taken: bool,
}

impl<'b> Sending<'b> {
    pub(super) fn new(batch: &'b mut Deliveries, until: Instant) -> Sending<'b> {
        Sending { batch, until, refused: Vec::new(), has_taken: false }
    }

    /// Marks all events from this one on as never sent.
    pub(super) fn unsent_from(&mut self, from: usize) {
        (from..self.batch.len()).for_each(|i| self.batch.unsent(i));
    }
}

impl Publisher {
    pub(super) fn new(settings: Settings) -> Publisher {
        Publisher {
            settings,
            current: 0,
            context: SinkContext::detached("rabbitmq"),
            connected: None,
            block: Block::Never,
            outstanding: Outstanding::default(),
            unroutable: Unroutable::default(),
            refusals: Refusals::default(),
            suspects: Suspects::default(),
        }
    }

    pub(super) fn explain(&self, error: &lapin::Error, stage: Stage) -> DeliveryError {
        match self.target() {
            Some(target) => explain(error, stage, self.place(target)),
            None => DeliveryError::fatal("no address"),
        }
    }

    pub(super) fn place<'a>(&'a self, target: &'a Address) -> Place<'a> {
        Place { target, exchange: self.settings.declared.exchange.as_str(), advice }
    }

    /// The address that worked last.
    pub(super) fn target(&self) -> Option<&Address> {
        self.settings.targets.get(self.current)
    }

    /// The address that worked last, for messages.
    pub(super) fn shown_target(&self) -> String {
        self.target().map(ToString::to_string).unwrap_or_default()
    }

    pub(super) fn vhost(&self) -> &str {
        self.target().map(Address::vhost).unwrap_or_default()
    }

    /// The exchange, for messages.
    pub(super) fn exchange(&self) -> String {
        match self.settings.declared.exchange.as_str() {
            "" => "the default exchange".to_owned(),
            name => format!("exchange `{name}`"),
        }
    }

    /// The key of an event at the broker.
    pub(super) fn key<'a>(&'a self, batch: &'a Deliveries, i: usize) -> &'a str {
        batch.as_slice().get(i).map(|delivery| self.settings.declared.key(delivery)).unwrap_or_default()
    }
}
