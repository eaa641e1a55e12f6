//! Removes what was said: inputs, outputs, text of tokens, messages, tool data. `content: off` uses this processor.
//!
//! ```
//! use serde_json::json;
//! use streamll::processors::WithoutContent;
//! use streamll_actors::{event::{Event, Step}, testkit};
//!
//! let end = Event::new(&Step::new("Chat"), "end").with_data(json!({ "answer": "forty-two", "model": "m", "duration": 1.5 }));
//! let left = testkit::drive(WithoutContent::default(), [end]);
//! assert_eq!(serde_json::Value::Object(left[0].body().to_map()), json!({ "model": "m", "duration": 1.5 }));
//! ```
//!
//! `data`, and the keys that came in beside it, keep only the keys that the table in this file names, with values of
//! the shape that it names. Every other key is removed, because an unknown key may hold anything.

use serde_json::{Map, Value};
use streamll_actors::event::{Body, Context, Datum, Event, Kind, Members, Step, View};
use streamll_actors::process::{Output, Processor};

/// The longest text that is taken for a name, and the longest of all names of a list together, in bytes: no id that a
/// broker takes is longer.
const LONGEST: usize = 255;
/// The longest key that is known by its ending, in bytes.
const LONGEST_KEY: usize = 64;

/// What may stand behind a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Number,
    Flag,
    /// One line, not longer than a name.
    Text,
    Texts,
    /// A number, a flag or a text.
    Id,
    /// An object of numbers; of others in it, those that are objects of numbers.
    Usage,
}

/// What stays, beside the keys of a step's context. A `*` stands for any beginning.
const KEPT: [(&str, Shape); 32] = [
    ("*_id", Shape::Id),
    ("*_tokens", Shape::Number),
    ("answered", Shape::Flag),
    ("choices", Shape::Number),
    ("dimensions", Shape::Number),
    ("duration", Shape::Number),
    ("encoding_formats", Shape::Texts),
    ("error_type", Shape::Text),
    ("field", Shape::Text),
    ("finish_reason", Shape::Text),
    ("finish_reasons", Shape::Texts),
    ("frequency_penalty", Shape::Number),
    ("merged", Shape::Number),
    ("model", Shape::Text),
    ("outcome", Shape::Text),
    ("output_type", Shape::Text),
    ("presence_penalty", Shape::Number),
    ("provider", Shape::Text),
    ("response_model", Shape::Text),
    ("seed", Shape::Number),
    ("stream", Shape::Flag),
    ("temperature", Shape::Number),
    ("time_to_first_token", Shape::Number),
    ("token_index", Shape::Number),
    ("tokens", Shape::Number),
    ("tokens_per_second", Shape::Number),
    ("tool", Shape::Text),
    ("tool_type", Shape::Text),
    ("top_k", Shape::Number),
    ("top_p", Shape::Number),
    ("truncated", Shape::Texts),
    ("usage", Shape::Usage),
];

/// What a key inside of `usage` speaks of: keys may be words of somebody, too.
const USAGE: [&str; 5] = ["token", "cache", "cost", "request", "tool_use"];

/// Removes what was said from every event. It keeps only values that cannot be content: ids, names, times, numbers of
/// tokens.
///
/// `content: off` puts this processor in front of all sinks or of one sink. In code, [`Builder::without_content`] does
/// this for all sinks. For one sink, put it first among the `processors` of its [`SinkSpec`](crate::SinkSpec):
///
/// ```
/// use std::sync::Arc;
/// use streamll::{Topology, processors::WithoutContent, sinks, topology::IntoSink as _};
///
/// let mut live = sinks::terminal().into_sink("live");
/// live.processors.insert(0, ("content".to_owned(), Arc::new(|| Box::new(WithoutContent::default()))));
/// let topology = Topology::builder("rag-api").sink("live", live).sink("records", sinks::file("records.ndjson"));
/// # let _ = topology;
/// ```
///
/// Dead letters and diverted events of *other* sinks do not pass the processors of the sink that gets them. So do not
/// use such a sink as the `dead_letter` or fallback of a sink that gets content. The
/// [guide](crate::guide::privacy#content-off) lists what stays.
///
/// [`Builder::without_content`]: crate::topology::Builder::without_content
#[derive(Debug, Default)]
pub struct WithoutContent {
    /// The last step of which the context lost something, and what is left of it: a run of tokens shares one.
    last: Option<(Step, Step)>,
}

impl Processor for WithoutContent {
    fn process(&mut self, mut event: Event, out: &mut Output) {
        if let Some(step) = self.step(event.step()) {
            event.set_step(step);
        }
        take_from_body(&mut event);
        take_from_extra(&mut event);
        out.push(event);
    }
}

impl WithoutContent {
    /// The step to use in the place of `step`, where a value of its context is none that an id can have.
    fn step(&mut self, step: &Step) -> Option<Step> {
        let context = &step.parts().context;
        if context.members().all(|(_, value)| Shape::Id.fits(value)) {
            return None;
        }
        if let Some((_, left)) = self.last.as_ref().filter(|(seen, _)| seen.same(step)) {
            return Some(left.clone());
        }
        let mut parts = step.parts().clone();
        parts.context = parts.context.with_only(|_, value| Shape::Id.fits(value));
        let left = Step::from(parts);
        self.last = Some((step.clone(), left.clone()));
        Some(left)
    }
}

fn take_from_body(event: &mut Event) {
    if let Body::Token(token) = event.body()
        && is_name(&token.field)
    {
        if !token.text.is_empty() {
            event.set_merged(event.merged(), "");
        }
        return;
    }
    let context = event.step().parts().context.clone();
    let rule = Rule { context: &context, is_token: *event.kind() == Kind::Token };
    if !rule.leaves(event.body().members()) {
        event.map_mut().retain(|key, value| rule.keep(key, value));
    }
}

/// What came in beside `data` and our own keys goes by the same rule.
fn take_from_extra(event: &mut Event) {
    let Some(mut extra) = event.extra() else { return };
    let context = event.step().parts().context.clone();
    let rule = Rule { context: &context, is_token: false };
    if extra.iter().any(|(key, value)| rule.fate(key, Datum::from(value)) != Fate::Stays) {
        extra.retain(|key, value| rule.keep(key, value));
        event.set_extra(&extra);
    }
}

/// What becomes of one member of an event's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    /// Of an object of numbers the numbers stay.
    Shrinks,
    /// An empty text stands in its place.
    Empties,
    Goes,
}

/// What stays of one event.
struct Rule<'a> {
    /// Its keys are ids that the caller set.
    context: &'a Context,
    is_token: bool,
}

impl Rule<'_> {
    /// Whether all of it stays as it is.
    fn leaves(&self, mut members: Members<'_>) -> bool {
        members.all(|(key, value)| self.fate(&key, value) == Fate::Stays)
    }

    fn fate(&self, key: &str, value: Datum<'_>) -> Fate {
        if self.is_token && key == "token" {
            return if matches!(value.view(), View::Text(text) if text.is_empty()) {
                Fate::Stays
            } else {
                Fate::Empties
            };
        }
        match self.shape(key) {
            Some(Shape::Usage) => usage(value),
            Some(shape) if shape.fits(value) => Fate::Stays,
            _ => Fate::Goes,
        }
    }

    /// Whether something stays of a member; what does not is taken out of the value.
    fn keep(&self, key: &str, value: &mut Value) -> bool {
        let fate = self.fate(key, Datum::from(&*value));
        match (fate, &mut *value) {
            (Fate::Empties, value) => *value = "".into(),
            (Fate::Shrinks, Value::Object(numbers)) => shrink(numbers),
            _ => {}
        }
        fate != Fate::Goes
    }

    fn shape(&self, key: &str) -> Option<Shape> {
        if self.context.look(key).is_some() {
            return Some(Shape::Id);
        }
        let is_it = |pattern: &str| match pattern.strip_prefix('*') {
            Some(ending) => key.ends_with(ending) && is_key(key),
            None => key == pattern,
        };
        KEPT.iter().find(|(pattern, _)| is_it(pattern)).map(|(_, shape)| *shape)
    }
}

impl Shape {
    fn fits(self, value: Datum<'_>) -> bool {
        match (self, value.view()) {
            (Shape::Number | Shape::Id, View::Number(digits)) => digits.len() <= LONGEST,
            (Shape::Flag | Shape::Id, View::Bool(_)) => true,
            (Shape::Text | Shape::Id, View::Text(text)) => is_name(&text),
            (Shape::Texts, View::List(items)) => {
                let mut length = 0;
                items.into_iter().all(|item| match item.view() {
                    View::Text(text) => {
                        length += text.len();
                        is_name(&text) && length <= LONGEST
                    }
                    _ => false,
                })
            }
            _ => false,
        }
    }
}

/// What becomes of an object of numbers.
fn usage(value: Datum<'_>) -> Fate {
    let View::Object(members) = value.view() else { return Fate::Goes };
    let (mut any, mut all) = (false, true);
    for (key, value) in members {
        let fate = number(&key, value);
        any |= fate != Fate::Goes;
        all &= fate == Fate::Stays;
    }
    match (any, all) {
        (false, _) => Fate::Goes,
        (true, true) => Fate::Stays,
        (true, false) => Fate::Shrinks,
    }
}

/// What becomes of one member of an object of numbers.
fn number(key: &str, value: Datum<'_>) -> Fate {
    match value.view() {
        _ if !is_usage(key) => Fate::Goes,
        View::Object(_) => usage(value),
        _ if Shape::Number.fits(value) => Fate::Stays,
        _ => Fate::Goes,
    }
}

/// Leaves the numbers of an object of numbers.
fn shrink(numbers: &mut Map<String, Value>) {
    numbers.retain(|key, value| {
        let fate = number(key, Datum::from(&*value));
        if let Value::Object(inner) = value {
            shrink(inner);
        }
        fate != Fate::Goes
    });
}

fn is_usage(key: &str) -> bool {
    let small = key.to_ascii_lowercase();
    is_key(key) && USAGE.iter().any(|word| small.contains(word))
}

/// Whether a text may be a name or an id.
fn is_name(text: &str) -> bool {
    text.len() <= LONGEST && !text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// Whether a key may be one that a programmer gave.
fn is_key(key: &str) -> bool {
    key.len() <= LONGEST_KEY && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the guide says that a shape may hold.
    fn said(shape: Shape) -> &'static str {
        match shape {
            Shape::Id => "a number, a text, `true` or `false`",
            Shape::Number => "a number",
            Shape::Text => "a text",
            Shape::Texts => "a list of texts, 255 bytes in all",
            Shape::Flag => "`true` or `false`",
            Shape::Usage => "an object: its numbers stay",
        }
    }

    #[test]
    fn the_guide_names_each_key_with_its_shape() {
        let page = include_str!("../guide/privacy.md");
        let table =
            page.split("| keys | what they may hold |").nth(1).and_then(|rest| rest.split("\n\n").next());
        let rows: Vec<_> =
            table.unwrap().lines().filter_map(|row| row.trim_matches('|').split_once(" | ")).collect();
        for (pattern, shape) in KEPT {
            let key = format!("`{}`", pattern.trim_start_matches('*'));
            let row = rows.iter().find(|(keys, _)| keys.contains(&key));
            let is_so = row.is_some_and(|(_, holds)| holds.trim().starts_with(said(shape)));
            assert!(is_so, "{key}: {shape:?} in {row:?}");
        }
        // And no other: of a `token` only the place stays, and of `usage` the words are those here.
        let named = rows.iter().flat_map(|(keys, _)| keys.split('`').skip(1).step_by(2));
        let unknown: Vec<_> = named
            .filter(|key| !KEPT.iter().any(|(pattern, _)| pattern.trim_start_matches('*') == *key))
            .collect();
        assert_eq!(unknown, ["context!", "fields(…)", "token", "token"]);
        let words = rows.iter().find(|(keys, _)| keys.contains("`usage`")).map(|(_, holds)| holds);
        assert!(USAGE.iter().all(|word| words.unwrap().contains(&format!("`{word}`"))), "{words:?}");
    }
}
