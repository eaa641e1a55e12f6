//! `streamll replay`: sends the events of a file, or of a range of a Redis stream, through a topology once more.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use streamll_actors::ingress::Patience;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::input::Input;
use super::signals::Signals;
use super::{Choice, Format, INCOMPLETE, USAGE, argument, fail, refuse, report};
use crate::Handle;
use crate::pipes::{self, Patient};
use crate::topology::{Registry, Topology};

/// How long the reader gets to finish after a signal.
const LAST: Duration = Duration::from_millis(500);
/// How often to look at the consumer's status.
#[cfg(feature = "redis")]
const LOOK: Duration = Duration::from_millis(200);

/// The arguments of `replay`.
#[derive(Debug, Args)]
pub(super) struct Replay {
    /// A file with NDJSON, or a Redis server: `redis://host:6379`
    source: String,
    /// The stream on that server
    #[arg(default_value = "ai_events")]
    target: String,
    /// Begin after the entry with this id [default: begin with the first entry]
    #[arg(long, value_name = "ID")]
    from: Option<String>,
    /// End with the entry with this id [default: the last entry at the start]
    #[arg(long, value_name = "ID")]
    to: Option<String>,
    /// The field of an entry that holds the event [default: `event`, else `message`, else `__data__`]
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    #[command(flatten)]
    choice: Choice,
    /// The format of the final report on standard error; the JSON report is the last line
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    report: Format,
}

impl Replay {
    pub(super) fn run(&self, kinds: &Registry) -> ExitCode {
        let is_server = self.source.contains("://");
        if let Err(why) = self.check(is_server) {
            return fail(&why, USAGE);
        }
        let loaded = self
            .choice
            .environment()
            .and_then(|environment| Topology::load(&self.choice.topologies, &environment, kinds));
        let topology = match loaded {
            Ok(topology) => topology,
            Err(error) => return refuse(&error),
        };
        let runtime = Builder::new_current_thread().enable_all().build();
        let replayed = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
            let mut signals = Signals::new(&runtime).map_err(|error| error.to_string())?;
            let handle = topology.start().map_err(|error| error.to_string())?;
            Ok(runtime.block_on(self.replay(&handle, &mut signals, is_server)))
        });
        replayed.unwrap_or_else(|why| fail(&why, INCOMPLETE))
    }

    /// What is wrong with the arguments, as far as that is known before anything is started.
    fn check(&self, is_server: bool) -> Result<(), String> {
        let is_range = self.from.is_some() || self.to.is_some();
        match is_server {
            false if is_range => {
                Err("--from and --to are ids of a Redis stream; cut a file with `sed` or `jq`".to_owned())
            }
            false if self.field.is_some() => {
                Err("--field is for a Redis stream: of a file each line is an event".to_owned())
            }
            false => Ok(()),
            true if self.source.starts_with("amqp") => Err(
                "only a Redis stream can be replayed: what was taken from a queue of RabbitMQ is there no more"
                    .to_owned(),
            ),
            true => self.check_range(),
        }
    }

    #[cfg(feature = "redis")]
    fn check_range(&self) -> Result<(), String> {
        self.consumer().check().map_err(|error| error.to_string())?;
        match (self.from.as_deref(), self.to.as_deref()) {
            (Some(from), Some(to)) if place(to) < place(from) => {
                Err(format!("--to `{to}` is before --from `{from}`: there is nothing between them"))
            }
            _ => Ok(()),
        }
    }

    #[cfg(not(feature = "redis"))]
    fn check_range(&self) -> Result<(), String> {
        Err("this build reads no Redis: build it with the feature `redis`".to_owned())
    }

    #[cfg(feature = "redis")]
    fn consumer(&self) -> crate::consume::Consumer {
        use crate::consume::{Consumer, Start};
        let start = self.from.clone().map_or(Start::Begin, Start::After);
        let mut consumer = Consumer::connect(self.source.as_str(), self.target.as_str()).start(start);
        consumer = consumer.for_command(super::tail::NAMES);
        if let Some(field) = &self.field {
            consumer = consumer.field(field.as_str());
        }
        consumer.until(self.to.as_deref().unwrap_or("+"))
    }

    async fn replay(&self, handle: &Handle, signals: &mut Signals, is_server: bool) -> ExitCode {
        let stop = Arc::new(AtomicBool::new(false));
        let bar = bar();
        let copied = {
            let copy = async {
                match is_server {
                    true => self.copy_stream(handle, &stop, &bar).await,
                    false => copy_file(Path::new(&self.source), handle, &stop, &bar).await,
                }
            };
            tokio::pin!(copy);
            tokio::select! {
                copied = &mut copy => copied,
                _ = signals.next() => {
                    stop.store(true, Ordering::Relaxed);
                    let _ = tokio::time::timeout(LAST, &mut copy).await;
                    Err("ended by a signal before the end of the source".to_owned())
                }
            }
        };
        bar.finish_and_clear();
        let cut = copied.err();
        if let Some(why) = &cut {
            let _ = writeln!(pipes::stderr(), "streamll: {why}");
        }
        let (drained, ended) = signals.drain(handle, || {}).await;
        report::say(&drained, self.report, cut.as_deref());
        match ended {
            Some(code) => ExitCode::from(code),
            None if cut.is_some() => ExitCode::from(INCOMPLETE),
            None => super::code(&drained),
        }
    }

    #[cfg(feature = "redis")]
    async fn copy_stream(&self, handle: &Handle, stop: &AtomicBool, bar: &ProgressBar) -> Result<(), String> {
        use crate::ErrorClass;
        use tokio_stream::StreamExt as _;

        let mut events = self.consumer().into_stream().map_err(|error| error.to_string())?;
        let consumer = events.handle();
        bar.set_message("events");
        let mut look = tokio::time::interval(LOOK);
        loop {
            let event = tokio::select! {
                next = events.next() => next,
                _ = look.tick() => {
                    let status = consumer.status();
                    match status.reason {
                        Some(why) if status.connections == 0 && status.class == Some(ErrorClass::Misconfigured) => {
                            return Err(why);
                        }
                        _ => continue,
                    }
                }
            };
            let Some(event) = event.filter(|_| !stop.load(Ordering::Relaxed)) else { break };
            handle.emitter().send_patiently(event, Patience::Open).await;
            bar.inc(1);
            let status = consumer.status();
            if bar.length().is_none()
                && let Some(total) =
                    status.lag.map(|lag| lag + status.balance.received).filter(|_| self.to.is_none())
            {
                bar.set_length(total);
                bar.set_style(counted());
            }
        }
        let status = consumer.status();
        if status.balance.received == 0 && !stop.load(Ordering::Relaxed) {
            let what = match self.from.is_some() || self.to.is_some() {
                true => format!("in that range of stream `{}`", self.target),
                false => format!("in stream `{}`: is that its name?", self.target),
            };
            let _ = writeln!(pipes::stderr(), "streamll: there is nothing {what}");
        }
        // Each was said in the log.
        (0..status.balance.failed).for_each(|_| handle.emitter().reject());
        match status.gaps {
            0 => Ok(()),
            _ => Err(format!(
                "{} entries or more were trimmed from stream `{}` before they were read",
                status.missed, self.target
            )),
        }
    }

    #[cfg(not(feature = "redis"))]
    async fn copy_stream(&self, _: &Handle, _: &AtomicBool, _: &ProgressBar) -> Result<(), String> {
        self.check_range()
    }
}

/// The two numbers of an id.
#[cfg(feature = "redis")]
fn place(id: &str) -> Option<(u64, u64)> {
    let (first, second) = id.split_once('-').unwrap_or((id, "0"));
    Some((first.parse().ok()?, second.parse().ok()?))
}

async fn copy_file(
    path: &Path,
    handle: &Handle,
    stop: &Arc<AtomicBool>,
    bar: &ProgressBar,
) -> Result<(), String> {
    let said = |error: io::Error| format!("{}: {error}", argument(&path.display().to_string()));
    bar.set_style(bytes());
    let input =
        Input { emitter: handle.emitter().clone(), patience: Patience::Open, ack: false, stop: stop.clone() };
    let (ended, ending) = oneshot::channel();
    let reader = std::thread::Builder::new().name("streamll-input".to_owned());
    let (path, bar) = (path.to_owned(), bar.clone());
    // Opening it may take until somebody writes, where it is a pipe.
    let read = move || {
        let file = File::open(path)?;
        bar.set_length(file.metadata()?.len());
        input.read(BufReader::with_capacity(1 << 18, bar.wrap_read(Patient(file)))).0
    };
    reader.spawn(move || drop(ended.send(read()))).map_err(said)?;
    ending.await.unwrap_or(Ok(())).map_err(said)
}

/// On standard error, where that is a terminal.
fn bar() -> ProgressBar {
    if io::stderr().is_terminal() { ProgressBar::no_length() } else { ProgressBar::hidden() }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn bytes() -> ProgressStyle {
    style("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
}

#[cfg(feature = "redis")]
fn counted() -> ProgressStyle {
    style("{bar:40} {human_pos} of {human_len} events, {per_sec}, {eta} left")
}
