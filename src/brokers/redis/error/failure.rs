//! A failure, understood: its class, its cost, a line for an operator, and whether anything can have been carried out.

use std::fmt::Display;
use std::io::ErrorKind;
use std::time::Duration;

use streamll_actors::sink::{Cost, DeliveryError, ErrorClass};

use super::super::address::Address;

/// A failure, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: ErrorClass,
    pub(super) cost: Cost,
    what: String,
    /// Whether what was sent is certain not to have been carried out.
    pub(crate) unsent: bool,
    /// Whether the connection may be used again.
    pub(crate) keep: bool,
}

impl Failure {
    pub(crate) fn new(class: ErrorClass, what: impl Into<String>) -> Failure {
        Failure { class, cost: Cost::of(class, None), what: what.into(), unsent: true, keep: false }
    }

    pub(crate) fn unavailable(what: impl Into<String>) -> Failure {
        Failure::new(ErrorClass::Unavailable, what)
    }

    pub(crate) fn misconfigured(what: impl Into<String>) -> Failure {
        Failure::new(ErrorClass::Misconfigured, what)
    }

    pub(super) fn overload(what: impl Into<String>) -> Failure {
        Failure::new(ErrorClass::Overload, what).kept()
    }

    /// The connection may be used again.
    pub(super) fn kept(self) -> Failure {
        Failure { keep: true, ..self }
    }

    /// What was sent may have been carried out.
    pub(super) fn perhaps_sent(self) -> Failure {
        Failure { unsent: false, ..self }
    }

    /// An error of the system is behind it.
    pub(super) fn by(self, kind: Option<ErrorKind>) -> Failure {
        Failure { cost: Cost::of(self.class, kind), ..self }
    }

    /// The first of two failures, of several nodes: a node that refuses is asked again soon, although another is silent.
    pub(crate) fn cheaper(self, other: &Failure) -> Failure {
        let is_free = self.class == ErrorClass::Unavailable && other.cost == Cost::Nothing;
        Failure { cost: if is_free { Cost::Nothing } else { self.cost }, ..self }
    }

    /// Says which one of several nodes failed.
    pub(crate) fn of_node(self, node: &Address) -> Failure {
        Failure { what: format!("node {node}: {}", self.what), ..self }
    }

    /// The server did not answer in time while connecting.
    pub(crate) fn late(limit: Duration) -> Failure {
        Failure::unavailable(format!(
            "no connection within {limit:?}: is it frozen, or a firewall in between?"
        ))
        .by(Some(ErrorKind::TimedOut))
    }

    /// The same failure, in the course of something larger: `describe` words that around what it says.
    pub(crate) fn amid(self, describe: impl FnOnce(&str) -> String) -> Failure {
        Failure { what: describe(&self.what), ..self }
    }

    /// The error to report, with the server's address in front.
    pub(crate) fn at(self, address: impl Display) -> DeliveryError {
        let Failure { class, cost, what, .. } = self;
        let error = match class {
            ErrorClass::Rejected => DeliveryError::rejected(format!("{address}: {what}")),
            ErrorClass::Misconfigured => {
                DeliveryError::misconfigured(format!("{address}: {what}; events wait"))
            }
            ErrorClass::Overload => DeliveryError::overload(format!("{address}: {what}; events wait")),
            ErrorClass::Unknown => DeliveryError::unknown(format!("{address}: {what}; events wait")),
            _ => DeliveryError::unavailable(format!("{address}: {what}; events wait")),
        };
        error.with_cost(cost)
    }
}
