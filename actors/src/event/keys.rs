//! The keys of an incoming event, borrowed from its text, and the messages for wrong values.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::WireError;
use super::json::{compact, holds_object, unquoted};
use super::step::StepParts;
use super::strict::Line;
use super::time::EXAMPLE;

/// The keys of an incoming event.
#[derive(Debug, Default)]
pub(super) struct Keys<'a> {
    pub(super) event_id: Option<Cow<'a, str>>,
    pub(super) execution_id: Option<Cow<'a, str>>,
    pub(super) span_id: Option<Cow<'a, str>>,
    pub(super) parent_id: Option<Cow<'a, str>>,
    pub(super) timestamp: Option<Cow<'a, str>>,
    pub(super) module_name: Option<Cow<'a, str>>,
    pub(super) method_name: Option<Cow<'a, str>>,
    pub(super) event_type: Option<Cow<'a, str>>,
    pub(super) operation: Option<Cow<'a, str>>,
    /// Only of interest for who restores an event.
    pub(super) topic: Option<&'a RawValue>,
    pub(super) source: Option<Cow<'a, str>>,
    pub(super) seq: Option<u64>,
    pub(super) data: Option<&'a RawValue>,
    pub(super) tags: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    /// What stands beside our own keys.
    pub(super) extra: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Keys<'a> {
    pub(super) fn read(line: &'a Line<'_>) -> Result<Keys<'a>, WireError> {
        serde_json::from_str(&line.text).map_err(|error| line.said(&error))
    }

    /// The topic that a graph has given it.
    pub(super) fn topic(&self) -> Option<Cow<'a, str>> {
        self.topic.map(RawValue::get).filter(|topic| topic.starts_with('"')).map(unquoted)
    }

    /// Whether it belongs to this step.
    pub(super) fn is_of(&self, step: &StepParts) -> bool {
        let same = |mine: &Option<Cow<'_, str>>, its: Option<&str>| mine.as_deref() == its;
        // Without ids of its own an event is a step of its own.
        self.span_id.is_some()
            && same(&self.span_id, Some(&step.span_id))
            && same(&self.execution_id, Some(&step.execution_id))
            && same(&self.module_name, Some(&step.module_name))
            && same(&self.method_name, step.method_name.as_deref())
            && same(&self.operation, step.operation.as_deref())
            && same(&self.parent_id, step.parent_id.as_deref())
            && self.tags.len() == step.context.tags().len()
            && self.tags.iter().all(|(key, value)| step.context.get_tag(key) == Some(value))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Keys<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeysVisitor)
    }
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event: a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys<'de>, A::Error> {
        let mut keys = Keys::default();
        let mut seen = Vec::with_capacity(16);
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            if seen.contains(&key) {
                return Err(de::Error::custom(format!("`{key}` stands twice")));
            }
            let text = match &*key {
                "event_id" => Some(&mut keys.event_id),
                "execution_id" => Some(&mut keys.execution_id),
                "span_id" => Some(&mut keys.span_id),
                "parent_id" => Some(&mut keys.parent_id),
                "timestamp" => Some(&mut keys.timestamp),
                "module_name" => Some(&mut keys.module_name),
                "method_name" => Some(&mut keys.method_name),
                "event_type" => Some(&mut keys.event_type),
                "operation" => Some(&mut keys.operation),
                "source" => Some(&mut keys.source),
                "seq" => {
                    keys.seq = named("seq", map.next_value())?;
                    None
                }
                "data" => {
                    keys.data = map.next_value()?;
                    None
                }
                "tags" => {
                    keys.tags = named("tags", map.next_value_seed(Tags))?;
                    None
                }
                "topic" => {
                    keys.topic = Some(map.next_value()?);
                    None
                }
                _ => {
                    keys.extra.push((key.clone(), map.next_value()?));
                    None
                }
            };
            if let Some(text) = text {
                let value = map.next_value::<Option<Text<'de>>>().map_err(|error| match &*key {
                    "timestamp" => de::Error::custom(format!("no text; write it like {EXAMPLE}")),
                    _ => error,
                });
                *text = named(&key, value)?.map(|Text(text)| text);
            }
            seen.push(key);
        }
        Ok(keys)
    }
}

fn named<T, E: de::Error>(key: &str, value: Result<T, E>) -> Result<T, E> {
    value.map_err(|e| E::custom(format!("`{key}`: {e}")))
}

/// A string that borrows where it can (`Cow` alone never does inside `Option`).
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// `tags`: an object of what can be written as a string, or null.
struct Tags;

impl<'de> DeserializeSeed<'de> for Tags {
    type Value = BTreeMap<Cow<'de, str>, Cow<'de, str>>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let tags: Option<BTreeMap<Text<'de>, &'de RawValue>> = Option::deserialize(deserializer)?;
        let mut texts = BTreeMap::new();
        for (Text(key), value) in tags.into_iter().flatten() {
            if let Some(text) = tag(value.get()).map_err(de::Error::custom)? {
                texts.insert(key, text);
            }
        }
        Ok(texts)
    }
}

/// What stands for a tag that is no string: a number, a boolean or a list as it is written; null is no tag. In an object a
/// key could hide from what is said of tags and data by name.
fn tag(json: &str) -> Result<Option<Cow<'_, str>>, String> {
    match json.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => Ok(Some(unquoted(json))),
        Some(b'{') => {
            Err("a tag is an object; strings, numbers, booleans and lists of them are taken".to_owned())
        }
        Some(b'[') if holds_object(json) => Err("a tag is a list with an object in it".to_owned()),
        _ => Ok(Some(compact(json))),
    }
}
