//! Checks a merged topology as a whole: every problem at once, in file order, and the warnings.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use streamll_actors::route::Template;
use streamll_actors::sink::{BatchPolicy, Placement, SinkFactory};

use super::error::{Class, Problem, Severity, TopologyError, listed};
use super::key_path::KeyPath;
use super::layers::Merged;
use super::overlay::is_name;
use super::read::{Reader, keys_of, list, unknown_key};
use super::registry::{Keeps, Registry, Step};
use super::schema::{BufferKind, Fsync, SINK_KEYS, Settings, SinkSettings};
use super::sources::At;
use crate::units::{Period, Size, check_path};

/// A topology in which nothing is wrong.
#[derive(Clone)]
pub(crate) struct Checked {
    pub(crate) settings: Settings,
    pub(crate) processors: Vec<(String, Step)>,
    pub(crate) sinks: Vec<CheckedSink>,
    pub(crate) warnings: Vec<Problem>,
    /// `false` if unset variables were allowed, and there are some.
    pub(crate) complete: bool,
}

#[derive(Clone)]
pub(crate) struct CheckedSink {
    pub(crate) name: String,
    pub(crate) settings: SinkSettings,
    pub(crate) processors: Vec<(String, Step)>,
    pub(crate) factory: Option<SinkFactory>,
    /// What its kind prefers where the settings say nothing.
    pub(crate) prefers: (BatchPolicy, Placement),
    /// The topics that its broker keeps, where its configuration tells.
    pub(crate) keeps: Option<Keeps>,
}

/// Checks everything.
pub(crate) fn validate(merged: &mut Merged, kinds: &Registry) -> Result<Checked, TopologyError> {
    let Merged { sources, value: declared, disabled, problems } = merged;
    let reader = Reader { sources, problems: std::mem::take(problems) };
    let mut check = Check { reader, declared, disabled, kinds, complete: true };
    let root = KeyPath::default();
    let mut value = check.declared.clone();
    let sinks = take_map(&mut value, "sinks");
    let processors = take(&mut value, "processors");
    let settings: Settings = check.settings(value, &root);
    let processors = check.processors(processors, &root.key("processors"));
    let sinks = match sinks {
        Ok(sinks) => check.sinks(sinks),
        Err(other) => check.expected("a map of sinks", &other, &root.key("sinks")),
    };
    let shape = Template::parse(&settings.routing_key).ok();
    check.top(&settings, shape.as_ref());
    check.references(&settings, &sinks);
    check.content(&settings, &processors, &sinks);
    for sink in &sinks {
        check.sink(sink, shape.as_ref());
    }
    let Check { reader: Reader { sources, problems }, complete, .. } = check;
    let problems = sources.sealed(sources.in_file_order(problems));
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(TopologyError { problems });
    }
    let placeholders = sources.is_placeholder(&root);
    let complete = complete && !placeholders && sinks.iter().all(|sink| sink.factory.is_some());
    Ok(Checked { settings, processors, sinks, warnings: problems, complete })
}

fn take(map: &mut Value, key: &str) -> Value {
    map.as_object_mut().and_then(|map| map.shift_remove(key)).unwrap_or_default()
}

fn take_map(map: &mut Value, key: &str) -> Result<Map<String, Value>, Value> {
    match take(map, key) {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => Err(other),
    }
}

pub(crate) struct Check<'a> {
    pub(crate) reader: Reader<'a>,
    /// The merged topology.
    pub(crate) declared: &'a Value,
    pub(crate) disabled: &'a BTreeSet<String>,
    kinds: &'a Registry,
    complete: bool,
}

impl Check<'_> {
    pub(crate) fn report(
        &mut self,
        class: Class,
        message: impl Into<String>,
        help: impl Into<String>,
        path: &KeyPath,
    ) {
        self.reader.report_quoting(Problem::new(class, message).help(help), path);
    }

    fn expected<T: Default>(&mut self, what: &str, found: &Value, path: &KeyPath) -> T {
        let found = match found {
            Value::Array(_) => "a list",
            Value::Object(_) => "a map",
            Value::Null => "nothing",
            _ => "a single value",
        };
        self.reader.report(
            Problem::new(Class::Type, format!("expected {what}, found {found}")),
            path,
            At::Value,
        );
        T::default()
    }

    /// Reads settings, with defaults for what is wrong, so that the rest is checked as well.
    fn settings<T>(&mut self, value: Value, base: &KeyPath) -> T
    where
        T: serde::de::DeserializeOwned + serde::Serialize + Default,
    {
        let example = serde_json::to_value(T::default()).unwrap_or_default();
        let read = self.reader.read(value, base, &|path| keys_of(&example, base, path));
        self.complete &= read.complete;
        read.read.unwrap_or_default()
    }

    fn sinks(&mut self, sinks: Map<String, Value>) -> Vec<CheckedSink> {
        let misspelt = |problem: &Problem| problem.help.as_deref() == Some("did you mean `sinks`?");
        if sinks.is_empty() && !self.reader.problems.iter().any(misspelt) {
            let problem = Problem::new(Class::Missing, "there are no sinks");
            let help = match self.disabled.is_empty() {
                true => "declare one, such as `sinks: { console: { type: terminal } }`".to_owned(),
                false => {
                    format!("{} not enabled", is_or_are(self.disabled.iter().map(String::as_str)))
                }
            };
            self.reader.report(problem.help(help), &KeyPath::of(["sinks"]), At::Key);
        }
        sinks.into_iter().filter_map(|(name, sink)| self.declared(name, sink)).collect()
    }

    /// Reads one sink: the keys that all sinks have, and those of its kind.
    fn declared(&mut self, name: String, sink: Value) -> Option<CheckedSink> {
        let base = KeyPath::of(["sinks", name.as_str()]);
        if !is_name(&name) {
            let problem = Problem::new(Class::Range, format!("`{name}` cannot be the name of a sink"));
            self.reader.report(problem.help("names consist of a-z, 0-9 and _"), &base, At::Key);
        }
        let Value::Object(mut all) = sink else {
            return self.expected("a map with at least `type`", &sink, &base);
        };
        let mut own = Map::new();
        for key in SINK_KEYS {
            own.extend(all.shift_remove_entry(key));
        }
        let processors = own.shift_remove("processors").unwrap_or_default();
        let kind = self.kind(&own, &base);
        // what is wrong with the type has been said
        if kind.is_none() {
            own.shift_remove("type");
            self.reader.sources.keep_unread(&base, &Value::Object(all.clone()));
        }
        let settings = self.settings(Value::Object(own), &base);
        let path = base.key("processors");
        let processors = self.processors(processors, &path);
        for (name, step) in &processors {
            if matches!(step, Step::Actor(_)) {
                let problem = Problem::new(
                    Class::Conflict,
                    format!("`{name}` is an actor, which cannot stand in front of one sink"),
                );
                self.reader.report(problem.help("name it under `processors` at the top"), &path, At::Key);
            }
        }
        let (mut prefers, mut keeps) = <_>::default();
        let factory = kind.and_then(|kind| {
            let kind = self.kinds.sink_kind(&kind)?;
            prefers = (kind.batch, kind.placement);
            keeps = kind.keeps.as_ref().and_then(|keeps| keeps(&Value::Object(all.clone())));
            let fields: Vec<&str> = kind.fields.iter().copied().chain(SINK_KEYS).collect();
            let before = self.reader.problems.len();
            let kind = kind.clone();
            let factory = (kind.check)(&mut self.reader, Value::Object(all), &base);
            // a key that the kind does not know may be a misspelt one of all sinks
            for problem in self.reader.problems.iter_mut().skip(before) {
                let key = problem.path.strip_prefix(&format!("{base}.")).unwrap_or_default().to_owned();
                if problem.class == Class::UnknownKey && !key.contains(['.', '[']) {
                    problem.help = unknown_key(&key, &fields).help;
                    if problem.help.as_ref().is_some_and(|help| help.starts_with("the keys")) {
                        let own = listed(kind.fields.iter().copied());
                        problem.help = Some(match kind.fields {
                            [] => "this kind has no keys but those of every sink".to_owned(),
                            _ => format!("its own keys are {own}, beside those of every sink"),
                        });
                    }
                }
            }
            factory
        });
        Some(CheckedSink { name, settings, processors, factory, prefers, keeps })
    }

    /// The kind of a sink, if it is one that exists.
    fn kind(&mut self, sink: &Map<String, Value>, base: &KeyPath) -> Option<String> {
        let path = base.key("type");
        let kind = match sink.get("type") {
            Some(Value::String(kind)) => kind,
            Some(other) => return self.expected("the name of a kind", other, &path),
            None => {
                self.reader.missing("type", base);
                return None;
            }
        };
        if self.kinds.sink_kind(kind).is_none() {
            let problem = Problem::new(Class::Enum, format!("there is no kind of sink `{kind}`"));
            let near = problem.nearest(kind, self.kinds.sinks());
            let known = format!("there are {}", listed(self.kinds.sinks()));
            let help = near.help.as_ref().map_or(known.clone(), |near| format!("{near} {known}"));
            self.reader.report_quoting(near.help(help), &path);
            return None;
        }
        Some(kind.clone())
    }

    /// Reads a list of `- kind: { its keys }`.
    fn processors(&mut self, processors: Value, path: &KeyPath) -> Vec<(String, Step)> {
        const EXAMPLE: &str = "write `- redact: { fields: [data.api_key] }`";
        let from_variable =
            processors.as_str().filter(|_| self.reader.sources.is_variable(path)).and_then(list);
        let items = match from_variable.unwrap_or(processors) {
            Value::Null => return Vec::new(),
            Value::Array(items) => items,
            other => return self.expected("a list of processors", &other, path),
        };
        let mut steps = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = path.index(index);
            let Value::Object(map) = item else {
                self.report(Class::Type, "a processor is a map with one key, its kind", EXAMPLE, &path);
                continue;
            };
            let mut entries = map.into_iter();
            let (Some((kind, value)), None) = (entries.next(), entries.next()) else {
                let help = format!("{EXAMPLE}; begin a new `-` for each processor");
                self.report(Class::Type, "a processor is a map with one key, its kind", help, &path);
                continue;
            };
            let path = path.key(&kind);
            match self.kinds.processor_kind(&kind) {
                Some(check) => {
                    let check = check.clone();
                    let step = check(&mut self.reader, value, &path);
                    self.complete &= step.is_some();
                    steps.extend(step.map(|step| (kind, step)));
                }
                None => {
                    self.reader.sources.keep_unread(&path, &value);
                    let problem =
                        Problem::new(Class::Enum, format!("there is no kind of processor `{kind}`"));
                    let near = problem.nearest(&kind, self.kinds.processors());
                    let known = format!("there are {}", listed(self.kinds.processors()));
                    let help = near.help.as_ref().map_or(known.clone(), |near| format!("{near} {known}"));
                    self.reader.report(near.help(help), &path, At::Key);
                }
            }
        }
        steps
    }

    fn top(&mut self, settings: &Settings, topics: Option<&Template>) {
        let root = KeyPath::default();
        self.template(&settings.routing_key, &root.key("routing_key"));
        let service = &settings.service;
        if !is_service_name(service) {
            self.report(
                Class::Range,
                "this cannot be the name of a service",
                SERVICE_HELP,
                &root.key("service"),
            );
        }
        for (class, patterns) in [
            ("audit", &settings.classes.audit),
            ("token", &settings.classes.token),
            ("lifecycle", &settings.classes.lifecycle),
        ] {
            self.patterns(patterns, topics, &KeyPath::of(["classes", class]));
        }
        if let Some(why) = settings.data_dir.as_deref().and_then(|folder| check_path(folder).err()) {
            let (message, help) = why.split_once("; ").unwrap_or((&why, "name a folder"));
            self.report(Class::Range, message, help, &root.key("data_dir"));
        }
        self.range(settings.alert_after, Period::secs(1)..=Period::secs(86_400), &root.key("alert_after"));
        self.range(
            settings.shutdown.timeout,
            Period::millis(0)..=Period::secs(3_600),
            &KeyPath::of(["shutdown", "timeout"]),
        );
    }

    fn sink(&mut self, sink: &CheckedSink, topics: Option<&Template>) {
        let base = KeyPath::of(["sinks", sink.name.as_str()]);
        let at = |keys: [&str; 2]| base.key(keys[0]).key(keys[1]);
        let CheckedSink { settings: s, .. } = sink;
        if let Some(template) = &s.routing_key {
            self.template(template, &base.key("routing_key"));
        }
        self.patterns(s.topics.as_deref().unwrap_or_default(), topics, &base.key("topics"));
        self.patterns(&s.except, topics, &base.key("except"));
        if s.topics.as_ref().is_some_and(Vec::is_empty) {
            let help = "leave `topics` out to take everything, or keep the sink out with `enabled: false`";
            self.report(Class::Range, "this sink takes no topics", help, &base.key("topics"));
        }
        if s.buffer.kind == BufferKind::Memory && s.buffer.fsync.is_some() {
            let help = "leave it out, or keep the events on disk with `type: disk`";
            self.report(
                Class::Conflict,
                "a memory buffer has nothing to sync",
                help,
                &at(["buffer", "fsync"]),
            );
        }
        if let Some(size) = s.buffer.max_size {
            self.range(size, Size(1 << 20)..=Size(64 << 30), &at(["buffer", "max_size"]));
        }
        if let Some(events) = s.buffer.max_events {
            self.range(events, 1..=1_000_000_000, &at(["buffer", "max_events"]));
        }
        if let Some(Fsync::Every(period)) = s.buffer.fsync {
            self.range(period, Period::millis(1)..=Period::secs(3600), &at(["buffer", "fsync"]));
        }
        let breaker = &s.circuit_breaker;
        self.range(breaker.failure_threshold, 1..=1_000, &at(["circuit_breaker", "failure_threshold"]));
        let recovery = Period::millis(10)..=Period::secs(86_400);
        self.range(breaker.recovery_timeout, recovery.clone(), &at(["circuit_breaker", "recovery_timeout"]));
        self.range(breaker.recovery_max, recovery, &at(["circuit_breaker", "recovery_max"]));
        // a default gives way
        let max = at(["circuit_breaker", "recovery_max"]);
        if breaker.recovery_max < breaker.recovery_timeout && self.reader.sources.origin(&max).is_some() {
            let message = format!(
                "`recovery_max` ({}) is below `recovery_timeout` ({})",
                breaker.recovery_max, breaker.recovery_timeout
            );
            self.report(Class::Conflict, message, "raise `recovery_max`, or lower `recovery_timeout`", &max);
        }
        self.range(s.restart.max, 0..=1_000, &at(["restart", "max"]));
        self.range(s.restart.within, Period::secs(1)..=Period::secs(86_400), &at(["restart", "within"]));
        if let Some(events) = s.batch.max_events {
            self.range(events, 1..=65_536, &at(["batch", "max_events"]));
        }
        if let Some(size) = s.batch.max_size {
            self.range(size, Size(1 << 10)..=Size(64 << 20), &at(["batch", "max_size"]));
        }
        if let Some(linger) = s.batch.linger {
            self.range(linger, Period::millis(0)..=Period::secs(60), &at(["batch", "linger"]));
        }
        self.coverage(sink, topics);
        self.range(s.deliver_timeout, Period::millis(10)..=Period::secs(3_600), &base.key("deliver_timeout"));
        self.range(s.poison_after, 1..=1_000, &base.key("poison_after"));
    }

    fn range<T: PartialOrd + std::fmt::Display>(
        &mut self,
        value: T,
        range: RangeInclusive<T>,
        path: &KeyPath,
    ) {
        if !range.contains(&value) {
            let key = path.last_key().unwrap_or_default();
            let help = format!("use {} to {}", range.start(), range.end());
            self.report(Class::Range, format!("`{key}` cannot be {value}"), help, path);
        }
    }
}

fn is_or_are<'a>(names: impl Iterator<Item = &'a str> + Clone) -> String {
    let verb = if names.clone().count() == 1 { "is" } else { "are" };
    format!("{} {verb}", listed(names))
}

/// What a service may be called, for the help of an error.
pub(crate) const SERVICE_HELP: &str =
    "it names a folder, too: 1 to 128 bytes, no slash, no line break, no dot in front";

/// Whether a service may be called so: its name is that of a folder, too.
pub(crate) fn is_service_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.contains(|c: char| c.is_control() || c == '/' || c == '\\')
        && !name.starts_with('.')
}
