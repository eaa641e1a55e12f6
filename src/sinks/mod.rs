//! Where events go.
//!
//! | sink | for | order, guarantee |
//! |---|---|---|
//! | [`terminal`](mod@terminal) | people who watch, and `grep` | in order; what is on the screen is gone |
//! | [`file`](mod@file) | keeping events, reading them with other tools, dead letters | in order; survives the process, not the power |
//!
//! A configuration is what YAML says under `sinks.<name>`; in code it is made here and changed with its setters:
//!
//! ```
//! use streamll::sinks::{self, terminal::Color};
//!
//! let screen = sinks::terminal().color(Color::Never);
//! let kept = sinks::file("/var/log/rag-api/events.ndjson");
//! assert_eq!(kept.path.file_name().unwrap(), "events.ndjson");
//! ```

pub mod file;
pub mod terminal;

use std::path::PathBuf;

pub use file::FileConfig;
pub use terminal::TerminalConfig;

/// Events as readable lines on standard output, in colour where that is a terminal.
#[must_use]
pub fn terminal() -> TerminalConfig {
    TerminalConfig::default()
}

/// Events as lines of JSON, appended to the file `path`.
#[must_use]
pub fn file(path: impl Into<PathBuf>) -> FileConfig {
    FileConfig { path: path.into() }
}
