//! The keys of a topology: one documented field for each YAML key, with its default and its unit.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::content::Content;
use crate::units::{Period, Size};

/// The keys at the top of a file.
pub(crate) const TOP_KEYS: [&str; 12] = [
    "extends",
    "service",
    "tags",
    "data_dir",
    "routing_key",
    "classes",
    "alert_after",
    "content",
    "processors",
    "dead_letter",
    "sinks",
    "shutdown",
];

/// The keys of every sink, whatever its kind; all others belong to the kind.
pub(crate) const SINK_KEYS: [&str; 14] = [
    "type",
    "enabled",
    "topics",
    "except",
    "routing_key",
    "content",
    "processors",
    "buffer",
    "circuit_breaker",
    "restart",
    "batch",
    "deliver_timeout",
    "poison_after",
    "dead_letter",
];

/// The top of a topology.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// The layer below this file: `base` for `base.yaml` in the same folder. Nothing by default.
    pub(crate) extends: Option<String>,
    /// The name of the application, written into every event as the tag `service`. Default `streamll`.
    pub(crate) service: String,
    /// Tags of every event, texts only. None by default.
    pub(crate) tags: BTreeMap<String, String>,
    /// The folder for disk buffers and dead letters. Default: the user's state directory, made when first needed.
    pub(crate) data_dir: Option<PathBuf>,
    /// The template of every event's topic. Default `ai.{module_name}.{event_type}`.
    pub(crate) routing_key: String,
    /// Which topics belong to which class, for overload: tokens are shed first, `audit` last.
    pub(crate) classes: Classes,
    /// How long a sink may be in trouble before an alert event tells the other sinks. Default 30 s.
    pub(crate) alert_after: Period,
    /// `off` takes out what was said, before anything else sees it. Default `on`.
    pub(crate) content: Content,
    /// The steps every event passes, in order: `- kind: { its keys }`. None by default.
    pub(crate) processors: Vec<serde_json::Value>,
    /// The sink that takes what can never be delivered. Default: a file for each sink in `data_dir`.
    pub(crate) dead_letter: Option<String>,
    /// The sinks, by name (`[a-z0-9_]+`).
    pub(crate) sinks: serde_json::Map<String, serde_json::Value>,
    /// The end of the process.
    pub(crate) shutdown: Shutdown,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            extends: None,
            service: "streamll".to_owned(),
            tags: BTreeMap::new(),
            data_dir: None,
            routing_key: "ai.{module_name}.{event_type}".to_owned(),
            classes: Classes::default(),
            alert_after: Period::secs(30),
            content: Content::default(),
            processors: Vec::new(),
            dead_letter: None,
            sinks: serde_json::Map::new(),
            shutdown: Shutdown::default(),
        }
    }
}

/// Topic patterns that put events into a class by their topic; without a match the event's type decides.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Classes {
    /// Shed last of all. None by default.
    pub(crate) audit: Vec<String>,
    /// Shed first, beside the events of type `token`. None by default.
    pub(crate) token: Vec<String>,
    /// Shed when no token is left. None by default.
    pub(crate) lifecycle: Vec<String>,
}

/// The end of the process.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Shutdown {
    /// How long to go on delivering what waits. Default 25 s: less than the 30 s that Kubernetes gives.
    pub(crate) timeout: Period,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { timeout: Period::secs(25) }
    }
}

/// The keys that every sink has.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct SinkSettings {
    /// The kind of sink, such as `terminal`. Required.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// `false` keeps the sink out, as if it were not written. Default `true`.
    pub(crate) enabled: bool,
    /// The topics it takes. Default: all; none for a sink that others name as `dead_letter` or `fallback`.
    pub(crate) topics: Option<Vec<String>>,
    /// The topics it leaves, of those it takes. None by default.
    pub(crate) except: Vec<String>,
    /// The template of the key under which its broker sees an event. Default: the topology's.
    pub(crate) routing_key: Option<String>,
    /// `off` takes out what was said, before this sink alone. Default `on`, unless it is off at the top.
    pub(crate) content: Content,
    /// Steps in front of this sink alone, on a copy of each event. None by default.
    pub(crate) processors: Vec<serde_json::Value>,
    /// Where its events wait.
    pub(crate) buffer: Buffer,
    /// When it stops trying for a while.
    pub(crate) circuit_breaker: CircuitBreaker,
    /// How often it may crash.
    pub(crate) restart: Restart,
    /// How many events it takes at once.
    pub(crate) batch: Batch,
    /// How long one delivery may take before it counts as failed. Default 30 s.
    pub(crate) deliver_timeout: Period,
    /// How many crashes on one event make it a dead letter. Default 3.
    pub(crate) poison_after: u32,
    /// The sink that takes what this one can never deliver. Default: the topology's.
    pub(crate) dead_letter: Option<String>,
}

impl Default for SinkSettings {
    fn default() -> Self {
        Self {
            kind: String::new(),
            enabled: true,
            topics: None,
            except: Vec::new(),
            routing_key: None,
            content: Content::default(),
            processors: Vec::new(),
            buffer: Buffer::default(),
            circuit_breaker: CircuitBreaker::default(),
            restart: Restart::default(),
            batch: Batch::default(),
            deliver_timeout: Period::secs(30),
            poison_after: 3,
            dead_letter: None,
        }
    }
}

/// Where the events of a sink wait. Whichever limit is reached first counts.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Buffer {
    /// `memory` dies with the process, `disk` does not. Default `memory`.
    #[serde(rename = "type")]
    pub(crate) kind: BufferKind,
    /// Most bytes that wait. Default 64 MiB, on disk 1 GiB.
    pub(crate) max_size: Option<Size>,
    /// Most events that wait. Default 100,000, on disk as many as fit.
    pub(crate) max_events: Option<u64>,
    /// What happens when it is full. Default `shed_tokens`.
    pub(crate) when_full: WhenFull,
    /// When a disk buffer is made to survive a loss of power. Default `group`.
    pub(crate) fsync: Option<Fsync>,
}

/// What a buffer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BufferKind {
    /// Dies with the process.
    #[default]
    Memory,
    /// Survives it.
    Disk,
}

/// When what was written is made to survive a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fsync {
    /// Before an event counts as held, for all that gathered meanwhile.
    Group,
    /// So often.
    Every(Period),
    /// When the system likes to.
    Never,
}

impl<'de> Deserialize<'de> for Fsync {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        match value.as_str() {
            Some("group") => Ok(Fsync::Group),
            Some("never") => Ok(Fsync::Never),
            Some(text) if !text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
                Err(de::Error::custom(format!(
                    "`{text}` is none of `group`, `never` and an interval such as `100ms`"
                )))
            }
            _ => Period::deserialize(value).map(Fsync::Every).map_err(de::Error::custom),
        }
    }
}

impl Serialize for Fsync {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Fsync::Group => serializer.serialize_str("group"),
            Fsync::Never => serializer.serialize_str("never"),
            Fsync::Every(period) => period.serialize(serializer),
        }
    }
}

/// What a full buffer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WhenFull {
    /// Sheds waiting tokens first, lifecycle events when no token is left, audit events last.
    #[default]
    ShedTokens,
    /// Sheds what comes in.
    DropNewest,
}

/// When a sink stops trying for a while.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct CircuitBreaker {
    /// Failures in a row that open it. Default 3.
    pub(crate) failure_threshold: u32,
    /// How long it stays open before one event is tried. Default 30 s.
    pub(crate) recovery_timeout: Period,
    /// The longest it stays open, as failed attempts prolong it. Default 5 min.
    pub(crate) recovery_max: Period,
    /// What happens to events while it is open. Default `buffer`.
    pub(crate) on_open: OnOpen,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            failure_threshold: 3,
            recovery_timeout: Period::secs(30),
            recovery_max: Period::secs(300),
            on_open: OnOpen::default(),
        }
    }
}

/// What happens to events while a breaker is open.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnOpen {
    /// They wait in the buffer.
    #[default]
    Buffer,
    /// They are shed, and counted.
    Drop,
    /// They go to another sink: `fallback: archive`.
    Fallback(String),
}

/// How often a sink may crash without delivering anything.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Restart {
    /// Most crashes within the window; one more and the sink is `failed`. Default 5.
    pub(crate) max: u32,
    /// The window. Default 60 s.
    pub(crate) within: Period,
}

impl Default for Restart {
    fn default() -> Self {
        Self { max: 5, within: Period::secs(60) }
    }
}

/// How many events a sink takes at once. Batches grow by themselves: these are their limits. What is not said is as the
/// sink's kind prefers.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Batch {
    /// Most events. Default 256, for brokers more.
    pub(crate) max_events: Option<u32>,
    /// Most bytes. Default 1 MiB.
    pub(crate) max_size: Option<Size>,
    /// How long to wait for more before a batch leaves. Default `0s`.
    pub(crate) linger: Option<Period>,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::key_path::KeyPath;
    use super::super::locate::Document;
    use super::*;

    fn keys(value: &Value, path: &KeyPath, out: &mut Vec<(KeyPath, Value)>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let path = path.key(key);
            out.push((path.clone(), value.clone()));
            keys(value, &path, out);
        }
    }

    #[test]
    fn the_reference_shows_every_key_with_its_default_and_a_reason() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/topologies/reference.yaml");
        let text = std::fs::read_to_string(file).expect("reference.yaml");
        let reference = Document::read(file, text.clone());
        let written: Value = reference.root.clone().try_deserialize().expect("json");
        let mut wanted = Vec::new();
        let top = serde_json::to_value(Settings::default()).expect("settings");
        let sink = serde_json::to_value(SinkSettings::default()).expect("sink settings");
        keys(&top, &KeyPath::default(), &mut wanted);
        keys(&sink, &KeyPath::of(["sinks", "live"]), &mut wanted);
        for (path, default) in wanted {
            let place = reference.places.get(&path).unwrap_or_else(|| panic!("reference.yaml lacks {path}"));
            let line = text.lines().nth(place.start.start.0 - 1).unwrap_or_default();
            let key_line =
                place.key.map_or(line, |key| text.lines().nth(key.start.0 - 1).unwrap_or_default());
            assert!(key_line.contains(" # "), "{path} says no reason: {key_line}");
            let pointer: String = path.to_string().split('.').map(|key| format!("/{key}")).collect();
            let shown = written.pointer(&pointer).expect("value");
            let is_example = ["service", "tags", "processors", "sinks.live.type", "sinks.live.processors"]
                .contains(&path.to_string().as_str());
            let has_default = !(default.is_null() || default.is_object() || is_example);
            assert!(!has_default || *shown == default, "{path}: the default is {default}, not {shown}");
        }
    }

    #[test]
    fn the_reference_shows_every_key_of_every_kind_of_sink_with_a_reason() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/topologies/reference.yaml");
        let text = std::fs::read_to_string(file).expect("reference.yaml");
        let written: Value = Document::read(file, text.clone()).root.try_deserialize().expect("json");
        let kinds = super::super::Registry::default();
        let sinks = written["sinks"].as_object().expect("sinks");
        for kind in kinds.sinks() {
            let fields = kinds.sink_kind(kind).expect("a kind").fields;
            let shown = sinks.values().find(|sink| sink["type"] == kind);
            let shown = shown.unwrap_or_else(|| panic!("reference.yaml has no sink of the kind `{kind}`"));
            for field in fields {
                assert!(shown.get(*field).is_some(), "reference.yaml lacks `{field}` of `{kind}`");
                let says =
                    |line: &str| line.trim_start().starts_with(&format!("{field}:")) && line.contains(" # ");
                assert!(text.lines().any(says), "`{field}` of `{kind}` says no reason");
            }
        }
    }

    #[test]
    fn the_lists_of_keys_are_those_of_the_structs() {
        let keys = |value: Value| value.as_object().expect("map").keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(serde_json::to_value(Settings::default()).expect("settings")), TOP_KEYS);
        assert_eq!(keys(serde_json::to_value(SinkSettings::default()).expect("sink")), SINK_KEYS);
    }
}
