//! From one event to one line, or to a piece of a flowing line.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use streamll_actors::event::{Body, Datum, Event, Kind, Text, Timestamp, View};

use super::Style;
use super::sanitize::{self, Cut};
use super::spans::{Span, Spans};

/// Most columns of data, and of an error's text.
const COLUMNS: usize = 240;

/// Most columns of a name.
const NAME: usize = 80;

/// Renders events; remembers the line that it left open and the steps that stream.
#[derive(Debug)]
pub(super) struct Renderer {
    style: Style,
    line: Line,
    spans: Spans,
}

/// How the last line that was written stands.
#[derive(Debug)]
enum Line {
    Closed,
    /// Tokens of this `span_id` and field flow on it.
    Open(Arc<str>, Text),
    /// A write failed, perhaps in its middle.
    Torn,
}

/// A sign and its colour, the number of an SGR sequence.
type Sign = (&'static str, u8);

impl Renderer {
    pub(super) fn new(style: Style) -> Renderer {
        Renderer { style, line: Line::Closed, spans: Spans::default() }
    }

    /// Ends a line that tokens left open.
    pub(super) fn close_line(&mut self, out: &mut Vec<u8>) {
        if !matches!(self.line, Line::Closed) {
            out.push(b'\n');
            self.line = Line::Closed;
        }
    }

    /// What was rendered last may have been written in part.
    pub(super) fn torn(&mut self) {
        self.line = Line::Torn;
    }

    /// Appends one event.
    pub(super) fn render(&mut self, event: &Event, out: &mut Vec<u8>) {
        let (step, at) = (event.step().parts(), event.timestamp());
        if let Some(token) = event.as_token() {
            return self.token(event, &token.field, &token.text, token.index, out);
        }
        let data = event.body();
        if *event.kind() == Kind::Token {
            let text = |key| text(data, key).unwrap_or_default();
            let index = data.get("token_index").and_then(|index| index.as_u64()).unwrap_or_default();
            return self.token(event, &Text::from(&*text("field")), &text("token"), index, out);
        }
        self.close_line(out);
        if event.kind().opens() {
            self.spans.open(&step.span_id, at);
        }
        let span = if event.kind().closes() { self.spans.close(&step.span_id) } else { None };
        match event.kind() {
            Kind::Start => self.head(event, ("▶", 36), out),
            Kind::LlmStart => self.head(event, ("▷", 36), out),
            Kind::ToolStart | Kind::ToolEnd => self.head(event, ("⚙", 33), out),
            Kind::End => self.head(event, ("■", 32), out),
            Kind::LlmEnd => self.head(event, ("□", 32), out),
            Kind::Error => self.head(event, ("✖", 31), out),
            Kind::Custom(name) if &*step.module_name == "streamll" => {
                return self.system(name, at, data, out);
            }
            other => self.named(event, ("◆", 35), other.as_str(), out),
        }
        match event.kind() {
            Kind::End | Kind::LlmEnd | Kind::ToolEnd => end(event, span.as_ref(), data, out),
            Kind::Error => error(data, out),
            _ => object(data.members().chain(inherited(event, data)), out),
        }
        out.push(b'\n');
    }

    fn token(&mut self, event: &Event, field: &Text, text: &str, index: u64, out: &mut Vec<u8>) {
        let span_id = &event.step().parts().span_id;
        let other = self.spans.token(span_id, event.timestamp(), field, index, event.merged());
        if matches!(&self.line, Line::Open(its, of) if its == span_id && of == field) {
            return sanitize::flowing(text, out);
        }
        self.close_line(out);
        self.head(event, ("•", 34), out);
        out.push(b' ');
        if other {
            Cut::new(out, NAME).text(field);
            out.push(b' ');
        }
        if self.style.flow {
            sanitize::flowing(text, out);
            self.line = Line::Open(span_id.clone(), field.clone());
        } else {
            out.push(b'\'');
            sanitize::line(text, out);
            out.extend_from_slice(b"'\n");
        }
    }

    /// Gap markers, alerts, and what else the machine itself says.
    fn system(&mut self, kind: &str, at: Timestamp, data: &Body, out: &mut Vec<u8>) {
        match (kind, data.get("count").and_then(|count| count.as_u64())) {
            ("gap", Some(count)) => {
                self.time(at, ("⋯", 33), out);
                let cut = &mut Cut::new(out, COLUMNS);
                let mut before = "";
                if let Some(View::Object(classes)) = data.look("classes").map(Datum::view) {
                    for (class, n) in classes {
                        let _ = write!(cut, "{before}{} {class}", n.text());
                        before = " and ";
                    }
                }
                if before.is_empty() {
                    let _ = write!(cut, "{count}");
                }
                cut.text(if count == 1 { " event was not kept" } else { " events were not kept" });
                if let Some(reason) = text(data, "reason") {
                    let _ = write!(cut, " ({reason})");
                }
            }
            _ => {
                self.time(at, ("▲", 33), out);
                let cut = &mut Cut::new(out, COLUMNS);
                let _ = write!(cut, "{kind} {}", text(data, "sink").unwrap_or_default());
                for (before, key) in [(": ", "reason"), (", since ", "since")] {
                    if let Some(value) = text(data, key) {
                        let _ = write!(cut, "{before}{value}");
                    }
                }
            }
        }
        out.push(b'\n');
    }

    /// `[16:31:42.156] ▶ llm_call (a1b2c3d4)`.
    fn head(&self, event: &Event, sign: Sign, out: &mut Vec<u8>) {
        let step = event.step().parts();
        let name = step.operation.as_ref().or(step.method_name.as_ref()).unwrap_or(&step.module_name);
        self.named(event, sign, name, out);
    }

    fn named(&self, event: &Event, sign: Sign, name: &str, out: &mut Vec<u8>) {
        self.time(event.timestamp(), sign, out);
        Cut::new(out, NAME).text(name);
        out.push(b' ');
        let id = &*event.step().parts().span_id;
        let short = id.char_indices().nth(8).map_or(id, |(end, _)| &id[..end]);
        self.painted(2, out, |out| {
            out.push(b'(');
            sanitize::line(short, out);
            out.push(b')');
        });
    }

    fn time(&self, at: Timestamp, (sign, color): Sign, out: &mut Vec<u8>) {
        self.painted(2, out, |out| clock(at, out));
        out.push(b' ');
        self.painted(color, out, |out| out.extend_from_slice(sign.as_bytes()));
        out.push(b' ');
    }

    fn painted(&self, color: u8, out: &mut Vec<u8>, paint: impl FnOnce(&mut Vec<u8>)) {
        if !self.style.color {
            return paint(out);
        }
        out.extend_from_slice(b"\x1b[");
        digits(u32::from(color), if color < 10 { 1 } else { 2 }, out);
        out.push(b'm');
        paint(out);
        out.extend_from_slice(b"\x1b[0m");
    }
}

/// The rest of the line of an end: how long, how fast, and data that was not shown before.
fn end(event: &Event, span: Option<&Span>, data: &Body, out: &mut Vec<u8>) {
    // A number that is no duration stays among the data.
    let given = |key| data.get(key).and_then(|n| n.as_f64()).filter(|n| (0.0..1e9).contains(n));
    let (duration, first, rate) =
        (given("duration"), given("time_to_first_token"), given("tokens_per_second"));
    let cut = &mut Cut::new(out, COLUMNS);
    if *event.kind() == Kind::ToolEnd {
        cut.text(" done");
    }
    if let Some(seconds) = duration.or_else(|| span?.duration(event.timestamp())) {
        cut.text(" ");
        took(seconds, cut);
    }
    let first_shown = first.or_else(|| span?.time_to_first_token());
    if let Some(seconds) = first_shown {
        cut.text(" first token ");
        took(seconds, cut);
    }
    if let Some(rate) = rate.or_else(|| span?.tokens_per_second()) {
        let comma = if first_shown.is_some() { "," } else { "" };
        let _ = write!(cut, "{comma} {rate:.1} tokens/s");
    }
    let shown = |key: &str| match key {
        "duration" => duration.is_some(),
        "time_to_first_token" => first.is_some(),
        "tokens_per_second" => rate.is_some(),
        field => span.is_some_and(|span| span.has_shown(field)),
    };
    object(data.members().filter(|(key, _)| !shown(key)), out);
}

/// The rest of the line of an error: what went wrong, and further data.
fn error(data: &Body, out: &mut Vec<u8>) {
    let mut before = " ";
    for part in ["error_type", "error_message"].into_iter().filter_map(|key| text(data, key)) {
        let cut = &mut Cut::new(out, COLUMNS);
        cut.text(before);
        cut.text(&part);
        before = ": ";
    }
    let said = |key: &str| {
        key == "duration" || (["error_type", "error_message"].contains(&key) && text(data, key).is_some())
    };
    object(data.members().filter(|(key, _)| !said(key)), out);
}

/// What the outermost step of a run has from its context: shown once, where the run begins.
fn inherited<'a>(event: &'a Event, own: &'a Body) -> impl Iterator<Item = (Cow<'a, str>, Datum<'a>)> {
    let step = event.step().parts();
    let shown = event.kind().opens() && step.parent_id.is_none();
    let context = shown.then(|| step.context.members()).into_iter().flatten();
    context.filter(|(key, _)| own.look(key).is_none()).map(|(key, value)| (Cow::Borrowed(key), value))
}

/// What a string of the data says.
fn text<'a>(data: &'a Body, key: &str) -> Option<Cow<'a, str>> {
    if let View::Text(text) = data.look(key)?.view() { Some(text) } else { None }
}

/// Appends ` {"key": value, …}`, or nothing when there is no entry.
fn object<'a>(entries: impl Iterator<Item = (Cow<'a, str>, Datum<'a>)>, out: &mut Vec<u8>) {
    let mut entries = entries.peekable();
    if entries.peek().is_some() {
        out.push(b' ');
        members(entries, &mut Cut::new(out, COLUMNS));
    }
}

fn members<'a>(entries: impl Iterator<Item = (Cow<'a, str>, Datum<'a>)>, cut: &mut Cut<'_>) {
    let mut before = "{";
    for (key, value) in entries {
        if cut.full() {
            return;
        }
        cut.text(before);
        cut.json_string(&key);
        cut.text(": ");
        json(value, cut);
        before = ", ";
    }
    cut.text(if before == "{" { "{}" } else { "}" });
}

/// Each level writes something and a full line ends it, so the depth is bounded by the columns.
fn json(value: Datum<'_>, cut: &mut Cut<'_>) {
    match value.view() {
        View::Text(text) => cut.json_string(&text),
        View::List(items) => {
            let mut before = "[";
            for item in items {
                if cut.full() {
                    return;
                }
                cut.text(before);
                json(item, cut);
                before = ", ";
            }
            cut.text(if before == "[" { "[]" } else { "]" });
        }
        View::Object(entries) => members(entries, cut),
        View::Number(digits) => cut.text(&digits),
        View::Bool(is) => cut.text(if is { "true" } else { "false" }),
        View::Null => cut.text("null"),
    }
}

/// `4.63s`, `430ms`, `0.4ms`.
fn took(seconds: f64, cut: &mut Cut<'_>) {
    let _ = match seconds {
        1.0.. => write!(cut, "{seconds:.2}s"),
        0.01.. => write!(cut, "{:.0}ms", seconds * 1e3),
        _ => write!(cut, "{:.1}ms", seconds * 1e3),
    };
}

/// `[16:31:42.156]`, in UTC.
fn clock(at: Timestamp, out: &mut Vec<u8>) {
    const DAY: i64 = 24 * 60 * 60 * 1000;
    let of_day = u32::try_from(at.as_micros().div_euclid(1000).rem_euclid(DAY)).unwrap_or_default();
    out.push(b'[');
    for (value, places, behind) in [
        (of_day / 3_600_000, 2, b':'),
        (of_day / 60_000 % 60, 2, b':'),
        (of_day / 1000 % 60, 2, b'.'),
        (of_day % 1000, 3, b']'),
    ] {
        digits(value, places, out);
        out.push(behind);
    }
}

fn digits(value: u32, places: u32, out: &mut Vec<u8>) {
    out.extend((0..places).rev().map(|place| b'0' + (value / 10_u32.pow(place) % 10) as u8));
}
