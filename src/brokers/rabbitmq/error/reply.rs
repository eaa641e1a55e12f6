//! What the errors of client and broker mean on a connection: their class, their cost, and one line for an operator.

use std::io;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use streamll_actors::sink::{Cost, DeliveryError, ErrorClass};

use super::super::address::Address;
use super::scene::{Place, Refusal, Stage};
use crate::brokers::words::quote;

/// What a broker says of a classic queue whose node is away.
const NODE_DOWN: &str = "is down or inaccessible";

/// The class of an error of the client; `text` is what the broker said of it.
fn class(kind: &ErrorKind, text: &str, stage: Stage) -> ErrorClass {
    use ErrorClass::{Fatal, Misconfigured, Overload, Rejected, Unavailable, Unknown};
    // Sent and not confirmed: it may have arrived.
    let cut = if stage == Stage::Confirm { Unknown } else { Unavailable };
    let sending = matches!(stage, Stage::Publish | Stage::Confirm);
    match kind {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(soft) => match soft {
                AMQPSoftError::CONTENTTOOLARGE => Rejected,
                AMQPSoftError::PRECONDITIONFAILED if sending && text.contains("message size") => Rejected,
                AMQPSoftError::NOROUTE | AMQPSoftError::NOCONSUMERS => cut,
                // The queue is there, but the node that it lives on is not.
                AMQPSoftError::NOTFOUND if text.contains(NODE_DOWN) => cut,
                AMQPSoftError::ACCESSREFUSED
                | AMQPSoftError::NOTFOUND
                | AMQPSoftError::RESOURCELOCKED
                | AMQPSoftError::PRECONDITIONFAILED => Misconfigured,
            },
            AMQPErrorKind::Hard(hard) => match hard {
                AMQPHardError::CONNECTIONFORCED if text.contains("deleted") => Misconfigured,
                AMQPHardError::CONNECTIONFORCED => Unavailable,
                AMQPHardError::FRAMEERROR | AMQPHardError::SYNTAXERROR if sending => Rejected,
                AMQPHardError::SYNTAXERROR | AMQPHardError::COMMANDINVALID if stage == Stage::Declare => {
                    Misconfigured
                }
                AMQPHardError::RESOURCEERROR => Overload,
                AMQPHardError::NOTALLOWED if text.contains("limit") => Overload,
                AMQPHardError::NOTALLOWED | AMQPHardError::NOTIMPLEMENTED | AMQPHardError::INVALIDPATH => {
                    Misconfigured
                }
                AMQPHardError::FRAMEERROR
                | AMQPHardError::SYNTAXERROR
                | AMQPHardError::COMMANDINVALID
                | AMQPHardError::CHANNELERROR
                | AMQPHardError::UNEXPECTEDFRAME
                | AMQPHardError::INTERNALERROR => cut,
            },
        },
        // Something else listens there.
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) if stage == Stage::Connect => {
            Misconfigured
        }
        ErrorKind::AuthProviderError(_) => Misconfigured,
        ErrorKind::SerialisationError(_) => Rejected,
        ErrorKind::FutureCompleted | ErrorKind::NoDefaultRuntime => Fatal,
        _ => cut,
    }
}

/// What an error of the client cost. A node that starts or ends refuses, hangs up, or says that a vhost is down; what it
/// refuses on a connection that stands costs that a channel.
fn cost(kind: &ErrorKind, class: ErrorClass, stage: Stage) -> Cost {
    match kind {
        ErrorKind::IOError(error) => Cost::of(class, Some(error.kind())),
        ErrorKind::InvalidConnectionState(_) => Cost::of(class, Some(io::ErrorKind::NotConnected)),
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => Cost::of(class, None),
            _ if stage == Stage::Connect => Cost::of(class, None),
            _ => Cost::Something,
        },
        _ => Cost::Something,
    }
}

fn line(
    kind: &ErrorKind,
    code: u16,
    said: &str,
    class: ErrorClass,
    stage: Stage,
    place: Place<'_>,
) -> String {
    let Place { target, exchange, .. } = place;
    let (user, vhost) = (target.user(), target.vhost());
    let exchange = match exchange {
        "" => "the default exchange".to_owned(),
        name => format!("exchange `{name}`"),
    };
    let advice = (place.advice)(Refusal { code, said, stage });
    match (code, stage) {
        (403, Stage::Connect) => {
            format!("login refused for user `{user}` at {target}; check user and password in `url`")
        }
        (530, Stage::Connect) if class == ErrorClass::Misconfigured => format!(
            "{target} does not let user `{user}` into vhost `{vhost}`: {said}; create the vhost and grant permissions \
             on it, or name another in `url`"
        ),
        (403, Stage::Declare) => {
            format!("user `{user}` may not declare at {exchange} in vhost `{vhost}`: {said}; {advice}")
        }
        // To read is to use a queue, to bind it and to read an exchange: the broker says which of them.
        (403, Stage::Consume) => {
            format!("user `{user}` may not read from there, in vhost `{vhost}`: {said}; {advice}")
        }
        (403, _) if said.contains("access to topic") => format!(
            "user `{user}` may not write to {exchange} in vhost `{vhost}` under this key: {said}; {advice}"
        ),
        (403, _) => {
            format!("user `{user}` may not write to {exchange} in vhost `{vhost}`: {said}; {advice}")
        }
        (404, _) if said.contains(NODE_DOWN) => {
            format!("in vhost `{vhost}`: {said}; bring that node back, or make the queue a quorum queue")
        }
        (404, Stage::Consume) => format!("in vhost `{vhost}`: {said}; {advice}"),
        (404, _) => format!("{exchange} in vhost `{vhost}`: {said}; {advice}"),
        (406 | 311, _) if class == ErrorClass::Rejected => {
            format!("too large for the broker: {said}; raise its `max_message_size`, or send less")
        }
        (406, Stage::Consume) => format!("in vhost `{vhost}`: {said}; {advice}"),
        (406, _) => format!(
            "what is at the broker differs from what is wanted of {exchange} in vhost `{vhost}`: {said}; {advice}"
        ),
        (405, _) => format!("in use by another connection, in vhost `{vhost}`: {said}"),
        (501 | 502, _) if class == ErrorClass::Rejected => {
            format!("the broker cannot read a message: {said}")
        }
        (1.., _) => format!("{target} closed the connection of user `{user}` to vhost `{vhost}`: {said}"),
        _ => lost(kind, said, stage, target),
    }
}

/// What it means that there is no connection any more, or none yet.
fn lost(kind: &ErrorKind, said: &str, stage: Stage, target: &Address) -> String {
    match stage {
        Stage::Connect => match kind {
            ErrorKind::IOError(error) => unreachable(error, target, said),
            ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => format!(
                "{target} does not speak AMQP 0-9-1; is it the port of another service, or one for `amqps://`?"
            ),
            _ => format!("cannot connect to {target}: {said}"),
        },
        Stage::Confirm => {
            format!("connection to {target} lost with events sent and not confirmed: {said}")
        }
        Stage::Declare | Stage::Publish | Stage::Consume => {
            format!("connection to {target} lost: {said}")
        }
    }
}

/// An error of the client, for the machine and for people.
pub(crate) fn explain(error: &lapin::Error, stage: Stage, place: Place<'_>) -> DeliveryError {
    let (said, code) = match error.kind() {
        ErrorKind::ProtocolError(error) => (error.get_message().to_string(), error.get_id()),
        ErrorKind::IOError(error) | ErrorKind::RuntimeShutdownError(error) => (error.to_string(), 0),
        _ => (error.to_string(), 0),
    };
    let said = quote(&said);
    let class = class(error.kind(), &said, stage);
    of(class, line(error.kind(), code, &said, class, stage, place)).with_cost(cost(
        error.kind(),
        class,
        stage,
    ))
}

/// Whether an exchange is missing.
pub(crate) fn is_no_exchange(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(error) = error.kind() else { return false };
    *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)
        && error.get_message().as_str().contains("no exchange")
}

/// Whether an error only says that something had ended before. A `CHANNEL_ERROR` is what the broker makes of messages
/// that were on their way when it closed their channel.
pub(crate) fn is_vague(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::InvalidChannel(_)
        | ErrorKind::InvalidChannelState(..)
        | ErrorKind::InvalidConnectionState(_) => true,
        ErrorKind::ProtocolError(error) => {
            matches!(error.kind(), AMQPErrorKind::Hard(AMQPHardError::CHANNELERROR))
        }
        _ => false,
    }
}

/// An error of the system while connecting.
pub(super) fn unreachable(error: &io::Error, target: &Address, said: &str) -> String {
    match error.kind() {
        kind if is_cut(kind) => format!("{target} closed the connection before the login was over: {said}"),
        io::ErrorKind::TimedOut => {
            format!("{target} cannot be reached: {said}; is its host up, or a firewall in between?")
        }
        _ => format!("cannot connect to {target}: {said}"),
    }
}

/// Whether a connection stood before this.
fn is_cut(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// An error of this class.
pub(super) fn of(class: ErrorClass, line: String) -> DeliveryError {
    match class {
        ErrorClass::Unknown => DeliveryError::unknown(line),
        ErrorClass::Overload => DeliveryError::overload(line),
        ErrorClass::Misconfigured => DeliveryError::misconfigured(line),
        ErrorClass::Rejected => DeliveryError::rejected(line),
        ErrorClass::Fatal => DeliveryError::fatal(line),
        _ => DeliveryError::unavailable(line),
    }
}
