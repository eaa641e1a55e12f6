//! An event's own data: a token, a map, or JSON as it came in.

use std::borrow::Cow;
use std::sync::OnceLock;

use bytes::Bytes;
use compact_str::CompactString;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// The data of one event, without the context of its step.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Body {
    /// A piece of streamed text.
    Token(Token),
    /// Keys and values.
    Map(Map<String, Value>),
    /// A few keys and values, as scopes have them.
    Fields(Fields),
    /// JSON that came in and is passed on as it is.
    Raw(Box<Raw>),
}

/// A few keys and values in their order. Cheaper than a map where most keys are known when the program is built.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fields(Vec<(Cow<'static, str>, Value)>);

impl Fields {
    /// Sets one key; an older value of it is replaced.
    pub fn set(&mut self, key: impl Into<Cow<'static, str>>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some(field) => field.1 = value,
            None => self.0.push((key, value)),
        }
    }

    /// The value of one key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// All of them, in the order in which they were first set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    fn to_map(&self) -> Map<String, Value> {
        self.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }
}

/// As the JSON object that it is.
impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// A string that needs no memory of its own up to 24 bytes: most tokens, and the names of fields.
pub type Text = CompactString;

/// A piece of the text that a step streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Which output of the step it belongs to, for example `answer`.
    pub field: Text,
    /// The text.
    pub text: Text,
    /// Its place among the tokens of this step and field, from zero.
    pub index: u64,
}

/// The `data` object of an event that came in as JSON, checked but not taken apart until somebody asks.
#[derive(Debug, Clone)]
pub struct Raw {
    /// The object, with its braces.
    pub(super) data: Bytes,
    parsed: OnceLock<Map<String, Value>>,
}

impl Raw {
    pub(super) fn new(data: Bytes) -> Raw {
        Raw { data, parsed: OnceLock::new() }
    }

    pub(super) fn parsed(&self) -> &Map<String, Value> {
        // The decoder has checked the text, depth included, so this parse holds.
        self.parsed.get_or_init(|| serde_json::from_slice(&self.data).unwrap_or_default())
    }

    /// Whether `key` is surely none of the object's keys, by a look at the bytes alone.
    pub(super) fn surely_lacks(&self, key: &str) -> bool {
        let quoted = format!("\"{key}\"");
        let bytes = &self.data[..];
        !bytes.contains(&b'\\') && !bytes.windows(quoted.len()).any(|window| window == quoted.as_bytes())
    }
}

impl Body {
    /// One key of the data.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Cow<'_, Value>> {
        match self {
            Body::Map(map) => map.get(key).map(Cow::Borrowed),
            Body::Fields(fields) => fields.get(key).map(Cow::Borrowed),
            Body::Raw(raw) => raw.parsed().get(key).map(Cow::Borrowed),
            Body::Token(token) => match key {
                "field" => Some(Cow::Owned(Value::from(&*token.field))),
                "token" => Some(Cow::Owned(Value::from(&*token.text))),
                "token_index" => Some(Cow::Owned(Value::from(token.index))),
                _ => None,
            },
        }
    }

    /// All of the data as a map.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        match self {
            Body::Map(map) => map.clone(),
            Body::Fields(fields) => fields.to_map(),
            Body::Raw(raw) => raw.parsed().clone(),
            Body::Token(token) => Map::from_iter([
                ("field".to_owned(), Value::from(&*token.field)),
                ("token".to_owned(), Value::from(&*token.text)),
                ("token_index".to_owned(), Value::from(token.index)),
            ]),
        }
    }

    pub(super) fn map_mut(&mut self) -> &mut Map<String, Value> {
        let map = match &mut *self {
            Body::Map(map) => std::mem::take(map),
            other => other.to_map(),
        };
        *self = Body::Map(map);
        match self {
            Body::Map(map) => map,
            _ => unreachable!("the line above made it a map"),
        }
    }

    pub(super) fn size(&self) -> usize {
        match self {
            Body::Token(token) => token.text.len() + token.field.len() + 40,
            Body::Map(map) => map.iter().map(|(key, value)| key.len() + 4 + value_size(value)).sum(),
            Body::Fields(fields) => fields.iter().map(|(key, value)| key.len() + 4 + value_size(value)).sum(),
            Body::Raw(raw) => raw.data.len(),
        }
    }
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| 1 + value_size(item)).sum::<usize>() + 2,
        Value::Object(map) => {
            map.iter().map(|(key, item)| key.len() + 4 + value_size(item)).sum::<usize>() + 2
        }
    }
}
