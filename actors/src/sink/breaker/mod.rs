//! The circuit breaker of one sink: its states, each a type of its own, and the circuit that moves between them.

mod circuit;
#[cfg(test)]
mod model;
mod states;
#[cfg(test)]
mod tests;

pub use circuit::{Circuit, Force, Outcome, Permit, Transition};
pub use states::{Breaker, BreakerPolicy, CircuitState, Closed, HalfOpen, Open};
