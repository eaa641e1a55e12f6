//! The terminal sink: events as lines that people read.
//!
//! On a terminal the tokens of one step flow on one line, until another event closes it. Into a pipe or a file every
//! event is exactly one line, whatever its text holds:
//!
//! ```text
//! [16:31:42.156] ▶ llm_call (a1b2c3d4)
//! [16:31:43.156] • llm_call (a1b2c3d4) 'The answer is'
//! [16:31:46.782] ■ llm_call (a1b2c3d4) 4.63s {"total_tokens": 287}
//! [16:31:46.790] ✖ llm_call (a1b2c3d4) Timeout: upstream took 30 s
//! ```
//!
//! The time is the event's, in UTC, also on a terminal, so that it compares with logs. The name is the operation, else
//! the method, else the module; behind it stand the first eight characters of the `span_id`. The signs:
//!
//! | sign | event |
//! |---|---|
//! | `▶` `■` | `start`, `end` of a step |
//! | `▷` `□` | `llm_start`, `llm_end` |
//! | `⚙` | `tool_start`; `tool_end` says `done` |
//! | `•` | a token, or several that were merged; a second field of the same step is named |
//! | `✖` | `error` |
//! | `◆` | a custom event, by its own name |
//! | `⋯` | a gap: events that this sink was not given |
//! | `▲` | a sink is in trouble, or out of it |
//!
//! The end of a step that streamed two tokens or more says how long the first one took and how many came per second;
//! text that was streamed without a gap is not shown again. Data is cut after 240 columns; tokens never.
//!
//! Text comes from a model, so it is shown and never executed: control characters, escape sequences, invisible and
//! reordering characters become pictures such as `␛`, one by one, so that it does not matter how they are spread over
//! tokens.

mod render;
mod sanitize;
mod spans;

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use streamll_actors::sink::{Deliveries, DeliveryError, Sink};

use render::Renderer;

pub(crate) use self::sanitize::{acts, harmless};

/// Most bytes of one write, give or take a line: what a pipe takes without blocking once it is ready (`PIPE_BUF`).
const CHUNK: usize = 4096 - 512;

/// How often to look whether a stopped terminal or a full pipe takes text again.
const STALLED: Duration = Duration::from_millis(10);

/// What YAML says of a sink with `type: terminal`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TerminalConfig {
    /// Whether to write in colour: `auto` (the default), `always` or `never`.
    pub color: Color,
    /// Where to write: `stdout` (the default) or `stderr`.
    pub target: Target,
}

/// Whether the terminal sink writes in colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Color {
    /// Where the target is a terminal that can, and `NO_COLOR` is not set.
    #[default]
    Auto,
    /// Into pipes too, for example for `less -R`.
    Always,
    /// Never.
    Never,
}

/// Where the terminal sink writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
}

impl Target {
    fn as_str(self) -> &'static str {
        match self {
            Target::Stdout => "stdout",
            Target::Stderr => "stderr",
        }
    }
}

impl TerminalConfig {
    /// Sets whether to write in colour.
    #[must_use]
    pub fn color(mut self, color: Color) -> TerminalConfig {
        self.color = color;
        self
    }

    /// Sets where to write.
    #[must_use]
    pub fn target(mut self, target: Target) -> TerminalConfig {
        self.target = target;
        self
    }

    /// Makes the sink; what the target is, is looked up now.
    #[must_use]
    pub fn build(&self) -> Terminal {
        let flow = match self.target {
            Target::Stdout => io::stdout().is_terminal(),
            Target::Stderr => io::stderr().is_terminal(),
        };
        let is = |name, test: fn(&OsStr) -> bool| std::env::var_os(name).is_some_and(|value| test(&value));
        let color = match self.color {
            Color::Auto => {
                flow && !is("NO_COLOR", |value| !value.is_empty()) && !is("TERM", |term| term == "dumb")
            }
            Color::Always => true,
            Color::Never => false,
        };
        let style = Style { color, flow };
        match self.target {
            Target::Stdout => {
                Terminal { ready: || takes_text(&io::stdout()), ..Terminal::to(io::stdout(), style) }
            }
            Target::Stderr => {
                Terminal { ready: || takes_text(&io::stderr()), ..Terminal::to(io::stderr(), style) }
            }
        }
        .named(self.target.as_str())
    }
}

/// How lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// With colours.
    pub color: bool,
    /// With the tokens of a step on one line; otherwise each event is one line.
    pub flow: bool,
}

/// Writes events as lines that people read. Blocks its thread while it writes, so it wants one of its own.
pub struct Terminal {
    out: Box<dyn Write>,
    name: &'static str,
    ready: fn() -> bool,
    renderer: Renderer,
    text: Vec<u8>,
}

impl Terminal {
    /// Writes to `out` in a fixed style.
    #[must_use]
    pub fn to(out: impl Write + 'static, style: Style) -> Terminal {
        Terminal {
            out: Box::new(out),
            name: "the writer",
            ready: || true,
            renderer: Renderer::new(style),
            text: Vec::with_capacity(2 * CHUNK),
        }
    }

    fn named(self, name: &'static str) -> Terminal {
        Terminal { name, ..self }
    }

    fn write(&mut self) -> Result<(), DeliveryError> {
        self.out.write_all(&self.text).and_then(|()| self.out.flush()).map_err(|error| {
            self.renderer.torn();
            match error.kind() {
                // Whoever read is gone for good: the sink is soon given up, so that nobody waits for it.
                io::ErrorKind::BrokenPipe => DeliveryError::fatal(format!(
                    "{} was closed by its reader; start both again, or take the terminal sink out",
                    self.name
                )),
                _ => DeliveryError::unavailable(error),
            }
        })
    }
}

impl Sink for Terminal {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        let mut next = 0;
        while next < batch.len() {
            // A pager that is not scrolled and Ctrl-S stop the text for minutes: that is no fault of the sink, so the
            // thread stays free and the delivery can time out. Nothing is rendered before it can be written.
            while !(self.ready)() {
                tokio::time::sleep(STALLED).await;
            }
            self.text.clear();
            let first = next;
            for delivery in batch.as_slice().iter().skip(first) {
                self.renderer.render(&delivery.event, &mut self.text);
                next += 1;
                if self.text.len() >= CHUNK {
                    break;
                }
            }
            self.write()?;
            (first..next).for_each(|i| batch.delivered(i));
        }
        Ok(())
    }

    async fn close(&mut self) {
        self.text.clear();
        self.renderer.close_line(&mut self.text);
        let _ = self.write();
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Whether a write would not block; also true where it would fail, so that the write says why.
#[cfg(unix)]
fn takes_text(target: &impl std::os::fd::AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(target, PollFlags::OUT)], Some(&now)).map_or(true, |ready| ready > 0)
}

#[cfg(not(unix))]
fn takes_text<T>(_: &T) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::FutureExt;
    use streamll_actors::event::{Delivery, Event, Step};

    use super::*;

    #[test]
    fn a_stopped_target_keeps_the_delivery_waiting_and_nothing_is_lost() {
        static READY: AtomicBool = AtomicBool::new(false);
        let (mut reader, writer) = io::pipe().unwrap();
        let mut terminal =
            Terminal { ready: || READY.load(Ordering::Relaxed), ..Terminal::to(writer, Style::default()) };
        let event = Event::new(&Step::new("Rag"), "start");
        let mut batch = Deliveries::new(vec![Delivery::new(event, "k".into())]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            assert!(terminal.deliver(&mut batch).now_or_never().is_none());
            READY.store(true, Ordering::Relaxed);
            assert!(terminal.deliver(&mut batch).now_or_never().is_some());
        });
        drop(terminal);
        assert_eq!(
            io::read_to_string(&mut reader).unwrap().lines().count(),
            1,
            "the one that waited wrote nothing"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_pipe_takes_no_text_and_a_closed_one_says_so_itself() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        assert!(takes_text(&writer));
        writer.write_all(&[0; 1 << 16]).unwrap();
        assert!(!takes_text(&writer));
        io::Read::read_exact(&mut reader, &mut [0; 1 << 13]).unwrap();
        assert!(takes_text(&writer));
        drop(reader);
        assert!(takes_text(&writer));
    }
}
