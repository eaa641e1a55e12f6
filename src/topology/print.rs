//! Prints a merged topology as YAML: each value with its origin, secrets masked.

use std::fmt::Write;

use serde_json::Value;

use super::layers::Merged;
use super::locate::KeyPath;

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
                    let _ = writeln!(out, "{indent}{}:", text(key));
                    self.entries(value, &path, depth + 1, out);
                }
                _ => {
                    let origin =
                        self.sources.origin(&path).map(|origin| format!("  # {origin}")).unwrap_or_default();
                    let _ = writeln!(out, "{indent}{}: {}{origin}", text(key), self.inline(value, &path));
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
                    .map(|(key, value)| format!("{}: {}", text(key), self.inline(value, &path.key(key))))
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

/// A text as it can stand in YAML; in quotes, which JSON and YAML share, where it could be taken for something else.
fn text(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
        && matches!(super::locate::scalar(text), config::ValueKind::String(_));
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}
