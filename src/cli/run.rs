//! `streamll run`: standard input through a topology, to its end or until a signal.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use streamll_actors::ingress::Patience;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::report::{self, Whose};
use super::signals::{EVERY, Signals};
use super::{Choice, Format, INCOMPLETE, USAGE, input::Input, refuse};
use crate::pipes;
use crate::topology::{Registry, Topology};
use crate::{Handle, SinkState};

/// How long the reader gets to finish its line before the intake closes.
const LAST_LINE: Duration = Duration::from_millis(200);

/// The arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    choice: Choice,
    /// What happens to the input while a sink is open and its buffer is full
    #[arg(long, value_enum, default_value_t = WhenFull::Wait)]
    when_full: WhenFull,
    /// Print the number of each line on standard output once its event is held safely
    #[arg(long)]
    ack: bool,
    /// The format of the final report on standard error; the JSON report is the last line
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    report: Format,
    /// Write the current status as JSON to this file, each second
    #[arg(long, value_name = "FILE")]
    status_file: Option<PathBuf>,
    #[arg(skip)]
    status_fails: std::cell::Cell<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhenFull {
    /// The input waits until the sink is back
    Wait,
    /// Events are shed, counted and marked; a healthy but slow sink still slows the input
    Shed,
}

impl Run {
    pub(super) fn run(&self, kinds: &Registry) -> ExitCode {
        // First of all: a signal that comes while it starts ends it in order, too.
        let runtime = Builder::new_current_thread().enable_all().build();
        let listening = runtime.and_then(|runtime| Signals::new(&runtime).map(|signals| (runtime, signals)));
        let (runtime, mut signals) = match listening {
            Ok(listening) => listening,
            Err(error) => return super::fail(&error.to_string(), INCOMPLETE),
        };
        let loaded = self
            .choice
            .environment()
            .and_then(|environment| Topology::load(&self.choice.topologies, &environment, kinds));
        let topology = match loaded {
            Ok(topology) => topology,
            Err(error) => return refuse(&error),
        };
        for warning in topology.warnings() {
            let _ = writeln!(pipes::stderr(), "{}\n", warning.render(false).trim_end());
        }
        if let Some(path) = &self.status_file
            && let Err(error) = report::write(path, "{}\n")
        {
            let _ = writeln!(
                pipes::stderr(),
                "streamll: --status-file {}: {error}",
                super::harmless(&path.display().to_string())
            );
            return ExitCode::from(USAGE);
        }
        let served = topology.start().map_err(|e| e.to_string()).and_then(|handle| {
            let whose = Whose { service: topology.service(), environment: topology.environment() };
            runtime.block_on(self.serve(&handle, whose, &mut signals)).map_err(|e| e.to_string())
        });
        served.unwrap_or_else(|error| super::fail(&error, INCOMPLETE))
    }

    async fn serve(&self, handle: &Handle, whose: Whose<'_>, signals: &mut Signals) -> io::Result<ExitCode> {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut reader, printed) = self.start_reader(handle, stop.clone())?;
        let mut status = tokio::time::interval(EVERY);
        let read = loop {
            tokio::select! {
                ended = &mut reader => break ended.unwrap_or(Ok(())),
                _ = signals.next() => {
                    stop.store(true, Ordering::Relaxed);
                    // A reader that waits for input, or for a full sink, is left behind.
                    let _ = tokio::time::timeout(LAST_LINE, &mut reader).await;
                    break Ok(());
                }
                _ = status.tick() => {
                    self.write_status(handle, whose);
                    let status = handle.status();
                    if status.sinks().iter().all(|sink| sink.state == SinkState::Failed) {
                        stop.store(true, Ordering::Relaxed);
                        let _ = writeln!(pipes::stderr(), "streamll: no sink can deliver any more: the input ends here");
                        break Ok(());
                    }
                }
            }
        };
        let cut = read.as_ref().err().map(|error| format!("standard input: {error}"));
        if let Some(why) = &cut {
            let _ = writeln!(pipes::stderr(), "streamll: {why}");
        }
        let (drained, ended) = signals.drain(handle, || self.write_status(handle, whose)).await;
        if ended.is_none() {
            // A reader that waits for input is left behind, and with it whoever prints.
            let _ = tokio::time::timeout(LAST_LINE, printed).await;
            self.write_status(handle, whose);
        }
        report::say(&drained, self.report, cut.as_deref());
        Ok(match ended {
            Some(code) => ExitCode::from(code),
            None if cut.is_some() => ExitCode::from(INCOMPLETE),
            None => super::code(&drained),
        })
    }

    fn start_reader(
        &self,
        handle: &Handle,
        stop: Arc<AtomicBool>,
    ) -> io::Result<(oneshot::Receiver<io::Result<()>>, oneshot::Receiver<()>)> {
        let patience = if self.when_full == WhenFull::Wait { Patience::Open } else { Patience::Healthy };
        let input = Input { emitter: handle.emitter().clone(), patience, ack: self.ack, stop };
        let (ended, ending) = oneshot::channel();
        let (printed, printing) = oneshot::channel();
        std::thread::Builder::new().name("streamll-input".to_owned()).spawn(move || {
            let stdin = io::BufReader::with_capacity(1 << 18, pipes::stdin());
            let (read, printer) = input.read(stdin);
            let _ = ended.send(read);
            // What waits for its sink or its disk is answered at the end of these, at the latest.
            if let Some(printer) = printer {
                printer.finish();
            }
            let _ = printed.send(());
        })?;
        Ok((ending, printing))
    }

    fn write_status(&self, handle: &Handle, whose: Whose<'_>) {
        let Some(path) = &self.status_file else { return };
        let written = report::write(path, &format!("{}\n", report::current(&handle.status(), whose)));
        // One word for each change, not one a second.
        if self.status_fails.replace(written.is_err()) != written.is_err() {
            match written {
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the status file cannot be written")
                }
                Ok(()) => tracing::warn!(path = %path.display(), "the status file is written again"),
            }
        }
    }
}
