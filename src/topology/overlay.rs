//! The layer that is made from `STREAMLL__SINKS__LIVE__URL=…` variables. It overrides all files.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};

use super::error::{Class, Problem};
use super::key_path::KeyPath;
use super::scan::MAX_DEPTH;
use super::schema;

/// Whether a name can stand in YAML, in a variable and in a file name alike.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// In front of every variable that overrides a value.
const PREFIX: &str = "STREAMLL__";

/// The layer that `STREAMLL__A__B=value` makes, which variable each value is from, and variables that name nothing.
pub(crate) fn overlay(vars: &BTreeMap<String, String>) -> (Value, BTreeMap<KeyPath, String>, Vec<Problem>) {
    let mut root = Map::new();
    let mut overrides = BTreeMap::new();
    let mut problems = Vec::new();
    for (variable, value) in vars {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        let name = name.to_ascii_lowercase();
        let keys: Vec<&str> = name.split("__").collect();
        let top = keys.first().copied().unwrap_or_default();
        let problem = if keys.len() > MAX_DEPTH || !keys.iter().all(|key| is_name(key)) {
            let help = format!("write it like {PREFIX}SINKS__LIVE__URL: one `__` between keys");
            Some(Problem::new(Class::Env, "the name of this variable is no path of keys").help(help))
        } else if !schema::TOP_KEYS.contains(&top) || top == "extends" {
            let near = schema::TOP_KEYS.into_iter().filter(|key| *key != "extends");
            Some(Problem::new(Class::Env, format!("there is no key `{top}`")).nearest(top, near))
        } else {
            None
        };
        if let Some(mut problem) = problem {
            problem.variable = Some(variable.clone());
            problems.push(problem);
            continue;
        }
        insert(&mut root, &keys, value);
        overrides.insert(KeyPath::of(keys), variable.clone());
    }
    (Value::new(None, ValueKind::Table(root)), overrides, problems)
}

fn insert(map: &mut Map<String, Value>, keys: &[&str], text: &str) {
    let Some((key, rest)) = keys.split_first() else { return };
    let slot = map.entry((*key).to_owned()).or_default();
    if rest.is_empty() {
        slot.kind = ValueKind::String(text.to_owned());
        return;
    }
    if !matches!(slot.kind, ValueKind::Table(_)) {
        slot.kind = ValueKind::Table(Map::new());
    }
    if let ValueKind::Table(below) = &mut slot.kind {
        insert(below, rest, text);
    }
}
