//! `streamll tail`: shows the events of a broker live, like the terminal sink or as NDJSON.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use streamll_actors::event::{Delivery, Event};

use super::signals::Signals;
use super::{CONFIGURATION, INCOMPLETE, USAGE, argument, fail};
use crate::consume::{Consumer, ConsumerState, ConsumerStatus, SettingNames, Start};
use crate::sinks::terminal::Terminal;
use crate::{Deliveries, ErrorClass, Sink as _, pipes, sinks};

/// How often to look at the consumer's status, and whether anybody still reads.
const LOOK: Duration = Duration::from_millis(200);
/// Most events of one write.
const BATCH: usize = 256;
/// How long the end may take after a signal, if a terminal is stopped or a pipe is full.
const LAST: Duration = Duration::from_secs(1);

/// The command's names for the settings of a consumer.
pub(super) const NAMES: SettingNames =
    SettingNames { field: "`--field`", group: "`--group`", start: "`--from`", topics: "`--topic`" };

/// The arguments of `tail`.
#[derive(Debug, Args)]
pub(super) struct Tail {
    /// The broker: `redis://host:6379`, `rediss://`, `amqp://user:password@host:5672/vhost`, `amqps://`
    #[arg(value_name = "URL")]
    url: String,
    /// The Redis stream or the RabbitMQ exchange
    #[arg(default_value = "ai_events")]
    target: String,
    /// Where to begin: `begin`, `now`, or an id or offset to begin after [default: now; for a new group: begin]
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// Show only these topics: `ai.*.error`, `ai.#`; for a direct exchange, whole keys; may be given several times
    #[arg(long, value_name = "PATTERN")]
    topic: Vec<String>,
    /// Show only events with this value: `data.conversation_id=conv_123`, `tags.tenant=acme`; if it is given several
    /// times, all values must match
    #[arg(long = "where", value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Show only events of these types: `error`, `token`; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    kind: Vec<String>,
    /// The field of a Redis entry that holds the event [default: `event`, else `message`, else `__data__`]
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    /// Print JSON, one event a line
    #[arg(long)]
    json: bool,
    /// Join this group (for RabbitMQ, a queue) and share its events with the other members, which then do not see the
    /// same events; without a group, every reader sees every event
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

impl Tail {
    pub(super) fn run(&self) -> ExitCode {
        let consumer = match self.consumer() {
            Ok(consumer) => consumer,
            Err(why) => return fail(&why, USAGE),
        };
        // One thread may block on a full pipe; the other one still hears signals.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let shown = runtime.and_then(|runtime| {
            let signals = Signals::new(&runtime)?;
            let shown = runtime.block_on(self.show(consumer, signals));
            runtime.shutdown_background();
            shown
        });
        match shown {
            Ok(code) => code,
            Err(error) => fail(&error.to_string(), INCOMPLETE),
        }
    }

    fn consumer(&self) -> Result<Consumer, String> {
        let mut consumer = Consumer::connect(self.url.as_str(), self.target.as_str()).topics(&self.topic);
        consumer = consumer.for_command(NAMES);
        if let Some(field) = &self.field {
            if self.url.starts_with("amqp") {
                return Err("--field is for Redis: of RabbitMQ the whole message is the event".to_owned());
            }
            consumer = consumer.field(field.as_str());
        }
        if let Some(group) = &self.group {
            consumer = consumer.group(group.as_str());
        }
        match self.from.as_deref() {
            None => {}
            Some("begin") => consumer = consumer.start(Start::Begin),
            Some("now") => consumer = consumer.start(Start::Now),
            Some(id) => consumer = consumer.start(Start::After(id.to_owned())),
        }
        for pair in &self.filter {
            let wrong =
                || format!("--where `{}`: write it like `data.conversation_id=conv_123`", argument(pair));
            let (key, value) = pair.split_once('=').ok_or_else(wrong)?;
            consumer = consumer.filter(key, value);
        }
        Ok(consumer.types(&self.kind))
    }

    async fn show(&self, consumer: Consumer, mut signals: Signals) -> io::Result<ExitCode> {
        let mut events = match consumer.into_stream() {
            Ok(events) => events,
            Err(error) => return Ok(fail(&error.to_string(), USAGE)),
        };
        let handle = events.handle();
        tokio::spawn(async move {
            let _ = signals.next().await;
            handle.stop();
            let code = tokio::time::timeout(LAST, signals.next()).await;
            std::process::exit(code.map_or(0, i32::from));
        });
        let mut out = Out::new(self.json);
        let mut said = Said::default();
        let mut look = tokio::time::interval(LOOK);
        let code = loop {
            let batch = tokio::select! {
                batch = events.next_batch(BATCH) => batch,
                _ = look.tick() => {
                    let status = events.handle().status();
                    said.say(&status);
                    if status.connections == 0 && status.class == Some(ErrorClass::Misconfigured) {
                        break ExitCode::from(CONFIGURATION);
                    }
                    if is_closed(&io::stdout()) {
                        break ExitCode::SUCCESS;
                    }
                    continue;
                }
            };
            if batch.is_empty() {
                break ExitCode::SUCCESS;
            }
            if let Err(error) = out.write(batch).await {
                // The group keeps events that were not shown.
                events.give_back();
                match error.kind() {
                    io::ErrorKind::BrokenPipe => break ExitCode::SUCCESS,
                    _ => return Err(error),
                }
            }
        };
        out.close().await;
        let handle = events.handle();
        let _ = tokio::time::timeout(LAST, events.close()).await;
        said.say(&handle.status());
        Ok(code)
    }
}

/// Where events are shown.
enum Out {
    Terminal(Box<Terminal>),
    Json,
}

impl Out {
    fn new(json: bool) -> Out {
        if json { Out::Json } else { Out::Terminal(Box::new(sinks::terminal().build())) }
    }

    async fn write(&mut self, events: Vec<Event>) -> io::Result<()> {
        match self {
            Out::Json => {
                let mut lines = Vec::new();
                for event in &events {
                    let from = lines.len();
                    lines.extend_from_slice(event.json());
                    // In JSON a raw line break is only layout.
                    lines.iter_mut().skip(from).filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
                    lines.push(b'\n');
                }
                let mut out = pipes::stdout();
                out.write_all(&lines)?;
                out.flush()
            }
            Out::Terminal(terminal) => {
                let deliveries = events.into_iter().map(|event| Delivery::new(event, "".into()));
                let written = terminal.deliver(&mut Deliveries::new(deliveries.collect())).await;
                written.map_err(|error| match error.class() {
                    // Nobody reads the output any more.
                    ErrorClass::Fatal => io::ErrorKind::BrokenPipe.into(),
                    _ => io::Error::other(error.to_string()),
                })
            }
        }
    }

    async fn close(&mut self) {
        if let Out::Terminal(terminal) = self {
            terminal.close().await;
        }
    }
}

/// What was said on standard error, so that everything is said once.
#[derive(Debug, Default)]
struct Said {
    reason: Option<String>,
    gaps: u64,
    missed: u64,
    failed: u64,
    consumed: bool,
}

impl Said {
    fn say(&mut self, status: &ConsumerStatus) {
        let say = |what: String| drop(writeln!(pipes::stderr(), "streamll: {what}"));
        if status.reason != self.reason {
            match &status.reason {
                Some(_) => say(status.to_string()),
                None if status.state == ConsumerState::Consuming && self.consumed => {
                    say("consuming again".to_owned())
                }
                None => {}
            }
            self.reason.clone_from(&status.reason);
        }
        self.consumed |= status.connections > 0;
        if status.gaps > self.gaps {
            say(match status.missed - self.missed {
                0 => "events were missed while the connection was lost".to_owned(),
                1 => "at least one event was trimmed before it was read".to_owned(),
                missed => format!("{missed} events were trimmed before they were read"),
            });
            (self.gaps, self.missed) = (status.gaps, status.missed);
        }
        let failed = status.balance.failed + status.balance.dead_lettered;
        if failed > self.failed {
            let why = super::harmless(status.last_failure.as_deref().unwrap_or_default());
            say(format!("{} entries could not be shown; the last: {why}", failed - self.failed));
            self.failed = failed;
        }
    }
}

/// Whether nobody reads any more. Asked without writing, because the next event may take long to come.
#[cfg(unix)]
fn is_closed(target: &impl std::os::fd::AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut target = [PollFd::new(target, PollFlags::empty())];
    poll(&mut target, Some(&now)).is_ok() && target[0].revents().intersects(PollFlags::ERR)
}

#[cfg(not(unix))]
fn is_closed<T>(_: &T) -> bool {
    false
}
