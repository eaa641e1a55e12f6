//! Whether an exchange exists, and passes anything on to a queue that is bound to it.

use lapin::options::ExchangeDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::{Channel, ErrorKind};

use super::declare::{Missing, Wanted, is_missing, waiting};
use crate::brokers::rabbitmq::connect::Link;
use crate::consume::settings::IfMissing;

impl Wanted {
    /// Why nothing would ever come from the exchange, if that is certain. The consumer looks at it once, even if the connection
    /// then has no channel left for what follows.
    pub(super) async fn unfit(
        &self,
        link: &mut Link,
        missing: &mut Missing,
    ) -> lapin::Result<Option<String>> {
        if missing.is_exchange_seen || self.is_default_exchange() {
            return Ok(None);
        }
        let mut channel = link.channel().await?;
        let look = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        if is_missing(self.declare_exchange(&channel, look).await)? {
            missing.exchange = true;
            missing.is_exchange_seen = true;
            let why =
                format!("there is no exchange `{}`: is that its name? It is looked for again", self.exchange);
            return Ok((self.missing_exchange == IfMissing::Report).then_some(why));
        }
        // A queue that exists keeps its bindings, unless more are asked for.
        let is_bound = match self.queue_to_keep() {
            Some(queue) if !missing.queue && is_missing(waiting(&channel, queue).await)? => {
                missing.queue = true;
                channel = link.channel().await?;
                false
            }
            queue => queue.is_some() && !missing.queue,
        };
        missing.is_exchange_seen = true;
        let pattern = self.all_topics().iter().find(|topic| topic.as_str().contains(['*', '#']));
        let Some(pattern) = pattern.filter(|_| !is_bound) else {
            let _ = channel.close(200, "seen".into()).await;
            return Ok(None);
        };
        Ok(self.other_kind(&channel).await?.filter(|kind| kind == "direct").map(|_| {
            format!(
                "exchange `{}` is direct, which passes on by whole keys and knows no patterns like `{pattern}`: name each key \
                 with {}",
                self.exchange, self.names.topics
            )
        }))
    }

    /// The kind of the exchange, if it is no topic exchange and the broker says so. The broker does when it is asked to declare
    /// another kind, by a user that may make exchanges.
    async fn other_kind(&self, channel: &Channel) -> lapin::Result<Option<String>> {
        let ask = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let Err(error) = self.declare_exchange(channel, ask).await else {
            let _ = channel.close(200, "seen".into()).await;
            return Ok(None);
        };
        let ErrorKind::ProtocolError(said) = error.kind() else { return Err(error) };
        match said.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
                Ok(kind_of(said.get_message().as_str()))
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Ok(None),
            _ => Err(error),
        }
    }
}

/// `direct` of `inequivalent arg 'type' for exchange 'x' in vhost '/': received 'topic' but current is 'direct'`.
fn kind_of(said: &str) -> Option<String> {
    let (_, kind) = said.rsplit_once("current is '").filter(|_| said.contains("arg 'type'"))?;
    kind.strip_suffix('\'').map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_an_exchange_is_read_from_a_refusal() {
        let said = |what: &str| {
            kind_of(&format!(
                "PRECONDITION_FAILED - inequivalent arg '{what}' for exchange 'current is 'x'' in vhost '/': received 'topic' but current is 'direct'"
            ))
        };
        assert_eq!(said("type").as_deref(), Some("direct"));
        assert_eq!(said("durable"), None);
    }
}
