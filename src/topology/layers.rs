//! Loads an environment's file and what it extends, lays the process environment over them, and merges them with `config`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, Map, Source, Value, ValueKind};

use super::LoadOptions;
use super::error::{Class, Problem, TopologyError, listed};
use super::key_path::{KeyPath, Step};
use super::locate::{Document, Spot, place};
use super::mask::What;
use super::overlay::{is_name, overlay};
use super::scan::{self, MAX_BYTES};
use super::secrets::mask_argument;
use super::sources::{At, Sources, lookup};
use super::variables::substitute;

/// The layers, lowest first, and what they say together.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) sources: Sources,
    pub(crate) value: serde_json::Value,
    /// Sinks with `enabled: false`, which are kept out of `value`.
    pub(crate) disabled: BTreeSet<String>,
    /// What is wrong with variables, to be told with everything else.
    pub(crate) problems: Vec<Problem>,
}

/// The environments that have a file in `dir`, sorted; `base` is what they share, not one of them.
pub(crate) fn environments(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| stem(entry.ok()?.file_name().to_str()?).map(str::to_owned))
        .filter(|name| is_name(name) && name != "base")
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The name of a topology by that of its file.
fn stem(file: &str) -> Option<&str> {
    ENDINGS.into_iter().find_map(|ending| file.strip_suffix(ending))
}

/// How the names of topologies end.
const ENDINGS: [&str; 2] = [".yaml", ".yml"];

/// Files in `dir` that look like topologies, and whose names cannot be those of one.
#[cfg(feature = "cli")]
pub(crate) fn unnamed(dir: &Path) -> Vec<Problem> {
    let files = std::fs::read_dir(dir).into_iter().flatten();
    let files = files.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let mut files: Vec<_> = files
        .filter(|file| {
            let small = file.to_ascii_lowercase();
            let is_one = stem(file).is_some_and(is_name);
            !file.starts_with('.') && !is_one && ENDINGS.into_iter().any(|ending| small.ends_with(ending))
        })
        .collect();
    files.sort();
    let told = |file: String| {
        let problem = Problem::new(
            Class::Ref,
            format!("`{file}` is not looked at: its name is not that of a topology"),
        );
        let mut problem = problem.help("names consist of a-z, 0-9 and _, and end in `.yaml` or `.yml`");
        problem.severity = super::error::Severity::Warning;
        problem
    };
    TopologyError { problems: files.into_iter().map(told).collect() }.sealed().problems
}

/// The file of a topology; where there is none, the one that there should be.
fn file(dir: &Path, name: &str) -> Result<PathBuf, TopologyError> {
    let files = ENDINGS.map(|ending| dir.join(format!("{name}{ending}")));
    let [yaml, yml] = &files;
    match (yaml.exists(), yml.exists()) {
        (true, true) => {
            let problem = Problem::new(Class::Conflict, format!("`{name}` stands in two files"));
            Err(problem.help(format!("keep one of {} and {}", yaml.display(), yml.display())).into())
        }
        (false, true) => Ok(yml.clone()),
        _ => Ok(yaml.clone()),
    }
}

/// Reads and merges all layers of one environment.
pub(crate) fn load(dir: &Path, env: &str, options: &LoadOptions) -> Result<Merged, TopologyError> {
    let documents = chain(dir, env)?;
    let (over, overrides, mut problems) = overlay(&options.vars);
    let mut sources = Sources { documents, overrides, ..Sources::default() };
    let mut value = merge(&sources.documents, over).map_err(|error| {
        TopologyError::from(Problem::new(Class::Syntax, format!("the layers cannot be merged: {error}")))
    })?;
    for name in unknown_sinks(&sources) {
        let path = KeyPath::of(["sinks", name.as_str()]);
        let problem = Problem::new(Class::Env, format!("there is no sink `{name}`"));
        let declared = declared_sinks(&sources.documents);
        problems.push(sources.locate(
            problem.nearest(&name, declared.iter().map(String::as_str)),
            &path,
            At::Key,
        ));
        if let Some(sinks) = value.get_mut("sinks").and_then(|sinks| sinks.as_object_mut()) {
            sinks.remove(&name);
        }
    }
    for path in empty_sinks(&sources.documents) {
        let name = path.last_key().unwrap_or_default();
        let problem = Problem::new(Class::Missing, format!("the sink `{name}` is empty"));
        let help = "give it a `type`; `null` only removes what a layer below declares";
        problems.push(sources.locate(problem.help(help), &path, At::Key));
    }
    let disabled = take_disabled(&mut value, &sources, options);
    for (name, sink) in &disabled {
        sources.keep_unread(&KeyPath::of(["sinks", name.as_str()]), sink);
    }
    let disabled = disabled.into_keys().collect();
    fill_in(&mut value, KeyPath::default(), &mut sources, options, &mut problems);
    Ok(Merged { sources, value, disabled, problems })
}

/// The file of the environment and those it extends, lowest first.
fn chain(dir: &Path, env: &str) -> Result<Vec<Document>, TopologyError> {
    let mut above = Vec::new();
    let mut last = document(dir, env)?;
    while let Some(next) = extends(&last)? {
        // Where it stands in two files, reading it says so.
        let file = file(dir, &next).map(|path| path.display().to_string()).unwrap_or_default();
        let mut files: Vec<&str> =
            above.iter().chain([&last]).map(|document: &Document| document.file.as_str()).collect();
        if files.contains(&file.as_str()) {
            files.push(&file);
            let problem = Problem::new(Class::Cycle, "files extend each other in a circle");
            return Err(at_extends(problem.help(files.join(" extends ")), &last).into());
        }
        let below = document(dir, &next).map_err(|error| {
            let problems = error.problems.into_iter();
            let placed = problems
                .map(|problem| if problem.at.is_none() { at_extends(problem, &last) } else { problem });
            TopologyError { problems: placed.collect() }
        })?;
        above.push(std::mem::replace(&mut last, below));
    }
    above.push(last);
    above.reverse();
    Ok(above)
}

/// The name of the layer below.
fn extends(document: &Document) -> Result<Option<String>, TopologyError> {
    match lookup(&document.root, KeyPath::of(["extends"]).steps()).map(|value| &value.kind) {
        None | Some(ValueKind::Nil) => Ok(None),
        Some(ValueKind::String(name)) => Ok(Some(name.clone())),
        Some(_) => {
            let problem = Problem::new(Class::Type, "`extends` takes one name").help("write `extends: base`");
            Err(at_extends(problem, document).into())
        }
    }
}

fn at_extends(problem: Problem, document: &Document) -> Problem {
    let path = KeyPath::of(["extends"]);
    let spot = document.places.get(&path).and_then(|place| place.value.or(place.key));
    let mut problem = place(problem, &document.file, &document.text, spot.unwrap_or(Spot::at(1, 1)));
    problem.path = path.to_string();
    problem
}

/// Reads one file. A problem with the file as such has no place.
fn document(dir: &Path, name: &str) -> Result<Document, TopologyError> {
    if !is_name(name) {
        let shown = mask_argument(name);
        let problem = Problem::new(Class::Ref, format!("`{shown}` is not the name of a topology"));
        return Err(problem.help("names consist of a-z, 0-9 and _, without `.yaml`").into());
    }
    let path = file(dir, name)?;
    let file = path.display().to_string();
    let bytes = open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            let there = environments(dir);
            let known = || there.iter().map(String::as_str);
            let problem =
                Problem::new(Class::Ref, format!("there is no topology `{name}` in {}", dir.display()));
            let near = problem.nearest(name, known().chain(["base"]));
            if near.help.is_some() { near } else { near.help(format!("there are {}", listed(known()))) }
        }
        _ => Problem::new(Class::Syntax, format!("cannot read {file}: {error}")),
    })?;
    let text = scan::text(&file, bytes)?;
    let problems = scan::scan(&file, &text);
    if problems.is_empty() { Ok(Document::read(&file, text)) } else { Err(TopologyError { problems }) }
}

fn open(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// One layer for `config`, under a single root: it reads dots and brackets in the keys it finds at the top as paths.
#[derive(Clone)]
struct Layer(Value);

const ROOT: &str = "topology";

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Layer")
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(Map::from_iter([(ROOT.to_owned(), self.0.clone())]))
    }
}

/// Maps merge by key, lists replace, `null` removes; a sink whose `type` changes is replaced.
fn merge(documents: &[Document], over: Value) -> Result<serde_json::Value, ConfigError> {
    let layers = documents.iter().map(|document| document.root.clone()).chain([over]);
    let mut merged = Value::new(None, ValueKind::Table(Map::new()));
    for layer in layers {
        drop_retyped(&mut merged, &layer);
        let config = Config::builder().add_source(Layer(merged)).add_source(Layer(layer)).build()?;
        merged = config.get(ROOT)?;
    }
    let mut value: serde_json::Value = merged.try_deserialize()?;
    remove_nulls(&mut value);
    Ok(value)
}

fn sink_type<'a>(root: &'a Value, name: &str) -> Option<&'a ValueKind> {
    lookup(root, KeyPath::of(["sinks", name, "type"]).steps()).map(|value| &value.kind)
}

fn drop_retyped(below: &mut Value, above: &Value) {
    let retyped: Vec<String> = match lookup(above, KeyPath::of(["sinks"]).steps()).map(|sinks| &sinks.kind) {
        Some(ValueKind::Table(sinks)) => sinks.keys().cloned().collect(),
        _ => return,
    };
    let retyped = retyped.into_iter().filter(|name| match (sink_type(below, name), sink_type(above, name)) {
        (Some(old), Some(new)) => old != new,
        _ => false,
    });
    for name in retyped.collect::<Vec<_>>() {
        let ValueKind::Table(root) = &mut below.kind else { return };
        if let Some(ValueKind::Table(sinks)) = root.get_mut("sinks").map(|sinks| &mut sinks.kind) {
            // empties instead of removing, which keeps the order of the sinks
            sinks.insert(name, Value::new(None, ValueKind::Table(Map::new())));
        }
    }
}

/// Removes entries that are `null`; items of lists are not entries.
fn remove_nulls(value: &mut serde_json::Value) {
    if let serde_json::Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(remove_nulls);
    }
}

fn declared_sinks(documents: &[Document]) -> BTreeSet<String> {
    documents
        .iter()
        .flat_map(|document| document.places.keys())
        .filter_map(|path| match path.steps() {
            [Step::Key(top), Step::Key(name)] if top == "sinks" => Some(name.clone()),
            _ => None,
        })
        .collect()
}

/// Sinks that are `null` where there is nothing to remove.
fn empty_sinks(documents: &[Document]) -> BTreeSet<KeyPath> {
    let mut below = BTreeSet::new();
    let mut empty = BTreeSet::new();
    for document in documents {
        for name in declared_sinks(std::slice::from_ref(document)) {
            let path = KeyPath::of(["sinks", name.as_str()]);
            let removes =
                lookup(&document.root, path.steps()).is_some_and(|sink| sink.kind == ValueKind::Nil);
            if below.insert(name) && removes {
                empty.insert(path);
            }
        }
    }
    empty
}

fn unknown_sinks(sources: &Sources) -> BTreeSet<String> {
    let declared = declared_sinks(&sources.documents);
    let named = sources.overrides.keys().filter_map(|path| match path.steps() {
        [Step::Key(top), Step::Key(name), ..] if top == "sinks" => Some(name.clone()),
        _ => None,
    });
    named.filter(|name| !declared.contains(name)).collect()
}

/// Takes out the sinks that are not enabled, so that nothing they need has to be there.
fn take_disabled(
    value: &mut serde_json::Value,
    sources: &Sources,
    options: &LoadOptions,
) -> BTreeMap<String, serde_json::Value> {
    let Some(sinks) = value.get_mut("sinks").and_then(|sinks| sinks.as_object_mut()) else {
        return BTreeMap::new();
    };
    let off = |name: &str, sink: &serde_json::Value| match sink.get("enabled") {
        Some(serde_json::Value::Bool(enabled)) => !enabled,
        Some(serde_json::Value::String(text)) => {
            let overridden = sources.overrides.contains_key(&KeyPath::of(["sinks", name, "enabled"]));
            let says = match overridden {
                true => text.clone(),
                false if text.contains("${") => substitute(text, &|name| options.get(name), true).text,
                false => return false,
            };
            super::locate::scalar(&says) == ValueKind::Boolean(false)
        }
        _ => false,
    };
    let disabled = sinks.iter().filter(|(name, sink)| off(name, sink));
    let disabled: BTreeMap<_, _> = disabled.map(|(name, sink)| (name.clone(), sink.clone())).collect();
    sinks.retain(|name, _| !disabled.contains_key(name));
    disabled
}

/// Replaces the variables in every text of the files, and remembers what may be secret.
fn fill_in(
    value: &mut serde_json::Value,
    path: KeyPath,
    sources: &mut Sources,
    options: &LoadOptions,
    problems: &mut Vec<Problem>,
) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let path = path.key(key);
                sources.secrets.add_key(&path);
                fill_in(value, path, sources, options, problems);
            }
        }
        serde_json::Value::Array(items) => {
            let items = items.iter_mut().enumerate();
            items.for_each(|(index, value)| fill_in(value, path.index(index), sources, options, problems));
        }
        serde_json::Value::String(text) => {
            if !sources.is_override(&path) && text.contains("${") {
                let out = substitute(text, &|name| options.get(name), options.allow_unset);
                let unset = out.placeholder || !out.problems.is_empty();
                for (message, help) in out.problems {
                    let problem = Problem::new(Class::Env, message).help(help);
                    problems.push(sources.locate(problem, &path, At::Value));
                }
                *text = out.text;
                if out.changed || unset {
                    sources.substituted.insert(path.clone(), unset);
                }
            }
            sources.keep_secret(&path, text);
        }
        serde_json::Value::Null => {}
        number if sources.what(&path) != What::Text => sources.keep_secret(&path, &number.to_string()),
        _ => {}
    }
}
