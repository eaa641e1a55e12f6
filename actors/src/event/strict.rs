//! Turns JSON of others into text that strict parsers accept: it repairs what it can, and rejects the rest with its
//! place.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::Value;
use serde_json::value::RawValue;

use super::error::{MAX_DEPTH, WireError};
use super::json::{self, Cursor, unquoted};

/// The first bytes of a file that some programs write.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// How many keys of one object are compared one by one; of more a set is made.
const FEW: usize = 24;

/// One piece of JSON as it came, made readable.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) text: Cow<'a, str>,
    /// How many bytes stood before it.
    skipped: usize,
}

impl<'a> Line<'a> {
    /// Takes the byte order mark off, and puts U+FFFD in the place of what is no character: bytes that are no UTF-8, and
    /// halves of a surrogate pair, as chunks of a text have them that end inside of a character.
    pub(super) fn of(json: &'a [u8]) -> Line<'a> {
        let mut rest = json.trim_ascii_start();
        while let Some(behind) = rest.strip_prefix(BYTE_ORDER_MARK) {
            rest = behind.trim_ascii_start();
        }
        let skipped = json.len() - rest.len();
        // Looked at first: `from_utf8_lossy` takes byte by byte.
        let text = match std::str::from_utf8(rest) {
            Ok(text) => whole(text),
            Err(_) => Cow::Owned(whole(&String::from_utf8_lossy(rest)).into_owned()),
        };
        Line { text, skipped }
    }

    /// ` at column 7`, counted in bytes; with its line where the text has several.
    pub(super) fn place(&self, line: usize, column: usize) -> String {
        // The parser stands before the first column of a line where nothing of that line is read yet.
        let column = if line <= 1 { column + self.skipped } else { column.max(1) };
        match self.text.trim_ascii_end().contains('\n') {
            true => format!(" at line {line} column {column}"),
            false => format!(" at column {column}"),
        }
    }

    /// Checks a part of the text: its depth, the range of its numbers. Where a key stands twice in one object, returns the
    /// part with the last of them alone, the one that parsers take.
    pub(super) fn check(&self, part: &str) -> Result<Option<String>, String> {
        let mut checker =
            Checker { cursor: Cursor::new(part), keys: Vec::with_capacity(16), repeats: false, depth: 0 };
        let Err(flaw) = checker.value() else {
            return Ok(checker.repeats.then(|| unique(part)));
        };
        // `part` is a piece of the text.
        let start = part.as_ptr().addr().saturating_sub(self.text.as_ptr().addr());
        let before = self.text.get(..start + part.len() - checker.cursor.left()).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
        Err(format!("{flaw}{}", self.place(line, column)))
    }

    /// What the JSON parser says, with its place. Values it would show are left out: they may be anybody's words.
    pub(super) fn said(&self, error: &serde_json::Error) -> WireError {
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let what = match text.strip_suffix(&place) {
            Some(what) => without_value(what) + &self.place(error.line(), error.column()),
            None => without_value(&text),
        };
        WireError(match bare_number(&self.text) {
            Some(word) if error.is_syntax() => format!("holds a bare `{word}`, which is no JSON: {what}"),
            _ => what,
        })
    }
}

/// `invalid type: string "…", expected u64` without the string.
fn without_value(text: &str) -> String {
    if let Some(wrong) = text.find("invalid ")
        && let Some((before, rest)) = text.split_at_checked(wrong)
        && let Some((kind, rest)) = rest.split_once(['"', '`'])
        && let Some((_, expected)) = rest.rsplit_once(", expected ")
    {
        return format!("{before}{}, expected {expected}", kind.trim_end());
    }
    text.to_owned()
}

/// The first `NaN` or `Infinity` outside of strings: Python writes them.
fn bare_number(json: &str) -> Option<&'static str> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in json.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'N' | b'I' if !quoted => {
                let rest = json.get(at..).unwrap_or_default();
                let found = ["NaN", "Infinity"].into_iter().find(|word| rest.starts_with(word));
                if found.is_some() {
                    return found;
                }
            }
            _ => {}
        }
    }
    None
}

/// Turns JSON of others into text that strict parsers accept, in the way that an [`Event`](super::Event) is read.
///
/// A byte order mark is removed. U+FFFD replaces bytes that are not UTF-8, and halves of surrogate pairs. If a key
/// occurs twice in one object, the last one is kept. Everything else stays exactly as it is written.
///
/// # Errors
///
/// If the text is not JSON, is nested deeper than 64, or holds a number that is beyond the range of doubles.
pub fn strict_json(json: &[u8]) -> Result<Cow<'_, str>, WireError> {
    let line = Line::of(json);
    serde_json::from_str::<&RawValue>(&line.text).map_err(|error| line.said(&error))?;
    let unique = line.check(&line.text).map_err(WireError)?;
    Ok(unique.map_or(line.text, Cow::Owned))
}

/// Reads JSON as a value. Its numbers are the doubles nearest to the written numbers. (`serde_json` alone is sometimes
/// off by a little.)
///
/// Returns `None` if the text is not JSON.
#[must_use]
pub fn read_json(json: &str) -> Option<Value> {
    serde_json::from_str::<&RawValue>(json).ok().map(|json| json::value(json.get()))
}

/// U+FFFD in the place of each lone half of a surrogate pair.
fn whole(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(step) = text.get(at..).and_then(|rest| rest.find('\\')) {
        at += step;
        at += match (code_unit(bytes, at), code_unit(bytes, at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                out.push_str(text.get(copied..at).unwrap_or_default());
                out.push_str("\\ufffd");
                copied = at + 6;
                6
            }
            // The escaped character; its first byte alone may be a part of it.
            _ => 1 + text.get(at + 1..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8),
        };
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

/// The number of the escape `\uXXXX` that stands there.
fn code_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |code, digit| Some(code * 16 + char::from(*digit).to_digit(16)?))
}

/// Walks through a value once.
struct Checker<'a> {
    cursor: Cursor<'a>,
    /// The keys of the objects that are open.
    keys: Vec<Cow<'a, str>>,
    /// Whether a key stands twice in an object.
    repeats: bool,
    depth: usize,
}

impl Checker<'_> {
    fn value(&mut self) -> Result<(), String> {
        match self.cursor.first() {
            Some(b'{' | b'[') if self.depth >= MAX_DEPTH => Err(format!("nests deeper than {MAX_DEPTH}")),
            Some(bracket @ (b'{' | b'[')) => self.nested(bracket == b'{'),
            Some(b'"') => {
                self.cursor.value();
                Ok(())
            }
            _ => {
                let before = self.cursor;
                let is_finite = is_in_range(self.cursor.value());
                if !is_finite {
                    self.cursor = before;
                    return Err("number out of range".to_owned());
                }
                Ok(())
            }
        }
    }

    fn nested(&mut self, is_object: bool) -> Result<(), String> {
        self.depth += 1;
        let (from, mut many) = (self.keys.len(), None::<HashSet<_>>);
        let mut more = self.cursor.opens();
        while more {
            if is_object {
                let key = unquoted(self.cursor.key());
                let own = self.keys.get(from..).unwrap_or_default();
                if own.len() < FEW {
                    self.repeats |= own.contains(&key);
                    self.keys.push(key);
                } else {
                    self.repeats |= own.contains(&key) || !many.get_or_insert_default().insert(key);
                }
            } else {
                self.cursor.blanks();
            }
            self.value()?;
            more = self.cursor.goes_on();
        }
        self.keys.truncate(from);
        self.depth -= 1;
        Ok(())
    }
}

/// Whether readers can take it: beyond the range of doubles many cannot.
fn is_in_range(number: &str) -> bool {
    /// The digits of the largest double.
    const DIGITS: usize = 309;
    // Also where it is no number: `true` has an `e`.
    let is_word = number.starts_with(['t', 'f', 'n']);
    let has_power = || number.bytes().any(|byte| matches!(byte, b'e' | b'E'));
    is_word || number.len() < DIGITS && !has_power() || number.parse::<f64>().is_ok_and(f64::is_finite)
}

/// The same value with each key once in its object.
fn unique(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    write_unique(json, &mut out);
    out
}

fn write_unique(json: &str, out: &mut String) {
    match json.as_bytes().first() {
        Some(b'{') => {
            let last: HashMap<_, _> =
                json::members(json).enumerate().map(|(i, (key, _))| (unquoted(key), i)).collect();
            let mut before = "{";
            for (i, (key, value)) in json::members(json).enumerate() {
                if last.get(&unquoted(key)) == Some(&i) {
                    out.push_str(before);
                    out.push_str(key);
                    out.push(':');
                    write_unique(value, out);
                    before = ",";
                }
            }
            out.push_str(if before == "{" { "{}" } else { "}" });
        }
        Some(b'[') => {
            let mut before = "[";
            for item in json::items(json) {
                out.push_str(before);
                write_unique(item, out);
                before = ",";
            }
            out.push_str(if before == "[" { "[]" } else { "]" });
        }
        _ => out.push_str(json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_character_becomes_the_replacement_character_and_nothing_else_changes() {
        for (came, expected) in [
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""a\uDE00b\ud83d\ude00""#, r#""a\ufffdb\ud83d\ude00""#),
            (r#""\ud83d\ud83d\ude00\ud83d""#, r#""\ufffd\ud83d\ude00\ufffd""#),
            (r#""\ud83d\u0041\ud83d\n""#, r#""\ufffd\u0041\ufffd\n""#),
            (r#""\\ud83d \\\ud83d""#, r#""\\ud83d \\\ufffd""#),
            (r#"{"\udfff":["\ud800"]}"#, r#"{"\ufffd":["\ufffd"]}"#),
            (r#""\u0000\u00e9""#, r#""\u0000\u00e9""#),
        ] {
            assert_eq!(strict_json(came.as_bytes()).unwrap(), expected, "{came}");
        }
        for (came, expected) in [
            (&b"\"caf\xc3\""[..], "\"caf\u{fffd}\""),
            (b"\"\xf0\x9f\x98\"", "\"\u{fffd}\""),
            (b"\xef\xbb\xbf {\"a\":\"\xff\"}", "{\"a\":\"\u{fffd}\"}"),
            (b"\"\xed\xa0\xbd\"", "\"\u{fffd}\u{fffd}\u{fffd}\""),
        ] {
            assert_eq!(strict_json(came).unwrap(), expected);
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_kept_once_however_it_is_written() {
        for (came, expected) in [
            (r#"{"a":{"s":1},"a":null}"#, r#"{"a":null}"#),
            (r#"{"a":1.10, "\u0061" : 2 , "b":[{"c":1,"c":1e2},3]}"#, r#"{"\u0061":2,"b":[{"c":1e2},3]}"#),
            (r#"[{"x":{"a":1,"a":{"b":1,"b":[]}}}]"#, r#"[{"x":{"a":{"b":[]}}}]"#),
            (r#"{"a":{"a":1}, "b":{"a":1}}"#, r#"{"a":{"a":1}, "b":{"a":1}}"#),
        ] {
            assert_eq!(strict_json(came.as_bytes()).unwrap(), expected, "{came}");
        }
        let many = |last: &str| {
            let keys: String = (0..100).map(|i| format!("\"k{i}\":{i},")).collect();
            format!("{{{keys}\"{last}\":-1}}")
        };
        assert_eq!(strict_json(many("z").as_bytes()).unwrap(), many("z"));
        for last in ["k0", "k30", "k99"] {
            let read = strict_json(many(last).as_bytes()).unwrap().into_owned();
            assert_eq!(json::members(&read).filter(|(key, _)| unquoted(key) == last).count(), 1, "{last}");
        }
    }

    #[test]
    fn a_number_that_is_beyond_all_doubles_is_refused_where_it_stands() {
        let refused = |json: &str| strict_json(json.as_bytes()).unwrap_err().to_string();
        assert_eq!(refused(r#"{"a":[1, 1e400]}"#), "number out of range at column 10");
        assert_eq!(refused("\u{feff}[\n 0,\n -1e999]"), "number out of range at line 3 column 2");
        assert_eq!(refused(&"9".repeat(310)), "number out of range at column 1");
        let words = r#"[true,false,null,{"e":true}]"#;
        for fine in ["1e308", "1e-400", "0e999", &"9".repeat(308), "18446744073709551617", "true", words] {
            assert_eq!(strict_json(fine.as_bytes()).unwrap(), fine);
        }
    }
}
