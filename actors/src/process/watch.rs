//! The state of processors as seen from outside: whether a call runs, how often a processor hung, and whether it was
//! given up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::error;

use crate::event::{Event, Timestamp};
use crate::supervise::{Exit, RestartPolicy, RestartTracker, Verdict};

/// A call that takes longer than this is shown in the status.
const SHOWN_AFTER: Duration = Duration::from_secs(2);
/// A processor that hangs more often than this within [`WITHIN`], or has more stuck threads than this at once, is given
/// up.
const MAX_HANGS: u32 = 5;
const WITHIN: Duration = Duration::from_secs(15 * 60);
/// The watchdog looks once a second. If more time passes between two looks, it does not know what happened in that
/// time.
const PAUSE: Duration = Duration::from_secs(2);

/// A processor that does not return from a call, or that has hung at least once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessorStatus {
    /// Its name in the topology.
    pub name: Arc<str>,
    /// The sink that it belongs to, or `None` if every event passes it.
    pub sink: Option<Arc<str>>,
    /// Its state.
    pub state: ProcessorState,
    /// The time since which it is in this state.
    pub since: Timestamp,
    /// The event at which it hangs, or hung the last time: type and id, or the number of events.
    pub event: Option<String>,
    /// How often it hung.
    pub hangs: u32,
}

/// The states in which [`ProcessorStatus`] reports a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProcessorState {
    /// The processor works. An earlier one hung and was replaced.
    Replaced,
    /// The processor has not returned from a call for some seconds.
    Busy,
    /// The processor was given up. Every event that comes to it becomes a dead letter.
    Failed,
}

impl ProcessorState {
    /// Returns `replaced`, `busy` or `failed`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ProcessorState::Replaced => "replaced",
            ProcessorState::Busy => "busy",
            ProcessorState::Failed => "failed",
        }
    }
}

/// For people: `processor redact has not come back since 03:12:07, from event start 01K…`.
impl fmt::Display for ProcessorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "processor {}", self.name)?;
        if let Some(sink) = &self.sink {
            write!(f, " of {sink}")?;
        }
        let since = self.since.to_string();
        let since = since.get(11..19).unwrap_or_default().to_owned();
        let event = self.event.as_ref().map(|event| format!(", from {event}")).unwrap_or_default();
        let hung = match self.hangs {
            1 => "hung once".to_owned(),
            hangs => format!("hung {hangs} times"),
        };
        match self.state {
            ProcessorState::Busy => write!(f, " has not come back since {since}{event}"),
            ProcessorState::Replaced => write!(f, " {hung} and was replaced, last at {since}{event}"),
            ProcessorState::Failed => {
                write!(
                    f,
                    " {hung} and was given up at {since}: every event that comes to it becomes a dead letter"
                )
            }
        }
    }
}

/// For how long something has not moved, in time in which this process itself moved. A process that was stopped (by a
/// signal, a debugger, a frozen machine) must not take its own pause for a hang.
#[derive(Debug, Default)]
pub(super) struct Silence {
    mark: Option<(u64, usize)>,
    last: Option<Instant>,
    silent: Duration,
}

impl Silence {
    /// It is at `mark` now.
    pub(super) fn look(&mut self, mark: (u64, usize), now: Instant) -> Duration {
        let passed = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last = Some(now);
        if self.mark == Some(mark) {
            self.silent += passed.min(PAUSE);
        } else {
            (self.mark, self.silent) = (Some(mark), Duration::ZERO);
        }
        self.silent
    }
}

/// Something whose code may hang, and which can then be left alone.
pub(crate) trait Watched: Send + Sync {
    /// Treats a call that takes longer than `patience` as one that never returns: logs which call it is, leaves its
    /// thread alone, and keeps its events for the next incarnation. Returns `false` if all is well.
    fn condemn(&self, patience: Duration, now: Instant) -> bool;

    /// Returns what the status shows.
    fn troubles(&self, now: Instant) -> Vec<ProcessorStatus>;

    /// Takes no more events, and counts the current ones as failed: the graph's time is over.
    fn close(&self);
}

/// What is known of one processor, over all its incarnations.
#[derive(Debug)]
pub(super) struct Record {
    name: Arc<str>,
    hangs: u32,
    tracker: RestartTracker,
    given_up: bool,
    since: Timestamp,
    event: Option<String>,
}

impl Record {
    pub(super) fn new(name: Arc<str>) -> Record {
        let policy = RestartPolicy { max: MAX_HANGS, within: WITHIN };
        let (tracker, since) = (RestartTracker::new(policy), Timestamp::now());
        Record { name, hangs: 0, tracker, given_up: false, since, event: None }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// It hung once more, and has this many stuck threads now. Returns the reason for the dead letter.
    pub(super) fn hung(
        &mut self,
        in_what: &str,
        event: Option<String>,
        silence: Duration,
        stuck: usize,
        now: Instant,
    ) -> String {
        let why = format!("it did not come back from `{in_what}` for {} s", silence.as_secs());
        self.hangs += 1;
        (self.since, self.event) = (Timestamp::now(), event);
        let verdict = self.tracker.decide(&Exit::Failed(String::new()), false, now);
        let (processor, event) = (&self.name, self.event.as_deref());
        if verdict == Verdict::GiveUp || stuck > MAX_HANGS as usize {
            self.given_up = true;
            error!(%processor, event, why, hangs = self.hangs, "a processor hung too often: given up, what comes to it becomes a dead letter");
        } else {
            error!(%processor, event, why, hangs = self.hangs, "a processor hung: its thread is left to itself, a fresh one goes on");
        }
        format!("a processor hung: {why}")
    }

    /// Returns why it takes no event, if it was given up.
    pub(super) fn refuses(&self) -> Option<String> {
        self.given_up.then(|| format!("a processor was given up: it hung {} times", self.hangs))
    }

    /// Returns what the status shows, with the current call.
    pub(super) fn status(
        &self,
        sink: Option<&Arc<str>>,
        busy: Option<(Duration, Option<String>)>,
    ) -> Option<ProcessorStatus> {
        let busy = busy.filter(|(silence, _)| *silence >= SHOWN_AFTER);
        let (state, since, event) = match busy {
            Some((silence, event)) => (ProcessorState::Busy, ago(silence), event),
            None if self.given_up => (ProcessorState::Failed, self.since, self.event.clone()),
            None if self.hangs > 0 => (ProcessorState::Replaced, self.since, self.event.clone()),
            None => return None,
        };
        let (name, sink, hangs) = (self.name.clone(), sink.cloned(), self.hangs);
        Some(ProcessorStatus { name, sink, state, since, event, hangs })
    }
}

/// Returns the type and the id of an event, without its payload.
pub(super) fn named(event: &Event) -> String {
    format!("{} {}", event.kind().as_str(), event.id())
}

fn ago(age: Duration) -> Timestamp {
    let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(Timestamp::now().as_micros().saturating_sub(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_pause_of_the_whole_process_is_no_hang() {
        let (mut silence, mut now) = (Silence::default(), Instant::now());
        assert_eq!(silence.look((1, 7), now), Duration::ZERO);
        now += 3600 * SECOND;
        assert_eq!(silence.look((1, 7), now), PAUSE);
        for _ in 0..30 {
            now += SECOND;
            silence.look((1, 7), now);
        }
        assert_eq!(silence.look((1, 7), now), PAUSE + 30 * SECOND);
        assert_eq!(silence.look((1, 8), now), Duration::ZERO, "it has moved");
    }

    #[test]
    fn people_read_which_since_when_and_from_what() {
        let since = Timestamp::from_micros(1_000_000);
        let mut status = ProcessorStatus {
            name: "redact".into(),
            sink: Some("live".into()),
            state: ProcessorState::Busy,
            since,
            event: Some("start 01K".to_owned()),
            hangs: 0,
        };
        assert_eq!(
            status.to_string(),
            "processor redact of live has not come back since 00:00:01, from start 01K"
        );
        (status.state, status.hangs, status.sink) = (ProcessorState::Failed, 6, None);
        assert_eq!(
            status.to_string(),
            "processor redact hung 6 times and was given up at 00:00:01: every event that comes to it becomes a dead letter"
        );
    }
}
