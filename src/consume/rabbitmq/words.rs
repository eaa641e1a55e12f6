//! What a consumer advises if RabbitMQ refuses to let it read, or refuses a dead letter.

use crate::brokers::rabbitmq::error::Refusal;

/// Advice against a refusal while reading or connecting.
pub(super) fn of_reading(refusal: Refusal<'_>) -> &'static str {
    let Refusal { code, said, .. } = refusal;
    match code {
        // To bind a queue needs `read` of the exchange and `write` of the queue.
        403 if said.contains("exchange '") || said.contains("topic '") => {
            "a consumer needs `read` of its exchange, and `configure` to make one; grant it with `rabbitmqctl \
             set_permissions` and `set_topic_permissions`"
        }
        403 => {
            "a consumer needs `read` of its queue, and `configure` and `write` where it makes and binds it; grant it with \
             `rabbitmqctl set_permissions`"
        }
        404 => "is that its name? It is looked for again",
        406 if said.contains("timed out") => {
            "the handlers did not finish in time, and their messages come again: raise `consumer_timeout` at the broker"
        }
        _ => {
            "the consumer asks for something else than what is there: delete that at the broker, or name another one"
        }
    }
}

/// Advice against a refusal of a dead letter.
pub(super) fn of_letters(refusal: Refusal<'_>) -> &'static str {
    match refusal.code {
        403 => {
            "dead letters need `write`, and `configure` where their queue is to be made; grant it with `rabbitmqctl \
             set_permissions`, or name another place for dead letters"
        }
        404 => "make what is missing, or name another place for dead letters",
        _ => {
            "dead letters are to go to something of another kind: delete that at the broker, or name another place for them"
        }
    }
}

#[cfg(test)]
mod tests {
    use lapin::ErrorKind;
    use lapin::protocol::AMQPError;

    use super::*;
    use crate::brokers::rabbitmq::address::Address;
    use crate::brokers::rabbitmq::error::{Place, Stage, explain};

    #[test]
    fn no_refusal_speaks_of_what_a_sink_does_or_of_its_keys() {
        let target = Address::parse("amqp://ann:canary@rabbit:5/v", 10).expect("an address");
        let place = |advice| Place { target: &target, exchange: "x", advice };
        for (code, said, reading, keeping) in [
            (
                403,
                "ACCESS_REFUSED - access to queue 'q' in vhost 'v' refused for user 'ann'",
                "may not read",
                "dead letters need `write`",
            ),
            (
                403,
                "ACCESS_REFUSED - access to exchange 'x' in vhost 'v' refused for user 'ann'",
                "may not read",
                "dead letters need `write`",
            ),
            (404, "NOT_FOUND - no queue 'q' in vhost 'v'", "is that its name?", "name another place"),
            (
                406,
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q'",
                "asks for something else",
                "of another kind",
            ),
            (
                406,
                "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out",
                "consumer_timeout",
                "of another kind",
            ),
            (
                405,
                "RESOURCE_LOCKED - cannot obtain exclusive access",
                "in use by another",
                "in use by another",
            ),
            (
                404,
                "NOT_FOUND - home node 'x@h' of durable queue 'q' in vhost 'v' is down or inaccessible",
                "bring that node back",
                "bring that node back",
            ),
            (530, "NOT_ALLOWED - vhost v not found", "not found", "not found"),
        ] {
            let error =
                lapin::Error::from(ErrorKind::ProtocolError(AMQPError::from_id(code, said.into()).unwrap()));
            let read = explain(&error, Stage::Consume, place(of_reading)).to_string();
            let kept = explain(&error, Stage::Publish, place(of_letters)).to_string();
            assert!(
                read.contains(reading) && read.contains(said) && kept.contains(keeping),
                "{read}\n{kept}"
            );
            for line in [&read, &kept] {
                let keys = ["declare: ", "`declare", "exchange:", "stream_key", "canary", "may not declare"];
                assert!(!keys.iter().any(|key| line.contains(key)), "{line}");
            }
            assert!(!read.contains("may not write"), "{read}");
        }
    }
}
