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

/// The keys at the top of a topology.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// The file below this file: `base` for `base.yaml` in the same folder. Default: none.
    pub(crate) extends: Option<String>,
    /// The name of the application, written into every event as the tag `service`. Default: `streamll`.
    pub(crate) service: String,
    /// Tags of every event. Values are texts. Default: none.
    pub(crate) tags: BTreeMap<String, String>,
    /// The folder for disk buffers and dead letters. It is made when it is first needed. Default: the user's state
    /// directory.
    pub(crate) data_dir: Option<PathBuf>,
    /// The template of every event's topic. Default: `ai.{module_name}.{event_type}`.
    pub(crate) routing_key: String,
    /// The topics of each class. Under overload, `token` is shed first and `audit` last.
    pub(crate) classes: Classes,
    /// How long a sink may be in trouble before the other sinks get an alert. Default: 30 s.
    pub(crate) alert_after: Period,
    /// `off` removes what was said, before any other step. Default: `on`.
    pub(crate) content: Content,
    /// The steps that every event passes, in order: `- kind: { its keys }`. Default: none.
    pub(crate) processors: Vec<serde_json::Value>,
    /// The sink that takes events that can never be delivered. Default: a file for each sink in `data_dir`.
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

/// Topic patterns that put events into a class. If no pattern matches, the type of the event decides.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Classes {
    /// Shed last. Default: none.
    pub(crate) audit: Vec<String>,
    /// Shed first, together with the events of type `token`. Default: none.
    pub(crate) token: Vec<String>,
    /// Shed when no token is left. Default: none.
    pub(crate) lifecycle: Vec<String>,
}

/// The end of the process.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Shutdown {
    /// How long waiting events are delivered at the end. Default: 25 s, less than the 30 s that Kubernetes gives.
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
    /// The kind of the sink, such as `terminal`. Required.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// `false` leaves the sink out, as if it were not in the file. Default: `true`.
    pub(crate) enabled: bool,
    /// The topics that it takes. Default: all. For a sink that others name as `dead_letter` or `fallback`, default:
    /// none.
    pub(crate) topics: Option<Vec<String>>,
    /// The topics that it does not take. Default: none.
    pub(crate) except: Vec<String>,
    /// The template of the key that its broker sees. Default: the topology's.
    pub(crate) routing_key: Option<String>,
    /// `off` removes what was said, in front of this sink only. Default: `on`, unless it is off at the top.
    pub(crate) content: Content,
    /// Steps in front of this sink only, on a copy of each event. Default: none.
    pub(crate) processors: Vec<serde_json::Value>,
    /// Where its events wait.
    pub(crate) buffer: Buffer,
    /// When it stops trying for a while.
    pub(crate) circuit_breaker: CircuitBreaker,
    /// How often it may crash.
    pub(crate) restart: Restart,
    /// How many events it takes at once.
    pub(crate) batch: Batch,
    /// How long one delivery may take before it counts as failed. Default: 30 s.
    pub(crate) deliver_timeout: Period,
    /// How many crashes on one event make it a dead letter. Default: 3.
    pub(crate) poison_after: u32,
    /// The sink that takes events that this one can never deliver. Default: the topology's.
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

/// Where the events of a sink wait. The limit that is reached first applies.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Buffer {
    /// `memory` is lost with the process, `disk` is not. Default: `memory`.
    #[serde(rename = "type")]
    pub(crate) kind: BufferKind,
    /// The most bytes that wait. Default: 64 MiB, on disk 1 GiB.
    pub(crate) max_size: Option<Size>,
    /// The most events that wait. Default: 100,000, on disk no limit.
    pub(crate) max_events: Option<u64>,
    /// What happens when the buffer is full. Default: `shed_tokens`.
    pub(crate) when_full: WhenFull,
    /// When written events are made to survive a loss of power (disk buffers only). Default: `group`.
    pub(crate) fsync: Option<Fsync>,
}

/// The kinds of buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BufferKind {
    /// Lost with the process.
    #[default]
    Memory,
    /// Survives the process.
    Disk,
}

/// When written events are made to survive a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fsync {
    /// Before an event counts as held. One sync covers all events that were written before it.
    Group,
    /// Once in each interval.
    Every(Period),
    /// When the operating system decides.
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
    /// Sheds the new event.
    DropNewest,
}

/// When a sink stops trying for a while.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct CircuitBreaker {
    /// The number of failures in a row that opens the circuit. Default: 3.
    pub(crate) failure_threshold: u32,
    /// How long the circuit stays open before one event is tried. Default: 30 s.
    pub(crate) recovery_timeout: Period,
    /// The longest time that the circuit stays open. Failed attempts prolong the time up to this. Default: 5 min.
    pub(crate) recovery_max: Period,
    /// What happens to events while the circuit is open. Default: `buffer`.
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

/// What happens to events while a circuit is open.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnOpen {
    /// The events wait in the buffer.
    #[default]
    Buffer,
    /// The events are shed and counted.
    Drop,
    /// The events go to another sink: `fallback: archive`.
    Fallback(String),
}

/// How often a sink may crash with no delivery in between.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Restart {
    /// The most crashes within the window. After one more, the sink is `failed`. Default: 5.
    pub(crate) max: u32,
    /// The window. Default: 60 s.
    pub(crate) within: Period,
}

impl Default for Restart {
    fn default() -> Self {
        Self { max: 5, within: Period::secs(60) }
    }
}

/// How many events a sink takes at once. Batches grow by themselves, and these are their limits. The kind of the sink
/// sets the defaults.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Batch {
    /// The most events. Default: 256; more for brokers.
    pub(crate) max_events: Option<u32>,
    /// The most bytes. Default: 1 MiB.
    pub(crate) max_size: Option<Size>,
    /// How long to wait for more events before a batch is delivered. Default: `0s`.
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
