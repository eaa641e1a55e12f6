//! What the type of an error is called: as people write it, whatever holds it.

use std::any::type_name;
use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;

use super::UNNAMED;
use super::bounded::safely;

/// The longest name, in bytes.
const LONGEST: usize = 128;
/// What holds an error and says nothing of it.
const POINTERS: [&str; 5] = ["Arc", "Box", "Cow", "Pin", "Rc"];
/// Names that say nothing without that of their module.
const VAGUE: [&str; 3] = ["Error", "Report", "Err"];

/// The name of a type: `Timeout` of `tokio::time::error::Timeout`; `io::Error`, as it would be the name of many. `Error` for
/// texts and for boxes of whatever is one.
pub(crate) fn name_of<T: ?Sized>() -> Cow<'static, str> {
    short(type_name::<T>()).unwrap_or(Cow::Borrowed(UNNAMED))
}

/// The name of an error's type; of a box of any error that of its content, where its `Debug` tells it.
pub(crate) fn of_value<E: Error>(error: &E) -> Cow<'static, str> {
    short(type_name::<E>()).or_else(|| by_debug(error)).unwrap_or(Cow::Borrowed(UNNAMED))
}

/// The name of the root cause of a report where that is known, else that of the report, `R`.
pub(crate) fn of_report<R>(error: &(dyn Error + 'static)) -> Cow<'static, str> {
    let mut root = error;
    // As deep as messages are, too.
    for _ in 0..32 {
        match safely(|| root.source()).flatten() {
            Some(cause) => root = cause,
            None => break,
        }
    }
    of_any(root).unwrap_or_else(name_of::<R>)
}

/// The name of an error of which nothing but that is known.
pub(crate) fn of_any(error: &(dyn Error + 'static)) -> Option<Cow<'static, str>> {
    // Those that everybody meets and whose `Debug` does not tell it.
    macro_rules! known {
        ($($name:ty),*) => {
            $(if error.is::<$name>() {
                return Some(name_of::<$name>());
            })*
        };
    }
    known!(
        std::io::Error,
        std::fmt::Error,
        std::env::VarError,
        serde_json::Error,
        tokio::time::error::Elapsed
    );
    by_debug(&error)
}

/// The name that the `Debug` of an error begins with, as a derived one does. Of an enum that is the variant: so it counts only
/// where it calls itself an error.
fn by_debug<E: Error>(error: &E) -> Option<Cow<'static, str>> {
    /// Takes the first word and what follows it.
    struct Start(String);
    impl std::fmt::Write for Start {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let room = LONGEST.saturating_sub(self.0.len());
            self.0.push_str(&text[..text.floor_char_boundary(room)]);
            if self.0.len() < LONGEST { Ok(()) } else { Err(std::fmt::Error) }
        }
    }
    let mut start = Start(String::new());
    // Too long is no failure.
    let _ = safely(|| write!(start, "{error:?}"))?;
    let end = start.0.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(start.0.len());
    let (word, rest) = start.0.split_at(end);
    let is_name = word.starts_with(char::is_uppercase) && word.ends_with("Error") && word != "Error";
    let is_derived = rest.is_empty() || rest.starts_with(" {") || rest.starts_with('(');
    (is_name && is_derived).then(|| word.to_owned().into())
}

/// The name of a type as people write it; `None` for a text and for any error.
fn short(name: &'static str) -> Option<Cow<'static, str>> {
    let name = name.trim_start_matches(['&', '*', ' ']);
    for mark in ["mut ", "const "] {
        if let Some(name) = name.strip_prefix(mark) {
            return short(name);
        }
    }
    if let Some(bounds) = name.strip_prefix("dyn ") {
        let first = bounds.split(" + ").next().unwrap_or(bounds);
        let first =
            first.strip_prefix("for<").and_then(|rest| rest.split_once("> ")).map_or(first, |(_, it)| it);
        let word = last_word(path_of(first));
        return (!["Error", "Any", "Display", "Debug", "ToString"].contains(&word)).then_some(word.into());
    }
    let path = path_of(name);
    if path.is_empty() || name.starts_with("fn(") {
        return Some(cut(shortened(name)).into());
    }
    let word = last_word(path);
    let is_std = ["alloc::", "core::", "std::"].iter().any(|root| path.starts_with(root));
    if is_std
        && POINTERS.contains(&word)
        && let Some(inner) = name[path.len()..].strip_prefix('<').and_then(|inner| inner.strip_suffix('>'))
    {
        return short(first_of(inner));
    }
    match word {
        "str" => None,
        "String" if is_std => None,
        word if VAGUE.contains(&word) => Some(with_module(path, word)),
        word => Some(word.into()),
    }
}

/// The path at the beginning of a type.
fn path_of(name: &str) -> &str {
    // A closure is `module::function::{{closure}}`.
    let is_path = |c: char| c.is_alphanumeric() || ['_', ':', '#', '{', '}'].contains(&c);
    name.split(|c| !is_path(c)).next().unwrap_or_default()
}

fn last_word(path: &str) -> &str {
    match path.rsplit("::").next().unwrap_or(path) {
        "{{closure}}" => "closure",
        word => word,
    }
}

/// `io::Error` of `std::io::error::Error`.
fn with_module(path: &str, word: &str) -> Cow<'static, str> {
    let says_nothing = |module: &&str| !["error", "errors", "err", "{{closure}}"].contains(module);
    let module = path.rsplit("::").skip(1).find(says_nothing);
    module.map_or_else(|| word.to_owned(), |module| format!("{module}::{word}")).into()
}

/// The first of the parameters of a type that is no lifetime.
fn first_of(parameters: &'static str) -> &'static str {
    if parameters.starts_with('\'')
        && let Some((_, rest)) = parameters.split_once(", ")
    {
        return first_of(rest);
    }
    let mut depth = 0;
    let end = parameters.find(|c| {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    &parameters[..end.unwrap_or(parameters.len())]
}

/// A tuple, a list or a function, each type in it by its last word: `(StatusCode, String)`.
fn shortened(name: &str) -> String {
    let (mut out, mut rest) = (String::new(), name);
    while let Some(first) = rest.chars().next() {
        let path = path_of(rest);
        if path.is_empty() {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.push_str(last_word(path));
            rest = &rest[path.len()..];
        }
    }
    out
}

fn cut(mut name: String) -> String {
    if name.len() > LONGEST {
        name.truncate(name.floor_char_boundary(LONGEST));
        name.push('…');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Wrapper<T>(std::marker::PhantomData<T>);
    struct Mine;
    trait Fails {}

    fn name_of_value<T>(_: T) -> String {
        name_of::<T>().into_owned()
    }

    fn anonymous() -> impl Error {
        "x".parse::<u8>().unwrap_err()
    }

    #[test]
    fn a_type_is_called_as_people_write_it() {
        type Boxed = Box<dyn Error + Send + Sync + 'static>;
        for (name, expected) in [
            (name_of::<Mine>(), "Mine"),
            (name_of::<&&mut Mine>(), "Mine"),
            (name_of::<std::sync::Arc<Mine>>(), "Mine"),
            (name_of::<std::pin::Pin<Box<std::rc::Rc<Mine>>>>(), "Mine"),
            (name_of::<Wrapper<Vec<Mine>>>(), "Wrapper"),
            (name_of::<std::sync::Arc<Wrapper<(Mine, u8)>>>(), "Wrapper"),
            (name_of::<(Wrapper<Mine>, String)>(), "(Wrapper<Mine>, String)"),
            (name_of::<Box<(Mine, [u8; 3])>>(), "(Mine, [u8; 3])"),
            (name_of::<()>(), "()"),
            (name_of::<[Mine; 2]>(), "[Mine; 2]"),
            (name_of::<fn(Mine) -> Wrapper<u8>>(), "fn(Mine) -> Wrapper<u8>"),
            (name_of::<String>(), "Error"),
            (name_of::<&str>(), "Error"),
            (name_of::<Cow<'static, str>>(), "Error"),
            (name_of::<Box<str>>(), "Error"),
            (name_of::<Box<dyn Error + Send>>(), "Error"),
            (name_of::<Boxed>(), "Error"),
            (name_of::<std::sync::Arc<Boxed>>(), "Error"),
            (name_of::<dyn Error>(), "Error"),
            (name_of::<Box<dyn Fails + Send>>(), "Fails"),
            (name_of::<std::io::Error>(), "io::Error"),
            (name_of::<std::fmt::Error>(), "fmt::Error"),
            (name_of::<serde_json::Error>(), "serde_json::Error"),
            (name_of::<anyhow::Error>(), "anyhow::Error"),
            (name_of::<std::sync::Arc<anyhow::Error>>(), "anyhow::Error"),
            (name_of::<eyre::Report>(), "eyre::Report"),
            (name_of::<std::num::ParseIntError>(), "ParseIntError"),
            (name_of::<tokio::sync::mpsc::error::SendError<Vec<u8>>>(), "SendError"),
            (name_of::<std::sync::PoisonError<std::sync::MutexGuard<'static, Vec<u8>>>>(), "PoisonError"),
            (name_of_value(anonymous()).into(), "ParseIntError"),
            (name_of_value(|| ()).into(), "closure"),
        ] {
            assert_eq!(name, expected);
        }
        type Deep<T> = Wrapper<Wrapper<Wrapper<Wrapper<T>>>>;
        let long = name_of::<(Deep<Deep<Mine>>, [Deep<Deep<Deep<Mine>>>; 9])>();
        assert!(long.len() <= LONGEST + 3 && long.ends_with('…'), "{long}");
    }

    #[derive(Debug, thiserror::Error)]
    enum Loading {
        #[error("missing")]
        Missing,
        #[error("no JSON")]
        ParseError(#[from] serde_json::Error),
    }

    #[test]
    fn a_report_has_the_name_of_its_root_cause_where_that_is_known() {
        use anyhow::Context as _;
        let named = |report: anyhow::Error| of_report::<anyhow::Error>(report.as_ref());
        let io = || std::io::Error::other("gone");
        assert_eq!(named(Err::<(), _>(io()).context("a").context("b").unwrap_err()), "io::Error");
        assert_eq!(named("x".parse::<u8>().unwrap_err().into()), "ParseIntError");
        assert_eq!(named(anyhow::anyhow!("only words")), "anyhow::Error");
        assert_eq!(named(anyhow::anyhow!("only words").context("more")), "anyhow::Error");
        assert_eq!(named(Loading::Missing.into()), "anyhow::Error", "a variant is no type");
        let wrong = serde_json::from_str::<u8>("x").unwrap_err();
        assert_eq!(named(Loading::from(wrong).into()), "serde_json::Error");
        let eyre = eyre::Report::new(io()).wrap_err("a");
        assert_eq!(of_report::<eyre::Report>(eyre.as_ref()), "io::Error");
    }
}
