//! Filters: one key of `data` or `tags`, and the value that it must have.

use serde_json::Value;
use streamll_actors::event::{Datum, Event, View};

/// A key and its value.
#[derive(Debug)]
pub(super) struct Filter {
    key: Key,
    value: Value,
}

/// The place of a value in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// A path inside of `data`.
    Data(String),
    Tag(String),
}

impl Key {
    /// Parses `data.x` or `tags.x`. A dot may be part of a name, or lead into an object.
    pub(super) fn parse(text: &str) -> Result<Key, String> {
        let name = |prefix| text.strip_prefix(prefix).filter(|name: &&str| !name.is_empty());
        match (name("data."), name("tags.")) {
            (Some(path), _) => Ok(Key::Data(path.to_owned())),
            (_, Some(tag)) => Ok(Key::Tag(tag.to_owned())),
            _ => Err(format!(
                "`{text}` is no key of events: write it like `data.conversation_id` or `tags.tenant`"
            )),
        }
    }

    /// Calls `found` with the value, if the event has it.
    pub(super) fn look<T>(&self, event: &Event, found: impl FnOnce(Datum<'_>) -> T) -> Option<T> {
        match self {
            Key::Tag(tag) => event.tag(tag).map(|value| found(Datum::from(&Value::from(value)))),
            Key::Data(path) => {
                if let Some(value) = event.look(path) {
                    return Some(found(value));
                }
                let (first, rest) = path.split_once('.')?;
                rest.split('.').try_fold(event.look(first)?, |value, name| value.get(name)).map(found)
            }
        }
    }
}

impl Filter {
    pub(super) fn new(key: &str, value: Value) -> Result<Filter, String> {
        Ok(Filter { key: Key::parse(key)?, value })
    }

    pub(super) fn takes(&self, event: &Event) -> bool {
        let same = |found: Datum<'_>| match (found.view(), &self.value) {
            // In a command, every value is text.
            (View::Number(_) | View::Bool(_), Value::String(wanted)) => found.reads(wanted),
            (_, wanted) => found.is(wanted),
        };
        self.key.look(event, same).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use streamll_actors::event::Decoder;

    use super::*;

    #[test]
    fn data_and_tags_are_compared_as_they_are_or_as_text() {
        let line = br#"{"event_type":"x","data":{"id":"a","n":3,"ok":true,"user":{"id":7},"a.b":1,"s":"3"},"tags":{"tenant":"acme"}}"#;
        let event = Decoder::default().received(line).unwrap();
        let takes = |key: &str, value: Value| Filter::new(key, value).unwrap().takes(&event);
        for (key, value) in [
            ("data.id", json!("a")),
            ("data.n", json!(3)),
            ("data.n", json!("3")),
            ("data.ok", json!("true")),
            ("data.user.id", json!(7)),
            ("data.a.b", json!(1)),
            ("tags.tenant", json!("acme")),
        ] {
            assert!(takes(key, value), "{key}");
        }
        for (key, value) in [
            ("data.id", json!("b")),
            ("data.s", json!(3)),
            ("data.none", json!("a")),
            ("data.user.name", json!("a")),
            ("data.tenant", json!("acme")),
            ("tags.id", json!("a")),
        ] {
            assert!(!takes(key, value), "{key}");
        }
        for key in ["conversation_id", "data", "data.", "tags.", ""] {
            assert!(Filter::new(key, json!(1)).unwrap_err().contains("data.conversation_id"), "{key}");
        }
    }
}
