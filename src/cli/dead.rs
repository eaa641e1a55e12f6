//! `streamll dead`: the events that could never be delivered, as they lie in the files of a topology's `data_dir`.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::value::RawValue;
use streamll_actors::graph::{Plan, dead_letter_file};

use super::{Choice, INCOMPLETE, USAGE, argument, refuse};
use crate::sinks::terminal::harmless;
use crate::topology::{Registry, Topology};
use crate::{BufferPolicy, Handle, pipes};

/// Letters that are being replayed lie in a file of their own until it is known what became of them.
const UNDER_WAY: &str = "replaying";
/// How long to wait for room in the buffer before the next look.
const PAUSE: Duration = Duration::from_millis(5);

/// The arguments of `dead`.
#[derive(Debug, Args)]
pub(super) struct Dead {
    #[command(flatten)]
    choice: Choice,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List for each sink how many dead letters it has, since when, and why
    List,
    /// Show the dead letters of one sink, the oldest first
    Show {
        /// The sink, or `processors` for events on which a processor at the top of the topology panicked or hung
        sink: String,
        /// Print each letter as it is stored, one JSON object a line
        #[arg(long, conflicts_with = "events")]
        json: bool,
        /// Print only the events, one JSON object a line, as `streamll run` reads them
        #[arg(long)]
        events: bool,
    },
    /// Send the dead letters of one sink to it again, with the same ids; an event that arrives is removed from the file
    Replay {
        /// The sink
        sink: String,
    },
    /// Delete the dead letters of one sink for ever
    Purge {
        /// The sink, or `processors`
        sink: String,
        /// Confirm the deletion
        #[arg(long)]
        yes: bool,
    },
}

/// One line of a file of dead letters.
#[derive(Debug, Deserialize)]
struct Letter<'a> {
    class: String,
    reason: String,
    attempts: u32,
    first_attempt: String,
    last_attempt: String,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
}

/// What a letter says of its event.
#[derive(Debug, Default, Deserialize)]
struct Named {
    #[serde(default)]
    event_id: String,
    #[serde(default)]
    event_type: String,
    #[serde(default)]
    topic: Option<String>,
}

impl Letter<'_> {
    fn named(&self) -> Named {
        self.event.and_then(|event| serde_json::from_str(event.get()).ok()).unwrap_or_default()
    }
}

impl Dead {
    pub(super) fn run(&self, kinds: &Registry) -> ExitCode {
        let loaded = self
            .choice
            .environment()
            .and_then(|environment| Topology::load(&self.choice.topologies, &environment, kinds));
        let topology = match loaded {
            Ok(topology) => topology,
            Err(error) => return refuse(&error),
        };
        let Some(plan) = topology.plan() else { return fail("the topology has unset variables") };
        let done = match &self.action {
            Action::List => list(&plan.data_dir),
            Action::Show { sink, json, events } => show(&file(plan, sink), *json, *events),
            Action::Replay { sink } => return replay(&topology, plan, sink),
            Action::Purge { sink, yes } => return purge(&file(plan, sink), sink, *yes),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string()),
        }
    }
}

fn file(plan: &Plan, sink: &str) -> PathBuf {
    dead_letter_file(&plan.data_dir, sink)
}

fn fail(why: &str) -> ExitCode {
    super::fail(why, INCOMPLETE)
}

/// The lines of a file; none where there is none. Bytes that are no text show as such, and are no letter.
fn lines(path: &Path) -> io::Result<Vec<String>> {
    match fs::read(path) {
        Ok(bytes) => {
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            Ok(lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

fn list(data_dir: &Path) -> io::Result<()> {
    let folder = dead_letter_file(data_dir, "any").with_file_name("");
    let mut paths: Vec<_> = match fs::read_dir(&folder) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => Vec::new(),
    };
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "ndjson" || ending == UNDER_WAY));
    paths.sort();
    let mut out = pipes::stdout();
    let mut found = false;
    for path in paths {
        let lines = lines(&path)?;
        let letters: Vec<Letter<'_>> =
            lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let (Some(first), Some(last)) = (letters.first(), letters.last()) else { continue };
        found = true;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let under_way = path.extension().is_some_and(|ending| ending == UNDER_WAY);
        let name = if under_way { format!("{name} (a replay that was cut off)") } else { name.into_owned() };
        let (first, last) = (harmless(&first.last_attempt), harmless(&last.last_attempt));
        writeln!(out, "{}: {} ({first} to {last})", harmless(&name), letters.len())?;
        let mut reasons: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for letter in &letters {
            *reasons.entry((&letter.class, &letter.reason)).or_default() += 1;
        }
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for ((class, reason), count) in reasons.iter().take(5) {
            writeln!(out, "  {count} {}: {}", harmless(class), harmless(reason))?;
        }
        if reasons.len() > 5 {
            writeln!(out, "  and {} other reasons", reasons.len() - 5)?;
        }
        let strange = lines.len() - letters.len();
        if strange > 0 {
            writeln!(out, "  {strange} lines that are no letters")?;
        }
    }
    if !found {
        writeln!(pipes::stderr(), "streamll: no dead letters in {}", folder.display())?;
    }
    Ok(())
}

fn show(path: &Path, json: bool, events: bool) -> io::Result<()> {
    let mut out = io::BufWriter::new(pipes::stdout());
    for line in lines(path)? {
        if json {
            writeln!(out, "{line}")?;
            continue;
        }
        let Ok(letter) = serde_json::from_str::<Letter<'_>>(&line) else { continue };
        if events {
            writeln!(out, "{}", letter.event.map_or("null", RawValue::get))?;
            continue;
        }
        let Named { event_id, event_type, topic } = letter.named();
        let said = format!(
            "{} {} {event_id}\n  {} after {} attempts since {}: {}",
            letter.last_attempt,
            topic.unwrap_or(event_type),
            letter.class,
            letter.attempts,
            letter.first_attempt,
            letter.reason
        );
        writeln!(out, "{}", harmless(&said))?;
    }
    out.flush()
}

fn purge(path: &Path, sink: &str, yes: bool) -> ExitCode {
    let count = match lines(path) {
        Ok(lines) => lines.len(),
        Err(error) => return fail(&error.to_string()),
    };
    if count == 0 {
        return fail(&format!("no dead letters of `{}`", argument(sink)));
    }
    if !yes {
        let _ = writeln!(
            pipes::stderr(),
            "streamll: this would delete {count} events of `{sink}` for good; say --yes, or save them with \
             `streamll dead show {sink} --json`"
        );
        return ExitCode::from(USAGE);
    }
    match fs::remove_file(path) {
        Ok(()) => {
            let _ = writeln!(pipes::stderr(), "streamll: {count} dead letters of `{sink}` deleted");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&format!("{}: {error}", path.display())),
    }
}

fn replay(topology: &Topology, plan: &Plan, sink: &str) -> ExitCode {
    let Some(spec) = plan.sinks.iter().find(|spec| spec.name == sink) else {
        if sink == "processors" {
            return fail(
                "these events had not reached any sink: send them all the way with `streamll dead show processors \
                 --events | streamll run`, then `streamll dead purge processors`",
            );
        }
        let names: Vec<_> = plan.sinks.iter().map(|spec| spec.name.as_str()).collect();
        return fail(&format!("there is no sink `{}`; there are {}", argument(sink), names.join(", ")));
    };
    // This sink alone, with a buffer of its own: the service itself may run, and hold what is on disk.
    let mut spec = spec.clone();
    spec.buffer = BufferPolicy::default();
    spec.on_open = crate::OnOpen::Buffer;
    (spec.topics, spec.dead_letter) = (Some(Vec::new()), None);
    let mut alone = Plan::new(plan.service.clone());
    alone.data_dir.clone_from(&plan.data_dir);
    let path = file(plan, sink);
    let replayed = take(&path).and_then(|under_way| {
        let handle = crate::start(alone.sink(spec), topology.shutdown_timeout()).map_err(io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(send(&handle, sink, &under_way, &path))
    });
    match replayed {
        Ok((sent, arrived, kept)) => {
            let _ = writeln!(
                pipes::stderr(),
                "streamll: {arrived} of {sent} dead letters of `{sink}` arrived{kept}"
            );
            if sent == arrived { ExitCode::SUCCESS } else { ExitCode::from(INCOMPLETE) }
        }
        Err(error) => fail(&error.to_string()),
    }
}

/// Moves the letters out of the way of new ones. Those of a replay that was cut off come first.
fn take(path: &Path) -> io::Result<PathBuf> {
    let under_way = path.with_extension(UNDER_WAY);
    if under_way.exists() {
        return Ok(under_way);
    }
    match fs::rename(path, &under_way) {
        Ok(()) => Ok(under_way),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(io::Error::other("no dead letters to replay"))
        }
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

/// Sends the letters, and puts back those that did not arrive. How many there are, how many arrived, and why not all.
async fn send(handle: &Handle, sink: &str, from: &Path, back: &Path) -> io::Result<(u64, u64, String)> {
    let target = handle.sink(sink).ok_or_else(|| io::Error::other("the sink is gone"))?;
    // Whoever was writing a letter when the file was taken away has written it by now, and finds it gone.
    File::open(from)?.lock()?;
    let (mut letters, mut kept) = (0, Vec::new());
    for line in lines(from)? {
        letters += 1;
        let letter = serde_json::from_str::<Letter<'_>>(&line).ok();
        // What panicked in a processor has not passed those behind it, such as one that redacts.
        let event = letter
            .as_ref()
            .filter(|letter| letter.class != "processor")
            .and_then(|letter| Some((letter, letter.event?)));
        let Some((letter, event)) = event else {
            kept.push(line);
            continue;
        };
        loop {
            match target.replay(event.get().as_bytes(), letter.attempts) {
                Ok(true) => break,
                // A sink that is away, or given up, takes no more: the rest stays where it is.
                Ok(false) if target.status().state != crate::SinkState::Closed => {
                    kept.push(line.clone());
                    break;
                }
                Ok(false) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    let _ = writeln!(pipes::stderr(), "streamll: a letter is no event: {error}");
                    kept.push(line.clone());
                    break;
                }
            }
        }
    }
    let skipped = kept.len() as u64;
    let drained = handle.shutdown(handle.shutdown_timeout()).await;
    let status = drained.status.sink(sink).cloned();
    let waiting: HashSet<String> = target.waiting().iter().map(ToString::to_string).collect();
    for line in lines(from)? {
        let is_waiting = serde_json::from_str::<Letter<'_>>(&line)
            .is_ok_and(|letter| waiting.contains(&letter.named().event_id));
        if is_waiting {
            kept.push(line);
        }
    }
    if !kept.is_empty() {
        let mut options = fs::OpenOptions::new();
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.append(true).create(true).open(back)?;
        file.lock()?;
        for line in &kept {
            file.write_all(format!("{line}\n").as_bytes())?;
        }
        file.sync_data()?;
    }
    fs::remove_file(from)?;
    let arrived = status.as_ref().map_or(0, |status| status.balance.delivered);
    let why =
        status.and_then(|status| status.reason).map(|reason| format!(" ({reason})")).unwrap_or_default();
    let mut said = String::new();
    if !waiting.is_empty() {
        said.push_str(&format!("; {} could not be sent and are letters still{why}", waiting.len()));
    }
    if skipped > 0 {
        said.push_str(&format!(
            "; {skipped} stay: a processor panicked on them, or there was no room (`streamll dead show {sink}`)"
        ));
    }
    Ok((letters, arrived, said))
}
