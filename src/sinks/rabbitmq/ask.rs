//! Asks the broker whether it still takes a key that has worked, without sending anything.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use streamll_actors::sink::DeliveryError;
use tokio::time::{Instant, timeout};

use super::refusals::{Word, read};
use super::sink::RabbitMqSink;
use crate::brokers::rabbitmq::error::Stage;

/// Most keys that are asked about at once: each that is refused costs a channel.
const ASKED: usize = 4;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

impl RabbitMqSink {
    /// Whether a key that has worked is still taken.
    pub(super) async fn is_any_taken(&mut self) -> bool {
        for key in self.blame.to_ask(ASKED) {
            match timeout(ANSWER, self.takes(&key)).await {
                Ok(Ok(true)) => {
                    self.blame.worked(&key);
                    return true;
                }
                Ok(Ok(false)) => self.blame.refused(&key),
                Ok(Err(_)) | Err(_) => return false,
            }
        }
        false
    }

    /// Publishes to the key in a transaction that is taken back: whether its user may is looked at before.
    async fn takes(&mut self, key: &str) -> Result<bool, DeliveryError> {
        if self.link.as_ref().is_none_or(|link| link.is_used_up()) {
            self.channel = None;
            self.linked().await?;
        }
        let since = Instant::now();
        let key = ShortString::try_new(key).map_err(|error| DeliveryError::unknown(error.to_string()))?;
        let exchange = self.declared.exchange.clone();
        let Some(link) = &mut self.link else { return Err(DeliveryError::fatal("no connection")) };
        let asked = async {
            let channel = link.channel().await?;
            channel.tx_select().await?;
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            channel.basic_publish(exchange, key, options, &[], properties).await?;
            channel.tx_rollback().await?;
            channel.close(200, ShortString::default()).await
        };
        let Err(error) = asked.await else { return Ok(true) };
        // What ended this channel is not to be taken for the end of another.
        self.channel = None;
        self.channel_since = since;
        let error = self.cause(error).await;
        match read(&error) {
            Some(Word::Topic(..)) => Ok(false),
            _ => Err(self.explain(&error, Stage::Publish)),
        }
    }
}
