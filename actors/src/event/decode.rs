//! Reads the wire format back: one line of NDJSON becomes one event, or an error that says what is wrong.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{self, Deserialize, DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::body::Raw;
use super::{
    Body, Class, Context, Event, EventId, Kind, MAX_EVENT_BYTES, Stamp, Statics, Step, StepParts, Timestamp,
    Token, id,
};

/// How deep the `data` of an incoming event may nest.
const MAX_DEPTH: usize = 64;
/// The longest id that every broker takes.
const MAX_ID_BYTES: usize = 255;

/// Why a text is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(String);

/// Reads events; remembers the last step, so that a run of tokens shares one.
#[derive(Debug, Default)]
pub struct Decoder {
    last: Option<Step>,
    /// What a graph wrote on the last event that was restored.
    stamp: Option<Arc<Stamp>>,
}

impl Decoder {
    /// Reads one event. `event_type` is required; ids and time are kept or filled in; keys that are not ours pass
    /// through; `seq` is kept only together with `source`; `topic` is rendered anew by the graph.
    ///
    /// # Errors
    /// When it is no JSON object, a known key has a wrong type, or it is larger than 1 MiB.
    pub fn decode(&mut self, line: &[u8]) -> Result<Event, WireError> {
        self.event(parse(line)?)
    }

    /// Reads one event that a graph has sent, on its other side: like [`decode`](Self::decode), and it keeps its topic.
    ///
    /// # Errors
    /// Those of [`decode`](Self::decode).
    pub fn received(&mut self, json: &[u8]) -> Result<Event, WireError> {
        let wire = parse(json)?;
        let topic: Option<Cow<'_, str>> = wire.topic.and_then(|topic| serde_json::from_str(topic.get()).ok());
        let mut event = self.event(wire)?;
        if topic.is_some() {
            event.set_stamp(&self.stamp(event.step(), topic.as_deref()));
        }
        Ok(event)
    }

    /// Reads an event back that a graph has sent on its way before: it keeps its topic, and its JSON to the letter. Its
    /// class is that of its type, where none is given.
    pub(crate) fn restore(
        &mut self,
        json: Bytes,
        class: Option<Class>,
        system: bool,
    ) -> Result<Event, WireError> {
        let wire: Wire<'_> = serde_json::from_slice(&json).map_err(|e| WireError(said(&e)))?;
        let kind = Kind::from(wire.event_type.as_deref().unwrap_or_default());
        let data = wire.data.map_or("{}", RawValue::get);
        let body = match token(&kind, data) {
            Some(token) => Body::Token(token),
            None => Body::Raw(Box::new(Raw::new(Bytes::copy_from_slice(data.as_bytes())))),
        };
        let timestamp = wire.timestamp.as_deref().and_then(|text| Timestamp::parse(text).ok());
        let step = self.step(&wire);
        let topic: Option<String> = wire.topic.and_then(|topic| serde_json::from_str(topic.get()).ok());
        let stamp = self.stamp(&step, topic.as_deref());
        let mut event = Event::with_body(step, kind, body).at(timestamp.unwrap_or_else(Timestamp::now));
        if let Some(class) = class {
            event.set_class(class);
        }
        let inner = event.edit();
        inner.id = wire.event_id.as_deref().map_or_else(|| inner.id.clone(), EventId::from);
        inner.system = system;
        inner.foreign_source = wire.source.as_deref().map(Arc::from);
        inner.seq = wire.seq;
        inner.stamp = Some(stamp);
        inner.json = json.clone().into();
        Ok(event)
    }

    fn stamp(&mut self, step: &Step, topic: Option<&str>) -> Arc<Stamp> {
        let tags = &step.parts().context;
        let [service, environment] =
            ["service", "environment"].map(|tag| tags.get_tag(tag).unwrap_or_default());
        let is_it = |stamp: &&Arc<Stamp>| {
            let statics = &stamp.statics;
            stamp.topic.as_deref() == topic
                && (&*statics.service, &*statics.environment) == (service, environment)
        };
        if let Some(stamp) = self.stamp.as_ref().filter(is_it) {
            return stamp.clone();
        }
        let statics = Arc::new(Statics::new(service, environment, []));
        let stamp = Arc::new(Stamp { statics, topic: topic.map(Arc::from) });
        self.stamp.insert(stamp).clone()
    }

    fn event(&mut self, wire: Wire<'_>) -> Result<Event, WireError> {
        let kind = match wire.event_type.as_deref() {
            None | Some("") => return Err(WireError("`event_type` is missing".to_owned())),
            Some(name) => Kind::from(name),
        };
        let data = wire.data.map_or("{}", RawValue::get);
        if !data.starts_with('{') {
            return Err(WireError(format!("`data` must be an object, not {}", kind_of(data))));
        }
        if too_deep(data.as_bytes()) {
            return Err(WireError(format!("`data` nests deeper than {MAX_DEPTH}")));
        }
        let timestamp = match &wire.timestamp {
            Some(text) => Timestamp::parse(text).map_err(|e| WireError(format!("`timestamp`: {e}")))?,
            None => Timestamp::now(),
        };
        let body = match token(&kind, data) {
            Some(token) => Body::Token(token),
            None => {
                let strict = serde_json::from_str::<Strict>(data);
                strict.map_err(|error| WireError(format!("`data`: {}", said(&error))))?;
                Body::Raw(Box::new(Raw::new(Bytes::copy_from_slice(data.as_bytes()))))
            }
        };
        let step = self.step(&wire);
        let mut event = Event::with_body(step, kind, body).at(timestamp);
        let inner = event.edit();
        let given = wire.event_id.as_deref().filter(|id| !id.is_empty());
        inner.id = given.map_or_else(|| EventId::generate(timestamp.as_micros()), EventId::from);
        inner.foreign = true;
        inner.extra = (!wire.extra.is_empty()).then(|| wire.extra.into());
        if let (Some(source), Some(seq)) = (&wire.source, wire.seq) {
            inner.foreign_source = Some(Arc::from(&**source));
            inner.seq = Some(seq);
        }
        let (size, id) = (event.size(), given.map_or(0, str::len));
        if size > MAX_EVENT_BYTES {
            return Err(WireError(format!(
                "about {size} bytes as an event; it has at most {MAX_EVENT_BYTES}"
            )));
        }
        if id > MAX_ID_BYTES {
            return Err(WireError(format!("`event_id` has {id} bytes; it has at most {MAX_ID_BYTES}")));
        }
        Ok(event)
    }

    fn step(&mut self, wire: &Wire<'_>) -> Step {
        if let Some(last) = self.last.as_ref().filter(|last| wire.is_of(last.parts())) {
            return last.clone();
        }
        let shared =
            |text: &Option<Cow<'_, str>>| text.as_deref().filter(|text| !text.is_empty()).map(Arc::from);
        let context =
            wire.tags.iter().flatten().fold(Context::empty(), |c, (key, value)| c.tag(&**key, &**value));
        let step = Step::from(StepParts {
            module_name: shared(&wire.module_name).unwrap_or_else(|| "unknown".into()),
            method_name: shared(&wire.method_name),
            operation: shared(&wire.operation),
            execution_id: shared(&wire.execution_id).unwrap_or_else(id::execution_id),
            span_id: shared(&wire.span_id).or_else(|| shared(&wire.execution_id)).unwrap_or_else(id::span_id),
            parent_id: shared(&wire.parent_id),
            context,
        });
        self.last = Some(step.clone());
        step
    }
}

fn parse(line: &[u8]) -> Result<Wire<'_>, WireError> {
    if line.len() > MAX_EVENT_BYTES {
        return Err(WireError(format!("{} bytes; an event has at most {MAX_EVENT_BYTES}", line.len())));
    }
    let mut json = serde_json::Deserializer::from_slice(line);
    let wire = Wire::deserialize(&mut json).and_then(|wire| json.end().map(|()| wire));
    wire.map_err(|error| WireError(said(&error)))
}

/// What the JSON parser says, with the column alone: the text is one line, and which one only its reader knows. Values it
/// would show are left out: they may be anybody's words.
fn said(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let Some(what) = text.strip_suffix(&place) else { return without_value(&text) };
    format!("{} at column {}", without_value(what), error.column())
}

/// `invalid type: string "…", expected u64` without the string.
fn without_value(text: &str) -> String {
    if let Some(wrong) = text.find("invalid ")
        && let Some((kind, rest)) = text[wrong..].split_once(['"', '`'])
        && let Some((_, expected)) = rest.rsplit_once(", expected ")
    {
        return format!("{}{}, expected {expected}", &text[..wrong], kind.trim_end());
    }
    text.to_owned()
}

/// A token in its usual form is taken apart, so that sinks need not parse it again.
fn token(kind: &Kind, data: &str) -> Option<Token> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Usual<'a> {
        #[serde(borrow)]
        field: Cow<'a, str>,
        #[serde(borrow)]
        token: Cow<'a, str>,
        token_index: u64,
    }
    if *kind != Kind::Token {
        return None;
    }
    let usual: Usual<'_> = serde_json::from_str(data).ok()?;
    Some(Token { field: usual.field.into(), text: usual.token.into(), index: usual.token_index })
}

fn kind_of(json: &str) -> &'static str {
    match json.bytes().next() {
        Some(b'[') => "a list",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Whether JSON text that is known to be well formed nests deeper than [`MAX_DEPTH`].
fn too_deep(json: &[u8]) -> bool {
    if json.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// The keys of an incoming event, borrowed from its text.
#[derive(Debug, Default)]
struct Wire<'a> {
    event_id: Option<Cow<'a, str>>,
    execution_id: Option<Cow<'a, str>>,
    span_id: Option<Cow<'a, str>>,
    parent_id: Option<Cow<'a, str>>,
    timestamp: Option<Cow<'a, str>>,
    module_name: Option<Cow<'a, str>>,
    method_name: Option<Cow<'a, str>>,
    event_type: Option<Cow<'a, str>>,
    operation: Option<Cow<'a, str>>,
    /// Only of interest for who restores an event.
    topic: Option<&'a RawValue>,
    source: Option<Cow<'a, str>>,
    seq: Option<u64>,
    data: Option<&'a RawValue>,
    tags: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    extra: Vec<u8>,
}

impl Wire<'_> {
    fn is_of(&self, step: &StepParts) -> bool {
        let same = |mine: &Option<Cow<'_, str>>, its: Option<&str>| mine.as_deref() == its;
        // Without ids of its own an event is a step of its own.
        self.span_id.is_some()
            && same(&self.span_id, Some(&step.span_id))
            && same(&self.execution_id, Some(&step.execution_id))
            && same(&self.module_name, Some(&step.module_name))
            && same(&self.method_name, step.method_name.as_deref())
            && same(&self.operation, step.operation.as_deref())
            && same(&self.parent_id, step.parent_id.as_deref())
            && self.tags.iter().flatten().count() == step.context.tags().len()
            && self.tags.iter().flatten().all(|(key, value)| step.context.get_tag(key) == Some(value))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Wire<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WireVisitor)
    }
}

struct WireVisitor;

impl<'de> Visitor<'de> for WireVisitor {
    type Value = Wire<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event: a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Wire<'de>, A::Error> {
        let mut wire = Wire::default();
        let mut seen = Vec::with_capacity(16);
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            if seen.contains(&key) {
                return Err(de::Error::custom(format!("`{key}` stands twice")));
            }
            let text = match &*key {
                "event_id" => &mut wire.event_id,
                "execution_id" => &mut wire.execution_id,
                "span_id" => &mut wire.span_id,
                "parent_id" => &mut wire.parent_id,
                "timestamp" => &mut wire.timestamp,
                "module_name" => &mut wire.module_name,
                "method_name" => &mut wire.method_name,
                "event_type" => &mut wire.event_type,
                "operation" => &mut wire.operation,
                "source" => &mut wire.source,
                "seq" => {
                    wire.seq = named("seq", map.next_value())?;
                    seen.push(key);
                    continue;
                }
                "data" => {
                    wire.data = map.next_value::<Option<&RawValue>>()?;
                    seen.push(key);
                    continue;
                }
                "tags" => {
                    wire.tags = named("tags", map.next_value_seed(Tags))?;
                    seen.push(key);
                    continue;
                }
                "topic" => {
                    wire.topic = Some(map.next_value()?);
                    seen.push(key);
                    continue;
                }
                other => {
                    let value: &RawValue = map.next_value()?;
                    named(other, serde_json::from_str::<Strict>(value.get()).map_err(de::Error::custom))?;
                    wire.extra.push(b',');
                    serde_json::to_writer(&mut wire.extra, other).map_err(de::Error::custom)?;
                    wire.extra.push(b':');
                    wire.extra.extend_from_slice(value.get().as_bytes());
                    seen.push(key);
                    continue;
                }
            };
            *text = named(&key, map.next_value::<Option<Text<'de>>>())?.map(|Text(text)| text);
            seen.push(key);
        }
        Ok(wire)
    }
}

fn named<T, E: de::Error>(key: &str, value: Result<T, E>) -> Result<T, E> {
    value.map_err(|e| E::custom(format!("`{key}`: {e}")))
}

/// Any JSON value that a reader accepts: what is passed on unparsed must not hold what parsers refuse, such as half a
/// surrogate pair or a number out of range.
struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Strict)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_str<E>(self, _: &str) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
        while items.next_element::<Strict>()?.is_some() {}
        Ok(Strict)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Strict, A::Error> {
        while entries.next_entry::<Strict, Strict>()?.is_some() {}
        Ok(Strict)
    }
}

/// A string that borrows where it can (`Cow` alone never does inside `Option`).
#[derive(Debug)]
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

/// `tags`: an object of strings, or null.
struct Tags;

impl<'de> DeserializeSeed<'de> for Tags {
    type Value = Option<BTreeMap<Cow<'de, str>, Cow<'de, str>>>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let tags: Option<BTreeMap<String, String>> = Option::deserialize(deserializer)?;
        Ok(tags
            .map(|tags| tags.into_iter().map(|(key, value)| (Cow::Owned(key), Cow::Owned(value))).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<Event, String> {
        Decoder::default().decode(text.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_given_is_kept_and_what_is_missing_is_filled_in() {
        let event = decode(
            r#"{"event_id":"e1","execution_id":"x","span_id":"s","timestamp":"2026-11-21T03:20:15Z","module_name":"Rag",
                "event_type":"docs_found","data":{"count":3,"n":1.50},"tags":{"tenant":"acme"},"source":"py","seq":7,"mine":[1]}"#,
        )
        .unwrap();
        let json: serde_json::Value = serde_json::from_slice(event.json()).unwrap();
        assert_eq!(json["event_id"], "e1");
        assert_eq!((json["source"].as_str(), json["seq"].as_u64()), (Some("py"), Some(7)));
        assert_eq!(json["data"]["count"], 3);
        assert!(String::from_utf8_lossy(event.json()).contains("1.50"), "numbers pass through as written");
        assert_eq!(json["tags"]["tenant"], "acme");
        assert_eq!(json["mine"][0], 1);
        let bare = decode(r#"{"event_type":"start"}"#).unwrap();
        assert_eq!(bare.module_name(), "unknown");
        assert_eq!(bare.step().parts().span_id.len(), 16);
    }

    #[test]
    fn each_wrong_line_is_refused_with_its_reason() {
        for (line, reason) in [
            ("", "EOF"),
            ("nonsense", "expected"),
            ("[]", "an event: a JSON object"),
            ("{}", "`event_type` is missing"),
            (r#"{"event_type":3}"#, "`event_type`: invalid type: integer, expected a string"),
            (r#"{"event_type":"x","data":[1]}"#, "`data` must be an object, not a list"),
            (r#"{"event_type":"x","data":{"n":NaN}}"#, "expected value"),
            (r#"{"event_type":"x","tags":{"n":1}}"#, "`tags`: invalid type: integer, expected a string"),
            (r#"{"event_type":"x","timestamp":"noon"}"#, "`timestamp`: no time"),
            (r#"{"event_type":"x","event_type":"y"}"#, "`event_type` stands twice"),
            (r#"{"event_type":"x","seq":-1,"source":"s"}"#, "`seq`: invalid value"),
            (r#"{"event_type":"x"} {}"#, "trailing characters"),
            (
                &format!(r#"{{"event_type":"x","event_id":"{}"}}"#, "i".repeat(256)),
                "`event_id` has 256 bytes",
            ),
            (r#"{"event_type":"x","data":{"s":"\ud800","api_key":"k"}}"#, "`data`: "),
            (r#"{"event_type":"x","data":{"n":1e999}}"#, "`data`: number out of range"),
            (r#"{"event_type":"x","mine":"\udfff"}"#, "`mine`: "),
            (r#"{"event_type":"x","data":{"\ud800":1}}"#, "`data`: "),
        ] {
            let error = decode(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }

    #[test]
    fn what_a_graph_has_sent_keeps_its_topic_on_the_other_side_alone() {
        let line = br#"{"event_type":"start","topic":"ai.rag.start","tags":{"service":"rag-api"}}"#;
        let received = Decoder::default().received(line).unwrap();
        assert_eq!(
            (received.topic().map(|topic| &**topic), received.tag("service")),
            (Some("ai.rag.start"), Some("rag-api"))
        );
        assert!(Decoder::default().decode(line).unwrap().topic().is_none(), "the graph renders it anew");
        let without = Decoder::default().received(br#"{"event_type":"start","topic":7}"#).unwrap();
        assert!(without.topic().is_none());
    }

    #[test]
    fn seq_without_source_is_not_kept() {
        assert!(decode(r#"{"event_type":"x","seq":3}"#).unwrap().origin().is_none());
    }

    #[test]
    fn deep_data_is_refused_and_brackets_in_strings_do_not_count() {
        let deep = format!(r#"{{"event_type":"x","data":{{"a":{}1{}}}}}"#, "[".repeat(65), "]".repeat(65));
        assert!(decode(&deep).unwrap_err().contains("nests deeper"));
        let flat = format!(r#"{{"event_type":"x","data":{{"a":"{}"}}}}"#, "[".repeat(1000));
        assert!(decode(&flat).is_ok());
    }

    #[test]
    fn tokens_of_one_step_share_it() {
        let mut decoder = Decoder::default();
        let line = br#"{"event_type":"token","execution_id":"x","span_id":"s","module_name":"M","data":{"field":"a","token":"t","token_index":0}}"#;
        let (one, two) = (decoder.decode(line).unwrap(), decoder.decode(line).unwrap());
        assert!(one.step().same(two.step()));
        assert_eq!(one.as_token().unwrap().text, "t");
    }

    #[test]
    fn a_context_key_joins_incoming_data_only_where_it_is_not_there() {
        for (data, expected) in
            [(r#"{}"#, "c"), (r#"{"conversation_id":"own"}"#, "own"), (r#"{"a":"\"conversation_id\""}"#, "c")]
        {
            let mut event = decode(&format!(r#"{{"event_type":"x","data":{data}}}"#)).unwrap();
            let step = event.step().clone().context(&Context::empty().with("conversation_id", "c"));
            event.set_step(step);
            let json: serde_json::Value = serde_json::from_slice(event.json()).unwrap();
            assert_eq!(json["data"]["conversation_id"], expected, "{data}");
        }
    }
}
