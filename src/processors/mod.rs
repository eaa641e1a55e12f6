//! Processors: they change or drop events on their way, for all sinks (between enricher and router) or for one sink.
//!
//! | processor | what it does |
//! |---|---|
//! | [`coalesce`] | merges tokens: the first passes at once, then at most one event for each window, with the same text in total |
//! | [`content`] | removes what was said; `content: off` uses it |
//! | [`filter`] | keeps the events that match topics and values, and drops the others |
//! | [`redact`] | replaces the values of named fields |
//! | [`sample`] | keeps a share of the runs, each whole or not at all, and all errors |
//!
//! In code, every `FnMut(Event) -> Option<Event>` is a processor, too.

pub mod coalesce;
pub mod content;
pub mod filter;
pub mod redact;
pub mod sample;

pub use coalesce::{Coalesce, CoalesceConfig};
pub use content::WithoutContent;
pub use filter::{Filter, FilterConfig};
pub use redact::{Redact, RedactConfig};
pub use sample::{Sample, SampleConfig};
