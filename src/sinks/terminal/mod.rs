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

use serde::{Deserialize, Serialize};
use streamll_actors::sink::{Deliveries, DeliveryError, Sink, SinkContext};

use super::flow::{self, Flow};
use crate::pipes::Outlet;
use render::Renderer;

pub(crate) use self::sanitize::{acts, harmless};

/// Most bytes of one write, give or take a line: what a pipe takes without blocking once it is ready (`PIPE_BUF`).
const CHUNK: usize = 4096 - 512;

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

    /// Makes the sink. Whether the target is a terminal is looked up now.
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
        let outlet = match self.target {
            Target::Stdout => Outlet::stdout(),
            Target::Stderr => Outlet::stderr(),
        };
        let terminal = match (outlet, self.target) {
            (Ok(outlet), _) => Terminal::new(Way::Flow(Flow::new(outlet)), style),
            // The target is closed, which writing reports.
            (Err(_), Target::Stdout) => Terminal::to(io::stdout(), style),
            (Err(_), Target::Stderr) => Terminal::to(io::stderr(), style),
        };
        Terminal { name: self.target.as_str(), ..terminal }
    }
}

/// How lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether to use colours.
    pub color: bool,
    /// Whether the tokens of a step flow on one line; if not, each event is one line.
    pub flow: bool,
}

/// Writes events as lines that people read. Writing may hold the thread, so the sink needs one of its own.
pub struct Terminal {
    way: Way,
    name: &'static str,
    renderer: Renderer,
    /// Where the sink says that nobody reads.
    ctx: Option<SinkContext>,
}

/// Where the lines go.
enum Way {
    /// Out of this process.
    Flow(Flow),
    /// Whatever an application has.
    Writer { out: Box<dyn Write>, text: Vec<u8> },
}

impl Terminal {
    /// Writes to `out` in a fixed style.
    #[must_use]
    pub fn to(out: impl Write + 'static, style: Style) -> Terminal {
        let text = Vec::with_capacity(2 * CHUNK);
        Terminal::new(Way::Writer { out: Box::new(out), text }, style)
    }

    fn new(way: Way, style: Style) -> Terminal {
        Terminal { way, name: "the writer", renderer: Renderer::new(style), ctx: None }
    }

    async fn write(&mut self, batch: &mut Deliveries) -> io::Result<()> {
        let renderer = &mut self.renderer;
        let patience = flow::patience(self.ctx.as_ref());
        let mut next = match &mut self.way {
            Way::Flow(flow) => flow.resume(batch, patience).await?,
            Way::Writer { .. } => 0,
        };
        while next < batch.len() {
            let first = next;
            match &mut self.way {
                Way::Flow(flow) => {
                    // A pager that is not scrolled and Ctrl-S stop the text for minutes. Nothing is rendered before it can
                    // be written.
                    flow.ready(patience).await?;
                    for delivery in batch.as_slice().iter().skip(first) {
                        flow.add(&delivery.event, |text| renderer.render(&delivery.event, text));
                        next += 1;
                        if flow.len() >= CHUNK {
                            break;
                        }
                    }
                    flow.write(batch, first, patience).await?;
                }
                Way::Writer { out, text } => {
                    text.clear();
                    for delivery in batch.as_slice().iter().skip(first) {
                        renderer.render(&delivery.event, text);
                        next += 1;
                        if text.len() >= CHUNK {
                            break;
                        }
                    }
                    out.write_all(text).and_then(|()| out.flush()).inspect_err(|_| renderer.torn())?;
                    (first..next).for_each(|i| batch.delivered(i));
                }
            }
        }
        Ok(())
    }

    fn explain(&mut self, error: io::Error) -> DeliveryError {
        let name = self.name;
        match error.kind() {
            // The reader is gone for good: the sink is soon given up, so that nothing waits for it.
            io::ErrorKind::BrokenPipe => DeliveryError::fatal(format!(
                "{name} was closed by its reader; start both again, or take the terminal sink out"
            )),
            io::ErrorKind::TimedOut => {
                let reason = format!(
                    "nobody reads {name}: it takes nothing; scroll the pager, press Ctrl-Q, or let its reader go on"
                );
                if let (Way::Flow(flow), Some(ctx)) = (&mut self.way, &self.ctx) {
                    flow.block(ctx, &reason);
                }
                DeliveryError::overload(reason)
            }
            _ => DeliveryError::unavailable(error),
        }
    }
}

impl Sink for Terminal {
    async fn open(&mut self, ctx: &SinkContext) -> Result<(), DeliveryError> {
        self.ctx = Some(ctx.clone());
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        self.write(batch).await.map_err(|error| self.explain(error))
    }

    async fn close(&mut self) {
        let mut text = Vec::new();
        self.renderer.close_line(&mut text);
        match &mut self.way {
            Way::Flow(flow) => flow.close(&text),
            Way::Writer { out, .. } => drop(out.write_all(&text).and_then(|()| out.flush())),
        }
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").field("name", &self.name).finish_non_exhaustive()
    }
}
