//! The data of one event: a token, a map, or JSON as it came in.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use compact_str::CompactString;
use serde_json::{Map, Value};

use super::datum::{Datum, Members};
use super::fields::Fields;
use super::{json, patch};

/// The data of one event, without the context of its step.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Body {
    /// A piece of streamed text.
    Token(Token),
    /// Keys and values.
    Map(Map<String, Value>),
    /// A few keys and values, from a scope.
    Fields(Fields),
    /// JSON that came in and is passed on unchanged.
    Raw(Raw),
}

/// A string that needs no heap memory up to 24 bytes. Most tokens, and the names of fields, are shorter.
pub type Text = CompactString;

/// A piece of the text that a step streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The output of the step that the token belongs to, for example `answer`.
    pub field: Text,
    /// The text.
    pub text: Text,
    /// The position among the tokens of this step and field, from zero.
    pub index: u64,
}

impl Token {
    fn members(&self) -> [(&'static str, Datum<'_>); 3] {
        [
            ("field", Datum::string(&self.field)),
            ("token", Datum::string(&self.text)),
            ("token_index", Datum::index(self.index)),
        ]
    }
}

/// The `data` object of an event that came in as JSON. It is checked, holds each key once, and is otherwise unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw(Arc<str>);

impl Raw {
    /// With an object that was checked, its braces included.
    pub(super) fn new(json: &str) -> Raw {
        Raw(json.into())
    }

    /// Returns the object as JSON, with its braces.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.0
    }

    pub(super) fn look(&self, key: &str) -> Option<Datum<'_>> {
        self.members().find_key(key)
    }

    pub(super) fn members(&self) -> Members<'_> {
        Members::of_json(&self.0)
    }
}

impl Body {
    /// Returns the value of one key, exactly as it is written.
    #[must_use]
    pub fn look(&self, key: &str) -> Option<Datum<'_>> {
        match self {
            Body::Map(map) => map.get(key).map(Datum::from),
            Body::Fields(fields) => fields.get(key).map(Datum::from),
            Body::Raw(raw) => raw.look(key),
            Body::Token(token) => Members::of_few(token.members()).find_key(key),
        }
    }

    /// Returns all members of the object, exactly as they are written.
    #[must_use]
    pub fn members(&self) -> Members<'_> {
        match self {
            Body::Map(map) => Members::of_map(map),
            Body::Fields(fields) => Members::of_fields(fields),
            Body::Raw(raw) => raw.members(),
            Body::Token(token) => Members::of_few(token.members()),
        }
    }

    /// Returns one key of the data as a value of `serde_json`. A number becomes a whole number of 64 bits, or else the
    /// nearest double.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Cow<'_, Value>> {
        self.look(key).map(Datum::value)
    }

    /// Returns all of the data as a map.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        match self {
            Body::Map(map) => map.clone(),
            Body::Fields(fields) => fields.to_map(),
            Body::Raw(raw) => json::object(raw.json()),
            Body::Token(token) => token
                .members()
                .map(|(key, value)| (key.to_owned(), value.value().into_owned()))
                .into_iter()
                .collect(),
        }
    }

    pub(super) fn set(&mut self, key: String, value: Value) {
        match self {
            Body::Raw(raw) => *raw = Raw::new(&patch::set(raw.json(), &key, &value)),
            _ => drop(self.map_mut().insert(key, value)),
        }
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Value> {
        match self {
            Body::Raw(raw) => {
                let value = raw.look(key)?.value().into_owned();
                *raw = Raw::new(&patch::remove(raw.json(), key));
                Some(value)
            }
            _ => self.map_mut().shift_remove(key),
        }
    }

    pub(super) fn map_mut(&mut self) -> DataMut<'_> {
        let (map, raw) = match &mut *self {
            Body::Map(map) => (std::mem::take(map), None),
            Body::Raw(raw) => (json::object(raw.json()), Some(raw.clone())),
            other => (other.to_map(), None),
        };
        DataMut { body: self, map, raw }
    }

    pub(super) fn size(&self) -> usize {
        match self {
            Body::Token(token) => token.text.len() + token.field.len() + 40,
            Body::Map(map) => map.iter().map(|(key, value)| key.len() + 4 + value_size(value)).sum(),
            Body::Fields(fields) => fields.iter().map(|(key, value)| key.len() + 4 + value_size(value)).sum(),
            Body::Raw(raw) => raw.json().len(),
        }
    }
}

/// The data of one event, for changes. Values of data that came in as JSON stay exactly as they are written if they are
/// not changed, with all digits of their numbers.
pub struct DataMut<'a> {
    body: &'a mut Body,
    map: Map<String, Value>,
    /// What the map was read from.
    raw: Option<Raw>,
}

impl Deref for DataMut<'_> {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Map<String, Value> {
        &self.map
    }
}

impl DerefMut for DataMut<'_> {
    fn deref_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.map
    }
}

/// Writes the changes.
impl Drop for DataMut<'_> {
    fn drop(&mut self) {
        *self.body = match &self.raw {
            Some(raw) => Body::Raw(Raw::new(&patch::object(raw.json(), &self.map))),
            None => Body::Map(std::mem::take(&mut self.map)),
        };
    }
}

/// Names the keys alone.
impl fmt::Debug for DataMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.map.keys()).finish()
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
