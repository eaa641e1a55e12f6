//! What changes or drops events on their way: for all sinks (between enricher and router), or for one sink alone.
//!
//! | processor | does |
//! |---|---|
//! | [`filter`] | keeps the events that match a topic and values, drops the others |
//! | [`redact`] | replaces the values of named fields |
//!
//! In code every `FnMut(Event) -> Option<Event>` is a processor too.

pub mod filter;
pub mod redact;

pub use filter::{Filter, FilterConfig};
pub use redact::{Redact, RedactConfig};
