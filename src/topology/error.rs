//! The mistakes in a topology: every problem with its place, the offending line and a suggestion.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

/// All problems of a topology, in the order of the file.
///
/// [`Display`](fmt::Display) shows each problem with its source line and a caret, without colour.
#[derive(Clone, Serialize)]
pub struct TopologyError {
    /// The problems: at least one error, and the warnings that were found with it.
    pub problems: Vec<Problem>,
}

/// One problem, and its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The kind of mistake.
    pub class: Class,
    /// Whether the problem prevents a start.
    pub severity: Severity,
    /// The place in a file. `None` if the value came from an environment variable, or if no file has the mistake.
    pub at: Option<Location>,
    /// The environment variable that holds the value, if the value did not come from a file.
    pub variable: Option<String>,
    /// The path of keys, such as `sinks.live.buffer.max_size`. It is empty for the whole file.
    pub path: String,
    /// What is wrong, in one line. It never holds a secret.
    pub message: String,
    /// How to correct the problem.
    pub help: Option<String>,
    /// The line shown under the message.
    #[serde(skip)]
    pub(crate) excerpt: Option<Excerpt>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Location {
    /// The path of the file, as it was given.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
}

/// One source line with its secrets masked, and the characters of it that the caret marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Excerpt {
    pub(crate) line: String,
    pub(crate) width: usize,
}

/// The kinds of mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Class {
    /// The file is not YAML, or cannot be read.
    Syntax,
    /// The file is larger or deeper than a topology may be.
    Limit,
    /// A construct that is refused because it can hide what a file says, such as an alias or a tag.
    Unsafe,
    /// An unknown key.
    UnknownKey,
    /// A required key is missing.
    Missing,
    /// A value of another type, or without its unit.
    Type,
    /// A value outside the allowed range.
    Range,
    /// A value that is not one of the allowed words.
    Enum,
    /// A key that occurs twice.
    Duplicate,
    /// The name of something that does not exist.
    Ref,
    /// Sinks that pass their events round in a circle, or files that extend each other.
    Cycle,
    /// A template of a routing key or a topic pattern that cannot be read.
    Template,
    /// An address that cannot be used.
    Url,
    /// An environment variable that is unset, or that overrides a key that does not exist.
    Env,
    /// Values that are right alone, but not together.
    Conflict,
}

/// How serious a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The topology cannot start.
    Error,
    /// The topology can start, but probably does not do what was meant.
    Warning,
}

impl Problem {
    /// An error with no place yet.
    pub(crate) fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            severity: Severity::Error,
            at: None,
            variable: None,
            path: String::new(),
            message: shortened(message.into()),
            help: None,
            excerpt: None,
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(shortened(help.into()));
        self
    }

    /// Adds what the nearest of the known words is, if one is near.
    pub(crate) fn nearest<'a>(self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(word, known) {
            Some(found) => self.help(format!("did you mean `{found}`?")),
            None => self,
        }
    }

    /// Returns the problem as text: message, place, source line with a caret, help. With `color`, the text has colours.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str());
        let group = match (&self.at, &self.excerpt, &self.variable) {
            (Some(at), Some(excerpt), _) => {
                let start = byte_offset(&excerpt.line, at.column - 1);
                let end = byte_offset(&excerpt.line, at.column - 1 + excerpt.width);
                title.element(
                    Snippet::source(excerpt.line.as_str())
                        .path(at.file.as_str())
                        .line_start(at.line)
                        .annotation(AnnotationKind::Primary.span(start..end)),
                )
            }
            (Some(at), None, _) => {
                title.element(Origin::path(at.file.as_str()).line(at.line).char_column(at.column))
            }
            (None, _, Some(variable)) => title.element(Origin::path(format!("${variable}"))),
            (None, _, None) => Group::with_title(title),
        };
        let group = match &self.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        };
        renderer.render(&[group])
    }

    /// Returns the problem as JSON: `{"class": …, "severity": …, "at": {"file", "line", "column"}, "path": …,
    /// "message": …, …}`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!(self)
    }
}

/// Names and values in a message can be as long as a file may be.
fn shortened(text: String) -> String {
    match text.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", text.split_at(end).0),
        None => text,
    }
}

fn byte_offset(line: &str, chars: usize) -> usize {
    line.char_indices().nth(chars).map_or(line.len(), |(at, _)| at)
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl TopologyError {
    /// Returns all problems as text, one below the other. With `color`, the text has colours.
    pub fn render(&self, color: bool) -> String {
        let texts: Vec<_> = self.problems.iter().map(|problem| problem.render(color)).collect();
        texts.join("\n\n")
    }

    /// Returns all problems as JSON: `{"problems": [{"class": …, "at": {"file", "line", "column"}, …}]}`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "problems": self.problems })
    }
}

impl From<Problem> for TopologyError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

/// The same as for people: it is what `fn main() -> Result<(), TopologyError>` shows.
impl fmt::Debug for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for TopologyError {}

/// The known word that a misspelt one was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .filter_map(|candidate| {
            let near = |known: &str| {
                let distance = strsim::damerau_levenshtein(word, known);
                (distance <= 1 + known.len().min(word.len()) / 4).then_some(distance)
            };
            // `threshold` is meant as `failure_threshold`
            let last = candidate.rsplit_once('_').map(|(_, last)| last).filter(|last| last.len() > 4);
            near(candidate).or_else(|| Some(near(last?)? + 1)).map(|distance| (distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Words as they stand in a sentence: `a`, `b` and `c`.
pub(crate) fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}
