//! What the errors of client and broker mean: their class, and one line that tells an operator what to do.

use std::io;
use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use streamll_actors::sink::{Cost, DeliveryError, ErrorClass};

use super::address::Address;
use crate::brokers::net::{self, NoTrust, Unreachable};
use crate::brokers::words::quote;

/// What a broker says of a classic queue whose node is away.
const NODE_DOWN: &str = "is down or inaccessible";

/// When an error came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before the broker let us in.
    Connect,
    /// While declaring or looking for exchange and queues.
    Declare,
    /// Before anything was sent.
    Publish,
    /// With events sent and not confirmed.
    Confirm,
    /// While reading, or on the way to it.
    Consume,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No answer for so long.
    Silent(Duration),
    Unreachable(Unreachable),
    Tls(io::Error),
    NoTrust(NoTrust),
    Client(lapin::Error),
}

impl From<lapin::Error> for Trouble {
    fn from(error: lapin::Error) -> Trouble {
        Trouble::Client(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Client(error.into())
    }
}

impl From<Unreachable> for Trouble {
    fn from(error: Unreachable) -> Trouble {
        Trouble::Unreachable(error)
    }
}

impl From<NoTrust> for Trouble {
    fn from(error: NoTrust) -> Trouble {
        Trouble::NoTrust(error)
    }
}

/// A refusal that names something at the broker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal<'a> {
    /// The reply code: 403 refused, 404 not found, 406 of another kind.
    pub(crate) code: u16,
    /// The broker's own words.
    pub(crate) said: &'a str,
    pub(crate) stage: Stage,
}

/// What the caller advises against a refusal: only the caller knows its own settings.
pub(crate) type Advice = fn(Refusal<'_>) -> &'static str;

/// What errors name: where, as whom, and what was wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) target: &'a Address,
    /// Empty for the default exchange.
    pub(crate) exchange: &'a str,
    pub(crate) advice: Advice,
}

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
                // Of a queue that is there: the node that it lives on is not.
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
        (_, Stage::Connect) => match kind {
            ErrorKind::IOError(error) => unreachable(error, target, said),
            ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => format!(
                "{target} does not speak AMQP 0-9-1; is it the port of another service, or one for `amqps://`?"
            ),
            _ => format!("cannot connect to {target}: {said}"),
        },
        (_, Stage::Confirm) => {
            format!("connection to {target} lost with events sent and not confirmed: {said}")
        }
        (_, Stage::Declare | Stage::Publish | Stage::Consume) => {
            format!("connection to {target} lost: {said}")
        }
    }
}

/// Whether an exchange is missing.
pub(crate) fn is_no_exchange(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(error) = error.kind() else { return false };
    *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)
        && error.get_message().as_str().contains("no exchange")
}

/// Why there is no connection, for the machine and for people.
pub(crate) fn explain_connect(trouble: &Trouble, place: Place<'_>) -> DeliveryError {
    let target = place.target;
    match trouble {
        Trouble::Client(error) => explain(error, Stage::Connect, place),
        Trouble::Silent(limit) => DeliveryError::unavailable(format!(
            "{target} takes connections but does not answer in AMQP within {limit:?}; is the broker frozen, or is it the \
             port of another service?"
        ))
        .with_cost(Cost::Something),
        Trouble::Unreachable(Unreachable::Name(error) | Unreachable::Connect(error)) => {
            let (class, cost) = (ErrorClass::Unavailable, Cost::of(ErrorClass::Unavailable, Some(error.kind())));
            of(class, unreachable(error, target, &error.to_string())).with_cost(cost)
        }
        Trouble::NoTrust(why) => DeliveryError::misconfigured(format!("{target}: {why}")),
        Trouble::Tls(error) => explain_tls(error, target),
    }
}

/// An error of the system while connecting.
fn unreachable(error: &io::Error, target: &Address, said: &str) -> String {
    match error.kind() {
        kind if is_cut(kind) => format!("{target} closed the connection before the login was over: {said}"),
        io::ErrorKind::TimedOut => {
            format!("{target} cannot be reached: {said}; is its host up, or a firewall in between?")
        }
        _ => format!("cannot connect to {target}: {said}"),
    }
}

fn explain_tls(error: &io::Error, target: &Address) -> DeliveryError {
    let Some(cause) = net::tls_error(error) else {
        let line =
            format!("{target} closed the connection before TLS was agreed: {error}; is it a TLS port?");
        return DeliveryError::unavailable(line)
            .with_cost(Cost::of(ErrorClass::Unavailable, Some(error.kind())));
    };
    DeliveryError::misconfigured(match (net::distrust(cause), cause) {
        (Some(why), _) => format!("{target}: its certificate {why}"),
        (None, rustls::Error::InvalidMessage(_)) => {
            format!("{target} does not speak TLS; use its port for TLS (usually 5671), or `amqp://`")
        }
        (None, other) => format!("no TLS with {target}: {other}"),
    })
}

/// Whether a connection stood before this.
fn is_cut(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Whether an error says no more than that something ended before. A `CHANNEL_ERROR` is what the broker makes of messages
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

fn of(class: ErrorClass, line: String) -> DeliveryError {
    match class {
        ErrorClass::Unknown => DeliveryError::unknown(line),
        ErrorClass::Overload => DeliveryError::overload(line),
        ErrorClass::Misconfigured => DeliveryError::misconfigured(line),
        ErrorClass::Rejected => DeliveryError::rejected(line),
        ErrorClass::Fatal => DeliveryError::fatal(line),
        _ => DeliveryError::unavailable(line),
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;
    use lapin::{ChannelState, ConnectionState};

    use super::*;
    use ErrorClass::{Fatal, Misconfigured, Overload, Rejected, Unavailable, Unknown};

    const STAGES: [Stage; 4] = [Stage::Connect, Stage::Declare, Stage::Publish, Stage::Confirm];

    #[track_caller]
    fn classes(error: &lapin::Error, expected: [ErrorClass; 4]) {
        let target = Address::parse("amqp://ann:canary@rabbit:5/v", 10).expect("an address");
        let place = Place { target: &target, exchange: "x", advice: |_| "mend it" };
        for (stage, expected) in STAGES.into_iter().zip(expected) {
            let explained = explain(error, stage, place);
            assert_eq!(explained.class(), expected, "{error} while {stage:?}");
            let line = explained.to_string();
            assert!(!line.contains("canary") && !line.contains('\n'), "{line}");
        }
    }

    fn said(code: u16, text: &str) -> lapin::Error {
        let error = AMQPError::from_id(code, text.into()).expect("a code of the protocol");
        ErrorKind::ProtocolError(error).into()
    }

    #[test]
    fn every_reply_code_has_its_class() {
        let known: Vec<u16> =
            (200..600).filter(|code| AMQPError::from_id(*code, "".into()).is_some()).collect();
        let cut = [Unavailable, Unavailable, Unavailable, Unknown];
        let table = [
            (311, "", [Rejected; 4]),
            (312, "", cut),
            (313, "", cut),
            (320, "CONNECTION_FORCED - broker forced connection closure", [Unavailable; 4]),
            (402, "", [Misconfigured; 4]),
            (403, "ACCESS_REFUSED", [Misconfigured; 4]),
            (404, "NOT_FOUND - no exchange", [Misconfigured; 4]),
            (405, "RESOURCE_LOCKED", [Misconfigured; 4]),
            (406, "PRECONDITION_FAILED - inequivalent arg", [Misconfigured; 4]),
            (501, "FRAME_ERROR", [Unavailable, Unavailable, Rejected, Rejected]),
            (502, "SYNTAX_ERROR", [Unavailable, Misconfigured, Rejected, Rejected]),
            (503, "COMMAND_INVALID", [Unavailable, Misconfigured, Unavailable, Unknown]),
            (504, "", cut),
            (505, "", cut),
            (506, "", [Overload; 4]),
            (530, "NOT_ALLOWED - vhost v not found", [Misconfigured; 4]),
            (540, "", [Misconfigured; 4]),
            (541, "", cut),
        ];
        assert_eq!(table.map(|(code, ..)| code).to_vec(), known, "a code is missing here");
        for (code, text, expected) in table {
            classes(&said(code, text), expected);
        }
    }

    #[test]
    fn a_node_that_is_away_or_starting_costs_nothing_and_a_silent_one_does() {
        use io::ErrorKind as Kind;
        let target = Address::parse("amqp://ann:canary@rabbit:5/v", 10).expect("an address");
        let place = Place { target: &target, exchange: "x", advice: |_| "mend it" };
        let by = |kind: Kind| lapin::Error::from(io::Error::from(kind));
        let [free, dear] = [[Cost::Nothing; 4], [Cost::Something; 4]];
        let connecting = [Cost::Nothing, Cost::Something, Cost::Something, Cost::Something];
        for (error, expected) in [
            (by(Kind::ConnectionRefused), free),
            (by(Kind::ConnectionReset), free),
            (by(Kind::ConnectionAborted), free),
            (by(Kind::UnexpectedEof), free),
            (by(Kind::TimedOut), dear),
            (said(320, "CONNECTION_FORCED - broker forced connection closure"), free),
            (said(541, "INTERNAL_ERROR - vhost 'v' is down"), connecting),
            (said(403, "ACCESS_REFUSED"), dear),
            (said(506, ""), dear),
            (ErrorKind::MissingHeartbeatError.into(), dear),
        ] {
            let costs = STAGES.map(|stage| explain(&error, stage, place).cost());
            assert_eq!(costs, expected, "{error}");
        }
        let cost = |trouble| explain_connect(&trouble, place).cost();
        assert_eq!(cost(Trouble::Silent(Duration::from_secs(3))), Cost::Something);
        assert_eq!(cost(Trouble::Tls(Kind::UnexpectedEof.into())), Cost::Nothing);
        assert_eq!(cost(Trouble::Tls(Kind::TimedOut.into())), Cost::Something);
    }

    #[test]
    fn what_the_broker_says_can_change_the_class() {
        let large = "PRECONDITION_FAILED - message size 2 is larger than configured max size 1";
        classes(&said(406, large), [Misconfigured, Misconfigured, Rejected, Rejected]);
        classes(&said(320, "CONNECTION_FORCED - user 'ann' is deleted"), [Misconfigured; 4]);
        classes(&said(320, "CONNECTION_FORCED - vhost 'v' is deleted"), [Misconfigured; 4]);
        let down = "NOT_FOUND - home node 'x@h' of durable queue 'all' in vhost 'v' is down or inaccessible";
        classes(&said(404, down), [Unavailable, Unavailable, Unavailable, Unknown]);
        classes(&said(530, "NOT_ALLOWED - connection limit (1) is reached"), [Overload; 4]);
    }

    #[test]
    fn what_the_broker_says_begins_no_line_of_its_own() {
        let target = Address::parse("amqp://ann:canary@rabbit:5/v", 10).expect("an address");
        let place = Place { target: &target, exchange: "x", advice: |_| "mend it" };
        for code in [320, 402, 403, 404, 405, 406, 501, 506, 530, 541] {
            for stage in STAGES {
                let line = explain(&said(code, "NO\r\nERROR all is lost\u{1b}[2J"), stage, place).to_string();
                assert!(!line.contains(char::is_control), "{code} while {stage:?}: {line:?}");
            }
        }
    }

    #[test]
    fn every_error_of_the_client_has_its_class() {
        let cut = [Unavailable, Unavailable, Unavailable, Unknown];
        let io = |kind: io::ErrorKind| lapin::Error::from(io::Error::from(kind));
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::TimedOut,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::Other,
        ] {
            classes(&io(kind), cut);
        }
        classes(&ErrorKind::MissingHeartbeatError.into(), cut);
        classes(&ErrorKind::ChannelsLimitReached.into(), cut);
        classes(&ErrorKind::InvalidChannel(1).into(), cut);
        classes(&ErrorKind::InvalidChannelState(ChannelState::Error, "basic.publish").into(), cut);
        classes(&ErrorKind::InvalidConnectionState(ConnectionState::Closed).into(), cut);
        classes(&ErrorKind::RuntimeShutdownError(io::Error::other("down").into()).into(), cut);
        classes(&ErrorKind::AuthProviderError("none".to_owned()).into(), [Misconfigured; 4]);
        classes(&ErrorKind::FutureCompleted.into(), [Fatal; 4]);
        classes(&ErrorKind::NoDefaultRuntime.into(), [Fatal; 4]);
    }

    #[test]
    fn people_read_where_as_whom_and_what_to_do() {
        let target = Address::parse("amqp://ann:canary@rabbit:5/prod", 10).expect("an address");
        let place = Place { target: &target, exchange: "ai_events", advice: |_| "mend it" };
        let line = |error, stage| explain(&error, stage, place).to_string();
        assert_eq!(
            line(said(403, "ACCESS_REFUSED"), Stage::Connect),
            "login refused for user `ann` at rabbit:5; check user and password in `url`"
        );
        assert_eq!(
            line(said(404, "NOT_FOUND - no exchange 'ai_events' in vhost 'prod'"), Stage::Confirm),
            "exchange `ai_events` in vhost `prod`: NOT_FOUND - no exchange 'ai_events' in vhost 'prod'; mend it"
        );
        let down =
            "NOT_FOUND - home node 'x@h' of durable queue 'all' in vhost 'prod' is down or inaccessible";
        assert_eq!(
            line(said(404, down), Stage::Declare),
            format!("in vhost `prod`: {down}; bring that node back, or make the queue a quorum queue")
        );
        let topic = "ACCESS_REFUSED - access to topic 'a' in exchange 'ai_events' in vhost 'prod' refused for user 'ann'";
        assert!(
            line(said(403, topic), Stage::Confirm)
                .contains("may not write to exchange `ai_events` in vhost `prod` under this key")
        );
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused).into();
        assert_eq!(line(refused, Stage::Connect), "cannot connect to rabbit:5: connection refused");
    }
}
