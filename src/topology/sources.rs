//! Where each merged value came from: places for problems, origins for people, and what is secret.

use std::collections::{BTreeMap, BTreeSet};

use config::{Value, ValueKind};

use super::error::Problem;
use super::key_path::{KeyPath, Step};
use super::locate::{Document, Spot, place};
use super::mask::{What, mask, pad};
use super::secrets::{Secrets, behind, is_secret_key, mask_value};

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
    /// Values of which their type says that they are secret.
    pub(crate) typed: BTreeSet<KeyPath>,
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

    /// The variable that overrides a value, or what it stands in.
    fn overridden(&self, path: &KeyPath) -> Option<&str> {
        let steps = |length| {
            path.steps().iter().take(length).fold(KeyPath::default(), |path, step| path.step(step.clone()))
        };
        let mut around = (0..=path.steps().len()).rev().map(steps);
        around.find_map(|path| self.overrides.get(&path)).map(String::as_str)
    }

    /// The variable that overrides a value, or something in it that no file says.
    fn variable(&self, path: &KeyPath) -> Option<&str> {
        let below = || {
            let in_a_file = self.documents.iter().any(|document| document.places.contains_key(path));
            let variable = self.overrides.iter().find(|(key, _)| !in_a_file && key.starts_with(path));
            variable.map(|(_, variable)| variable.as_str())
        };
        self.overridden(path).or_else(below)
    }

    /// Whether a value is text that came from the environment, and may stand for a number or a list.
    pub(crate) fn is_variable(&self, path: &KeyPath) -> bool {
        self.substituted.contains_key(path) || self.is_override(path)
    }

    /// Whether a value came from a `STREAMLL__…` variable.
    pub(crate) fn is_override(&self, path: &KeyPath) -> bool {
        !self.overrides.is_empty() && self.overridden(path).is_some()
    }

    /// Whether an unset variable stands at `path` or below it.
    pub(crate) fn is_placeholder(&self, path: &KeyPath) -> bool {
        self.substituted.iter().any(|(at, unset)| *unset && at.starts_with(path))
    }

    /// What may be hidden in the value at `path`.
    pub(crate) fn what(&self, path: &KeyPath) -> What {
        match self.typed.contains(path) {
            true => What::Secret,
            false => keys(path).filter(|key| is_secret_key(key)).last().map_or(What::Text, behind),
        }
    }

    /// Remembers what of a value must not be quoted: all that came from a variable, but for an address.
    pub(crate) fn keep_secret(&mut self, path: &KeyPath, text: &str) {
        let what = match self.what(path) {
            What::Text | What::Address if self.is_variable(path) => match text.contains("://") {
                true => What::Address,
                false => What::Secret,
            },
            what => what,
        };
        self.secrets.add(path, text, what);
    }

    /// Remembers which texts and numbers of a value are secret by what is known of their type.
    pub(crate) fn keep_typed(
        &mut self,
        path: &KeyPath,
        value: &serde_json::Value,
        is_secret: &dyn Fn(&str) -> bool,
    ) {
        use serde_json::Value;
        match value {
            Value::Object(map) => {
                map.iter().for_each(|(key, value)| self.keep_typed(&path.key(key), value, is_secret));
            }
            Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(n, value)| self.keep_typed(&path.index(n), value, is_secret));
            }
            Value::Null => {}
            single => {
                let text = single.as_str().map_or_else(|| single.to_string(), str::to_owned);
                if is_secret(&text) && self.typed.insert(path.clone()) {
                    self.keep_secret(path, &text);
                }
            }
        }
    }

    /// The same of a part whose kind is not known: all of it may be.
    pub(crate) fn keep_unread(&mut self, path: &KeyPath, value: &serde_json::Value) {
        self.keep_typed(path, value, &|_| true);
    }

    /// The value at `path` as it may be shown: as it stands in its file.
    pub(crate) fn shown(&self, path: &KeyPath, value: &serde_json::Value) -> serde_json::Value {
        if self.is_override(path) {
            return "***".into();
        }
        let what = self.what(path);
        let in_file = self.documents.iter().rev().find_map(|document| lookup(&document.root, path.steps()));
        match in_file.map(|value| &value.kind) {
            Some(ValueKind::String(text)) => mask_value(text, what).into(),
            _ if what != What::Text => "***".into(),
            _ => value.clone(),
        }
    }

    /// The values that stand in some lines, of which a file and a number are given.
    pub(crate) fn spots<'a>(&'a self, lines: &BTreeSet<(&'a str, usize)>) -> Spots<'a> {
        let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for document in &self.documents {
            let file = document.file.as_str();
            for (path, spot) in document.places.iter().filter_map(|(path, place)| Some((path, place.value?)))
            {
                for line in lines.range((file, spot.start.0)..=(file, spot.end.0.max(spot.start.0))) {
                    found.entry(*line).or_default().push((path, spot));
                }
            }
        }
        found
    }

    /// A masked line of a file, with what is known of the values that stand there.
    pub(crate) fn masked(&self, number: usize, line: &str, spots: &[(&KeyPath, Spot)]) -> String {
        let mut chars: Vec<char> = line.chars().collect();
        for (path, spot) in spots {
            let what = match self.what(path) {
                What::Secret => What::Secret,
                // of an address the line has been masked already, unless it stands on several
                What::Address if spot.start.0 != spot.end.0 => What::Address,
                _ => continue,
            };
            let from = if spot.start.0 == number { spot.start.1 - 1 } else { 0 };
            let to = if spot.end.0 == number { spot.end.1 - 1 } else { chars.len() };
            let Some(part) = chars.get_mut(from..to.max(from)) else { continue };
            let masked = pad(&mask(&part.iter().collect::<String>(), what));
            part.iter_mut().zip(masked.chars()).for_each(|(c, masked)| *c = masked);
        }
        self.secrets.hide_in_line(&chars.into_iter().collect::<String>())
    }

    /// `file:line`, or the variable, that a value came from.
    pub(crate) fn origin(&self, path: &KeyPath) -> Option<String> {
        if let Some(variable) = self.overridden(path) {
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

/// The keys of a path. Names that users give are none.
fn keys(path: &KeyPath) -> impl Iterator<Item = &str> {
    let steps = match path.steps() {
        [Step::Key(top), ..] if top == "classes" || top == "tags" => &[],
        [Step::Key(top), Step::Key(_), rest @ ..] if top == "sinks" => rest,
        all => all,
    };
    steps.iter().filter_map(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Index(_) => None,
    })
}

/// The values that stand in a line, by file and number.
pub(crate) type Spots<'a> = BTreeMap<(&'a str, usize), Vec<(&'a KeyPath, Spot)>>;

pub(crate) fn lookup<'a>(value: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match (&value.kind, step) {
        (ValueKind::Table(map), Step::Key(key)) => lookup(map.get(key)?, rest),
        (ValueKind::Array(items), Step::Index(index)) => lookup(items.get(*index)?, rest),
        _ => None,
    }
}
