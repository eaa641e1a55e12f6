//! Why a delivery failed, and what that means for the breaker, the retry and the dead letters.

use std::error::Error as StdError;
use std::fmt;

type Source = Box<dyn StdError + Send + Sync>;

/// Why a delivery (or an `open`) failed.
///
/// | class | meaning | then |
/// |---|---|---|
/// | `Unavailable` | refused, reset, starting up | retried in order; counts for the breaker; `open` runs again |
/// | `Unknown` | timed out or cut after the write: may have arrived | the same; the next attempt is marked |
/// | `Overload` | the broker says: not now | retried in order; counts for the breaker |
/// | `Misconfigured` | wrong password, type, exchange | opens the breaker at once; never dead-letters |
/// | `Rejected` | some event of this batch is bad, unknown which | the machine bisects; alone, it is poison |
/// | `Fatal` | this incarnation cannot work | the supervisor starts a fresh one |
#[derive(Debug)]
pub struct DeliveryError {
    class: ErrorClass,
    source: Source,
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
    /// See [`ErrorClass::Unavailable`].
    pub fn unavailable(source: impl Into<Source>) -> DeliveryError {
        DeliveryError { class: ErrorClass::Unavailable, source: source.into() }
    }

    /// See [`ErrorClass::Unknown`].
    pub fn unknown(source: impl Into<Source>) -> DeliveryError {
        DeliveryError { class: ErrorClass::Unknown, source: source.into() }
    }

    /// See [`ErrorClass::Overload`].
    pub fn overload(source: impl Into<Source>) -> DeliveryError {
        DeliveryError { class: ErrorClass::Overload, source: source.into() }
    }

    /// See [`ErrorClass::Misconfigured`].
    pub fn misconfigured(source: impl Into<Source>) -> DeliveryError {
        DeliveryError { class: ErrorClass::Misconfigured, source: source.into() }
    }

    /// See [`ErrorClass::Rejected`].
    pub fn rejected(source: impl Into<Source>) -> DeliveryError {
        DeliveryError { class: ErrorClass::Rejected, source: source.into() }
    }

    /// See [`ErrorClass::Fatal`].
    pub fn fatal(source: impl Into<Source>) -> DeliveryError {
        DeliveryError { class: ErrorClass::Fatal, source: source.into() }
    }

    /// What it means.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.class
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
impl From<std::io::Error> for DeliveryError {
    fn from(error: std::io::Error) -> DeliveryError {
        DeliveryError::unavailable(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
