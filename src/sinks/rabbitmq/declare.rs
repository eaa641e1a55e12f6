//! What must be at the broker before the first event: exchange, queues and bindings, declared or only looked for.

use std::borrow::Cow;

use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};
use streamll_actors::event::Delivery;

use super::queues::{ExchangeType, QueuePlan};

/// What must be at the broker.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    /// Empty for the default exchange.
    pub(super) exchange: ShortString,
    pub(super) kind: ExchangeType,
    pub(super) durable: bool,
    /// Whether to make what is missing.
    pub(super) declare: bool,
    /// The key of every message, where there is one queue and no exchange.
    pub(super) only_queue: Option<ShortString>,
    pub(super) queues: Vec<QueuePlan>,
}

impl Declared {
    /// The key of an event at the broker.
    pub(super) fn key<'a>(&'a self, delivery: &'a Delivery) -> &'a str {
        self.only_queue.as_ref().map_or(delivery.key(), ShortString::as_str)
    }

    /// What decides which queues take an event.
    pub(super) fn way<'a>(&'a self, delivery: &'a Delivery) -> Cow<'a, str> {
        if self.kind != ExchangeType::Headers {
            return Cow::Borrowed(self.key(delivery));
        }
        let (parts, kind) = (delivery.event.step().parts(), delivery.event.kind());
        let operation = parts.operation.as_deref().unwrap_or_default();
        Cow::Owned(format!("{}\0{operation}\0{}", parts.module_name, kind.as_str()))
    }

    /// Declares or looks for everything, and asks for confirms on a fresh channel.
    pub(super) async fn prepare(&self, channel: &Channel) -> lapin::Result<()> {
        let (passive, durable) = (!self.declare, self.durable);
        if self.only_queue.is_none() {
            let options = ExchangeDeclareOptions { passive, durable, ..ExchangeDeclareOptions::default() };
            let (name, kind) = (self.exchange.clone(), kind(self.kind));
            channel.exchange_declare(name, kind, options, FieldTable::default()).await?;
        }
        for queue in &self.queues {
            let options = QueueDeclareOptions { passive, durable, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.name.clone(), options, queue.arguments.clone()).await?;
            for (key, arguments) in queue.bindings.iter().filter(|_| self.declare) {
                let (queue, exchange) = (queue.name.clone(), self.exchange.clone());
                let options = QueueBindOptions::default();
                channel.queue_bind(queue, exchange, key.clone(), options, arguments.clone()).await?;
            }
        }
        channel.confirm_select(ConfirmSelectOptions::default()).await
    }
}

fn kind(kind: ExchangeType) -> ExchangeKind {
    match kind {
        ExchangeType::Topic => ExchangeKind::Topic,
        ExchangeType::Direct => ExchangeKind::Direct,
        ExchangeType::Fanout => ExchangeKind::Fanout,
        ExchangeType::Headers => ExchangeKind::Headers,
    }
}
