//! `streamll run`: standard input through a topology, to its end or until a signal.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use streamll_actors::ingress::Patience;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::{Choice, Format, INCOMPLETE, USAGE, input::Input, refuse, report};
use crate::topology::{Registry, Topology};
use crate::{Drained, Handle, SinkState};

/// How often the status file is renewed.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How often it says at the end who is still delivering.
const PROGRESS: Duration = Duration::from_secs(5);
/// How long the reader gets to finish its line before the intake closes.
const LAST_LINE: Duration = Duration::from_millis(200);

/// The arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    choice: Choice,
    /// What happens to the input while a sink is open and its buffer full
    #[arg(long, value_enum, default_value_t = WhenFull::Wait)]
    when_full: WhenFull,
    /// Print the number of each line that is held safely, on standard output
    #[arg(long)]
    ack: bool,
    /// How the last report is written to standard error; as JSON it is the last line
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    report: Format,
    /// Keep a file with the current status as JSON
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
        let loaded = self
            .choice
            .environment()
            .and_then(|environment| Topology::load(&self.choice.topologies, &environment, kinds));
        let topology = match loaded {
            Ok(topology) => topology,
            Err(error) => return refuse(&error),
        };
        for warning in topology.warnings() {
            let _ = writeln!(io::stderr(), "{}\n", warning.render(false).trim_end());
        }
        if let Some(path) = &self.status_file
            && let Err(error) = report::write(path, "{}\n")
        {
            let _ = writeln!(io::stderr(), "streamll: --status-file {}: {error}", path.display());
            return ExitCode::from(USAGE);
        }
        let served = topology.start().map_err(|e| e.to_string()).and_then(|handle| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.and_then(|runtime| runtime.block_on(self.serve(&handle))).map_err(|e| e.to_string())
        });
        match served {
            Ok(code) => code,
            Err(error) => {
                let _ = writeln!(io::stderr(), "streamll: {error}");
                ExitCode::from(INCOMPLETE)
            }
        }
    }

    async fn serve(&self, handle: &Handle) -> io::Result<ExitCode> {
        let mut signals = Signals::new()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (mut reader, printed) = self.start_reader(handle, stop.clone())?;
        let mut status = tokio::time::interval(STATUS_INTERVAL);
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
                    self.write_status(handle);
                    let status = handle.status();
                    if status.sinks().iter().all(|sink| sink.state == SinkState::Failed) {
                        stop.store(true, Ordering::Relaxed);
                        let _ = writeln!(io::stderr(), "streamll: no sink can deliver any more: the input ends here");
                        break Ok(());
                    }
                }
            }
        };
        if let Err(error) = &read {
            let _ = writeln!(io::stderr(), "streamll: standard input: {error}");
        }
        let drained = {
            let shutdown = handle.shutdown(handle.shutdown_timeout());
            tokio::pin!(shutdown);
            let mut progress = tokio::time::interval(PROGRESS);
            progress.reset();
            loop {
                tokio::select! {
                    drained = &mut shutdown => break drained,
                    code = signals.next() => {
                        let ended = Drained { status: handle.status(), complete: false };
                        self.say(&ended);
                        return Ok(ExitCode::from(code));
                    }
                    _ = status.tick() => self.write_status(handle),
                    _ = progress.tick() => {
                        let _ = io::stderr().write_all(report::progress(&handle.status()).as_bytes());
                    }
                }
            }
        };
        // A reader that waits for input is left behind, and with it whoever prints.
        let _ = tokio::time::timeout(LAST_LINE, printed).await;
        self.write_status(handle);
        self.say(&drained);
        Ok(if read.is_err() { ExitCode::from(INCOMPLETE) } else { super::code(&drained) })
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
            let stdin = io::BufReader::with_capacity(1 << 18, io::stdin().lock());
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

    fn write_status(&self, handle: &Handle) {
        let Some(path) = &self.status_file else { return };
        let written = report::write(path, &format!("{}\n", report::json(&handle.status())));
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

    fn say(&self, drained: &Drained) {
        let text = match self.report {
            Format::Text => report::text(drained),
            Format::Json => format!("{}\n", report::json(&drained.status)),
        };
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// The signals that ask for an end.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one; returns the exit code of a process that it ends.
    pub(super) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.terminate.recv() => 143,
            _ = self.interrupt.recv() => 130,
        }
    }
}
