//! Turns inputs and outputs into JSON, up to a limit, and without ever panicking.

use std::fmt::{self, Write as _};

use serde::Serialize;
use serde_json::Value;
use streamll_actors::event::read_json;

use crate::fault::{Limited, safely, text};

/// A value as it goes into an event.
#[derive(Debug)]
pub struct Rendered {
    pub(super) value: Value,
    /// Whether it was cut.
    pub(super) cut: bool,
}

/// Renders by `Serialize`. `None` if that fails or panics.
pub(super) fn serialized<T: Serialize + ?Sized>(value: &T) -> Option<Rendered> {
    let mut out = Limited::default();
    let written = safely(|| serde_json::to_writer(&mut out, value))?;
    if out.cut {
        return Some(Rendered { value: beginning(&out.bytes).into(), cut: true });
    }
    written.ok()?;
    let read = || read_json(std::str::from_utf8(&out.bytes).ok()?);
    let value = plain_text(&out.bytes).or_else(read)?;
    Some(Rendered { value, cut: false })
}

/// Returns the text of this JSON if it is a string without escapes, as most inputs are.
fn plain_text(json: &[u8]) -> Option<Value> {
    let inner = json.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inner.contains(&b'\\') {
        return None;
    }
    std::str::from_utf8(inner).ok().map(Value::from)
}

/// Renders by `Debug` or `Display`. `None` if that fails or panics.
pub(super) fn formatted(value: fmt::Arguments<'_>) -> Option<Rendered> {
    let mut out = Limited::default();
    let written = safely(|| out.write_fmt(value))?;
    if !out.cut {
        written.ok()?;
    }
    Some(Rendered { value: text(&out.bytes).into(), cut: out.cut })
}

/// Returns the beginning of a text, or else the beginning of the JSON.
fn beginning(json: &[u8]) -> String {
    let json = text(json);
    if json.starts_with('"') {
        // The cut may have gone through an escape: two of six bytes at most.
        for end in (1..=json.len()).rev().take(12).filter(|end| json.is_char_boundary(*end)) {
            if let Ok(text) = serde_json::from_str(&format!("{}\"", &json[..end])) {
                return text;
            }
        }
    }
    json.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::LONGEST;

    #[test]
    fn a_value_at_the_limit_is_whole_and_one_byte_more_is_cut() {
        let whole = "a".repeat(LONGEST - 2);
        let rendered = serialized(&whole).unwrap();
        assert_eq!((rendered.value, rendered.cut), (whole.clone().into(), false));
        let rendered = serialized(&format!("{whole}b")).unwrap();
        assert_eq!((rendered.value, rendered.cut), (format!("{whole}b").into(), true));
        let rendered = serialized(&format!("{whole}bcd")).unwrap();
        assert_eq!((rendered.value, rendered.cut), (format!("{whole}b").into(), true));
    }

    #[test]
    fn a_cut_goes_through_no_character_and_no_escape() {
        for odd in ["é", "\n", "\u{1}", "\"", "\\", "😀"] {
            for lead in 0..14 {
                let text = format!("{}{}", "a".repeat(LONGEST - lead), odd.repeat(20));
                let rendered = serialized(&text).unwrap();
                let Value::String(cut) = rendered.value else { panic!("{odd:?} is no text any more") };
                assert!(text.starts_with(&cut) && cut.len() + 20 > LONGEST, "{odd:?} {lead}: {}", cut.len());
                let shown = formatted(format_args!("{text}")).unwrap();
                assert!(shown.cut && text.starts_with(shown.value.as_str().unwrap()), "{odd:?} {lead}");
            }
        }
    }

    #[test]
    fn of_a_large_value_no_more_is_written_than_is_kept() {
        struct Endless(std::cell::Cell<usize>);
        impl Serialize for Endless {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeSeq as _;
                let mut numbers = serializer.serialize_seq(None)?;
                loop {
                    self.0.set(self.0.get() + 1);
                    numbers.serialize_element("number")?;
                }
            }
        }
        let endless = Endless(std::cell::Cell::new(0));
        let rendered = serialized(&endless).unwrap();
        assert!(rendered.cut && rendered.value.as_str().unwrap().starts_with("[\"number\",\"number\""));
        assert!(endless.0.get() < LONGEST, "{}", endless.0.get());
    }

    #[test]
    fn doubles_are_those_that_were_given() {
        let given = vec![(1046.8333333333335, 0.1_f32), (1890.5413911078447, -0.0), (5e-324, 3.5)];
        let rendered = serialized(&given).unwrap().value;
        assert_eq!(rendered.to_string(), serde_json::to_string(&given).unwrap());
        assert_eq!(rendered[0][0], 1046.8333333333335);
    }

    #[test]
    fn a_serialize_that_fails_or_panics_gives_nothing() {
        let keys = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert!(serialized(&keys).is_none(), "JSON has no such keys");
        struct Panics;
        impl Serialize for Panics {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                panic!("scripted")
            }
        }
        assert!(serialized(&Panics).is_none());
    }
}
