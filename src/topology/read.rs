//! Reads typed settings out of the merged tree: every mistake of a part at once, each with its place.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::error::{Class, Problem, listed, nearest};
use super::key_path::{KeyPath, Step};
use super::locate::{Document, scalar};
use super::scan;
use super::secrets::{is_secret_key, may_be_secret_key};
use super::sources::{At, Sources};
use crate::secret::noting;

/// What other tools, and people, call our keys.
const HABITS: [(&str, &[&str]); 22] = [
    ("breaker", &["circuit_breaker"]),
    ("key", &["stream_key", "routing_key"]),
    ("stream", &["stream_key"]),
    ("redis_url", &["url"]),
    ("amqp_url", &["url"]),
    ("uri", &["url"]),
    ("address", &["url"]),
    ("endpoint", &["url"]),
    ("sink", &["sinks"]),
    ("outputs", &["sinks"]),
    ("processor", &["processors"]),
    ("transforms", &["processors"]),
    ("dlq", &["dead_letter"]),
    ("topic", &["topics"]),
    ("exclude", &["except"]),
    ("kind", &["type"]),
    ("disabled", &["enabled"]),
    ("maxlen", &["max_len"]),
    ("max_bytes", &["max_size"]),
    ("timeout", &["deliver_timeout", "recovery_timeout", "within"]),
    ("threshold", &["failure_threshold"]),
    ("overflow", &["when_full"]),
];

/// A key that nobody reads, with what was probably meant.
pub(crate) fn unknown_key(key: &str, known: &[&str]) -> Problem {
    let problem = Problem::new(Class::UnknownKey, format!("unknown key `{key}`"));
    let habit = HABITS
        .iter()
        .find(|(word, _)| *word == key)
        .and_then(|(_, ours)| known.iter().find(|key| ours.contains(key)));
    match habit.copied().or_else(|| nearest(key, known.iter().copied())) {
        Some(found) => problem.help(format!("did you mean `{found}`?")),
        None if known.is_empty() => problem.help("remove it"),
        None => problem.help(format!("the keys here are {}", listed(known.iter().copied()))),
    }
}

fn did_you_mean(path: &KeyPath) -> String {
    format!("did you mean `{}`?", path.last_key().unwrap_or_default())
}

/// What could be read of a part.
pub(crate) struct Read<C> {
    /// What was read, with defaults for what was wrong; `None` if something required is wrong or not there.
    pub(crate) read: Option<C>,
    /// The value, with texts from variables as the numbers they stand for.
    pub(crate) value: Value,
    /// Whether nothing was wrong, and no unset variable stands where only a real value will do.
    pub(crate) complete: bool,
}

/// Where problems are collected while a tree is read.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) sources: &'a mut Sources,
    pub(crate) problems: Vec<Problem>,
}

impl Reader<'_> {
    /// Reports a problem whose words are ours and quote no value.
    pub(crate) fn report(&mut self, problem: Problem, path: &KeyPath, at: At) {
        let problem = self.sources.locate(problem, path, at);
        self.problems.push(problem);
    }

    /// Reports a problem in words that may quote the value, unless that is secret; nothing where a variable is unset.
    pub(crate) fn report_quoting(&mut self, problem: Problem, path: &KeyPath) {
        self.report_of(problem, path, path);
    }

    /// The same in words that may quote any value of the part at `scope`.
    pub(crate) fn report_of(&mut self, mut problem: Problem, path: &KeyPath, scope: &KeyPath) {
        if self.sources.is_placeholder(path) {
            return;
        }
        let told = |text: &str| self.sources.secrets.told(text, scope);
        let help = problem.help.take();
        problem.help = help.as_deref().and_then(told);
        problem.message = match told(&problem.message) {
            Some(message) => message,
            None => {
                problem.help.get_or_insert_with(|| "it may be secret, so it is not shown".to_owned());
                let expected = problem.message.split(", found ").next().and_then(told);
                let expected = expected.filter(|text| text.starts_with("expected "));
                expected.unwrap_or_else(|| "the value is not accepted".to_owned())
            }
        };
        self.report(problem, path, At::Value);
    }

    /// Like [`report_quoting`](Self::report_quoting), with the caret at the byte `offset` of `text`, if the file shows it.
    pub(crate) fn report_inside(&mut self, problem: Problem, path: &KeyPath, text: &str, offset: usize) {
        let before = self.problems.len();
        self.report_quoting(problem, path);
        let Some(problem) = self.problems.get_mut(before) else { return };
        let (Some(at), Some(excerpt)) = (&mut problem.at, &mut problem.excerpt) else { return };
        let begin: String = excerpt.line.chars().skip(at.column - 1).collect();
        let quote = usize::from(begin.starts_with(['"', '\'']));
        if begin.get(quote..).is_some_and(|begin| begin.starts_with(text)) {
            let before = text.get(..offset).unwrap_or(text).chars().count();
            at.column += quote + before;
            excerpt.width = excerpt.width.saturating_sub(2 * quote + before).max(1);
        }
    }

    /// Reads `value`, which stands at `base`. `known` gives the keys that may stand at a path below it.
    pub(crate) fn read<C: DeserializeOwned>(
        &mut self,
        mut value: Value,
        base: &KeyPath,
        known: &dyn Fn(&KeyPath) -> Vec<String>,
    ) -> Read<C> {
        let mut unknown = BTreeSet::new();
        let mut pruned = BTreeSet::new();
        let mut missing = BTreeSet::new();
        let read = loop {
            let (result, secrets) = noting(|| attempt::<C>(&value, base, &mut unknown));
            if !secrets.is_empty() {
                self.sources.keep_typed(base, &value, &|text| {
                    secrets.iter().any(|secret| text == secret || (secret.len() > 3 && text.contains(secret)))
                });
            }
            let (message, steps) = match result {
                Ok(read) => break Some(read),
                Err(error) => error,
            };
            let path = below(base, &steps);
            if self.sources.is_variable(&path) && unquote(&mut value, &steps) {
                continue;
            }
            if let Some(field) = quoted(&message, "missing field `") {
                missing.insert(path.key(field));
                break None;
            }
            let same = self.sources.secrets.same_for_others(&message, &path, |others| {
                let other = with(&value, base, others);
                attempt::<C>(&other, base, &mut BTreeSet::new()).err().map(|(message, _)| message)
            });
            self.serde_error(&message, same, &path, known);
            match prune(&mut value, &steps) {
                Some(length) => pruned.insert(below(base, steps.get(..length).unwrap_or_default())),
                None => break None,
            };
        };
        let complete = unknown.is_empty() && pruned.is_empty();
        for path in unknown {
            let parent = path.parent().unwrap_or_default();
            let keys = known(&parent);
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let key = path.last_key().unwrap_or_default();
            let problem = unknown_key(key, &keys);
            let meant = problem.help.as_deref().and_then(|help| quoted(help, "did you mean `"));
            let is_missing = match meant {
                Some(meant) => missing.contains(&parent.key(meant)),
                None => !missing.is_empty(),
            };
            // What is missing may be it, and secret.
            if !is_secret_key(key) && (is_missing || may_be_secret_key(key, meant)) {
                let steps = path.steps().get(base.steps().len()..).unwrap_or_default();
                self.sources.keep_unread(&path, get(&value, steps).unwrap_or(&Value::Null));
            }
            // the key that was meant is not missing as well
            missing.retain(|path| *problem.help.as_deref().unwrap_or_default() != did_you_mean(path));
            self.report(problem, &path, At::Key);
        }
        for path in missing.difference(&pruned) {
            self.missing(path.last_key().unwrap_or_default(), &path.parent().unwrap_or_default());
        }
        Read { read, value, complete }
    }

    /// Reports what serde said. `same` is what can be shown of it because it would be said of any other secret as well.
    fn serde_error(
        &mut self,
        message: &str,
        same: Option<String>,
        path: &KeyPath,
        known: &dyn Fn(&KeyPath) -> Vec<String>,
    ) {
        if let Some(field) = quoted(message, "unknown field `") {
            // the error is at the map or at the key, as the deserializer likes
            let (path, parent) = match path.last_key() == Some(field) {
                true => (path.clone(), path.parent().unwrap_or_default()),
                false => (path.key(field), path.clone()),
            };
            let mut keys = known(&parent);
            keys.extend(expected_words(message));
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            return self.report(unknown_key(field, &keys), &path, At::Key);
        }
        let mut problem = serde_problem(same.as_deref().unwrap_or(message), path);
        if problem.message.starts_with("expected a list") && self.sources.is_variable(path) {
            problem.help.get_or_insert_with(|| "in a variable a list is written like `[a, b]`".to_owned());
        }
        match same {
            Some(_) if !self.sources.is_placeholder(path) => self.report(problem, path, At::Value),
            _ => self.report_quoting(problem, path),
        }
    }

    /// Reports a required key that is not there, or stands there with nothing behind it.
    pub(crate) fn missing(&mut self, field: &str, path: &KeyPath) {
        let at = path.key(field);
        let problem = Problem::new(Class::Missing, format!("`{field}` is missing"));
        let mut problem = self.sources.locate(problem, &at, At::Key);
        if problem.at.is_some() && self.sources.origin(&at).is_some() {
            problem.message = format!("`{field}` is empty");
            problem.help = Some("write its value behind it".to_owned());
        } else {
            problem.help = Some(format!("add `{field}:` to `{path}`"));
        }
        self.problems.push(problem);
    }
}

/// What serde said, in plain words.
fn serde_problem(message: &str, path: &KeyPath) -> Problem {
    if let Some(word) = quoted(message, "unknown variant `") {
        let words = expected_words(message);
        let problem = Problem::new(Class::Enum, format!("`{word}` is not one of {}", or(&words)));
        problem.nearest(word, words.iter().map(String::as_str))
    } else if let Some((found, expected)) = invalid(message, "invalid type: ") {
        let problem = Problem::new(Class::Type, format!("expected {expected}, found {found}"));
        match expected == "a text" && found.starts_with('`') {
            true => problem.help("put it in quotes"),
            false => problem,
        }
    } else if let Some((found, expected)) =
        invalid(message, "invalid value: ").or_else(|| invalid(message, "invalid length "))
    {
        Problem::new(Class::Range, format!("expected {expected}, found {found}"))
    } else {
        let (message, help) = message.split_once("; ").map_or((message, None), |(m, h)| (m, Some(h)));
        let key = path.last_key().unwrap_or_default();
        let problem = match message.starts_with("must ") {
            true => Problem::new(Class::Range, format!("`{key}` {message}")),
            false => Problem::new(Class::Type, message),
        };
        match help {
            Some(help) => problem.help(help),
            None => problem,
        }
    }
}

/// What was read, or the error and where it is; and the keys that nobody reads.
fn attempt<C: DeserializeOwned>(
    value: &Value,
    base: &KeyPath,
    unknown: &mut BTreeSet<KeyPath>,
) -> Result<C, (String, Vec<Step>)> {
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let result = serde_ignored::deserialize(deserializer, |path| {
        unknown.insert(below(base, &ignored_steps(&path)));
    });
    result.map_err(|error: serde_json::Error| (error.to_string(), error_steps(&track.path())))
}

/// The value, which stands at `base`, with other texts at some paths.
pub(crate) fn with(value: &Value, base: &KeyPath, others: &[(KeyPath, String)]) -> Value {
    let mut value = value.clone();
    for (path, text) in others {
        let steps = path.steps().get(base.steps().len()..).unwrap_or_default();
        match get_mut(&mut value, steps) {
            Some(Value::String(there)) => there.clone_from(text),
            Some(there @ Value::Number(_)) => *there = serde_json::from_str(text).unwrap_or_default(),
            _ => {}
        }
    }
    value
}

/// Known keys by path, from a value that has them all.
pub(crate) fn keys_of(example: &Value, base: &KeyPath, path: &KeyPath) -> Vec<String> {
    let steps = path.steps().get(base.steps().len()..).unwrap_or_default();
    get(example, steps)
        .and_then(Value::as_object)
        .map(|map| map.keys().cloned().collect())
        .unwrap_or_default()
}

fn below(base: &KeyPath, steps: &[Step]) -> KeyPath {
    steps.iter().fold(base.clone(), |path, step| path.step(step.clone()))
}

fn error_steps(path: &serde_path_to_error::Path) -> Vec<Step> {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } | Segment::Enum { variant: key } => Some(Step::Key(key.clone())),
            Segment::Unknown => None,
        })
        .collect()
}

fn ignored_steps(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    use serde_ignored::Path;
    match path {
        Path::Root => Vec::new(),
        Path::Seq { parent, index } => {
            ignored_steps(parent).into_iter().chain([Step::Index(*index)]).collect()
        }
        Path::Map { parent, key } => {
            ignored_steps(parent).into_iter().chain([Step::Key(key.clone())]).collect()
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            ignored_steps(parent)
        }
    }
}

fn get_mut<'a>(value: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    steps.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    })
}

fn get<'a>(value: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    steps.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(index),
    })
}

/// Turns a text into the number, boolean or list it stands for; `false` if it stands for none.
fn unquote(value: &mut Value, steps: &[Step]) -> bool {
    let Some(found) = get_mut(value, steps) else { return false };
    let Some(text) = found.as_str() else { return false };
    *found = match scalar(text) {
        config::ValueKind::Boolean(value) => value.into(),
        config::ValueKind::I64(value) => value.into(),
        config::ValueKind::Float(value) => value.into(),
        _ => match list(text) {
            Some(items) => items,
            None => return false,
        },
    };
    true
}

/// The list that a text from a variable stands for, written as in a file: `[a, b]`.
pub(crate) fn list(text: &str) -> Option<Value> {
    let text = text.trim();
    if !text.starts_with('[') {
        return None;
    }
    let text = format!("list: {text}");
    if !scan::scan("", &text).is_empty() {
        return None;
    }
    let read: Value = Document::read("", text).root.try_deserialize().ok()?;
    read.get("list").filter(|list| list.is_array()).cloned()
}

/// Takes a wrong value out, so that the rest can be read; of a list, the whole. Returns how much of the path is left.
fn prune(value: &mut Value, steps: &[Step]) -> Option<usize> {
    let last = steps.iter().rposition(|step| matches!(step, Step::Key(_)))?;
    let first_list = steps.iter().position(|step| matches!(step, Step::Index(_))).unwrap_or(steps.len());
    let length = (last + 1).min(first_list);
    let (Some(Step::Key(key)), Some(above)) = (steps.get(length.checked_sub(1)?), steps.get(..length - 1))
    else {
        return None;
    };
    get_mut(value, above)?.as_object_mut()?.shift_remove(key)?;
    Some(length)
}

/// The word in backticks that follows `intro`.
fn quoted<'a>(message: &'a str, intro: &str) -> Option<&'a str> {
    let rest = message.strip_prefix(intro)?;
    rest.find("`, ").or_else(|| rest.rfind('`')).and_then(|end| rest.get(..end))
}

/// The words that a message says it expected.
fn expected_words(message: &str) -> Vec<String> {
    let expected = message.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn or(words: &[String]) -> String {
    listed(words.iter().map(String::as_str)).replace(" and ", " or ")
}

/// What was found and what was expected, in plain words.
fn invalid(message: &str, intro: &str) -> Option<(String, String)> {
    let (found, expected) = message.strip_prefix(intro)?.rsplit_once(", expected ")?;
    let found = match found {
        "map" => "a map".to_owned(),
        "sequence" => "a list".to_owned(),
        "null" | "unit value" => "nothing".to_owned(),
        _ => match found.split_once(' ') {
            Some(("string", text)) => format!("the text `{}`", text.trim_matches('"')),
            Some((_, rest)) if rest.starts_with('`') => rest.to_owned(),
            _ => found.rsplit_once(' ').map_or(found, |(_, rest)| rest).to_owned(),
        },
    };
    let wrong_value = intro.starts_with("invalid value");
    let expected = match expected {
        "u8" if wrong_value => "a whole number of 0 to 255",
        "u16" if wrong_value => "a whole number of 0 to 65535",
        "u32" if wrong_value => "a whole number of 0 to 4294967295",
        "u64" | "usize" if wrong_value => "a whole number of 0 or more",
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "a sequence" => "a list",
        "a string" => "a text",
        _ if expected.starts_with("struct ") || expected.starts_with("internally tagged") => "a map",
        _ if expected.starts_with("a nonzero") => "a whole number above 0",
        _ => expected,
    };
    Some((found, expected.to_owned()))
}
