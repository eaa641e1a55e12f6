//! What became of everything: for people, and as JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Format;
use crate::{Drained, GraphStatus, ProcessorState, ProcessorStatus, SinkStatus, Timestamp, pipes};

/// Writes the last report to standard error; `cut` tells why the input was not read to its end.
pub(super) fn say(drained: &Drained, format: Format, cut: Option<&str>) {
    let text = match format {
        Format::Text => text(drained, cut),
        Format::Json => {
            let mut report = last_json(&drained.status);
            if let (Value::Object(report), Some(cut)) = (&mut report, cut) {
                report.insert("cut".to_owned(), cut.into());
            }
            format!("{report}\n")
        }
    };
    let _ = pipes::stderr().write_all(text.as_bytes());
}

/// What a status is the status of.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) service: &'a str,
    pub(super) environment: &'a str,
}

/// What `json` says, and when and by which process: what a dead process has left must not pass for its health.
pub(super) fn current(status: &GraphStatus, whose: Whose<'_>) -> Value {
    let mut current = json!({
        "at": Timestamp::now().to_string(),
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "service": whose.service,
        "environment": whose.environment,
    });
    if let (Value::Object(current), Value::Object(status)) = (&mut current, json(status)) {
        current.extend(status);
    }
    current
}

/// One JSON object: the totals, and an object per sink under `sinks`.
pub(super) fn json(status: &GraphStatus) -> Value {
    let mut report = serde_json::to_value(status.balance()).unwrap_or_default();
    let by_name = |sinks: &[SinkStatus]| -> Map<String, Value> {
        sinks.iter().map(|sink| (sink.name.to_string(), sink_json(sink))).collect()
    };
    if let Value::Object(report) = &mut report {
        report.insert("balanced".to_owned(), status.balances().into());
        report.insert("sinks".to_owned(), by_name(status.sinks()).into());
        if !status.removed().is_empty() {
            report.insert("removed".to_owned(), by_name(status.removed()).into());
        }
        if !status.processors().is_empty() {
            let processors: Vec<_> = status.processors().iter().map(processor_json).collect();
            report.insert("processors".to_owned(), processors.into());
        }
    }
    report
}

/// The same, for the last time: what is left has its reason.
pub(super) fn last_json(status: &GraphStatus) -> Value {
    let mut report = json(status);
    for (place, sinks) in [("sinks", status.sinks()), ("removed", status.removed())] {
        for sink in sinks {
            if let Some(shown) = report.get_mut(place).and_then(|sinks| sinks.get_mut(&*sink.name)) {
                shown["reason"] = last_reason(sink).into();
            }
        }
    }
    report
}

/// Why a sink did not deliver everything; where nothing was wrong with it, the end came too early.
fn last_reason(sink: &SinkStatus) -> Option<&str> {
    let too_early = (sink.balance.in_memory() > 0).then_some("the end came before they were sent");
    sink.reason.as_deref().or(too_early)
}

/// One that has not come back, or did not once.
fn processor_json(processor: &ProcessorStatus) -> Value {
    json!({
        "name": processor.name,
        "sink": processor.sink,
        "state": processor.state.as_str(),
        "since": processor.since.to_string(),
        "event": processor.event,
        "hangs": processor.hangs,
    })
}

fn sink_json(sink: &SinkStatus) -> Value {
    let numbers = &sink.balance;
    let mut object = json!({
        "state": sink.state.as_str(),
        "reason": sink.reason,
        "since": sink.since.to_string(),
        "running": sink.running,
        "circuit_open": sink.circuit_open,
        "connected": sink.connected,
        "failures": sink.failures,
        "restarts": sink.restarts,
        "causes": sink.causes,
        "oldest_waiting_age": sink.oldest_waiting_age.map(|age| age.as_secs_f64()),
        "last_delivered_at": sink.last_delivered_at.map(|at| at.to_string()),
        "accepted": numbers.accepted,
        "delivered": numbers.delivered,
        "shed": numbers.shed,
        "dead_lettered": numbers.dead_lettered,
        "waiting": numbers.waiting,
        "notices": numbers.notices,
    });
    let processed = &sink.processed;
    let rare = [
        ("recovered", numbers.recovered),
        ("on_disk", numbers.on_disk),
        ("damaged", sink.damaged),
        ("missing", sink.missing),
        ("diverted", numbers.diverted),
        ("filtered", processed.filtered),
        ("merged", processed.merged),
        ("created", processed.created),
        ("failed", processed.failed),
        ("with_processors", processed.waiting),
    ];
    if let Value::Object(object) = &mut object {
        let failing = sink.failing_since.map(|since| ("failing_since".to_owned(), since.to_string().into()));
        object.extend(failing);
        object.extend(sink.awaits_disk.then(|| ("awaits_disk".to_owned(), true.into())));
        if !sink.warnings.is_empty() {
            object.insert("warnings".to_owned(), sink.warnings.clone().into());
        }
        object.extend(sink.disk_trouble.iter().map(|why| ("disk_trouble".to_owned(), why.as_str().into())));
        object.extend(rare.into_iter().filter(|(_, n)| *n > 0).map(|(key, n)| (key.to_owned(), n.into())));
    }
    object
}

/// One line for people while the sinks deliver what waits.
pub(super) fn progress(status: &GraphStatus) -> String {
    let waiting = status.sinks().iter().map(|sink| (sink, sink.balance.waiting + sink.processed.waiting));
    let waiting = waiting.filter(|(_, waiting)| *waiting > 0);
    let mut busy: Vec<_> = waiting.map(|(sink, waiting)| format!("{} {waiting}", sink.name)).collect();
    let stuck = status.processors().iter().filter(|processor| processor.state == ProcessorState::Busy);
    busy.extend(stuck.map(ToString::to_string));
    format!("streamll: still delivering: {}\n", busy.join(", "))
}

/// A few lines for people; numbers that are zero are left out.
fn text(drained: &Drained, cut: Option<&str>) -> String {
    let status = &drained.status;
    let total = status.balance();
    let mut out = String::new();
    let kept = status.sinks().iter().chain(status.removed()).any(|sink| sink.balance.on_disk > 0);
    let verdict = match (drained.complete, kept, cut) {
        (true, _, None) if drained.lacks_only_locks() => {
            "everything arrived, but another process has a disk buffer to the end"
        }
        (true, false, None) => "everything arrived",
        (true, true, None) => "everything arrived or is kept on disk",
        (true, _, Some(_)) => "not everything was read; what was read arrived or is kept",
        (false, _, None) => "not everything arrived",
        (false, _, Some(_)) => "not everything was read, and not everything of that arrived",
    };
    let numbers = [
        ("received", total.received),
        ("created", total.created),
        ("rejected", total.rejected),
        ("shed", total.shed),
        ("filtered", total.filtered),
        ("merged", total.merged),
        ("failed", total.failed),
        ("unrouted", total.unrouted),
        ("routed", total.routed),
    ];
    let _ = writeln!(out, "streamll: {verdict}: {}", listed(&numbers));
    for sink in status.sinks().iter().chain(status.removed()) {
        let b = &sink.balance;
        let numbers = [
            ("accepted", b.accepted),
            ("delivered", b.delivered),
            ("shed", b.shed),
            ("dead-lettered", b.dead_lettered),
            ("failed in its processors", sink.processed.failed),
            ("left with its processors", sink.processed.waiting),
            ("diverted", b.diverted),
            ("recovered", b.recovered),
            ("kept on disk for the next start", b.on_disk),
            ("left in memory", b.in_memory()),
            ("damaged on disk", sink.damaged),
            ("missing on disk", sink.missing),
            ("restarts", sink.restarts.into()),
        ];
        let _ = write!(out, "  {}: {}", sink.name, listed(&numbers));
        if let Some(reason) = last_reason(sink) {
            let state = sink.state.as_str();
            let reason =
                reason.strip_prefix(state).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(reason);
            let _ = write!(out, "; {state}: {reason}");
        }
        out.push('\n');
        for warning in &sink.warnings {
            let _ = writeln!(out, "    warning: {warning}");
        }
    }
    for processor in status.processors() {
        let _ = writeln!(out, "  {processor}");
    }
    if !status.balances() {
        let _ = writeln!(out, "  the numbers do not balance: this is a bug in streamll, please report it");
    }
    out
}

fn listed(numbers: &[(&str, u64)]) -> String {
    let first = numbers.iter().take(1);
    let rest = numbers.iter().skip(1).filter(|(_, n)| *n > 0);
    first.chain(rest).map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
}

/// Replaces a file, so that a reader never sees half of one. A device, a pipe or a folder is not replaced.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    // What a link leads to, and not the link.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::other("it is there, and no file: name one that can be replaced"));
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    std::fs::write(&fresh, text)?;
    std::fs::rename(fresh, path)
}
