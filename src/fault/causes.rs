//! The message of an error: what it says itself, and what its causes say that it has not said yet.

use std::error::Error;
use std::fmt::{self, Write as _};

use super::bounded::{LONGEST, Limited, safely, text};

/// The most causes that are asked for: an error may name itself as its cause.
const DEEPEST: usize = 32;

/// The message of an error with all its causes: `while loading: file not found`. An ellipsis stands where it was cut. `None`
/// where the error cannot be displayed.
pub(crate) fn message(error: &dyn Error) -> Option<String> {
    let mut said = vec![written(format_args!("{error}"))?];
    let mut length = said[0].len();
    let mut next = safely(|| error.source()).flatten();
    while let Some(cause) = next
        && said.len() < DEEPEST
        && length < LONGEST
        && let Some(text) = written(format_args!("{cause}"))
    {
        length += text.len();
        said.push(text);
        next = safely(|| cause.source()).flatten();
    }
    // From the root on: whoever tells its cause may tell the causes of that one, too.
    let mut causes = said.pop()?;
    let mut cause = causes.clone();
    while let Some(text) = said.pop() {
        causes = joined(&text, &cause, causes);
        cause = text;
    }
    Some(shortened(causes))
}

/// An error that can only be displayed. Reports tell their causes in the alternate form, `{:#}`, behind what they say in the
/// plain one.
pub(crate) fn displayed<E: fmt::Display + ?Sized>(error: &E) -> Option<String> {
    longer(format_args!("{error}"), format_args!("{error:#}"))
}

/// The same for a `Debug`, which may be the `Display` of an error: `tracing` has such.
pub(crate) fn shown<E: fmt::Debug + ?Sized>(error: &E) -> Option<String> {
    longer(format_args!("{error:?}"), format_args!("{error:#?}"))
}

fn longer(plain: fmt::Arguments<'_>, alternate: fmt::Arguments<'_>) -> Option<String> {
    let plain = written(plain)?;
    let with_causes = written(alternate)
        .filter(|text| text.strip_prefix(&*plain).is_some_and(|rest| rest.starts_with(": ")));
    Some(with_causes.unwrap_or(plain))
}

/// What an error says and what its cause says with the causes of that one, `causes`, which begins with `cause`.
fn joined(text: &str, cause: &str, causes: String) -> String {
    if text.is_empty() || ends_with(text, &causes) {
        return if text.is_empty() { causes } else { text.to_owned() };
    }
    match causes.strip_prefix(cause) {
        Some(rest) if !cause.is_empty() && ends_with(text, cause) => format!("{text}{rest}"),
        _ => format!("{text}: {causes}"),
    }
}

/// Whether a text ends with another, apart from what closes it: `cannot read (no such file).`
fn ends_with(text: &str, end: &str) -> bool {
    let closing = ['.', ')', ']', '"', '\'', '`', ' ', '\n'];
    let before = text.trim_end_matches(closing).strip_suffix(end.trim_end_matches(closing));
    before.is_some_and(|before| end.is_empty() || !before.ends_with(char::is_alphanumeric))
}

/// What code of the user writes; `None` where that fails or panics.
fn written(value: fmt::Arguments<'_>) -> Option<String> {
    let mut out = Limited::default();
    let written = safely(|| out.write_fmt(value))?;
    let said = text(&out.bytes).to_owned();
    if out.cut {
        return Some(said + "…");
    }
    written.ok().map(|()| said)
}

fn shortened(mut message: String) -> String {
    if message.len() > LONGEST + '…'.len_utf8() {
        message.truncate(message.floor_char_boundary(LONGEST));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Says(&'static str, Option<Box<Says>>);

    impl fmt::Display for Says {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Says {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_ref().map(|cause| &**cause as _)
        }
    }

    #[test]
    fn a_message_has_all_causes_and_each_once() {
        for (said, message_of_all) in [
            (&["while loading", "file not found"][..], "while loading: file not found"),
            (&["a", "b", "c"], "a: b: c"),
            (&["a: b", "b"], "a: b"),
            (&["a: b", "b", "c"], "a: b: c"),
            (&["a: b: c", "b", "c"], "a: b: c"),
            (&["a: b: c", "b: c", "c"], "a: b: c"),
            (&["a", "b: c", "c"], "a: b: c"),
            (&["same", "same", "same"], "same"),
            (&["cannot read (no such file).", "no such file"], "cannot read (no such file)."),
            (&["cannot read `x`: no such file", "no such file."], "cannot read `x`: no such file"),
            (&["timeout", "out"], "timeout: out"),
            (&["", "b"], "b"),
            (&["a", ""], "a"),
            (&["a", "", "c"], "a: c"),
            (&["alone"], "alone"),
        ] {
            let error =
                said.iter().rev().fold(None, |cause, text| Some(Box::new(Says(text, cause)))).unwrap();
            assert_eq!(message(&*error).as_deref(), Some(message_of_all), "{said:?}");
        }
    }

    #[derive(Debug)]
    struct Circle;

    impl fmt::Display for Circle {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            static N: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
            write!(f, "{}", N.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        }
    }

    impl Error for Circle {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(self)
        }
    }

    #[test]
    fn causes_without_end_and_long_ones_are_cut() {
        assert_eq!(message(&Circle).unwrap().split(": ").count(), DEEPEST);
        let long: &'static str = "é".repeat(3000).leak();
        let deep = (0..9).fold(None, |cause, _| Some(Box::new(Says(long, cause)))).unwrap();
        let cut = message(&*deep).unwrap();
        assert!(cut.len() <= LONGEST + 3 && cut.ends_with("é…"), "{}", cut.len());
        let deep = Says("first", Some(Box::new(Says("x", Some(deep)))));
        let cut = message(&deep).unwrap();
        assert!(cut.len() <= LONGEST + 3 && cut.starts_with("first: x: é") && cut.ends_with('…'));
    }

    #[derive(Debug)]
    struct Panics;

    impl fmt::Display for Panics {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("scripted")
        }
    }

    impl Error for Panics {}

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Panics);

    #[test]
    fn a_cause_that_panics_costs_itself_alone() {
        assert_eq!(message(&Outer(Panics)).as_deref(), Some("outer"));
        assert_eq!(message(&Panics), None);
    }

    #[test]
    fn what_can_only_be_displayed_tells_its_causes_where_it_does_by_itself() {
        let report = anyhow::anyhow!("file not found").context("while loading");
        assert_eq!(displayed(&report).as_deref(), Some("while loading: file not found"));
        assert_eq!(displayed(&serde_json::json!({"a": 1})).as_deref(), Some("{\"a\":1}"));
    }
}
