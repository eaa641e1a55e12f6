//! Templates of routing keys, such as `ai.{module_name}.{event_type}`, and how values become segments of a key.
//!
//! A value never leaves its segment, and different values never share a segment. Some characters would split or widen a
//! key (`.`, `*`, `#`, spaces, control characters, text direction marks) or imitate our own marks (`%`, `~`, `{`, `}`).
//! They are written as `%XX`, byte by byte. A value of more than 64 bytes is cut, and ends in `~` and a hash of the
//! whole value. Letters of any script and emoji stay. A missing or empty value becomes its default, or `unknown`. Only
//! `module_name` is first put into snake case (`RAGPipeline` → `rag_pipeline`). So two names share a key exactly if
//! their snake case is the same.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

use super::segment::{MARK, MAX_VALUE, is_hidden, must_encode, push_segment, snake_case};

/// The longest key, in bytes: the limit of AMQP.
const MAX_KEY: usize = 255;
/// The deepest path into `data`, in names.
const MAX_DEPTH: usize = 8;
const UNKNOWN: &str = "unknown";

/// The field that a placeholder takes its value from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Field {
    /// `{module_name}`, in snake case.
    ModuleName,
    /// `{event_type}`.
    EventType,
    /// `{operation}`.
    Operation,
    /// `{method_name}`.
    MethodName,
    /// `{execution_id}`.
    ExecutionId,
    /// `{service}`.
    Service,
    /// `{environment}`.
    Environment,
    /// `{tags.x}`. Everything after the first dot is the name of the tag.
    Tag(Box<str>),
    /// `{data.x}` or `{data.x.y}`: the path into the event's data, of 1 to 8 names.
    Data(Box<[Box<str>]>),
}

const PLAIN: [(&str, Field); 7] = [
    ("module_name", Field::ModuleName),
    ("event_type", Field::EventType),
    ("operation", Field::Operation),
    ("method_name", Field::MethodName),
    ("execution_id", Field::ExecutionId),
    ("service", Field::Service),
    ("environment", Field::Environment),
];

/// Words of other tools for ours, which the edit distance does not find.
const HABITS: [(&str, &str); 8] = [
    ("module", "module_name"),
    ("event", "event_type"),
    ("type", "event_type"),
    ("kind", "event_type"),
    ("method", "method_name"),
    ("op", "operation"),
    ("execution", "execution_id"),
    ("env", "environment"),
];

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Tag(name) => write!(f, "tags.{name}"),
            Field::Data(path) => write!(f, "data.{}", path.join(".")),
            plain => f.write_str(PLAIN.iter().find(|(_, field)| field == plain).map_or("", |(name, _)| name)),
        }
    }
}

/// The fields of an event that a template reads.
pub trait Fields {
    /// Returns the value of one field. `None` and an empty value count as missing.
    fn field(&self, field: &Field) -> Option<Cow<'_, str>>;
}

/// Why a template was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message} (at byte {offset}){}", .suggestion.as_deref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
pub struct TemplateError {
    offset: usize,
    message: String,
    suggestion: Option<String>,
}

impl TemplateError {
    fn new(offset: usize, message: impl Into<String>) -> TemplateError {
        TemplateError { offset, message: message.into(), suggestion: None }
    }

    fn suggest(self, suggestion: impl Into<String>) -> TemplateError {
        TemplateError { suggestion: Some(suggestion.into()), ..self }
    }

    /// Returns the place in the template, in bytes from its beginning.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Returns what is wrong, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns what to write at that place instead, if there is a similar name.
    #[must_use]
    pub fn suggestion(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }
}

/// A routing key with placeholders.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Template {
    text: Box<str>,
    parts: Box<[Part]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    Literal(Box<str>),
    Value { field: Field, default: Option<Box<str>> },
}

impl Template {
    /// Reads a template: `{name}`, `{name:-default}`, and `{{` and `}}` for braces.
    ///
    /// # Errors
    ///
    /// If a placeholder is unknown or not closed, a default would need escaping, a segment is empty, the text outside
    /// placeholders holds spaces, control characters or wildcards, or the keys could not be kept within 255 bytes.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        if text.is_empty() {
            return Err(
                TemplateError::new(0, "the template is empty").suggest("ai.{module_name}.{event_type}")
            );
        }
        let (mut parts, mut literal) = (Vec::new(), String::new());
        let (mut rest, mut segment_is_empty) = (text, true);
        while let Some(first) = rest.chars().next() {
            let offset = text.len() - rest.len();
            if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
                literal.push(first);
                rest = after;
            } else if let Some(inner) = rest.strip_prefix('{') {
                let (inside, after) = inner.split_once('}').ok_or_else(|| {
                    TemplateError::new(
                        offset,
                        "`{` is never closed: end the placeholder with `}`, or write `{{`",
                    )
                })?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                }
                parts.push(placeholder(inside, offset)?);
                rest = after;
            } else {
                check_literal(first, segment_is_empty, offset)?;
                literal.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
            }
            segment_is_empty = literal.ends_with('.');
        }
        if segment_is_empty {
            return Err(TemplateError::new(text.len() - 1, "the last segment is empty: remove the dot"));
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        let least: usize =
            parts.iter().map(|p| if let Part::Literal(text) = p { text.len() } else { MARK }).sum();
        if least > MAX_KEY {
            let message =
                format!("its keys would need {least} bytes or more: keys have at most {MAX_KEY}, shorten it");
            return Err(TemplateError::new(0, message));
        }
        Ok(Template { text: text.into(), parts: parts.into() })
    }

    /// Renders the key of one event. The key has at most 255 bytes, and always as many segments as the template.
    ///
    /// If the key is too long, its longest values are cut shorter. Each cut value ends in a hash of the whole value.
    #[must_use]
    pub fn render(&self, fields: &impl Fields) -> String {
        let mut key = self.write(fields, MAX_VALUE);
        if key.len() <= MAX_KEY {
            return key;
        }
        // The largest limit that fits. With `MARK` every key does: `parse` has seen to it.
        let (mut fits, mut exceeds) = (MARK, MAX_VALUE);
        key = self.write(fields, fits);
        while exceeds - fits > 1 {
            let limit = fits.midpoint(exceeds);
            let longer = self.write(fields, limit);
            if longer.len() <= MAX_KEY {
                (key, fits) = (longer, limit);
            } else {
                exceeds = limit;
            }
        }
        key
    }

    /// Returns the fields that the placeholders read, in order.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.parts.iter().filter_map(|part| match part {
            Part::Value { field, .. } => Some(field),
            Part::Literal(_) => None,
        })
    }

    /// Whether the key shows a part of an event's data or tags, which processors may remove.
    pub(crate) fn shows_data(&self) -> bool {
        self.fields().any(|field| matches!(field, Field::Data(_) | Field::Tag(_)))
    }

    /// Returns whether the key depends only on module, type, operation, method, service and environment. There are few
    /// such keys, so each rendered key can be kept.
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.fields().all(|field| !matches!(field, Field::ExecutionId | Field::Tag(_) | Field::Data(_)))
    }

    /// Returns the shape of its keys: for each segment its text, or `None` if it has a placeholder.
    #[must_use]
    pub fn segments(&self) -> Vec<Option<String>> {
        let (mut segments, mut current) = (Vec::new(), Some(String::new()));
        for part in &self.parts {
            let Part::Literal(text) = part else {
                current = None;
                continue;
            };
            for (i, piece) in text.split('.').enumerate() {
                if i > 0 {
                    segments.push(current.replace(String::new()));
                }
                if let Some(segment) = &mut current {
                    segment.push_str(piece);
                }
            }
        }
        segments.push(current);
        segments
    }

    /// Returns the template as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn write(&self, fields: &impl Fields, limit: usize) -> String {
        let mut key = String::with_capacity(MAX_VALUE);
        for part in &self.parts {
            match part {
                Part::Literal(text) => key.push_str(text),
                Part::Value { field, default } => {
                    let value = fields.field(field).filter(|value| !value.is_empty());
                    let value = value.as_deref().or(default.as_deref()).unwrap_or(UNKNOWN);
                    match field {
                        Field::ModuleName => push_segment(&mut key, &snake_case(value), limit),
                        _ => push_segment(&mut key, value, limit),
                    }
                }
            }
        }
        key
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn check_literal(c: char, segment_is_empty: bool, offset: usize) -> Result<(), TemplateError> {
    let message = match c {
        '.' if segment_is_empty => "a segment is empty: remove a dot".into(),
        '}' => return Err(TemplateError::new(offset, "`}` closes nothing").suggest("}}")),
        '*' | '#' => format!("`{c}` is a wildcard of topic patterns: a key cannot hold it"),
        c if is_hidden(c) => format!("{c:?} is a blank or a control character: a key cannot hold it"),
        _ => return Ok(()),
    };
    Err(TemplateError::new(offset, message))
}

/// Reads the text between the braces. `offset` is the position of the opening brace.
fn placeholder(inside: &str, offset: usize) -> Result<Part, TemplateError> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if let (None, Some((name, default))) = (default, name.split_once(':')) {
        let error = TemplateError::new(offset, format!("in `{{{inside}}}` the default must begin with `:-`"));
        return Err(error.suggest(format!("{{{name}:-{}}}", default.trim_start_matches('-'))));
    }
    let field = field(name).map_err(|error| TemplateError { offset, ..error })?;
    if let Some(default) = default {
        check_default(default, offset + 1 + name.len() + 2)?;
    }
    Ok(Part::Value { field, default: default.map(Into::into) })
}

/// Checks a default. It is written as it is, so it must not hold a character that a value would have to escape.
fn check_default(default: &str, offset: usize) -> Result<(), TemplateError> {
    if default.is_empty() {
        return Err(TemplateError::new(
            offset,
            "the default is empty: leave `:-` out, and `unknown` stands there",
        ));
    }
    if default.len() > MAX_VALUE {
        return Err(TemplateError::new(offset, format!("the default is longer than {MAX_VALUE} bytes")));
    }
    match default.char_indices().find(|(_, c)| must_encode(*c)) {
        Some((at, c)) => {
            let error = TemplateError::new(
                offset + at,
                format!("a default cannot hold {c:?}: it is one plain segment"),
            );
            Err(error.suggest(default.replace(must_encode, "_")))
        }
        None => Ok(()),
    }
}

fn field(name: &str) -> Result<Field, TemplateError> {
    if let Some((_, field)) = PLAIN.iter().find(|(plain, _)| *plain == name) {
        return Ok(field.clone());
    }
    let error = match name.split_once('.') {
        Some(("tags", tag)) if !tag.is_empty() && !tag.contains(is_blank_or_brace) => {
            return Ok(Field::Tag(tag.into()));
        }
        Some(("data", path)) if !path.split('.').any(str::is_empty) && !path.contains(is_blank_or_brace) => {
            let path: Vec<Box<str>> = path.split('.').map(Into::into).collect();
            if path.len() <= MAX_DEPTH {
                return Ok(Field::Data(path.into()));
            }
            return Err(TemplateError::new(0, format!("`{{{name}}}` is deeper than {MAX_DEPTH} names")));
        }
        _ => TemplateError::new(0, format!("there is no placeholder `{{{name}}}`")),
    };
    Err(match nearest(name).filter(|near| near != name) {
        Some(near) => error.suggest(format!("{{{near}}}")),
        None => error,
    })
}

fn is_blank_or_brace(c: char) -> bool {
    is_hidden(c) || c == '{'
}

/// Returns the field that the user may have meant by `name`.
fn nearest(name: &str) -> Option<String> {
    let name = name.trim_matches(|c: char| is_hidden(c) || c == '{');
    if let Some((head, tail)) = name.split_once('.') {
        let head = ["tags", "data"].into_iter().find(|known| distance(head, known) <= 2)?;
        let tail: Vec<&str> = tail.split('.').map(str::trim).filter(|part| !part.is_empty()).collect();
        return Some(format!("{head}.{}", if tail.is_empty() { "name".into() } else { tail.join(".") }));
    }
    let lower = name.to_lowercase().replace('-', "_");
    if let Some((_, ours)) = HABITS.iter().find(|(habit, _)| *habit == lower) {
        return Some((*ours).into());
    }
    if lower == "tags" || lower == "data" {
        return Some(format!("{lower}.name"));
    }
    let near = PLAIN.iter().map(|(plain, _)| (distance(&lower, plain), plain)).min()?;
    if near.0 <= 3 {
        return Some((*near.1).into());
    }
    let is_word = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_word.then(|| format!("data.{name}"))
}

/// The Levenshtein distance, in characters.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        let mut cells = row.iter_mut();
        if let Some(first) = cells.next() {
            *first = left;
        }
        for (cell, to) in cells.zip(b.chars()) {
            left = (diagonal + usize::from(from != to)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, left);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::pattern::TopicPattern;
    use proptest::prelude::*;

    /// Fields by the name they have in a template.
    struct Sample<'a>(Vec<(&'a str, &'a str)>);

    impl Fields for Sample<'_> {
        fn field(&self, field: &Field) -> Option<Cow<'_, str>> {
            let name = field.to_string();
            self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| Cow::Borrowed(*value))
        }
    }

    fn render(template: &str, fields: &[(&str, &str)]) -> String {
        Template::parse(template).unwrap().render(&Sample(fields.to_vec()))
    }

    fn module(name: &str) -> String {
        render("{module_name}", &[("module_name", name)])
    }

    fn data(value: &str) -> String {
        render("{data.x}", &[("data.x", value)])
    }

    #[test]
    fn every_placeholder_has_its_value() {
        for name in [
            "module_name",
            "event_type",
            "operation",
            "method_name",
            "execution_id",
            "service",
            "environment",
            "tags.tenant",
            "tags.k8s.pod",
            "data.user",
            "data.a.b.c.d.e.f.g.h",
        ] {
            let template = Template::parse(&format!("ai.{{{name}}}.x")).unwrap();
            assert_eq!(template.render(&Sample(vec![(name, "value")])), "ai.value.x");
            assert_eq!(template.fields().map(Field::to_string).collect::<Vec<_>>(), [name]);
        }
    }

    #[test]
    fn a_missing_or_empty_value_becomes_its_default_or_unknown() {
        assert_eq!(render("ai.{tags.tenant}", &[]), "ai.unknown");
        assert_eq!(render("ai.{tags.tenant}", &[("tags.tenant", "")]), "ai.unknown");
        assert_eq!(render("ai.{tags.tenant:-none}", &[]), "ai.none");
        assert_eq!(render("ai.{tags.tenant:-none}", &[("tags.tenant", "")]), "ai.none");
        assert_eq!(render("ai.{tags.tenant:-none}", &[("tags.tenant", "acme")]), "ai.acme");
        assert_eq!(render("ai.{module_name:-Main}", &[]), "ai.main");
        assert_eq!(render("{tags.a:-:-}", &[]), ":-");
    }

    #[test]
    fn braces_and_punctuation_can_be_written() {
        assert_eq!(render("ai:{{{module_name}}}.x", &[("module_name", "Rag")]), "ai:{rag}.x");
        assert_eq!(render("{{module_name}}", &[]), "{module_name}");
        assert_eq!(render("chat:{data.conversation_id}", &[("data.conversation_id", "c/1")]), "chat:c/1");
        assert_eq!(render("größe~%20.{event_type}", &[("event_type", "end")]), "größe~%20.end");
    }

    #[test]
    fn module_names_are_put_in_snake_case() {
        for (name, snake) in [
            ("RAGPipeline", "rag_pipeline"),
            ("RagPipeline", "rag_pipeline"),
            ("HTTPServer2", "http_server2"),
            ("rag_pipeline", "rag_pipeline"),
            ("Rag_Pipeline", "rag_pipeline"),
            ("V2API", "v2_api"),
            ("A", "a"),
            ("GPT4Client", "gpt4_client"),
            ("ÜberModul", "über_modul"),
            ("my-Module", "my-module"),
            ("__X__", "__x__"),
            ("crate::Rag", "crate::rag"),
            ("日本語", "日本語"),
            ("pkg.Rag", "pkg%2Erag"),
            ("Rag Two", "rag%20two"),
        ] {
            assert_eq!(module(name), snake, "{name}");
        }
        assert_eq!(
            render("{event_type}.{data.x}", &[("event_type", "ToolEnd"), ("data.x", "User")]),
            "ToolEnd.User"
        );
    }

    #[test]
    fn what_could_forge_a_segment_or_a_mark_is_escaped() {
        for (value, expected) in [
            ("user.1", "user%2E1"),
            ("user_1", "user_1"),
            ("a*", "a%2A"),
            ("#", "%23"),
            ("100%", "100%25"),
            ("a b", "a%20b"),
            ("a\tb\n", "a%09b%0A"),
            ("\0", "%00"),
            ("\u{7f}", "%7F"),
            ("\u{85}", "%C2%85"),
            ("\u{9b}", "%C2%9B"),
            ("\u{a0}", "%C2%A0"),
            ("\u{2028}", "%E2%80%A8"),
            ("\u{202e}x", "%E2%80%AEx"),
            ("\u{200b}", "%E2%80%8B"),
            ("\u{feff}", "%EF%BB%BF"),
            ("~", "%7E"),
            ("{a}", "%7Ba%7D"),
            ("👍🏽", "👍🏽"),
            ("👨\u{200d}👩\u{200d}👧", "👨\u{200d}👩\u{200d}👧"),
            ("größe", "größe"),
            ("a/b:c-d@e", "a/b:c-d@e"),
        ] {
            assert_eq!(data(value), expected, "{value:?}");
        }
    }

    #[test]
    fn an_overlong_value_is_cut_and_told_apart_by_a_hash() {
        assert_eq!(data(&"x".repeat(64)), "x".repeat(64));
        assert_eq!(data(&"x".repeat(65)), format!("{}~7D70A52549704607", "x".repeat(47)));
        assert_ne!(data(&"x".repeat(66)), data(&"x".repeat(65)));
        let dots = data(&".".repeat(300)); // three bytes each: never cut within one
        assert!(dots.starts_with(&format!("{}~", "%2E".repeat(15))), "{dots}");
        let letters = data(&"ß".repeat(300));
        assert!(
            letters.starts_with(&format!("{}~", "ß".repeat(23))) && letters.len() == 46 + MARK,
            "{letters}"
        );
        assert_ne!(data(&data(&"x".repeat(65))), data(&"x".repeat(65)), "a value forged another's hash");
    }

    #[test]
    fn the_whole_key_keeps_its_limit_and_its_segments() {
        let long = "x".repeat(1000);
        let names = ["event_type", "operation", "method_name", "service", "environment", "execution_id"];
        let template = names.map(|name| format!("{{{name}}}")).join(".");
        let mut fields = names.map(|name| (name, long.as_str()));
        fields[3].1 = "prod";
        let key = render(&template, &fields);
        assert!((245..=MAX_KEY).contains(&key.len()), "{} bytes: {key}", key.len());
        let segments: Vec<&str> = key.split('.').collect();
        assert_eq!((segments.len(), segments[3]), (6, "prod"));
        let other = format!("{long}y");
        fields[5].1 = &other;
        assert_ne!(render(&template, &fields), key);
    }

    #[test]
    fn the_fullest_template_still_keeps_the_limit() {
        let template = Template::parse(&["{operation}"; 14].join(".")).unwrap();
        let key = template.render(&Sample(vec![("operation", &"é.".repeat(500))]));
        assert!(key.len() <= MAX_KEY && key.split('.').count() == 14, "{key}");
        assert!(Template::parse(&["{operation}"; 15].join(".")).is_err());
        assert!(Template::parse(&"a".repeat(255)).is_ok());
    }

    #[track_caller]
    fn refused(template: &str, offset: usize, message: &str, suggestion: Option<&str>) {
        let error = Template::parse(template).unwrap_err();
        assert_eq!((error.offset(), error.message(), error.suggestion()), (offset, message, suggestion));
    }

    #[test]
    fn what_is_no_template_is_refused_where_it_is_wrong() {
        refused("", 0, "the template is empty", Some("ai.{module_name}.{event_type}"));
        refused("ai.{", 3, "`{` is never closed: end the placeholder with `}`, or write `{{`", None);
        refused("ai}.x", 2, "`}` closes nothing", Some("}}"));
        refused("ai. {event_type}", 3, "' ' is a blank or a control character: a key cannot hold it", None);
        refused("größe.\n", 8, "'\\n' is a blank or a control character: a key cannot hold it", None);
        refused("ai.#", 3, "`#` is a wildcard of topic patterns: a key cannot hold it", None);
        refused("ai..{event_type}", 3, "a segment is empty: remove a dot", None);
        refused(".ai", 0, "a segment is empty: remove a dot", None);
        refused("ai.", 2, "the last segment is empty: remove the dot", None);
        let long = "its keys would need 256 bytes or more: keys have at most 255, shorten it";
        refused(&"a".repeat(256), 0, long, None);
        refused(&format!("{}.{{event_type}}", "a".repeat(238)), 0, long, None);
        refused("ai.{data.a.b.c.d.e.f.g.h.i}", 3, "`{data.a.b.c.d.e.f.g.h.i}` is deeper than 8 names", None);
        let empty = "the default is empty: leave `:-` out, and `unknown` stands there";
        refused("ai.{tags.t:-}", 12, empty, None);
        let dot = "a default cannot hold '.': it is one plain segment";
        refused("ai.{tags.t:-no.one}", 14, dot, Some("no_one"));
        let default = "in `{tags.t:none}` the default must begin with `:-`";
        refused("ai.{tags.t:none}", 3, default, Some("{tags.t:-none}"));
        assert_eq!(
            Template::parse("ai.{modul_name}.x").unwrap_err().to_string(),
            "there is no placeholder `{modul_name}` (at byte 3); did you mean `{module_name}`?"
        );
    }

    #[track_caller]
    fn suggests(name: &str, expected: Option<&str>) {
        let error = Template::parse(&format!("ai.{{{name}}}")).unwrap_err();
        assert_eq!((error.suggestion(), error.offset()), (expected, 3), "{error}");
    }

    #[test]
    fn an_unknown_placeholder_gets_the_nearest_one() {
        suggests("module", Some("{module_name}"));
        suggests("ModuleName", Some("{module_name}"));
        suggests(" event_type ", Some("{event_type}"));
        suggests("event-type", Some("{event_type}"));
        suggests("env", Some("{environment}"));
        suggests("conversation_id", Some("{data.conversation_id}"));
        suggests("tag.tenant", Some("{tags.tenant}"));
        suggests("data", Some("{data.name}"));
        suggests("tags.", Some("{tags.name}"));
        suggests("data.a..b", Some("{data.a.b}"));
        suggests("tags.a b", None);
        suggests("event_type{", Some("{event_type}"));
        suggests("", None);
        suggests("?!", None);
    }

    #[test]
    fn what_a_suggestion_says_is_valid() {
        for name in
            ["module", "tag.tenant", "tags.", "data", "conversation_id", "data.a..b", "tags.t:x", "x-y"]
        {
            if let Some(mended) = Template::parse(&format!("{{{name}}}")).unwrap_err().suggestion() {
                assert!(Template::parse(mended).is_ok(), "{mended}");
            }
        }
    }

    #[test]
    fn a_key_can_be_kept_if_it_depends_on_little() {
        for kept in
            ["ai", "ai.{module_name}.{event_type}", "{service}.{environment}.{operation}.{method_name}"]
        {
            assert!(Template::parse(kept).unwrap().is_static(), "{kept}");
        }
        for not in ["{execution_id}", "ai.{tags.x}", "ai.{data.x}.{event_type}"] {
            assert!(!Template::parse(not).unwrap().is_static(), "{not}");
        }
    }

    #[test]
    fn its_shape_shows_what_patterns_can_ever_match() {
        let shape = |text| Template::parse(text).unwrap().segments();
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(shape("ai.{module_name}.x"), [text("ai"), None, text("x")]);
        assert_eq!(shape("chat:{data.c}.{{a}}"), [None, text("{a}")]);
        assert_eq!(shape("a.b"), [text("a"), text("b")]);
        assert_eq!(shape("{service}{operation}-x.y"), [None, text("y")]);
        assert_eq!(shape("x{service}"), [None]);
    }

    #[test]
    fn no_module_name_reaches_a_pattern_for_another() {
        let safe = TopicPattern::parse("ai.safe.*").unwrap();
        let template = Template::parse("ai.{module_name}.{event_type}").unwrap();
        let key = |module| template.render(&Sample(vec![("module_name", module), ("event_type", "end")]));
        for name in ["safe", "Safe"] {
            assert!(safe.matches(&key(name)), "{name:?}");
        }
        let long = "safe".repeat(75);
        for name in [
            "a.*.#",
            "safe.x",
            ".safe",
            "safe\n",
            "safe\0",
            " safe",
            "safe ",
            "#",
            "*",
            "safe.*",
            "safe\u{200b}",
            "safe\u{200d}",
            "👍",
            "safe👍",
            "%73afe",
            "SafeR",
            "",
            &long,
        ] {
            assert!(!safe.matches(&key(name)), "{name:?} became {}", key(name));
        }
    }

    /// Text with a liking for what is awkward here.
    fn awkward() -> impl Strategy<Value = String> {
        let piece = prop_oneof!["[.*#%~{}_ a-zA-Z]{1,3}", "\\PC{1,40}", "[\\x00-\\x9f]{1,2}", "(?s).{1,80}"];
        proptest::collection::vec(piece, 1..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn any_text_makes_a_clean_key(values in proptest::collection::vec(awkward(), 6)) {
            let names = ["module_name", "event_type", "operation", "method_name", "tags.t", "data.a.b"];
            let template = "ai.{module_name}.{event_type}.{operation}-{method_name}.{tags.t:-none}.{data.a.b}";
            let fields: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
            let key = render(template, &fields);
            prop_assert!(key.len() <= MAX_KEY);
            prop_assert_eq!(key.split('.').count(), 6);
            prop_assert!(!key.contains(|c: char| is_hidden(c) || matches!(c, '*' | '#' | '{' | '}')), "{}", key);
            prop_assert!(key.split('.').all(|segment| !segment.is_empty()));
            prop_assert_eq!(&key, &render(template, &fields));
        }

        #[test]
        fn different_values_never_share_a_key(a in awkward(), b in awkward()) {
            prop_assert_eq!(data(&a) == data(&b), a == b);
            prop_assert_eq!(data(&a) == data(&data(&a)), a == data(&a), "a value forged the escaped form of another");
            prop_assert_eq!(module(&a) == module(&b), snake_case(&a) == snake_case(&b));
            prop_assert!(data(&a).len() <= MAX_VALUE);
        }

        #[test]
        fn a_short_key_can_be_read_back(value in prop_oneof!["(?s).{1,5}", "[.*#%~ a]{1,20}"]) {
            let key = data(&value);
            let mut bytes = key.bytes();
            let mut decoded = vec![];
            while let Some(byte) = bytes.next() {
                decoded.push(if byte == b'%' {
                    let hex = [bytes.next().unwrap(), bytes.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
                } else {
                    byte
                });
            }
            prop_assert_eq!(String::from_utf8(decoded).unwrap(), value);
        }

        #[test]
        fn a_close_neighbour_of_a_long_value_has_another_key(value in "[a-z.]{60,300}", at in 0usize..60) {
            let mut other = value.clone();
            other.replace_range(at..=at, "Z");
            prop_assert_ne!(data(&value), data(&other));
        }

        #[test]
        fn only_the_module_itself_reaches_its_pattern(name in prop_oneof![awkward(), "[Ss]afe.{0,2}"]) {
            let key = format!("ai.{}.end", module(&name));
            let safe = TopicPattern::parse("ai.safe.*").unwrap();
            prop_assert_eq!(safe.matches(&key), snake_case(&name) == "safe");
        }

        #[test]
        fn any_text_is_a_template_or_an_error(text in prop_oneof![awkward(), "[a-z.{}:-]{0,40}"], value in awkward()) {
            match Template::parse(&text) {
                Ok(template) => {
                    let key = template.render(&Sample(vec![("module_name", &value)]));
                    prop_assert!(key.len() <= MAX_KEY);
                    prop_assert_eq!(key.split('.').count(), template.segments().len());
                }
                Err(error) => prop_assert!(text.is_char_boundary(error.offset()), "{error} in {text:?}"),
            }
        }
    }
}
