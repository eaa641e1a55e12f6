//! Keeps the events that match, and drops the others. Dropped events are counted as filtered.
//!
//! ```
//! use serde_json::json;
//! use streamll::processors::FilterConfig;
//! use streamll_actors::{event::{Event, Step}, testkit};
//!
//! let filter: FilterConfig = serde_json::from_value(json!({
//!     "except": ["ai.*.token"],
//!     "where": { "tags.tenant": "acme", "data.model.name": "small" },
//! })).unwrap();
//! let step = Step::new("RagPipeline");
//! let left = testkit::drive(filter.build().unwrap(), [Event::new(&step, "start")]);
//! assert!(left.is_empty(), "it has no such tag");
//! ```

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use streamll_actors::event::{Event, View};
use streamll_actors::process::{Output, Processor};
use streamll_actors::route::{DEFAULT_ROUTING_KEY, Field, Fields, Template, TopicPattern};

/// The settings under `filter:` in YAML. An event stays if it matches one of `topics` (if there are any), none of
/// `except`, and all of `where`.
///
/// The topics are those of the topology's `routing_key`. But a filter under the top-level `processors` runs before the
/// router. There, the topic of an event is always `ai.{module_name}.{event_type}`, whatever `routing_key` says.
/// streamll's own events (module `streamll`: gap markers, alerts) always stay.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilterConfig {
    /// Topic patterns (`ai.*.token`, `ai.#`) of which one must match. Default: none, so that every topic is accepted.
    pub topics: Vec<String>,
    /// Topic patterns of which none may match. Default: none.
    pub except: Vec<String>,
    /// Values that an event must have, all of them. A key is `data.<key>` or `tags.<key>`. Further dots go deeper into
    /// `data`, and list items are named by their number from 0. Values must be equal in JSON: `1` is neither `"1"` nor
    /// `1.0`. Tags are strings. A key that is missing in the event equals nothing, not even `null`. Default: none.
    pub r#where: Map<String, Value>,
}

impl FilterConfig {
    /// Makes the processor.
    ///
    /// # Errors
    ///
    /// If a pattern or a key of `where` is malformed (the text begins with the key, for example `topics: …`), or if
    /// there is nothing to filter by.
    pub fn build(&self) -> Result<Filter, String> {
        if self.topics.is_empty() && self.except.is_empty() && self.r#where.is_empty() {
            return Err("the filter would keep everything; give it `topics`, `except` or `where`".to_owned());
        }
        Ok(Filter {
            topics: patterns("topics", &self.topics)?,
            except: patterns("except", &self.except)?,
            conditions: self.r#where.iter().map(condition).collect::<Result<_, _>>()?,
            template: Template::parse(DEFAULT_ROUTING_KEY).map_err(|e| e.to_string())?,
        })
    }
}

/// Keeps the events that match. See [`FilterConfig`].
#[derive(Debug)]
pub struct Filter {
    topics: Vec<TopicPattern>,
    except: Vec<TopicPattern>,
    conditions: Vec<Condition>,
    /// Renders the topics of events that the router has not seen yet.
    template: Template,
}

/// What the default routing key looks at.
struct Names<'a>(&'a Event);

impl Fields for Names<'_> {
    fn field(&self, field: &Field) -> Option<Cow<'_, str>> {
        match field {
            Field::ModuleName => Some(self.0.module_name().into()),
            Field::EventType => Some(self.0.kind().as_str().into()),
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Condition {
    /// The key, and the way from its value on.
    Data(String, Vec<String>, Value),
    Tag(String, String),
}

impl Filter {
    /// Returns whether `event` stays.
    #[must_use]
    pub fn keeps(&self, event: &Event) -> bool {
        event.module_name() == "streamll"
            || (self.conditions.iter().all(|condition| condition.holds(event)) && self.wants_topic(event))
    }

    fn wants_topic(&self, event: &Event) -> bool {
        if self.topics.is_empty() && self.except.is_empty() {
            return true;
        }
        let topic = match event.topic() {
            Some(topic) => Cow::Borrowed(&**topic),
            None => Cow::Owned(self.template.render(&Names(event))),
        };
        let any = |patterns: &[TopicPattern]| patterns.iter().any(|pattern| pattern.matches(&topic));
        (self.topics.is_empty() || any(&self.topics)) && !any(&self.except)
    }
}

impl Processor for Filter {
    fn process(&mut self, event: Event, out: &mut Output) {
        if self.keeps(&event) {
            out.push(event);
        }
    }
}

impl Condition {
    fn holds(&self, event: &Event) -> bool {
        match self {
            Condition::Tag(key, wanted) => event.tag(key) == Some(wanted),
            Condition::Data(key, way, wanted) => event.look(key).is_some_and(|value| {
                let found = way.iter().try_fold(value, |value, step| match value.view() {
                    View::List(_) => value.item(step.parse().ok()?),
                    _ => value.get(step),
                });
                found.is_some_and(|found| found.is(wanted))
            }),
        }
    }
}

fn patterns(key: &str, texts: &[String]) -> Result<Vec<TopicPattern>, String> {
    let parse = |text: &String| TopicPattern::parse(text).map_err(|e| format!("{key}: {e}"));
    texts.iter().map(parse).collect()
}

fn condition((key, wanted): (&String, &Value)) -> Result<Condition, String> {
    if let Some(tag) = key.strip_prefix("tags.").filter(|tag| !tag.is_empty()) {
        return match wanted {
            Value::String(text) => Ok(Condition::Tag(tag.to_owned(), text.clone())),
            other => Err(format!("where: tags are strings; write `{key}: \"{other}\"`")),
        };
    }
    let way: Vec<String> = key.split('.').map(str::to_owned).collect();
    match way.as_slice() {
        [data, first, rest @ ..] if data == "data" && !way.contains(&String::new()) => {
            Ok(Condition::Data(first.clone(), rest.to_vec(), wanted.clone()))
        }
        _ => Err(format!("where: `{key}` names no value; write `data.<key>` or `tags.<key>`")),
    }
}
