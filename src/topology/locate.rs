//! Reads one scanned file into a tree, and remembers the place of each key and value.

use std::collections::BTreeMap;
use std::fmt;

use config::{Map, Value, ValueKind};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use super::error::{Excerpt, Location, Problem};
use super::key_path::KeyPath;
use super::lines;

/// Where something stands: lines and columns in characters, both from 1; the end is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) start: (usize, usize),
    pub(crate) end: (usize, usize),
}

impl Spot {
    pub(crate) fn at(line: usize, column: usize) -> Self {
        Self { start: (line, column), end: (line, column) }
    }

    pub(crate) fn marker(marker: &Marker) -> Self {
        Self::at(marker.line().max(1), marker.col() + 1)
    }

    pub(crate) fn span(span: Span) -> Self {
        let (start, end) = (Self::marker(&span.start), Self::marker(&span.end));
        Self { start: start.start, end: end.start }
    }
}

/// A longer line, in bytes, is named but not shown.
const LONGEST_LINE: usize = 1_000;

/// Gives a problem its place in a file, with the line it stands on. `text` may be empty if
/// the line cannot be shown.
pub(crate) fn place(mut problem: Problem, file: &str, text: &str, spot: Spot) -> Problem {
    let ((line, column), end) = (spot.start, spot.end);
    problem.at = Some(Location { file: file.to_owned(), line, column });
    problem.excerpt =
        text.lines().nth(line - 1).filter(|source| source.len() <= LONGEST_LINE).map(|source| {
            let rest = source.chars().count().saturating_sub(column - 1);
            let width = if end.0 == line { end.1.saturating_sub(column) } else { rest };
            Excerpt { line: lines::mask_line_of(text, line), width: width.clamp(1, rest.max(1)) }
        });
    problem
}

/// Where a value and the key in front of it stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) key: Option<Spot>,
    /// `None` for maps, lists and empty values, which are shown by their key.
    pub(crate) value: Option<Spot>,
    /// The first character of the value.
    pub(crate) start: Spot,
}

/// One file as it was read. Its `Debug` shows no values.
pub(crate) struct Document {
    pub(crate) file: String,
    pub(crate) text: String,
    pub(crate) root: Value,
    pub(crate) places: BTreeMap<KeyPath, Place>,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Document {
    /// Builds the tree of a text that [`scan`](super::scan::scan) has let through.
    pub(crate) fn read(file: &str, text: String) -> Self {
        let mut reader = Reader { parser: Parser::new_from_str(&text), places: BTreeMap::new() };
        let root = loop {
            match reader.next() {
                Some((event @ (Event::MappingStart(..) | Event::Scalar(..)), span)) => {
                    break reader.value(event, span, None, &KeyPath::default());
                }
                Some(_) => {}
                None => break Value::default(),
            }
        };
        let places = reader.places;
        Self { file: file.to_owned(), text, root, places }
    }
}

struct Reader<'a, T: saphyr_parser::Input> {
    parser: Parser<'a, T>,
    places: BTreeMap<KeyPath, Place>,
}

impl<'a, T: saphyr_parser::Input> Reader<'a, T> {
    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        self.parser.next_event()?.ok()
    }

    /// The value that `event` begins. Recursion is bounded by the scan's depth.
    fn value(&mut self, event: Event<'a>, span: Span, key: Option<Spot>, path: &KeyPath) -> Value {
        let start = Spot::span(span);
        let shown = matches!(event, Event::Scalar(..)) && start.start != start.end;
        self.places.insert(path.clone(), Place { key, value: shown.then_some(start), start });
        let kind = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) => scalar(&text),
            Event::Scalar(text, ..) => ValueKind::String(text.into_owned()),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                while let Some((event, span)) = self.next().filter(|(event, _)| *event != Event::SequenceEnd)
                {
                    items.push(self.value(event, span, None, &path.index(items.len())));
                }
                ValueKind::Array(items)
            }
            Event::MappingStart(..) => {
                let mut map = Map::new();
                while let Some((Event::Scalar(key, ..), at)) = self.next() {
                    let Some((event, span)) = self.next() else { break };
                    let value = self.value(event, span, Some(Spot::span(at)), &path.key(&key));
                    map.insert(key.into_owned(), value);
                }
                ValueKind::Table(map)
            }
            _ => ValueKind::Nil,
        };
        Value::new(None, kind)
    }
}

/// A plain scalar by YAML 1.2's core schema; `yes`, `on` and `0777` are texts and numbers as they look.
pub(crate) fn scalar(text: &str) -> ValueKind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return ValueKind::Nil,
        "true" | "True" | "TRUE" => return ValueKind::Boolean(true),
        "false" | "False" | "FALSE" => return ValueKind::Boolean(false),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return ValueKind::I64(number);
    }
    let looks_like_a_number = text.bytes().any(|b| b.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    match text.parse::<f64>() {
        Ok(number) if looks_like_a_number && number.is_finite() => ValueKind::Float(number),
        _ => ValueKind::String(text.to_owned()),
    }
}
