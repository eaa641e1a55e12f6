//! Well-formed JSON text, read in place: nothing is copied, and numbers keep their digits.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

/// How deep a value is taken apart; what nests deeper reads as null.
pub(super) const DEPTH: usize = 128;

/// Reads text that a parser has found well formed, from its left. On other text it ends early, and never panics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    pub(super) fn new(json: &'a str) -> Cursor<'a> {
        let mut cursor = Cursor(json);
        cursor.blanks();
        cursor
    }

    /// How much is still to be read, in bytes.
    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    /// What was read since the cursor stood at `before`.
    pub(super) fn since(&self, before: Cursor<'a>) -> &'a str {
        before.0.get(..before.0.len().saturating_sub(self.0.len())).unwrap_or_default()
    }

    #[inline]
    pub(super) fn first(&self) -> Option<u8> {
        self.0.as_bytes().first().copied()
    }

    #[inline]
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.0.split_at_checked(bytes).unwrap_or((self.0, ""));
        self.0 = rest;
        taken
    }

    /// Takes the blanks that stand here.
    #[inline]
    pub(super) fn blanks(&mut self) {
        if self.first().is_none_or(|byte| byte > b' ') {
            return;
        }
        let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        let blanks = self.0.as_bytes().iter().take_while(is_blank).count();
        self.take(blanks);
    }

    /// Takes the bracket that stands here, and says whether something stands behind it; else its closing one, too.
    pub(super) fn opens(&mut self) -> bool {
        self.take(1);
        let mut ahead = *self;
        ahead.blanks();
        if !matches!(ahead.first(), Some(b'}' | b']') | None) {
            return true;
        }
        ahead.take(1);
        *self = ahead;
        false
    }

    /// Behind a value: takes the comma, and says that another one follows; else takes the closing bracket.
    pub(super) fn goes_on(&mut self) -> bool {
        self.blanks();
        self.take(1) == ","
    }

    /// Takes a key, as it is written, with its colon.
    pub(super) fn key(&mut self) -> &'a str {
        self.blanks();
        let key = self.value();
        self.blanks();
        if self.first() == Some(b':') {
            self.take(1);
        }
        self.blanks();
        key
    }

    /// Takes the value that stands here.
    pub(super) fn value(&mut self) -> &'a str {
        let bytes = self.0.as_bytes();
        let len = match self.first() {
            Some(b'"') => string_len(self.0),
            Some(b'{' | b'[') => nested_len(self.0),
            _ => {
                let ends =
                    |byte: &u8| matches!(byte, b',' | b'}' | b']' | b':' | b' ' | b'\n' | b'\r' | b'\t');
                bytes.iter().position(ends).unwrap_or(bytes.len())
            }
        };
        self.take(len)
    }

    /// Takes the value that stands here apart. Numbers become what comes nearest to them.
    pub(super) fn parse(&mut self, depth: usize) -> Value {
        match self.first() {
            Some(b'{' | b'[') if depth >= DEPTH => {
                self.value();
                Value::Null
            }
            Some(b'{') => {
                let mut map = Map::new();
                let mut more = self.opens();
                while more {
                    let key = unquoted(self.key()).into_owned();
                    map.insert(key, self.parse(depth + 1));
                    more = self.goes_on();
                }
                Value::Object(map)
            }
            Some(b'[') => {
                let mut items = Vec::new();
                let mut more = self.opens();
                while more {
                    self.blanks();
                    items.push(self.parse(depth + 1));
                    more = self.goes_on();
                }
                Value::Array(items)
            }
            Some(b'"') => Value::String(unquoted(self.value()).into_owned()),
            _ => match self.value() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                text => number(text).map_or(Value::Null, Value::Number),
            },
        }
    }
}

/// The value that is written here.
pub(super) fn value(json: &str) -> Value {
    Cursor::new(json).parse(0)
}

/// The object that is written here; anything else is an empty one.
pub(super) fn object(json: &str) -> Map<String, Value> {
    if let Value::Object(map) = value(json) { map } else { Map::new() }
}

/// The members of an object, each with its key as it is written; of anything else none.
#[derive(Debug, Clone)]
pub(super) struct Members<'a>(Items<'a>);

pub(super) fn members(json: &str) -> Members<'_> {
    Members(Items::of(json, b'{'))
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        self.0.next_with(Cursor::key)
    }
}

/// The items of a list; of anything else none.
#[derive(Debug, Clone)]
pub(super) struct Items<'a> {
    cursor: Cursor<'a>,
    more: bool,
}

pub(super) fn items(json: &str) -> Items<'_> {
    Items::of(json, b'[')
}

impl<'a> Items<'a> {
    fn of(json: &'a str, bracket: u8) -> Items<'a> {
        let mut cursor = Cursor::new(json);
        let more = cursor.first() == Some(bracket) && cursor.opens();
        Items { cursor, more }
    }

    fn next_with<T>(&mut self, before: impl FnOnce(&mut Cursor<'a>) -> T) -> Option<(T, &'a str)> {
        if !self.more {
            return None;
        }
        let taken = before(&mut self.cursor);
        let value = self.cursor.value();
        self.more = self.cursor.goes_on();
        Some((taken, value))
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.next_with(Cursor::blanks).map(|((), value)| value)
    }
}

/// The bytes of the string that begins here. In a long one it looks for quotes alone, which the standard library does many
/// bytes at a time.
fn string_len(text: &str) -> usize {
    /// Keys, ids and most values are no longer.
    const SHORT: usize = 24;
    for (at, byte) in text.bytes().enumerate().skip(1).take(SHORT) {
        match byte {
            b'"' => return at + 1,
            b'\\' => break,
            _ => {}
        }
    }
    let mut at = 1;
    while let Some(step) = text.get(at..).and_then(|rest| rest.find('"')) {
        let before = text.as_bytes().get(..at + step).unwrap_or_default();
        at += step + 1;
        // One behind an odd number of backslashes is escaped.
        if before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0 {
            return at;
        }
    }
    text.len()
}

fn nested_len(text: &str) -> usize {
    let (bytes, mut at, mut depth) = (text.as_bytes(), 0, 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += string_len(text.get(at..).unwrap_or_default()).max(1);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return at + 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// What a string says, without its quotes and escapes.
pub(super) fn unquoted(json: &str) -> Cow<'_, str> {
    let inner = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or(json);
    if !inner.as_bytes().contains(&b'\\') {
        return Cow::Borrowed(inner);
    }
    serde_json::from_str(json).map_or(Cow::Borrowed(inner), Cow::Owned)
}

/// Without the blanks between its parts.
pub(super) fn compact(json: &str) -> Cow<'_, str> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    if !json.bytes().any(|byte| is_blank(&byte)) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len());
    let mut cursor = Cursor::new(json);
    while let Some(byte) = cursor.first() {
        out.push_str(if byte == b'"' { cursor.value() } else { cursor.take(1) });
        cursor.blanks();
    }
    Cow::Owned(out)
}

/// Whether an object stands anywhere in it.
pub(super) fn holds_object(json: &str) -> bool {
    let mut cursor = Cursor::new(json);
    while let Some(byte) = cursor.first() {
        match byte {
            b'{' => return true,
            b'"' => cursor.value(),
            _ => cursor.take(1),
        };
    }
    false
}

/// The number that is written here: exact where it is a whole one of 64 bits, else the nearest double.
///
/// The parser of `serde_json` misses the nearest double by a little, unless a feature of it is on that every crate of a
/// program would share.
pub(super) fn number(text: &str) -> Option<Number> {
    if text != "-0" && !text.contains(['.', 'e', 'E']) {
        if let Ok(number) = text.parse::<u64>() {
            return Some(number.into());
        }
        if let Ok(number) = text.parse::<i64>() {
            return Some(number.into());
        }
    }
    text.parse().ok().and_then(Number::from_f64)
}

/// Whether both are numbers, and the same one to the last digit, however they are written: `1.10`, `1.1`, `11e-1`.
pub(super) fn is_same_number(one: &str, other: &str) -> bool {
    matches!((Decimal::of(one), Decimal::of(other)), (Some(one), Some(other)) if one == other)
}

/// Significant digits, and the power of ten of the last one.
#[derive(PartialEq)]
struct Decimal {
    is_negative: bool,
    digits: String,
    power: i64,
}

impl Decimal {
    fn of(text: &str) -> Option<Decimal> {
        let (text, is_negative) = text.strip_prefix('-').map_or((text, false), |text| (text, true));
        let (text, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let mut digits = [whole, part].concat();
        if whole.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let mut power: i64 = power.parse().ok()?;
        power = power.checked_sub(i64::try_from(part.len()).ok()?)?;
        let kept = digits.trim_end_matches('0').len();
        power = power.checked_add(i64::try_from(digits.len() - kept).ok()?)?;
        digits.truncate(kept);
        digits.drain(..digits.len() - digits.trim_start_matches('0').len());
        if digits.is_empty() {
            return Some(Decimal { is_negative: false, digits, power: 0 });
        }
        Some(Decimal { is_negative, digits, power })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_read_where_it_stands() {
        let text = " { \"a\" : [1, {\"b\":\"]}\\\"\"}, [] ] , \"\\u0063\":{ }, \"\":-0.50e+2 }";
        let read: Vec<_> = members(text).map(|(key, value)| (unquoted(key).into_owned(), value)).collect();
        let expected = [("a", "[1, {\"b\":\"]}\\\"\"}, [] ]"), ("c", "{ }"), ("", "-0.50e+2")];
        assert_eq!(read, expected.map(|(key, value)| (key.to_owned(), value)));
        assert_eq!(items("[1 , \"x,]\", [2]]").collect::<Vec<_>>(), ["1", "\"x,]\"", "[2]"]);
        assert_eq!(compact(text), "{\"a\":[1,{\"b\":\"]}\\\"\"},[]],\"\\u0063\":{},\"\":-0.50e+2}");
        assert_eq!(value(text), json!({"a": [1, {"b": "]}\""}, []], "c": {}, "": -50.0}));
        for empty in ["{}", "[]", "7", "", "{ }"] {
            assert_eq!((members(empty).count(), items(empty).count()), (0, 0), "{empty}");
        }
    }

    #[test]
    fn numbers_are_the_same_by_their_value_and_to_the_last_digit() {
        for (one, other) in [
            ("1.10", "1.1"),
            ("11e-1", "1.1"),
            ("1E+2", "100"),
            ("-0.0", "0"),
            ("3.0", "3"),
            ("18446744073709551617", "18446744073709551617.0"),
        ] {
            assert!(is_same_number(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("18446744073709551617", "18446744073709551616"),
            ("0.1", "0.10000000000000001"),
            ("1", "-1"),
            ("1", "10"),
            ("1", "x"),
            ("", ""),
            ("NaN", "NaN"),
            ("1e99999999999999999999", "1"),
        ] {
            assert!(!is_same_number(one, other), "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn every_double_is_read_as_itself(bits: u64) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            let text = serde_json::to_string(&double).unwrap();
            prop_assert_eq!(number(&text).unwrap().as_f64().unwrap().to_bits(), bits);
        }

        #[test]
        fn no_text_makes_it_panic_or_read_for_ever(text in ".*", json in r#"[{}\[\]":,\\ a1é]*"#) {
            for text in [text, json] {
                let _ = (members(&text).count(), items(&text).count(), value(&text), compact(&text));
            }
        }
    }
}
