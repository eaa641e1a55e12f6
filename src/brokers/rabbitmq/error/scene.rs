//! What an error is about: when it came, at what, and what the caller advises.

use super::super::address::Address;

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
