//! What a RabbitMQ sink advises against a refusal: it knows its own settings. Also the reasons of its dead letters.

use crate::brokers::rabbitmq::error::{Place, Refusal, Stage};

pub(super) fn advice(refusal: Refusal<'_>) -> &'static str {
    match (refusal.code, refusal.stage) {
        (403, Stage::Declare) => {
            "grant it with `rabbitmqctl set_permissions`, or declare it yourself and set `declare: false`"
        }
        (403, _) if refusal.said.contains("access to topic") => {
            "grant it with `rabbitmqctl set_topic_permissions`"
        }
        (403, _) => "grant it with `rabbitmqctl set_permissions`",
        (404, _) => "create what is missing, or set `declare: true`",
        _ => {
            "change the one or the other (delete it at the broker, then it is declared anew), or set `declare: false`"
        }
    }
}

/// Why an event can never arrive: the user may not write to its key, while other keys are taken.
pub(super) fn of_key(key: &str, place: Place<'_>) -> String {
    let Place { target, exchange, .. } = place;
    format!(
        "user `{}` may not write to exchange `{exchange}` in vhost `{}` under the key `{key}`: grant it with `rabbitmqctl \
         set_topic_permissions`, or leave it out by `except`",
        target.user(),
        target.vhost()
    )
}

/// Why an event of this size can never arrive.
pub(super) fn of_size(bytes: usize, largest: usize) -> String {
    format!(
        "too large for the broker: the event has {bytes} bytes, of at most {largest}; raise `max_message_size` at the broker, or send less"
    )
}
