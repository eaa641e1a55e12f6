//! Why there is no connection, and what that means.

use std::io;
use std::time::Duration;

use streamll_actors::sink::{Cost, DeliveryError, ErrorClass};

use super::super::address::Address;
use super::reply::{explain, of, unreachable};
use super::scene::{Place, Stage};
use crate::brokers::net::{self, NoTrust, Unreachable};

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
