//! The fields of a span: each has one name, whatever a library calls it. Fields that are not asked for are left out.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use serde_json::{Map, Value};
use streamll_actors::event::read_json;
use tracing::field::{Field, Visit};

use super::super::usage::names::{INPUT, MODEL, OUTPUT, PROVIDER, RESPONSE_MODEL, TOTAL, name_of};
use super::super::usage::{Usage, total};
use crate::fault::{message, of_any, shown};

/// The most bytes of one value; the rest is cut, and the key `truncated` lists it.
const LONGEST: usize = 64 * 1024;

/// The field in which `#[tracing::instrument(err)]` reports an `Err`.
const ERROR: &str = "error";

/// The meaning of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Operation,
    Agent,
    ErrorType,
    ErrorMessage,
    Status,
    /// A field of the call. It is on the first and on the last event.
    Data(&'static str),
    /// A field of the answer. Once there is one, the call has certainly begun.
    Answer(&'static str),
    /// Content: what was said. It is personal data.
    Content(&'static str),
}

/// Returns the meaning of a field. Only known fields pass, because any other field may hold content.
fn known(name: &str) -> Option<Known> {
    use Known::{Agent, Answer, Content, Data, ErrorMessage, ErrorType, Operation, Status};
    let Some(name) = name.strip_prefix("gen_ai.") else {
        return match name {
            "error.type" | "exception.type" => Some(ErrorType),
            "error.message" | "exception.message" | "otel.status_description" => Some(ErrorMessage),
            "otel.status_code" => Some(Status),
            _ => None,
        };
    };
    Some(match name {
        "operation.name" => Operation,
        "agent.name" | "workflow.name" => Agent,
        "tool.error.type" => ErrorType,
        "provider.name" | "system" => Data(PROVIDER),
        "request.model" => Data(MODEL),
        "request.stream" => Data("stream"),
        "request.temperature" => Data("temperature"),
        "request.max_tokens" => Data("max_tokens"),
        "request.top_p" => Data("top_p"),
        "request.top_k" => Data("top_k"),
        "request.seed" => Data("seed"),
        "request.frequency_penalty" => Data("frequency_penalty"),
        "request.presence_penalty" => Data("presence_penalty"),
        "request.choice.count" => Data("choices"),
        "request.encoding_formats" => Data("encoding_formats"),
        "embeddings.dimension.count" => Data("dimensions"),
        "output.type" => Data("output_type"),
        "conversation.id" => Data("conversation_id"),
        "agent.id" => Data("agent_id"),
        "data_source.id" => Data("data_source_id"),
        "tool.name" => Data("tool"),
        "tool.type" => Data("tool_type"),
        "tool.call.id" => Data("tool_call_id"),
        "tool.call.outcome" => Data("outcome"),
        "response.id" => Answer("response_id"),
        "response.model" => Answer(RESPONSE_MODEL),
        "response.finish_reasons" => Answer("finish_reasons"),
        "response.time_to_first_chunk" => Answer("time_to_first_token"),
        "usage.tool_use_prompt_tokens" => Answer("tool_use_tokens"),
        "input.messages" | "prompt" => Content("input_messages"),
        "output.messages" | "completion" => Content("output_messages"),
        "system_instructions" => Content("system_instructions"),
        "request.stop_sequences" => Content("stop_sequences"),
        "tool.definitions" => Content("tool_definitions"),
        "tool.call.arguments" => Content("arguments"),
        "tool.call.result" => Content("result"),
        "retrieval.query.text" => Content("query"),
        "retrieval.documents" => Content("documents"),
        other => return name_of(other.strip_prefix("usage.")?).map(Answer),
    })
}

/// Which fields of a span are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Whether content is kept, too.
    pub(super) content: bool,
    /// Whether unknown fields are kept, too, by their own names. They are if the span belongs to the application.
    pub(super) own: bool,
}

impl Wanted {
    fn wants(self, name: &str) -> bool {
        known(name).map_or(self.own, |known| self.content || !matches!(known, Known::Content(_)))
    }
}

/// The wanted fields of one record. They are collected before they are stored, because writing a value may run any
/// code, which may also open spans.
#[derive(Debug)]
pub(super) struct Said {
    wanted: Wanted,
    values: Vec<(&'static str, Value)>,
    /// The name of the error, if one was recorded.
    error_type: Option<String>,
}

impl Said {
    pub(super) fn new(wanted: Wanted) -> Said {
        Said { wanted, values: Vec::new(), error_type: None }
    }

    fn put(&mut self, field: &Field, value: impl FnOnce() -> Value) {
        if self.wanted.wants(field.name()) {
            self.values.push((field.name(), value()));
        }
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Of other values the alternate form is none that anybody asked for.
        let is_error = matches!(known(field.name()), Some(Known::ErrorMessage)) || field.name() == ERROR;
        self.put(field, || match is_error.then(|| shown(value)).flatten() {
            Some(message) => message.into(),
            None => format!("{value:?}").into(),
        });
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        if field.name() == ERROR {
            self.error_type = of_any(value).map(Cow::into_owned);
        }
        self.put(field, || message(value).unwrap_or_default().into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, || value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, || value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, || value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, || value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, || value.into());
    }
}

/// The fields that a span has reported so far.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) operation: Option<String>,
    pub(super) agent: Option<String>,
    pub(super) error_type: Option<String>,
    pub(super) error_message: Option<String>,
    pub(super) failed: bool,
    /// Whether the answer has begun.
    pub(super) answered: bool,
    data: Map<String, Value>,
    /// Values that are on one event only.
    once: Map<String, Value>,
}

impl Fields {
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key)?.as_str()
    }

    /// Whether the span has reported how it ended.
    pub(super) fn is_complete(&self) -> bool {
        ["finish_reasons", OUTPUT, "outcome"].iter().any(|key| self.data.contains_key(*key))
    }

    /// Returns the data of an event that is made now.
    pub(super) fn take(&mut self) -> Map<String, Value> {
        let mut data = self.data.clone();
        let tokens = |key: &str| self.data.get(key)?.as_u64();
        if !data.contains_key(TOTAL)
            && let Some(total) = total(tokens(INPUT), tokens(OUTPUT))
        {
            data.insert(TOTAL.to_owned(), total.into());
        }
        // Whoever adds up by models finds all of them below one key.
        if !data.contains_key(MODEL)
            && let Some(model) = data.get(RESPONSE_MODEL).cloned()
        {
            data.insert(MODEL.to_owned(), model);
        }
        data.append(&mut self.once);
        data
    }

    /// Stores the fields of one record of the span.
    pub(super) fn add(&mut self, said: Said) {
        for (name, value) in said.values {
            self.put(name, value);
        }
        self.error_type = self.error_type.take().or(said.error_type);
    }

    /// Stores the usage that the code inside has reported.
    pub(super) fn add_usage(&mut self, usage: &Usage) {
        self.answered = true;
        usage.each(|key, value| keep(&mut self.data, key, value));
    }

    /// Stores what an event reports of an error, and nothing else of that event.
    pub(super) fn add_error(&mut self, said: Said) {
        for (_, value) in said.values.into_iter().filter(|(name, _)| *name == ERROR) {
            self.put(ERROR, value);
        }
        self.error_type = self.error_type.take().or(said.error_type);
    }

    fn put(&mut self, name: &'static str, value: Value) {
        match known(name) {
            Some(Known::Operation) => self.operation = Some(text(value)).filter(|name| !name.is_empty()),
            Some(Known::Agent) => self.agent = Some(text(value)).filter(|name| !name.is_empty()),
            Some(Known::ErrorType) => {
                self.error_type = Some(text(value));
                self.failed = true;
            }
            Some(Known::ErrorMessage) => self.error_message = Some(cut_message(value)),
            Some(Known::Status) => self.failed |= text(value).eq_ignore_ascii_case("error"),
            Some(Known::Data(key)) => keep(&mut self.data, key, structured(key, value)),
            Some(Known::Answer(key)) => {
                self.answered = true;
                keep(&mut self.data, key, structured(key, value));
            }
            Some(Known::Content(key)) => keep(&mut self.once, key, structured(key, value)),
            None if name == ERROR => {
                self.error_message = Some(cut_message(value));
                self.failed = true;
            }
            None => keep(&mut self.once, name, value),
        }
    }
}

fn keep(kept: &mut Map<String, Value>, key: &str, mut value: Value) {
    let is_cut = match &mut value {
        Value::String(text) => cut(text),
        _ => false,
    };
    kept.insert(key.to_owned(), value);
    if is_cut && let Value::Array(cut) = kept.entry("truncated").or_insert_with(|| Value::Array(Vec::new())) {
        cut.push(key.into());
    }
}

/// Reads lists and objects, which come as JSON in a string. A finish reason may also come alone.
fn structured(key: &str, value: Value) -> Value {
    let Value::String(text) = &value else { return value };
    if text.len() <= LONGEST
        && text.starts_with(['[', '{'])
        && let Some(parsed) = read_json(text)
    {
        return parsed;
    }
    if key == "finish_reasons" { Value::Array(vec![value]) } else { value }
}

/// Cuts a message that is too long. An ellipsis marks the cut.
fn cut_message(value: Value) -> String {
    let mut text = text(value);
    if cut(&mut text) {
        text.push('…');
    }
    text
}

/// Cuts a text that is too long. Returns whether it was.
fn cut(text: &mut String) -> bool {
    let is_long = text.len() > LONGEST;
    text.truncate(text.floor_char_boundary(LONGEST));
    is_long
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(content: bool, said: &[(&'static str, Value)]) -> Fields {
        let wanted = Wanted { content, own: false };
        let values = said.iter().filter(|(name, _)| wanted.wants(name)).cloned().collect();
        let mut fields = Fields::default();
        fields.add(Said { wanted, values, error_type: None });
        fields
    }

    #[test]
    fn aliases_have_one_name() {
        for (name, value, expected) in [
            ("gen_ai.system", json!("openai"), json!({"provider": "openai"})),
            ("gen_ai.provider.name", json!("openai"), json!({"provider": "openai"})),
            ("gen_ai.usage.reasoning_tokens", json!(7), json!({"reasoning_tokens": 7})),
            ("gen_ai.usage.reasoning.output_tokens", json!(7), json!({"reasoning_tokens": 7})),
            ("gen_ai.usage.thinking_tokens", json!(7), json!({"reasoning_tokens": 7})),
            ("gen_ai.usage.prompt_tokens", json!(7), json!({"input_tokens": 7})),
            ("gen_ai.usage.cache_read.input_tokens", json!(7), json!({"cache_read_tokens": 7})),
            ("gen_ai.response.finish_reasons", json!("[\"stop\"]"), json!({"finish_reasons": ["stop"]})),
            ("gen_ai.response.finish_reasons", json!("stop"), json!({"finish_reasons": ["stop"]})),
        ] {
            let said = fields(false, &[(name, value)]).take();
            assert_eq!(Value::Object(said), expected, "{name}");
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        for name in ["gen_ai.new.field", "gen_ai.prompt.0.content", "rig.completion_parent", "server.address"]
        {
            assert!(fields(true, &[(name, json!("x"))]).take().is_empty(), "{name}");
        }
    }

    #[test]
    fn content_is_left_out_unless_it_is_asked_for_and_said_once() {
        let said = [
            ("gen_ai.input.messages", json!("[{\"role\":\"user\"}]")),
            ("gen_ai.tool.call.result", json!("not {json")),
        ];
        assert!(fields(false, &said).take().is_empty());
        let mut asked = fields(true, &said);
        let expected = json!({"input_messages": [{"role": "user"}], "result": "not {json"});
        assert_eq!(Value::Object(asked.take()), expected);
        assert!(asked.take().is_empty());
    }

    #[test]
    fn a_total_is_reckoned_where_there_is_none() {
        let (input, output) =
            (("gen_ai.usage.input_tokens", json!(2)), ("gen_ai.usage.output_tokens", json!(3)));
        assert_eq!(fields(false, &[input.clone(), output.clone()]).take()["total_tokens"], 5);
        let total = ("gen_ai.usage.total_tokens", json!(9));
        assert_eq!(fields(false, &[input.clone(), output, total]).take()["total_tokens"], 9);
        assert!(!fields(false, &[input]).take().contains_key("total_tokens"));
    }

    #[test]
    fn an_error_is_one_by_its_type_or_its_status() {
        assert!(fields(false, &[("error.type", json!("timeout"))]).failed);
        assert!(fields(false, &[("gen_ai.tool.error.type", json!("timeout"))]).failed);
        assert!(fields(false, &[("otel.status_code", json!("ERROR"))]).failed);
        assert!(!fields(false, &[("otel.status_code", json!("OK"))]).failed);
    }

    #[test]
    fn a_long_value_is_cut_between_two_characters_and_marked() {
        let long = format!("[{}", "é".repeat(LONGEST));
        let said = fields(true, &[("gen_ai.input.messages", json!(long))]).take();
        let text = said["input_messages"].as_str().unwrap();
        assert!(text.len() <= LONGEST && text.len() > LONGEST - 2 && long.starts_with(text));
        assert_eq!(said["truncated"], json!(["input_messages"]));
    }
}
