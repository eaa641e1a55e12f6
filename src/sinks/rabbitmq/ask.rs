//! Asks the broker whether it still takes a key that has worked, without sending anything.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use streamll_actors::sink::DeliveryError;
use tokio::time::{Instant, timeout};

use super::publisher::Publisher;
use super::refusals::{Word, read};
use crate::brokers::rabbitmq::error::Stage;

/// Most keys that are asked about at once: each that is refused costs a channel.
const ASKED: usize = 4;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

impl Publisher {
    /// Whether a key that has worked is still taken.
    pub(super) async fn is_any_taken(&mut self) -> bool {
        for key in self.suspects.to_ask(ASKED) {
            match timeout(ANSWER, self.takes(&key)).await {
                Ok(Ok(true)) => {
                    self.suspects.worked(&key);
                    return true;
                }
                Ok(Ok(false)) => self.suspects.refused(&key),
                Ok(Err(_)) | Err(_) => return false,
            }
        }
        false
    }

    /// Publishes to the key in a transaction that is taken back: the broker looks at the permission before that.
    async fn takes(&mut self, key: &str) -> Result<bool, DeliveryError> {
        if self.connected.as_ref().is_none_or(|connected| connected.link.is_used_up()) {
            self.drop_channel();
            self.have_a_channel_left().await?;
        }
        let since = Instant::now();
        let key = ShortString::try_new(key).map_err(|error| DeliveryError::unknown(error.to_string()))?;
        let exchange = self.settings.declared.exchange.clone();
        let Some(connected) = &mut self.connected else { return Err(DeliveryError::fatal("no connection")) };
        let asked = async {
            let channel = connected.link.channel().await?;
            channel.tx_select().await?;
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            channel.basic_publish(exchange, key, options, &[], properties).await?;
            channel.tx_rollback().await?;
            channel.close(200, ShortString::default()).await
        };
        let Err(error) = asked.await else { return Ok(true) };
        // The end of this channel must not be taken for the end of another.
        connected.channel = None;
        connected.channel_since = since;
        let error = self.cause(error).await;
        match read(&error) {
            Some(Word::Topic(..)) => Ok(false),
            _ => Err(self.explain(&error, Stage::Publish)),
        }
    }
}
