//! The command line, with the kinds of sinks and processors that the program knows.

mod check;
mod dead;
mod demo;
mod input;
mod replay;
mod report;
mod run;
mod signals;
#[cfg(any(feature = "redis", feature = "rabbitmq"))]
mod tail;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::sinks::terminal::harmless;
use crate::topology::{Registry, TopologyError, mask_argument};
use crate::{Drained, pipes};

/// Something was shed, rejected, dead-lettered, or left in memory.
const INCOMPLETE: u8 = 1;
/// The command is wrong, as clap has it.
const USAGE: u8 = 2;
/// Only the lock of a disk buffer was not to be had (`EX_TEMPFAIL` of sysexits): once its process has ended, it is.
const LOCKED: u8 = 75;
/// The topology is wrong (`EX_CONFIG` of sysexits).
const CONFIGURATION: u8 = 78;

/// Streams the events of an AI application through a supervised graph of actors to terminals, files and brokers.
#[derive(Debug, Parser)]
#[command(name = "streamll", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read events from standard input, one JSON object a line, and deliver them
    Run(run::Run),
    /// Check topologies; nothing is started, and no connection is made
    Check(check::Check),
    /// List, show, send again or delete the events that could never be delivered
    Dead(dead::Dead),
    /// Watch the events of a Redis stream or of a RabbitMQ exchange live
    #[cfg(any(feature = "redis", feature = "rabbitmq"))]
    Tail(tail::Tail),
    /// Send the events of a file or of a Redis stream through a topology again
    Replay(replay::Replay),
    /// Watch a simulated RAG chat that streams through the development topology
    Demo(demo::Demo),
}

/// Where topologies are, and which one.
#[derive(Debug, clap::Args)]
struct Choice {
    /// The folder that contains the topologies
    #[arg(
        long,
        value_name = "DIR",
        env = "STREAMLL_TOPOLOGIES",
        default_value = "topologies",
        global = true
    )]
    topologies: PathBuf,
    /// The environment: the file `<NAME>.yaml` in that folder [default: $STREAMLL_ENV, else development on a terminal]
    #[arg(long, value_name = "NAME", global = true)]
    env: Option<String>,
}

impl Choice {
    fn environment(&self) -> Result<String, TopologyError> {
        crate::runtime::environment(self.env.as_deref(), &self.topologies)
    }
}

/// How to say something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text for people
    Text,
    /// One JSON object
    Json,
}

/// Runs the command `streamll` with these kinds of sinks and processors, and returns its exit code.
///
/// A command that knows your own kinds is one line:
///
/// ```no_run
/// use streamll::{Deliveries, DeliveryError, Registry, Sink};
///
/// struct Nowhere;
/// impl Sink for Nowhere {
///     async fn deliver(&mut self, _: &mut Deliveries) -> Result<(), DeliveryError> {
///         Ok(())
///     }
/// }
///
/// #[derive(serde::Deserialize)]
/// struct NowhereConfig {}
///
/// fn main() -> std::process::ExitCode {
///     streamll::cli::main(Registry::default().sink("nowhere", |_: NowhereConfig| Nowhere))
/// }
/// ```
#[must_use]
pub fn main(kinds: Registry) -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| usage(&error));
    start_log(&cli.command);
    match cli.command {
        Command::Run(run) => run.run(&kinds),
        Command::Check(check) => check.run(&kinds),
        Command::Dead(dead) => dead.run(&kinds),
        #[cfg(any(feature = "redis", feature = "rabbitmq"))]
        Command::Tail(tail) => tail.run(),
        Command::Replay(replay) => replay.run(&kinds),
        Command::Demo(demo) => demo.run(&kinds),
    }
}

/// What the client of RabbitMQ logs, the sinks and consumers say with a reason and where: once for each change, not for each
/// try.
const SAID_ONCE: &str = "lapin=off";

/// A filter of tracing, without what is said twice, where it says nothing of that itself.
fn filter(given: &str) -> Result<EnvFilter, ParseError> {
    let more = if given.contains("lapin") { "" } else { SAID_ONCE };
    EnvFilter::try_new(format!("{given},{more}"))
}

/// Says what is wrong with the command line, and ends. What was given may hold a password, and came to a wrong place.
fn usage(error: &clap::Error) -> ! {
    use std::io::Write as _;
    if !error.use_stderr() {
        error.exit();
    }
    let plain = error.render().to_string();
    let mut shown = plain.clone();
    for given in std::env::args_os() {
        let given = given.to_string_lossy();
        if argument(&given) != given {
            shown = shown.replace(&*given, &argument(&given));
        }
    }
    if shown == plain {
        error.exit();
    }
    let _ = write!(pipes::stderr(), "{shown}");
    std::process::exit(error.exit_code())
}

/// What was given on the command line, as it may be shown.
fn argument(given: &str) -> String {
    harmless(&mask_argument(given))
}

/// Logs go to standard error; `STREAMLL_LOG=info` (or `debug`, or a filter of tracing) says more.
fn start_log(command: &Command) {
    let quiet = match command {
        Command::Demo(_) => "off",
        // It says by itself how it stands.
        #[cfg(any(feature = "redis", feature = "rabbitmq"))]
        Command::Tail(_) => "off",
        _ => "warn",
    };
    let asked = std::env::var("STREAMLL_LOG").ok().and_then(|given| filter(&given).ok());
    let filter = asked.or_else(|| filter(quiet).ok()).unwrap_or_default();
    let colour =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_writer(pipes::stderr).with_env_filter(filter).with_ansi(colour);
    // A program of its own may have set up its log already.
    let _ = log.try_init();
}

/// Shows what is wrong with a topology, on standard error.
fn refuse(error: &TopologyError) -> ExitCode {
    use std::io::Write as _;
    let colour =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let _ = writeln!(pipes::stderr(), "{}", error.render(colour).trim_end());
    ExitCode::from(CONFIGURATION)
}

/// Says why nothing comes of it.
fn fail(why: &str, code: u8) -> ExitCode {
    use std::io::Write as _;
    // It may quote an argument.
    let _ = writeln!(pipes::stderr(), "streamll: {}", harmless(why));
    ExitCode::from(code)
}

fn code(drained: &Drained) -> ExitCode {
    match drained {
        drained if drained.lacks_only_locks() => ExitCode::from(LOCKED),
        Drained { complete: true, .. } => ExitCode::SUCCESS,
        _ => ExitCode::from(INCOMPLETE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_of_rabbitmq_logs_is_left_out_unless_it_is_asked_for() {
        for (given, expected) in [
            ("warn", "lapin=off,warn"),
            ("info", "lapin=off,info"),
            ("off", "lapin=off,off"),
            ("", "lapin=off"),
            ("debug,lapin=trace", "lapin=trace,debug"),
            ("lapin=warn", "lapin=warn"),
        ] {
            assert_eq!(
                filter(given).map(|filter| filter.to_string()).unwrap_or_default(),
                expected,
                "{given}"
            );
        }
    }
}
