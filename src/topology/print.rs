//! Prints a merged topology as YAML: each value with its origin, secrets masked.

use std::fmt::Write;

use serde_json::Value;

use super::key_path::KeyPath;
use super::layers::Merged;
use super::mask::What;
use super::secrets::mask_value;
use crate::sinks::terminal::{acts, harmless};

impl Merged {
    /// The merged topology as YAML, secrets as `***`.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        self.entries(&self.value, &KeyPath::default(), 0, &mut out);
        out
    }

    fn entries(&self, value: &Value, path: &KeyPath, depth: usize, out: &mut String) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let path = path.key(key);
            let indent = "  ".repeat(depth);
            match value {
                Value::Object(map) if !map.is_empty() => {
                    let _ = writeln!(out, "{indent}{}:", key_text(key));
                    self.entries(value, &path, depth + 1, out);
                }
                _ => {
                    let origin = self
                        .sources
                        .origin(&path)
                        .map(|origin| format!("  # {}", harmless(&origin)))
                        .unwrap_or_default();
                    let _ = writeln!(out, "{indent}{}: {}{origin}", key_text(key), self.inline(value, &path));
                }
            }
        }
    }

    /// A value in one line, in YAML's flow style.
    fn inline(&self, value: &Value, path: &KeyPath) -> String {
        match value {
            Value::Object(map) => {
                let entries: Vec<_> = map
                    .iter()
                    .map(|(key, value)| format!("{}: {}", key_text(key), self.inline(value, &path.key(key))))
                    .collect();
                format!("{{{}}}", entries.join(", "))
            }
            Value::Array(items) => {
                let items: Vec<_> =
                    items.iter().enumerate().map(|(n, value)| self.inline(value, &path.index(n))).collect();
                format!("[{}]", items.join(", "))
            }
            _ => match self.sources.shown(path, value) {
                Value::String(shown) => text(&shown),
                shown => shown.to_string(),
            },
        }
    }
}

/// Words that are no texts for readers of YAML 1.1.
const SWITCHES: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "true", "false"];

/// A text as it can stand in YAML; in quotes, where it could be taken for something else.
fn text(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
        && matches!(super::locate::scalar(text), config::ValueKind::String(_))
        && !SWITCHES.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text.to_owned();
    }
    // JSON's quotes are YAML's, but JSON leaves characters as they are on which a terminal acts.
    let quoted = Value::from(text).to_string();
    let mut shown = String::with_capacity(quoted.len());
    for c in quoted.chars() {
        match acts(c) {
            true => drop(write!(shown, "\\U{:08x}", u32::from(c))),
            false => shown.push(c),
        }
    }
    shown
}

/// A key as it may be shown.
fn key_text(key: &str) -> String {
    text(&mask_value(key, What::Text))
}
