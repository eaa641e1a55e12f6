//! From a payload to an event: our own encoding and those of others.
//!
//! | field | what it holds |
//! |---|---|
//! | `event` | an event as JSON: streamll, and what the guide of the Python project shows |
//! | `message` | an event as JSON, timestamps with a blank for the `T`: the Python project's head |
//! | `__data__` | an envelope `{"data": "<JSON>", "headers": {}}`: the Python project's release 0.1.1 |

use streamll_actors::event::{Decoder, Event, strict_json};

use super::entry::Payload;

/// The fields in which an event is looked for, unless a field is named.
const FIELDS: [&str; 3] = ["event", "message", "__data__"];
/// The first bytes of FastStream's binary encoding.
const FASTSTREAM: &[u8] = b"\x89BIN\r\n\x1a\n";

/// Turns payloads into events.
#[derive(Debug, Default)]
pub(super) struct PayloadDecoder {
    decoder: Decoder,
    field: Option<String>,
    /// The name of that setting, for messages.
    option: &'static str,
}

impl PayloadDecoder {
    /// With the name of the one field that holds events, if there is such a field.
    pub(super) fn new(field: Option<String>, option: &'static str) -> PayloadDecoder {
        PayloadDecoder { field, option, ..PayloadDecoder::default() }
    }

    /// # Errors
    /// Why the payload is no event. The text holds nothing of the payload.
    pub(super) fn decode(&mut self, payload: &Payload) -> Result<Event, String> {
        let json = match payload {
            Payload::Body(body) => body,
            Payload::Fields(fields) => self.find(fields)?,
            Payload::Gone => return Err("it was trimmed before it was read".to_owned()),
        };
        self.json(json)
    }

    fn find<'a>(&self, fields: &'a [(Vec<u8>, Vec<u8>)]) -> Result<&'a Vec<u8>, String> {
        let value =
            |name: &str| fields.iter().find(|(field, _)| field == name.as_bytes()).map(|(_, value)| value);
        match &self.field {
            Some(name) => value(name).ok_or_else(|| format!("has no field `{name}`")),
            None => FIELDS.into_iter().find_map(value).ok_or_else(|| {
                format!(
                    "has none of the fields `event`, `message`, `__data__`: name the one with {}",
                    self.option
                )
            }),
        }
    }

    fn json(&mut self, json: &[u8]) -> Result<Event, String> {
        if json.starts_with(FASTSTREAM) {
            return Err("is in FastStream's binary encoding, which is not read: send it as JSON".to_owned());
        }
        let error = match self.decoder.received(json) {
            Ok(event) => return Ok(event),
            Err(error) => error.to_string(),
        };
        if let Some(inner) = envelope(json) {
            let event = self.decoder.received(inner.as_bytes());
            return event.map_err(|error| format!("is no event: {error}"));
        }
        Err(format!("is no event: {error}"))
    }
}

/// The event inside of the envelope of a message broker's library.
fn envelope(json: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Envelope {
        data: String,
    }
    let json = strict_json(json).ok()?;
    serde_json::from_str::<Envelope>(&json).ok().map(|envelope| envelope.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"event_type":"token","timestamp":"2026-11-21 03:20:03.287476+00:00","module_name":"RagPipeline","topic":"ai.rag.token","data":{"token":"NaN \" is text","conversation_id":"conv_1"}}"#;

    fn fields(pairs: &[(&str, &str)]) -> Payload {
        Payload::Fields(
            pairs
                .iter()
                .map(|(field, value)| (field.as_bytes().to_vec(), value.as_bytes().to_vec()))
                .collect(),
        )
    }

    #[test]
    fn every_encoding_is_the_same_event() {
        let envelope = serde_json::json!({ "data": EVENT, "headers": {} }).to_string();
        for payload in [
            fields(&[("event", EVENT), ("attempt", "2")]),
            fields(&[("message", EVENT)]),
            fields(&[("__data__", &envelope)]),
            Payload::Body(EVENT.into()),
            Payload::Body(envelope.clone().into()),
        ] {
            let event = PayloadDecoder::default()
                .decode(&payload)
                .unwrap_or_else(|error| panic!("{payload:?}: {error}"));
            assert_eq!(event.timestamp().to_string(), "2026-11-21T03:20:03.287476Z");
            assert_eq!(event.data("conversation_id").unwrap().as_str(), Some("conv_1"));
            assert_eq!(event.topic().map(|topic| &**topic), Some("ai.rag.token"));
        }
    }

    #[test]
    fn a_field_that_is_named_is_the_only_one() {
        let mut decoder = PayloadDecoder::new(Some("body".to_owned()), "`field`");
        assert!(decoder.decode(&fields(&[("body", EVENT)])).is_ok());
        assert_eq!(decoder.decode(&fields(&[("event", EVENT)])).unwrap_err(), "has no field `body`");
    }

    #[test]
    fn poison_says_what_is_wrong_and_nothing_of_what_it_holds() {
        for (payload, why) in [
            (fields(&[("event", r#"{"event_type":"x","data":{"score":NaN,"s":"canary"}}"#)]), "bare `NaN`"),
            (fields(&[("message", r#"{"event_type":"x","data":{"score":-Infinity}}"#)]), "bare `Infinity`"),
            (fields(&[("event", "canary")]), "is no event: expected"),
            (
                fields(&[("event", r#""{\"canary\":1}, expected""#)]),
                "is no event: invalid type: string, expected",
            ),
            (fields(&[("event", r#"{"event_type":"x","tags":"canary"}"#)]), "`tags`: invalid type: string"),
            (fields(&[("event", r#"{"event_type":"x","seq":"canary"}"#)]), "`seq`: invalid type: string"),
            (fields(&[("event", r#"{"event_type":"x","timestamp":"canary"}"#)]), "`timestamp`: no time"),
            (fields(&[("event", r#"{"event_type":["canary"]}"#)]), "`event_type`: invalid type"),
            (fields(&[("canary", EVENT)]), "none of the fields"),
            (Payload::Body(b"\x89BIN\r\n\x1a\n\0\x01canary".to_vec()), "FastStream"),
            (Payload::Body(br#"{"data":"canary","headers":{}}"#.to_vec()), "is no event"),
            (Payload::Body(br#"{"s":"\ud800 NaN"}"#.to_vec()), "is no event"),
            (Payload::Body(Vec::new()), "is no event"),
        ] {
            let error = PayloadDecoder::default().decode(&payload).expect_err(why);
            assert!(error.contains(why) && !error.contains("canary"), "{error}");
        }
    }
}
