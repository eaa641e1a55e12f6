//! Replaces the values of named fields, wherever an event carries them: in data, context and tags.
//!
//! ```
//! use serde_json::json;
//! use streamll::processors::RedactConfig;
//! use streamll_actors::{event::{Event, Step}, testkit};
//!
//! let redact: RedactConfig = serde_json::from_value(json!({ "fields": ["data.api_key", "password"] })).unwrap();
//! let login = Event::new(&Step::new("Login"), "start").with("user", json!({ "name": "ada", "password": "hunter2" }));
//! let left = testkit::drive(redact.build().unwrap(), [login]);
//! assert_eq!(left[0].data("user").unwrap()["password"], "[redacted]");
//! ```
//!
//! An event without such a field passes unchanged and keeps its encoding. The processor does not look into tags that
//! the topology adds, into JSON inside strings, or for secrets inside texts.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use streamll_actors::event::{Body, Context, Event, Kind, Step};
use streamll_actors::process::{Output, Processor};

/// How many steps to remember with their redacted context, so that their tokens cost no more than a look.
const STEPS: usize = 64;

/// The settings under `redact:` in YAML.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RedactConfig {
    /// The fields, at least one. A field can be:
    ///
    /// * `data.user.email`: a path in `data`. List items are named by their number from 0. `*` stands for any key or
    ///   item: `data.messages.*.content`.
    /// * `tags.user`: a tag.
    /// * `api_key`, a bare name: this key at any depth of `data` and of keys that came in beside it, and this tag.
    ///
    /// A field that is streamed (`data.answer`) is redacted in its tokens, too.
    pub fields: Vec<String>,
    /// The text that replaces a value. Default: `[redacted]`.
    pub replacement: Option<String>,
}

impl RedactConfig {
    /// Makes the processor.
    ///
    /// # Errors
    ///
    /// If there is no field, or if a field is malformed. The text begins with the key, for example `fields: …`.
    pub fn build(&self) -> Result<Redact, String> {
        if self.fields.is_empty() {
            return Err("fields: there is none; name at least one, for example `data.api_key`".to_owned());
        }
        Ok(Redact {
            fields: self.fields.iter().map(|field| parse(field)).collect::<Result<_, _>>()?,
            replacement: self.replacement.clone().unwrap_or_else(|| "[redacted]".to_owned()),
            steps: VecDeque::with_capacity(STEPS),
        })
    }
}

/// Replaces the values of named fields. See [`RedactConfig`].
#[derive(Debug)]
pub struct Redact {
    fields: Vec<Field>,
    replacement: String,
    /// The steps seen last, each with its replacement where its context has such a field.
    steps: VecDeque<(Step, Option<Step>)>,
}

#[derive(Debug)]
enum Field {
    Data(Vec<String>),
    Tag(String),
    /// A key at any depth.
    Key(String),
}

impl Processor for Redact {
    fn process(&mut self, mut event: Event, out: &mut Output) {
        if let Some(step) = self.step(event.step()) {
            event.set_step(step);
        }
        self.redact_body(&mut event);
        self.redact_extra(&mut event);
        out.push(event);
    }
}

impl Redact {
    fn redact_body(&self, event: &mut Event) {
        let data = match event.body() {
            Body::Map(map) => Cow::Borrowed(map),
            Body::Token(token) if !self.names("field") && !self.names("token_index") => {
                if self.names("token") || self.names(&token.field) {
                    event.set_merged(event.merged(), &*self.replacement);
                }
                return;
            }
            other => Cow::Owned(other.to_map()),
        };
        let streamed = *event.kind() == Kind::Token
            && data.contains_key("token")
            && data.get("field").and_then(Value::as_str).is_some_and(|field| self.names(field));
        if streamed || data.iter().any(|(key, value)| self.fields.iter().any(|field| field.is_in(key, value)))
        {
            drop(data);
            let mut data = event.map_mut();
            if streamed {
                data.insert("token".to_owned(), Value::from(&*self.replacement));
            }
            self.redact(&mut data);
        }
    }

    /// What came in beside `data` and our own keys: a bare name means that key there, too.
    fn redact_extra(&self, event: &mut Event) {
        let Some(mut extra) = event.extra() else { return };
        let bare = || self.fields.iter().filter(|field| matches!(field, Field::Key(_)));
        if extra.iter().any(|(key, value)| bare().any(|field| field.is_in(key, value))) {
            for (key, value) in &mut extra {
                bare().for_each(|field| field.replace(key, value, &self.replacement));
            }
            event.set_extra(&extra);
        }
    }

    fn redact(&self, data: &mut Map<String, Value>) {
        for (key, value) in data {
            self.fields.iter().for_each(|field| field.replace(key, value, &self.replacement));
        }
    }

    /// The step to use in the place of `step`, where its context has such a field.
    fn step(&mut self, step: &Step) -> Option<Step> {
        let context = &step.parts().context;
        if context.is_empty() {
            return None;
        }
        if let Some((_, redacted)) = self.steps.iter().find(|(seen, _)| seen.same(step)) {
            return redacted.clone();
        }
        let redacted = self.context(context).map(|context| {
            let mut parts = step.parts().clone();
            parts.context = context;
            Step::from(parts)
        });
        self.steps.truncate(STEPS - 1);
        self.steps.push_front((step.clone(), redacted.clone()));
        redacted
    }

    fn context(&self, context: &Context) -> Option<Context> {
        let in_data =
            context.data().iter().any(|(key, value)| self.fields.iter().any(|field| field.is_in(key, value)));
        let is_tag = |key: &str| self.fields.iter().any(|field| field.is_tag(key));
        if !in_data && !context.tags().iter().any(|(key, _)| is_tag(key)) {
            return None;
        }
        let mut redacted = context.clone();
        for (key, value) in context.data() {
            if self.fields.iter().any(|field| field.is_in(key, value)) {
                let mut value = value.clone();
                self.fields.iter().for_each(|field| field.replace(key, &mut value, &self.replacement));
                redacted = redacted.with(key.clone(), value);
            }
        }
        for (key, _) in context.tags().iter().filter(|(key, _)| is_tag(key)) {
            redacted = redacted.tag(key.clone(), self.replacement.as_str());
        }
        Some(redacted)
    }

    /// Whether a field of data with this name and no value below it is to be replaced.
    fn names(&self, key: &str) -> bool {
        self.fields.iter().any(|field| field.is_in(key, &Value::Null))
    }
}

impl Field {
    fn is_in(&self, key: &str, value: &Value) -> bool {
        match self {
            Field::Data(way) => leads_to(way, key, value),
            Field::Key(name) => name == key || has_key(name, value),
            Field::Tag(_) => false,
        }
    }

    fn replace(&self, key: &str, value: &mut Value, replacement: &str) {
        match self {
            Field::Data(way) => replace_at(way, key, value, replacement),
            Field::Key(name) => replace_key(name, key, value, replacement),
            Field::Tag(_) => {}
        }
    }

    fn is_tag(&self, key: &str) -> bool {
        matches!(self, Field::Tag(name) if name == key || name == "*")
            || matches!(self, Field::Key(name) if name == key)
    }
}

/// Whether `way`, whose first step must fit `key`, leads to a value.
fn leads_to(way: &[String], key: &str, value: &Value) -> bool {
    match way.split_first() {
        Some((first, _)) if first != "*" && first != key => false,
        Some((_, [])) => true,
        Some((_, rest)) => match value {
            Value::Object(map) => map.iter().any(|(key, value)| leads_to(rest, key, value)),
            Value::Array(items) => {
                items.iter().enumerate().any(|(i, item)| leads_to(rest, &i.to_string(), item))
            }
            _ => false,
        },
        None => false,
    }
}

fn replace_at(way: &[String], key: &str, value: &mut Value, replacement: &str) {
    match way.split_first() {
        Some((first, rest)) if first == "*" || first == key => match value {
            _ if rest.is_empty() => *value = replacement.into(),
            Value::Object(map) => {
                map.iter_mut().for_each(|(key, value)| replace_at(rest, key, value, replacement))
            }
            Value::Array(items) => {
                items
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, item)| replace_at(rest, &i.to_string(), item, replacement));
            }
            _ => {}
        },
        _ => {}
    }
}

fn has_key(name: &str, value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| key == name || has_key(name, value)),
        Value::Array(items) => items.iter().any(|item| has_key(name, item)),
        _ => false,
    }
}

fn replace_key(name: &str, key: &str, value: &mut Value, replacement: &str) {
    match value {
        _ if key == name => *value = replacement.into(),
        Value::Object(map) => {
            map.iter_mut().for_each(|(key, value)| replace_key(name, key, value, replacement))
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace_key(name, "", item, replacement)),
        _ => {}
    }
}

fn parse(field: &str) -> Result<Field, String> {
    let way: Vec<String> = field.split('.').map(str::to_owned).collect();
    match way.as_slice() {
        _ if way.contains(&String::new()) => {
            Err(format!("fields: `{field}` has an empty part; remove a dot"))
        }
        // Each would fit no key, and the values would leave whole.
        _ if field.contains(['[', ']']) => Err(format!(
            "fields: `{field}` has brackets; write the number of an item between dots: `data.messages.0.content`"
        )),
        _ if way.iter().any(|part| part == "**") => Err(format!(
            "fields: `{field}` has `**`; write a bare name for a key at any depth, or `*` for one step"
        )),
        _ if way.iter().any(|part| part.trim() != part) => {
            Err(format!("fields: `{field}` has a blank beside a name; remove it"))
        }
        [data, rest @ ..] if data == "data" && !rest.is_empty() => Ok(Field::Data(rest.to_vec())),
        [tags, _, ..] if tags == "tags" => Ok(Field::Tag(way[1..].join("."))),
        [name] if name == "data" || name == "tags" => {
            Err(format!("fields: `{name}` names no key; write `{name}.*` for all of them"))
        }
        [name] if name == "*" => {
            Err("fields: `*` stands for nothing alone; write `data.*` for all data".to_owned())
        }
        [name] => Ok(Field::Key(name.clone())),
        _ => Err(format!("fields: `{field}` begins with neither `data` nor `tags`; write `data.{field}`")),
    }
}
