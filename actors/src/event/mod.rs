//! Events: immutable, cheap to clone, and encoded once.

mod body;
mod context;
mod datum;
mod decode;
mod delivery;
mod error;
mod fields;
mod gap;
mod id;
mod json;
mod keys;
mod kind;
mod origin;
mod patch;
mod step;
mod strict;
mod time;
mod traceparent;
mod wire;
mod write;

pub use body::{Body, DataMut, Raw, Text, Token};
pub use context::Context;
pub use datum::{Datum, Items, Members, View};
pub use decode::Decoder;
pub use delivery::{Delivery, Key};
pub use error::WireError;
pub use fields::Fields;
pub(crate) use gap::{Gap, GapReason};
pub use id::EventId;
pub(crate) use kind::CLASSES;
pub use kind::{Class, Kind};
pub(crate) use origin::Stamp;
pub use origin::{Confirmation, Origin, Receipt, Statics};
pub use step::{Step, StepParts};
pub use strict::{read_json, strict_json};
pub use time::Timestamp;
pub use traceparent::{is_span_id, is_trace_id};

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Map, Value};

/// The size of the largest event that enters a graph, in bytes of JSON (an estimate until the event is encoded): 1 MiB.
pub const MAX_EVENT_BYTES: usize = 1 << 20;

/// The module name of the machine's own events. In a graph nobody else's event bears it.
pub(crate) const MACHINE: &str = "streamll";

/// One thing that happened inside an instrumented module: the step that it belongs to, and its own data.
///
/// Clones are cheap and share one JSON encoding, which is made when the first reader asks for it. A change of a clone
/// first copies the event and drops the encoding.
#[derive(Clone)]
pub struct Event(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    id: EventId,
    timestamp: Timestamp,
    step: Step,
    kind: Kind,
    class: Class,
    body: Body,
    merged: u32,
    system: bool,
    /// It came in as JSON from another process.
    foreign: bool,
    /// Top-level keys that came in and are not ours, as `,"key":value`.
    extra: Option<Arc<str>>,
    stamp: Option<Arc<Stamp>>,
    /// The sending process, where that is another one.
    foreign_source: Option<Arc<str>>,
    seq: Option<u64>,
    receipt: Option<Arc<Receipt>>,
    json: OnceLock<Bytes>,
}

impl Event {
    /// Makes an event of `step` that happens now, without data.
    #[must_use]
    pub fn new(step: &Step, kind: impl Into<Kind>) -> Event {
        Event::with_body(step.clone(), kind.into(), Body::Map(Map::new()))
    }

    /// Makes an event of `step` that happens now, with these data.
    #[must_use]
    pub fn with_fields(step: &Step, kind: impl Into<Kind>, data: Fields) -> Event {
        Event::with_body(step.clone(), kind.into(), Body::Fields(data))
    }

    /// Makes a token: a piece of text that `step` streams as `field`. `index` counts the tokens of that field from
    /// zero.
    #[must_use]
    pub fn token(step: &Step, field: impl Into<Text>, text: impl Into<Text>, index: u64) -> Event {
        let token = Token { field: field.into(), text: text.into(), index };
        Event::with_body(step.clone(), Kind::Token, Body::Token(token))
    }

    /// A system event (`gap`, `sink_open`, …) of the machine itself, with the fixed topic `ai.streamll.<kind>`.
    pub(crate) fn system(kind: &str, data: Map<String, Value>) -> Event {
        Event::system_of(kind, Body::Map(data))
    }

    /// A system event whose data is JSON of ours.
    pub(crate) fn system_json(kind: &str, data: &str) -> Event {
        Event::system_of(kind, Body::Raw(Raw::new(data)))
    }

    fn system_of(kind: &str, data: Body) -> Event {
        let mut event = Event::with_body(Step::new(MACHINE), Kind::from(kind), data);
        let inner = event.edit();
        inner.stamp = Some(Arc::new(Stamp {
            statics: Arc::default(),
            topic: Some(format!("ai.streamll.{kind}").into()),
        }));
        inner.system = true;
        event
    }

    fn with_body(step: Step, kind: Kind, body: Body) -> Event {
        let timestamp = Timestamp::now();
        Event(Arc::new(Inner {
            id: EventId::generate(timestamp.as_micros()),
            timestamp,
            step,
            class: kind.class(),
            kind,
            body,
            merged: 1,
            system: false,
            foreign: false,
            extra: None,
            stamp: None,
            foreign_source: None,
            seq: None,
            receipt: None,
            json: OnceLock::new(),
        }))
    }

    /// Returns this event with one more key in its data.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Event {
        self.set_data(key, value);
        self
    }

    /// Returns this event with `data` as its data. A value that is not a JSON object is put under the key `value`.
    #[must_use]
    pub fn with_data(mut self, data: Value) -> Event {
        self.edit().body = Body::Map(match data {
            Value::Object(map) => map,
            other => Map::from_iter([("value".to_owned(), other)]),
        });
        self
    }

    /// Returns this event with another time.
    #[must_use]
    pub fn at(mut self, timestamp: Timestamp) -> Event {
        self.edit().timestamp = timestamp;
        self
    }

    /// Returns the id of the event. A retry has the same id.
    #[must_use]
    pub fn id(&self) -> &EventId {
        &self.0.id
    }

    /// Returns the time of the event.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.0.timestamp
    }

    /// Returns the step that the event belongs to.
    #[must_use]
    pub fn step(&self) -> &Step {
        &self.0.step
    }

    /// Returns the emitting module, as it was given.
    #[must_use]
    pub fn module_name(&self) -> &str {
        &self.0.step.parts().module_name
    }

    /// Returns the type of the event.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// Returns the class of the event, which decides how early it is shed under overload.
    #[must_use]
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// Returns the event's own data, without the context of its step.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.0.body
    }

    /// Returns the token, if the event is a token that was made here or came in in the usual form.
    #[must_use]
    pub fn as_token(&self) -> Option<&Token> {
        if let Body::Token(token) = &self.0.body { Some(token) } else { None }
    }

    /// Returns one key of the event's data, or else of its context, as a value of `serde_json`. Numbers are whole
    /// numbers of 64 bits, or else the nearest doubles. [`look`](Self::look) gives all digits.
    #[must_use]
    pub fn data(&self, key: &str) -> Option<Cow<'_, Value>> {
        self.look(key).map(Datum::value)
    }

    /// Returns one key of the event's data, or else of its context, exactly as it is written.
    #[must_use]
    pub fn look(&self, key: &str) -> Option<Datum<'_>> {
        self.0.body.look(key).or_else(|| self.0.step.parts().context.look(key))
    }

    /// Returns one tag of the event, or else one that the graph adds.
    #[must_use]
    pub fn tag(&self, key: &str) -> Option<&str> {
        let own = self.0.step.parts().context.get_tag(key);
        own.or_else(|| self.statics()?.tag(key))
    }

    /// Returns whether streamll itself made the event: a gap marker, an alert, a dead letter. No processor gets these
    /// events.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.0.system
    }

    /// Returns whether the event came in as JSON from another process.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.0.foreign
    }

    /// Returns the topic that the topology's `routing_key` gave the event. `None` before the router has seen the event.
    #[must_use]
    pub fn topic(&self) -> Option<&Arc<str>> {
        self.0.stamp.as_ref()?.topic.as_ref()
    }

    /// Returns its sender, and its sequence number among that sender's events. `None` before the ingress has seen the
    /// event.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        Some(Origin { source: self.source()?.into(), seq: self.seq()? })
    }

    /// Returns the name of the process that sent the event. `None` before the enricher has seen the event.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        let own = || self.statics().map(|statics| &*statics.source).filter(|source| !source.is_empty());
        self.0.foreign_source.as_deref().or_else(own)
    }

    /// Returns its sequence number in that process. `None` before the ingress has seen the event.
    #[must_use]
    pub fn seq(&self) -> Option<u64> {
        self.0.seq
    }

    /// Returns the tags that the graph adds to every event. `None` before the enricher has seen the event.
    #[must_use]
    pub fn statics(&self) -> Option<&Arc<Statics>> {
        self.0.stamp.as_ref().map(|stamp| &stamp.statics)
    }

    /// Returns how many emitted events it stands for: more than one after a processor has merged some.
    #[must_use]
    pub fn merged(&self) -> u32 {
        self.0.merged
    }

    /// Returns the event as JSON. It is encoded once, however many readers ask for it.
    #[must_use]
    pub fn json(&self) -> &Bytes {
        self.0.json.get_or_init(|| wire::encode(self))
    }

    /// Returns the size in bytes of JSON. It is exact once the event is encoded, and an estimate before.
    #[must_use]
    pub fn size(&self) -> usize {
        /// Ids, names, topic and punctuation of an event without data.
        const FRAME: usize = 300;
        self.0.json.get().map_or_else(|| FRAME + self.0.body.size(), Bytes::len)
    }

    /// Sets one key of the event's own data. A token becomes a plain map first. All other data that came in stays
    /// exactly as it is written.
    pub fn set_data(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.edit().body.set(key.into(), value.into());
    }

    /// Removes one key of the event's own data, and returns its value.
    pub fn remove_data(&mut self, key: &str) -> Option<Value> {
        self.edit().body.remove(key)
    }

    /// Gives access to the event's own data, for changes. A token becomes a plain map first.
    ///
    /// Values that came in and are not changed stay exactly as they are written, with all digits of their numbers. A
    /// value that is moved to another key is written again.
    pub fn map_mut(&mut self) -> DataMut<'_> {
        self.edit().body.map_mut()
    }

    /// Returns unknown keys that came in beside the known ones, if there are any. They pass through unchanged.
    #[must_use]
    pub fn extra(&self) -> Option<Map<String, Value>> {
        self.0.extra.as_deref().map(|extra| json::object(&braced(extra)))
    }

    /// Replaces the unknown keys that came in beside the known ones. Values that do not change stay exactly as they are
    /// written.
    pub fn set_extra(&mut self, extra: &Map<String, Value>) {
        let inner = self.edit();
        let members = patch::object(&braced(inner.extra.as_deref().unwrap_or_default()), extra);
        let members = members.strip_prefix('{').and_then(|members| members.strip_suffix('}'));
        inner.extra =
            members.filter(|members| !members.is_empty()).map(|members| format!(",{members}").into());
    }

    /// Moves the event to another step, for example to one with another context.
    pub fn set_step(&mut self, step: Step) {
        self.edit().step = step;
    }

    /// Sets how many emitted events this event stands for, and the text of all of them.
    pub fn set_merged(&mut self, merged: u32, text: impl Into<Text>) {
        let inner = self.edit();
        inner.merged = merged;
        if let Body::Token(token) = &mut inner.body {
            token.text = text.into();
        }
    }

    pub(crate) fn set_class(&mut self, class: Class) {
        if self.0.class != class {
            self.edit().class = class;
        }
    }

    pub(crate) fn set_stamp(&mut self, stamp: &Arc<Stamp>) {
        self.edit().stamp = Some(stamp.clone());
    }

    /// Writes what a graph adds on an event that has its topic already.
    pub(crate) fn set_statics(&mut self, statics: &Arc<Statics>) {
        let topic = self.topic().cloned();
        self.set_stamp(&Arc::new(Stamp { statics: statics.clone(), topic }));
    }

    #[cfg(test)]
    pub(crate) fn set_origin(&mut self, origin: Origin) {
        let inner = self.edit();
        inner.foreign_source = Some(origin.source);
        inner.seq = Some(origin.seq);
    }

    pub(crate) fn set_seq(&mut self, seq: u64) {
        self.edit().seq = Some(seq);
    }

    pub(crate) fn set_receipt(&mut self, receipt: Arc<Receipt>) {
        self.edit().receipt = Some(receipt);
    }

    /// Returns whether the sender waits for a confirmation. Such an event must not be merged into another one.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.0.receipt.is_some()
    }

    pub(crate) fn receipt(&self) -> Option<&Arc<Receipt>> {
        self.0.receipt.as_ref()
    }

    /// Whether both are the same event in memory, unchanged.
    pub(crate) fn same(&self, other: &Event) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn edit(&mut self) -> &mut Inner {
        let inner = Arc::make_mut(&mut self.0);
        inner.json.take();
        inner
    }
}

/// Members that stand behind others, as an object.
fn braced(extra: &str) -> String {
    format!("{{{}}}", extra.strip_prefix(',').unwrap_or(extra))
}

/// Names the event without its payload, so that logs hold none.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.0.id)
            .field("module_name", &self.module_name())
            .field("kind", &self.0.kind.as_str())
            .field("seq", &self.0.seq)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_to_a_clone_leaves_the_original_and_its_encoding_alone() {
        let original = Event::new(&Step::new("M"), "start").with("a", 1);
        let before = original.json().clone();
        let changed = original.clone().with("a", 2);
        assert_eq!(original.json(), &before);
        assert_ne!(changed.json(), &before);
        assert_eq!(changed.id(), original.id());
    }

    #[test]
    fn fields_are_data_like_those_of_a_map() {
        let context = Context::empty().with("conversation_id", "c").with("a", 0);
        let step = Step::new("M").context(&context);
        let mut fields = Fields::default();
        for (key, value) in [("a", 1), ("b\"", 2), ("a", 3)] {
            fields.set(key, value);
        }
        let few = Event::with_fields(&step, "end", fields);
        let mut many = Event::new(&step, "end").with("a", 3).with("b\"", 2);
        many.edit().id = few.id().clone();
        many.edit().timestamp = few.timestamp();
        assert_eq!(few.json(), many.json());
        assert_eq!((few.size(), few.data("a")), (many.size(), many.data("a")));
        assert_eq!(few.clone().with("d", 4).body().to_map(), many.with("d", 4).body().to_map());
        assert_eq!(Event::with_fields(&Step::new("M"), "end", Fields::default()).body().to_map().len(), 0);
    }

    #[test]
    fn all_clones_share_one_encoding() {
        let event = Event::token(&Step::new("M"), "answer", "hi", 0);
        let clone = event.clone();
        assert_eq!(event.json().as_ptr(), clone.json().as_ptr());
    }

    #[test]
    fn a_debug_print_holds_no_payload() {
        let event = Event::new(&Step::new("M"), "start").with("question", "secret");
        assert!(!format!("{event:?}").contains("secret"));
    }
}
