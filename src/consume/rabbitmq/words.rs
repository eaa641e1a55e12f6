//! What a refusal of RabbitMQ means to a consumer, which reads: the words of sinks are about writing.

use lapin::ErrorKind;
use streamll_actors::sink::{DeliveryError, ErrorClass};

use crate::sinks::rabbitmq::error::{Place, Stage, explain as of_sinks};
use crate::sinks::words::quote;

/// An error while reading, or on the way to it.
pub(super) fn explain(error: &lapin::Error, stage: Stage, place: Place<'_>) -> DeliveryError {
    told(error, stage, place, |code, said| match code {
        // To bind is to read from the exchange and to write to the queue.
        403 if said.contains("exchange '") || said.contains("topic '") => Some(
            "may not read from there: a consumer needs `read` of its exchange, and `configure` to make one; \
             grant it with `rabbitmqctl set_permissions` and `set_topic_permissions`",
        ),
        403 => Some(
            "may not read from there: a consumer needs `read` of its queue, and `configure` and `write` where it makes and \
             binds it; grant it with `rabbitmqctl set_permissions`",
        ),
        404 => Some("looks for what is not there: is that its name? It is looked for again"),
        406 if said.contains("timed out") => Some(
            "has not acknowledged in time what its handlers still work on, which comes again: raise `consumer_timeout` at the \
             broker",
        ),
        406 => {
            Some("asks for something else than what is there: delete that at the broker, or name another one")
        }
        _ => None,
    })
}

/// An error while a dead letter is kept.
pub(super) fn explain_letter(error: &lapin::Error, stage: Stage, place: Place<'_>) -> DeliveryError {
    told(error, stage, place, |code, _| match code {
        403 => Some(
            "may not write dead letters there: they need `write`, and `configure` where their queue is to be made; grant it \
             with `rabbitmqctl set_permissions`, or name another place for dead letters",
        ),
        404 => Some("keeps dead letters where nothing is: make it, or name another place for them"),
        406 => Some(
            "keeps dead letters in something of another kind than it asks for: delete that at the broker, or name another \
             place for them",
        ),
        _ => None,
    })
}

/// `means` says what a code of the protocol means here, where that is not what it means to a sink.
fn told(
    error: &lapin::Error,
    stage: Stage,
    place: Place<'_>,
    means: impl FnOnce(u16, &str) -> Option<&'static str>,
) -> DeliveryError {
    // With another stage it would speak of declaring.
    let stage = if stage == Stage::Connect { stage } else { Stage::Publish };
    let of_sinks = of_sinks(error, stage, place);
    let ErrorKind::ProtocolError(refusal) = error.kind() else { return of_sinks };
    // A node that is away and a message that is too large are nobody's mistake in a name or a right.
    if stage == Stage::Connect || of_sinks.class() != ErrorClass::Misconfigured {
        return of_sinks;
    }
    let said = quote(refusal.get_message().as_str());
    match means(refusal.get_id(), &said) {
        Some(meaning) => DeliveryError::misconfigured(format!(
            "user `{}` in vhost `{}` {meaning} ({said})",
            place.target.user(),
            place.target.vhost()
        )),
        None => of_sinks,
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;
    use crate::sinks::rabbitmq::place::Target;

    #[test]
    fn no_refusal_speaks_of_what_a_sink_does_or_of_its_keys() {
        let target = Target::parse("amqp://ann:canary@rabbit:5/v", 10).expect("an address");
        let place = Place { target: &target, exchange: "x" };
        for (code, said, reading, keeping) in [
            (
                403,
                "ACCESS_REFUSED - access to queue 'q' in vhost 'v' refused for user 'ann'",
                "may not read",
                "may not write dead letters",
            ),
            (
                403,
                "ACCESS_REFUSED - access to exchange 'x' in vhost 'v' refused for user 'ann'",
                "may not read",
                "may not write dead letters",
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
            for stage in [Stage::Declare, Stage::Publish] {
                let (read, kept) = (
                    explain(&error, stage, place).to_string(),
                    explain_letter(&error, stage, place).to_string(),
                );
                assert!(
                    read.contains(reading) && read.contains(said) && kept.contains(keeping),
                    "{read}\n{kept}"
                );
                for line in [&read, &kept] {
                    let keys =
                        ["declare: ", "`declare", "exchange:", "stream_key", "canary", "may not declare"];
                    assert!(!keys.iter().any(|key| line.contains(key)), "{line}");
                }
                assert!(!read.contains("may not write"), "{read}");
            }
        }
    }
}
