//! The first check of a file, before any tree is built: limits its size, and refuses constructs that hide or multiply
//! content.

use std::borrow::Cow;
use std::collections::HashSet;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::error::{Class, Problem, TopologyError};
use super::locate::{Spot, place};
use super::secrets::mask_argument;

/// Largest file, in bytes. A topology of a hundred sinks has 50 KB.
pub(crate) const MAX_BYTES: u64 = 1 << 20;
/// Deepest nesting of maps and lists; the deepest key of the schema is at 5.
pub(crate) const MAX_DEPTH: usize = 32;
const TOO_DEEP: &str = "nested deeper than 32 levels";
/// Most keys and values together.
const MAX_NODES: usize = 50_000;
/// More problems than this in one file help nobody.
const MAX_PROBLEMS: usize = 32;

/// The text of a file, without its byte order mark, if it is UTF-8.
pub(crate) fn text(file: &str, bytes: Vec<u8>) -> Result<String, TopologyError> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(at_top(file, Class::Limit, "a topology has at most 1 MiB").into());
    }
    let utf8 = || format!("save {file} as UTF-8");
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(at_top(file, Class::Syntax, "the file is UTF-16").help(utf8()).into());
    }
    let text = String::from_utf8(bytes).map_err(|error| -> TopologyError {
        let good = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(error.as_bytes().get(..good).unwrap_or_default()).into_owned();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        place(Problem::new(Class::Syntax, "the file is not UTF-8"), file, "", Spot::at(line, column))
            .help(utf8())
            .into()
    })?;
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    match text.lines().zip(1..).find_map(|(line, n)| Some((n, line.chars().position(|c| c == '\0')? + 1))) {
        None => Ok(text),
        Some((line, column)) => {
            let problem = Problem::new(Class::Syntax, "the file holds a NUL character");
            Err(place(problem, file, "", Spot::at(line, column)).into())
        }
    }
}

/// Everything that keeps `text` from being read, with places; empty if it may be.
pub(crate) fn scan(file: &str, text: &str) -> Vec<Problem> {
    let mut scan = Scan { file, text, open: Vec::new(), nodes: 0, started: false, problems: Vec::new() };
    for event in Parser::new_from_str(text) {
        match event {
            Err(error) => {
                scan.syntax(error.info(), Spot::marker(error.marker()));
                break;
            }
            Ok((event, span)) => {
                if !scan.event(&event, span) || scan.problems.len() >= MAX_PROBLEMS {
                    break;
                }
            }
        }
    }
    if scan.problems.is_empty() && scan.nodes == 0 {
        scan.problems.push(
            at_top(file, Class::Missing, "the file declares nothing")
                .help("a topology needs at least `sinks:`"),
        );
    }
    scan.problems
}

fn at_top(file: &str, class: Class, message: &str) -> Problem {
    place(Problem::new(class, message), file, "", Spot::at(1, 1))
}

struct Scan<'a> {
    file: &'a str,
    text: &'a str,
    open: Vec<Frame>,
    nodes: usize,
    started: bool,
    problems: Vec<Problem>,
}

enum Frame {
    List,
    Map { keys: HashSet<String>, key_is_next: bool },
}

impl Scan<'_> {
    fn report(&mut self, class: Class, message: impl Into<String>, help: &str, spot: Spot) {
        let problem = place(Problem::new(class, message), self.file, self.text, spot);
        // once is enough: a bomb has them everywhere
        if class == Class::Unsafe && self.problems.iter().any(|told| told.message == problem.message) {
            return;
        }
        self.problems.push(if help.is_empty() { problem } else { problem.help(help) });
    }

    fn syntax(&mut self, info: &str, spot: Spot) {
        let line = self.text.lines().nth(spot.start.0 - 1).unwrap_or_default();
        if info.contains("unknown anchor") {
            return self.alias(spot);
        }
        if info.contains("recursion limit") {
            return self.report(Class::Limit, TOO_DEEP, "", spot);
        }
        let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
        let help = match (indent.contains('\t'), info.contains("flow") && line.contains("${")) {
            (true, _) => "indent with spaces, not tabs",
            (_, true) => "quote a `${…}` that stands inside `{ }` or `[ ]`",
            _ => "",
        };
        self.report(Class::Syntax, info.to_owned(), help, spot);
    }

    fn alias(&mut self, spot: Spot) {
        let help =
            "write the value again, or share it through `extends: base`; quote a text that begins with `*`";
        self.report(Class::Unsafe, "aliases are not allowed", help, spot);
    }

    /// Takes one event; `false` ends the scan.
    fn event(&mut self, event: &Event<'_>, span: Span) -> bool {
        let spot = Spot::span(span);
        match event {
            Event::DocumentStart(..) if std::mem::replace(&mut self.started, true) => {
                let help = "one file is one topology; remove the `---`";
                self.report(Class::Syntax, "a second document begins here", help, spot);
                false
            }
            Event::Alias(_) => {
                self.alias(spot);
                self.node(None, spot)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(*anchor, tag.as_ref(), spot);
                if self.open.is_empty() && self.nodes == 0 && text.is_empty() && *style == ScalarStyle::Plain
                {
                    return true; // nothing but comments
                }
                self.node(Some((text, *style)), spot)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse(*anchor, tag.as_ref(), spot);
                self.node(None, spot) && self.enter(Frame::List, spot)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse(*anchor, tag.as_ref(), spot);
                let map = Frame::Map { keys: HashSet::new(), key_is_next: true };
                self.node(None, spot) && self.enter(map, spot)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.open.pop();
                true
            }
            _ => true,
        }
    }

    fn refuse(&mut self, anchor: usize, tag: Option<&Cow<'_, Tag>>, spot: Spot) {
        if anchor != 0 {
            let help = "write the value where it is needed; quote a text that begins with `&`";
            self.report(Class::Unsafe, "anchors are not allowed", help, spot);
        }
        if tag.is_some() {
            let help = "write the plain value; quote a text that begins with `!`";
            self.report(Class::Unsafe, "tags are not allowed", help, spot);
        }
    }

    fn enter(&mut self, frame: Frame, spot: Spot) -> bool {
        if self.open.is_empty() && matches!(frame, Frame::List) {
            return self.not_a_map("a list", spot);
        }
        self.open.push(frame);
        if self.open.len() > MAX_DEPTH {
            self.report(Class::Limit, TOO_DEEP, "", spot);
            return false;
        }
        true
    }

    fn not_a_map(&mut self, what: &str, spot: Spot) -> bool {
        let message = format!("a topology is a map of keys, not {what}");
        self.report(Class::Type, message, "begin with a key, such as `sinks:`", spot);
        false
    }

    /// Counts a node and, where a key is due, checks that it is one and new.
    fn node(&mut self, scalar: Option<(&str, ScalarStyle)>, spot: Spot) -> bool {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            self.report(Class::Limit, format!("more than {MAX_NODES} keys and values"), "", spot);
            return false;
        }
        let (class, message, help) = match (self.open.last_mut(), scalar) {
            (None, Some(_)) => return self.not_a_map("a single value", spot),
            (Some(Frame::Map { keys, key_is_next }), scalar) => {
                let is_key = std::mem::replace(key_is_next, !*key_is_next);
                match scalar {
                    _ if !is_key => return true,
                    Some(("<<", ScalarStyle::Plain)) => {
                        (Class::Unsafe, "merge keys are not allowed".to_owned(), "use `extends: base`")
                    }
                    Some((key, _)) if !keys.insert(key.to_owned()) => (
                        Class::Duplicate,
                        format!("the key `{}` stands twice in this map", mask_argument(key)),
                        "keep one of them",
                    ),
                    Some(_) => return true,
                    None => (
                        Class::Type,
                        "a key must be a plain word".to_owned(),
                        "quote a text that begins with `{` or `[`",
                    ),
                }
            }
            _ => return true,
        };
        self.report(class, message, help, spot);
        // a map or list as key would upset the count of keys and values below it
        scalar.is_some()
    }
}
