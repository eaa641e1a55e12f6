//! Why a delivery failed, and what that means for the breaker, the retry and the dead letters.

use std::error::Error as StdError;
use std::{fmt, io};

type Source = Box<dyn StdError + Send + Sync>;

/// Why a delivery (or an `open`) failed.
///
/// | class | meaning | then |
/// |---|---|---|
/// | `Unavailable` | refused, reset, no such name, starting up | retried in order; counts for the breaker; `open` runs again |
/// | `Unknown` | timed out or cut after the write: may have arrived | the same; the next attempt is marked |
/// | `Overload` | the broker says: not now | retried in order; counts for the breaker |
/// | `Misconfigured` | wrong password, type, exchange | opens the breaker at once; never dead-letters |
/// | `Rejected` | some event of this batch is bad, unknown which | the machine bisects; alone, it is poison |
/// | `Fatal` | this incarnation cannot work | the supervisor starts a fresh one |
///
/// How soon a sink is tried again that is away follows from what the failure [cost](DeliveryError::cost).
#[derive(Debug)]
pub struct DeliveryError {
    class: ErrorClass,
    cost: Cost,
    source: Source,
}

/// What a failed attempt cost, which decides how soon the next one comes.
///
/// ```
/// use std::io::ErrorKind;
/// use streamll_actors::sink::{Cost, DeliveryError};
///
/// let refused = DeliveryError::from(std::io::Error::from(ErrorKind::ConnectionRefused));
/// let silent = DeliveryError::from(std::io::Error::from(ErrorKind::TimedOut));
/// assert_eq!((refused.cost(), silent.cost()), (Cost::Nothing, Cost::Something));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Cost {
    /// Refused, reset, no such name, starting up: the answer came at once, and nobody had to work for it.
    Nothing,
    /// No answer, overload, or what a person must mend.
    #[default]
    Something,
}

impl Cost {
    /// What a failure of this class cost; `kind` is that of the I/O error behind it, where there is one.
    #[must_use]
    pub fn of(class: ErrorClass, kind: Option<io::ErrorKind>) -> Cost {
        use io::ErrorKind as Kind;
        // Names that are not found have no kind of their own: whatever is not known to have taken time cost nothing.
        let took_time = matches!(
            kind,
            Some(Kind::TimedOut | Kind::WouldBlock | Kind::StorageFull | Kind::QuotaExceeded)
                | Some(Kind::OutOfMemory | Kind::ResourceBusy)
        );
        let is_cut = matches!(
            kind,
            Some(Kind::ConnectionRefused | Kind::ConnectionReset | Kind::ConnectionAborted)
                | Some(Kind::NotConnected | Kind::BrokenPipe | Kind::UnexpectedEof)
        );
        match class {
            ErrorClass::Unavailable if !took_time => Cost::Nothing,
            ErrorClass::Unknown if is_cut => Cost::Nothing,
            _ => Cost::Something,
        }
    }
}

/// The classes of [`DeliveryError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The broker is not there.
    Unavailable,
    /// The outcome is unknown: the events may have arrived.
    Unknown,
    /// The broker refuses for now.
    Overload,
    /// Only a person can mend it.
    Misconfigured,
    /// An event of the batch is bad.
    Rejected,
    /// The sink itself is broken.
    Fatal,
}

impl ErrorClass {
    /// The name in reports and dead letters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorClass::Unavailable => "unavailable",
            ErrorClass::Unknown => "unknown",
            ErrorClass::Overload => "overload",
            ErrorClass::Misconfigured => "misconfigured",
            ErrorClass::Rejected => "rejected",
            ErrorClass::Fatal => "fatal",
        }
    }
}

impl DeliveryError {
    fn new(class: ErrorClass, source: Source) -> DeliveryError {
        let first: &(dyn StdError + 'static) = &*source;
        let mut causes = std::iter::successors(Some(first), |error| (*error).source());
        let kind = causes.find_map(|error| Some(error.downcast_ref::<io::Error>()?.kind()));
        DeliveryError { class, cost: Cost::of(class, kind), source }
    }

    /// See [`ErrorClass::Unavailable`].
    pub fn unavailable(source: impl Into<Source>) -> DeliveryError {
        DeliveryError::new(ErrorClass::Unavailable, source.into())
    }

    /// See [`ErrorClass::Unknown`].
    pub fn unknown(source: impl Into<Source>) -> DeliveryError {
        DeliveryError::new(ErrorClass::Unknown, source.into())
    }

    /// See [`ErrorClass::Overload`].
    pub fn overload(source: impl Into<Source>) -> DeliveryError {
        DeliveryError::new(ErrorClass::Overload, source.into())
    }

    /// See [`ErrorClass::Misconfigured`].
    pub fn misconfigured(source: impl Into<Source>) -> DeliveryError {
        DeliveryError::new(ErrorClass::Misconfigured, source.into())
    }

    /// See [`ErrorClass::Rejected`].
    pub fn rejected(source: impl Into<Source>) -> DeliveryError {
        DeliveryError::new(ErrorClass::Rejected, source.into())
    }

    /// See [`ErrorClass::Fatal`].
    pub fn fatal(source: impl Into<Source>) -> DeliveryError {
        DeliveryError::new(ErrorClass::Fatal, source.into())
    }

    /// What it means.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.class
    }

    /// What the failure cost. `Unavailable` costs nothing, unless an I/O error behind it says that time ran out;
    /// `Unknown` costs something, unless one says that the connection was cut; every other class costs something.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Says what it cost, where class and cause do not tell.
    #[must_use]
    pub fn with_cost(self, cost: Cost) -> DeliveryError {
        DeliveryError { cost, ..self }
    }
}

/// The cause alone, with its own causes: the class is for machines.
impl fmt::Display for DeliveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        let mut cause = self.source.source();
        while let Some(next) = cause {
            write!(f, ": {next}")?;
            cause = next.source();
        }
        Ok(())
    }
}

/// Without a `source`: what prints a chain of errors would say the causes twice.
impl StdError for DeliveryError {}

/// An I/O error of a sink that says no more is taken as [`ErrorClass::Unavailable`].
impl From<io::Error> for DeliveryError {
    fn from(error: io::Error) -> DeliveryError {
        DeliveryError::unavailable(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorClass::{Fatal, Misconfigured, Overload, Rejected, Unavailable, Unknown};
    use io::ErrorKind as Kind;

    #[track_caller]
    fn costs(error: DeliveryError, expected: Cost) {
        assert_eq!(error.cost(), expected, "{error:?}");
    }

    #[test]
    fn what_is_refused_costs_nothing_and_what_is_silent_does() {
        for (class, kind, expected) in [
            (Unavailable, None, Cost::Nothing),
            (Unavailable, Some(Kind::ConnectionRefused), Cost::Nothing),
            (Unavailable, Some(Kind::ConnectionReset), Cost::Nothing),
            (Unavailable, Some(Kind::HostUnreachable), Cost::Nothing),
            (Unavailable, Some(Kind::NotFound), Cost::Nothing),
            (Unavailable, Some(Kind::TimedOut), Cost::Something),
            (Unavailable, Some(Kind::WouldBlock), Cost::Something),
            (Unavailable, Some(Kind::StorageFull), Cost::Something),
            (Unknown, None, Cost::Something),
            (Unknown, Some(Kind::TimedOut), Cost::Something),
            (Unknown, Some(Kind::ConnectionReset), Cost::Nothing),
            (Unknown, Some(Kind::BrokenPipe), Cost::Nothing),
            (Unknown, Some(Kind::UnexpectedEof), Cost::Nothing),
            (Unknown, Some(Kind::Other), Cost::Something),
        ] {
            assert_eq!(Cost::of(class, kind), expected, "{class:?} {kind:?}");
        }
        for class in [Overload, Misconfigured, Rejected, Fatal] {
            for kind in [None, Some(Kind::ConnectionRefused), Some(Kind::ConnectionReset)] {
                assert_eq!(Cost::of(class, kind), Cost::Something, "{class:?} {kind:?}");
            }
        }
    }

    /// What a client library makes of an error of the system.
    #[derive(Debug)]
    struct Client(io::Error);

    impl fmt::Display for Client {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the client fails")
        }
    }

    impl StdError for Client {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn the_system_error_behind_an_error_is_found_however_deep() {
        let client = |kind: Kind| Client(kind.into());
        costs(io::Error::from(Kind::ConnectionRefused).into(), Cost::Nothing);
        costs(io::Error::from(Kind::TimedOut).into(), Cost::Something);
        costs(DeliveryError::unavailable(client(Kind::ConnectionRefused)), Cost::Nothing);
        costs(DeliveryError::unavailable(client(Kind::TimedOut)), Cost::Something);
        costs(DeliveryError::unknown(client(Kind::ConnectionReset)), Cost::Nothing);
        costs(DeliveryError::unknown("no answer"), Cost::Something);
        costs(DeliveryError::unavailable("no answer").with_cost(Cost::Something), Cost::Something);
    }

    #[test]
    fn a_name_that_is_not_found_costs_nothing() {
        // Not a name at all: no server is asked.
        let error = std::net::ToSocketAddrs::to_socket_addrs(&("no such name", 1)).map(drop).unwrap_err();
        costs(error.into(), Cost::Nothing);
    }

    #[test]
    fn what_prints_a_chain_of_errors_says_each_cause_once() {
        let inner = std::io::Error::other(DeliveryError::fatal("no route"));
        let error = DeliveryError::unavailable(std::io::Error::other(inner));
        let mut said = error.to_string();
        let mut next = StdError::source(&error);
        while let Some(cause) = next {
            said = format!("{said}: {cause}");
            next = cause.source();
        }
        assert_eq!(said.matches("no route").count(), 1, "{said}");
    }
}
