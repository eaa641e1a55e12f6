//! What the errors of client and broker mean: their class, and one line that says to an operator what to do.

mod connecting;
mod reply;
mod scene;

pub(crate) use connecting::{Trouble, explain_connect};
pub(crate) use reply::{explain, is_no_exchange, is_vague};
pub(crate) use scene::{Place, Refusal, Stage};

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use lapin::protocol::AMQPError;
    use lapin::{ChannelState, ConnectionState, ErrorKind};
    use streamll_actors::sink::{Cost, ErrorClass};

    use super::super::address::Address;
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
