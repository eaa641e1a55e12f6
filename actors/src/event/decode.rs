//! Reads the wire format: one line of NDJSON becomes one event, or an error that says what is wrong.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::body::Raw;
use super::keys::Keys;
use super::strict::Line;
use super::{
    Body, Class, Context, Event, EventId, Kind, MAX_EVENT_BYTES, Stamp, Statics, Step, StepParts, Timestamp,
    Token, WireError, id, wire,
};

/// The longest id that every broker takes.
const MAX_ID_BYTES: usize = 255;

/// Reads events. It remembers the last step, so that a run of tokens shares one step.
#[derive(Debug, Default)]
pub struct Decoder {
    last: Option<Step>,
    /// What a graph wrote on the last event that was restored.
    stamp: Option<Arc<Stamp>>,
}

impl Decoder {
    /// Reads one event.
    ///
    /// `event_type` is required. Ids and the time are kept or filled in. Unknown keys pass through. `seq` is kept only
    /// together with `source`. The graph renders `topic` again.
    ///
    /// A byte order mark is removed. U+FFFD replaces bytes that are not UTF-8, and halves of surrogate pairs. If a key
    /// occurs twice in an object inside `data`, the last one is kept. Everything else in `data` stays exactly as it is
    /// written.
    ///
    /// # Errors
    ///
    /// If the text is not a JSON object, a known key has a wrong type or occurs twice, a number is beyond the range of
    /// doubles, values are nested too deep, or the text is larger than 1 MiB.
    pub fn decode(&mut self, line: &[u8]) -> Result<Event, WireError> {
        let line = self.line(line)?;
        let keys = Keys::read(&line)?;
        self.event(&line, &keys)
    }

    /// Reads one event that a graph has sent, on the other side of a broker. Like [`decode`](Self::decode), but the
    /// topic is kept.
    ///
    /// # Errors
    ///
    /// The errors of [`decode`](Self::decode).
    pub fn received(&mut self, json: &[u8]) -> Result<Event, WireError> {
        let line = self.line(json)?;
        let keys = Keys::read(&line)?;
        let mut event = self.event(&line, &keys)?;
        if let Some(topic) = keys.topic() {
            event.set_stamp(&self.stamp(event.step(), Some(&topic)));
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
        let line = Line::of(&json);
        let keys = Keys::read(&line)?;
        let kind = Kind::from(keys.event_type.as_deref().unwrap_or_default());
        let data = keys.data.map_or("{}", RawValue::get);
        // One that an older version has kept may have a key twice.
        let unique = line.check(data).ok().flatten();
        let body = token(&kind, data)
            .map_or_else(|| Body::Raw(Raw::new(unique.as_deref().unwrap_or(data))), Body::Token);
        let timestamp = keys.timestamp.as_deref().and_then(|text| Timestamp::parse(text).ok());
        let step = self.step(&keys);
        let stamp = self.stamp(&step, keys.topic().as_deref());
        let mut event = Event::with_body(step, kind, body).at(timestamp.unwrap_or_else(Timestamp::now));
        if let Some(class) = class {
            event.set_class(class);
        }
        let inner = event.edit();
        inner.id = keys.event_id.as_deref().map_or_else(|| inner.id.clone(), EventId::from);
        inner.system = system;
        inner.foreign_source = keys.source.as_deref().map(Arc::from);
        inner.seq = keys.seq;
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

    fn line<'a>(&self, json: &'a [u8]) -> Result<Line<'a>, WireError> {
        let bytes = json.trim_ascii().len();
        if bytes > MAX_EVENT_BYTES {
            return Err(WireError(format!("{bytes} bytes; an event has at most {MAX_EVENT_BYTES}")));
        }
        Ok(Line::of(json))
    }

    fn event(&mut self, line: &Line<'_>, keys: &Keys<'_>) -> Result<Event, WireError> {
        let kind = match keys.event_type.as_deref() {
            None | Some("") => return Err(WireError("`event_type` is missing".to_owned())),
            Some(name) => Kind::from(name),
        };
        let data = keys.data.map_or("{}", RawValue::get);
        if !data.starts_with('{') {
            return Err(WireError(format!("`data` must be an object, not {}", kind_of(data))));
        }
        let body = body(&kind, data, line)?;
        let timestamp = match &keys.timestamp {
            Some(text) => Timestamp::parse(text).map_err(|e| WireError(format!("`timestamp`: {e}")))?,
            None => Timestamp::now(),
        };
        let extra = keys.extra.iter().map(|(key, value)| {
            let value = value.get();
            checked(key, value, line).map(|unique| (&**key, unique.map_or(Cow::Borrowed(value), Cow::Owned)))
        });
        let extra = wire::extra(&extra.collect::<Result<Vec<_>, _>>()?);
        let step = self.step(keys);
        let mut event = Event::with_body(step, kind, body).at(timestamp);
        let inner = event.edit();
        let given = keys.event_id.as_deref().filter(|id| !id.is_empty());
        inner.id = given.map_or_else(|| EventId::generate(timestamp.as_micros()), EventId::from);
        inner.foreign = true;
        inner.extra = extra;
        if let (Some(source), Some(seq)) = (&keys.source, keys.seq) {
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

    fn step(&mut self, keys: &Keys<'_>) -> Step {
        if let Some(last) = self.last.as_ref().filter(|last| keys.is_of(last.parts())) {
            return last.clone();
        }
        let shared =
            |text: &Option<Cow<'_, str>>| text.as_deref().filter(|text| !text.is_empty()).map(Arc::from);
        let context = keys.tags.iter().fold(Context::empty(), |c, (key, value)| c.tag(&**key, &**value));
        let step = Step::from(StepParts {
            module_name: shared(&keys.module_name).unwrap_or_else(|| "unknown".into()),
            method_name: shared(&keys.method_name),
            operation: shared(&keys.operation),
            execution_id: shared(&keys.execution_id).unwrap_or_else(id::execution_id),
            span_id: shared(&keys.span_id).or_else(|| shared(&keys.execution_id)).unwrap_or_else(id::span_id),
            parent_id: shared(&keys.parent_id),
            context,
        });
        self.last = Some(step.clone());
        step
    }
}

fn body(kind: &Kind, data: &str, line: &Line<'_>) -> Result<Body, WireError> {
    if let Some(token) = token(kind, data) {
        return Ok(Body::Token(token));
    }
    let Some(unique) = checked("data", data, line)? else { return Ok(Body::Raw(Raw::new(data))) };
    Ok(token(kind, &unique).map_or_else(|| Body::Raw(Raw::new(&unique)), Body::Token))
}

fn checked(key: &str, value: &str, line: &Line<'_>) -> Result<Option<String>, WireError> {
    line.check(value).map_err(|flaw| WireError(format!("`{key}`: {flaw}")))
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
            (
                r#"{"event_type":"x","data":{"n":NaN}}"#,
                "holds a bare `NaN`, which is no JSON: expected value at column 31",
            ),
            (r#"{"event_type":"x","data":{"s":"NaN"},}"#, "trailing comma at column 38"),
            (r#"{"event_type":"x","tags":{"canary":{}}}"#, "`tags`: a tag is an object"),
            (
                r#"{"event_type":"x","tags":{"l":[["}{",{}]]}}"#,
                "`tags`: a tag is a list with an object in it",
            ),
            (r#"{"event_type":"x","tags":["canary"]}"#, "`tags`: invalid type: sequence, expected a map"),
            (r#"{"event_type":"x","timestamp":1763695215}"#, "`timestamp`: no text; write it like 2026-"),
            (r#"{"event_type":"x","timestamp":"noon"}"#, "`timestamp`: no time"),
            (r#"{"event_type":"x","event_type":"y"}"#, "`event_type` stands twice"),
            (r#"{"event_type":"x","seq":-1,"source":"s"}"#, "`seq`: invalid value"),
            (r#"{"event_type":"x"} {}"#, "trailing characters"),
            (
                &format!(r#"{{"event_type":"x","event_id":"{}"}}"#, "i".repeat(256)),
                "`event_id` has 256 bytes",
            ),
            (r#"{"event_type":"x","data":{"n":1e999}}"#, "`data`: number out of range at column 31"),
            ("\u{feff}{\"event_type\":\"x\",\"mine\":[1e999]}", "`mine`: number out of range at column 30"),
            (
                "{\"event_type\":\"x\",\n\"data\":{\n \"n\":1e999}}\n",
                "number out of range at line 3 column 6",
            ),
        ] {
            let error = decode(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }

    #[test]
    fn what_can_be_mended_is_no_reason_to_lose_an_event() {
        for (line, expected) in [
            (r#"{"event_type":"x","data":{"s":"\ud83d","n":1.10}}"#, r#""data":{"s":"\ufffd","n":1.10}"#),
            (r#"{"event_type":"x","data":{"\ud800":1}}"#, r#""data":{"\ufffd":1}"#),
            (r#"{"event_type":"x","mine\ud800":"\udfff"}"#, "\"mine\u{fffd}\":\"\\ufffd\""),
            (r#"{"event_type":"x","operation":"\ud83d"}"#, "\"operation\":\"\u{fffd}\""),
            (
                r#"{"event_type":"x","data":{"a":{"b":1},"\u0061":[2,{"c":3,"c":4.0}]}}"#,
                r#""data":{"\u0061":[2,{"c":4.0}]}"#,
            ),
            (
                r#"{"event_type":"token","data":{"field":"a","token":"no","token":"b","token_index":0}}"#,
                r#""token":"b""#,
            ),
            (r#"{"event_type":"x","mine":{"a":1,"a":2}}"#, r#""mine":{"a":2}"#),
            (
                r#"{"event_type":"x","tags":{"n":1.10,"t":true,"l":[1.10, ["a"]],"s":"","z":null}}"#,
                r#""tags":{"l":"[1.10,[\"a\"]]","n":"1.10","s":"","t":"true"}"#,
            ),
            (r#"{"event_type":"x","tags":{"n":"a","n":null}}"#, r#""tags":{}"#),
            (
                r#"{"event_type":"x","timestamp":"9999-12-31T23:59:59Z"}"#,
                r#""timestamp":"9999-12-31T23:59:59.000000Z""#,
            ),
            (r#"{"event_type":"x","data":{"s":"a\u0000b"}}"#, r#"{"s":"a\u0000b"}"#),
        ] {
            let event = decode(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let text = std::str::from_utf8(event.json()).unwrap();
            assert!(text.contains(expected), "{line}: {text}");
        }
        let mut decoder = Decoder::default();
        let cut =
            decoder.decode(b"\xef\xbb\xbf{\"event_type\":\"\xff\",\"data\":{\"s\":\"caf\xc3\"}}").unwrap();
        assert_eq!((cut.kind().as_str(), cut.look("s").unwrap().text()), ("\u{fffd}", "caf\u{fffd}".into()));
    }

    #[test]
    fn what_is_looked_at_set_and_removed_leaves_all_else_to_the_letter() {
        let data = r#"{"p":[1046.8333333333335, 1.10],"t":18446744073709551617,"k":{"s":"x","n":1e2}}"#;
        let came =
            decode(&format!(r#"{{"event_type":"x","data":{data},"mine":{{"n":1.10,"s":"x"}}}}"#)).unwrap();
        let text = |event: &Event| String::from_utf8(event.json().to_vec()).unwrap();
        assert_eq!(came.data("p").unwrap()[0], 1_046.833_333_333_333_5);
        assert_eq!(came.look("t").unwrap().text(), "18446744073709551617");
        assert!(came.look("p").unwrap().item(1).unwrap().reads("1.1"));
        assert!(text(&came).contains(data));
        let mut event = came.clone();
        event.map_mut()["k"]["s"] = "y".into();
        let mut extra = event.extra().unwrap();
        extra["mine"]["s"] = "y".into();
        event.set_extra(&extra);
        assert!(text(&event).contains(&data.replace("\"x\"", "\"y\"")), "{}", text(&event));
        assert!(text(&event).ends_with(r#""mine":{"n":1.10,"s":"y"}}"#), "{}", text(&event));
        event.set_data("t", 1);
        assert_eq!(event.remove_data("p"), came.data("p").map(Cow::into_owned));
        assert!(text(&event).contains(r#""data":{"t":1,"k":{"s":"y","n":1e2}}"#), "{}", text(&event));
        assert_eq!(event.remove_data("none"), None);
        event.set_extra(&serde_json::Map::new());
        assert!(event.extra().is_none() && text(&event).ends_with("\"tags\":{}}"), "{}", text(&event));
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
