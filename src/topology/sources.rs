//! Where each merged value came from: places for problems, origins for people, and what is secret.

use std::collections::BTreeMap;

use config::{Value, ValueKind};

use super::error::Problem;
use super::locate::{Document, KeyPath, Step, place};
use super::secrets::{Secrets, is_secret_key, mask_value};

/// Where the values came from.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) documents: Vec<Document>,
    /// Values that an environment variable overrides, with its name.
    pub(crate) overrides: BTreeMap<KeyPath, String>,
    /// Values that hold a variable; whether it was unset.
    pub(crate) substituted: BTreeMap<KeyPath, bool>,
    /// Every text that may be secret.
    pub(crate) secrets: Secrets,
}

/// Which part of an entry a problem points at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Key,
    Value,
}

impl Sources {
    /// Gives a problem the place where `path` was last said, or else what is around it.
    pub(crate) fn locate(&self, mut problem: Problem, path: &KeyPath, at: At) -> Problem {
        problem.path = path.to_string();
        let mut path = path.clone();
        let mut at = at;
        loop {
            if let Some(variable) = self.variable(&path) {
                problem.variable = Some(variable.to_owned());
                return problem;
            }
            for document in self.documents.iter().rev() {
                let Some(found) = document.places.get(&path) else { continue };
                let spot = match at {
                    At::Value => found.value.or(found.key).unwrap_or(found.start),
                    At::Key => found.key.or(found.value).unwrap_or(found.start),
                };
                return place(problem, &document.file, &document.text, spot);
            }
            match path.parent() {
                Some(parent) => (path, at) = (parent, At::Key),
                None => return problem,
            }
        }
    }

    /// The variable that overrides a value, or something in it that no file says.
    fn variable(&self, path: &KeyPath) -> Option<&str> {
        let exact = self.overrides.get(path);
        let below = || {
            let in_a_file = self.documents.iter().any(|document| document.places.contains_key(path));
            self.overrides
                .iter()
                .find(|(key, _)| !in_a_file && key.starts_with(path))
                .map(|(_, variable)| variable)
        };
        exact.or_else(below).map(String::as_str)
    }

    /// Whether a value is text that came from the environment, and may stand for a number.
    pub(crate) fn is_variable(&self, path: &KeyPath) -> bool {
        self.substituted.contains_key(path) || self.overrides.contains_key(path)
    }

    /// Whether an unset variable stands at `path` or below it.
    pub(crate) fn is_placeholder(&self, path: &KeyPath) -> bool {
        self.substituted.iter().any(|(at, unset)| *unset && at.starts_with(path))
    }

    /// Whether the value at `path` must not be quoted.
    pub(crate) fn is_secret(&self, path: &KeyPath) -> bool {
        self.is_variable(path) || is_secret(path)
    }

    /// The value at `path` as it may be shown: as it stands in its file.
    pub(crate) fn shown(&self, path: &KeyPath, value: &serde_json::Value) -> serde_json::Value {
        let key = path.last_key().unwrap_or_default();
        if self.overrides.contains_key(path) {
            return "***".into();
        }
        let in_file = self.documents.iter().rev().find_map(|document| lookup(&document.root, path.steps()));
        match in_file.map(|value| &value.kind) {
            Some(ValueKind::String(text)) if is_secret(path) => mask_value(key, text).into(),
            Some(ValueKind::String(text)) => mask_value("", text).into(),
            _ if is_secret(path) => "***".into(),
            _ => value.clone(),
        }
    }

    /// `file:line`, or the variable, that a value came from.
    pub(crate) fn origin(&self, path: &KeyPath) -> Option<String> {
        if let Some(variable) = self.overrides.get(path) {
            return Some(format!("${variable}"));
        }
        let documents = self.documents.iter().rev();
        documents.filter_map(|d| Some((d, d.places.get(path)?))).next().map(|(document, found)| {
            let spot = found.key.unwrap_or(found.start);
            format!("{}:{}", document.file, spot.start.0)
        })
    }

    /// Sorts problems as the files are read: lowest layer first, then by line; variables come last.
    pub(crate) fn in_file_order(&self, mut problems: Vec<Problem>) -> Vec<Problem> {
        problems.sort_by_key(|problem| {
            let file =
                problem.at.as_ref().and_then(|at| self.documents.iter().position(|d| d.file == at.file));
            (file.unwrap_or(usize::MAX), problem.at.clone(), problem.variable.clone())
        });
        problems.dedup();
        problems
    }
}

/// Whether a key of this path says that its value is secret. Names that users give are no such keys.
fn is_secret(path: &KeyPath) -> bool {
    let steps = match path.steps() {
        [Step::Key(top), ..] if top == "classes" || top == "tags" => &[],
        [Step::Key(top), Step::Key(_), rest @ ..] if top == "sinks" => rest,
        all => all,
    };
    steps.iter().any(|step| matches!(step, Step::Key(key) if is_secret_key(key)))
}

pub(crate) fn lookup<'a>(value: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match (&value.kind, step) {
        (ValueKind::Table(map), Step::Key(key)) => lookup(map.get(key)?, rest),
        (ValueKind::Array(items), Step::Index(index)) => lookup(items.get(*index)?, rest),
        _ => None,
    }
}
