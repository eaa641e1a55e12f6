//! `${VAR}`, `${VAR:-default}` and `${VAR:?why}` in texts, defaults with variables of their own; `$${` writes `${`.

use std::ops::Range;

/// How deep defaults may stand in defaults.
const MAX_DEPTH: usize = 8;

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// Taken as it is.
    Text(&'a str),
    /// `$${`, which stands for `${`.
    Escaped,
    /// `${…}`, with its whole source text. A default may hold variables.
    Variable { source: &'a str, name: &'a str, default: Option<&'a str>, why: Option<&'a str> },
    /// `${` that cannot be read, and why.
    Broken { source: &'a str, why: &'static str },
}

/// The pieces of a text, in order.
pub(crate) fn parts(mut text: &str) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let (part, rest) = next(text);
        text = rest;
        Some(part)
    })
}

fn next(text: &str) -> (Part<'_>, &str) {
    if let Some(rest) = text.strip_prefix("$${") {
        return (Part::Escaped, rest);
    }
    let Some(inner) = text.strip_prefix("${") else {
        let end = [text.find("$${"), text.find("${")].into_iter().flatten().min().unwrap_or(text.len());
        let (plain, rest) = text.split_at(end);
        return (Part::Text(plain), rest);
    };
    let close = match closing(inner) {
        Ok(close) => close,
        Err(why) => return (Part::Broken { source: text, why }, ""),
    };
    let (source, rest) = text.split_at(close + 3);
    let inner = inner.split_at(close).0;
    let name_end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
    let (name, modifier) = inner.split_at(name_end);
    let (default, why) = (modifier.strip_prefix(":-"), modifier.strip_prefix(":?"));
    let part = match (name.as_bytes().first(), modifier.is_empty() || default.is_some() || why.is_some()) {
        (None, _) => Part::Broken { source, why: "`${}` names no variable" },
        (Some(first), _) if first.is_ascii_digit() => {
            Part::Broken { source, why: "the name of a variable begins with a letter" }
        }
        (_, false) => Part::Broken { source, why: "after the name only `:-default` or `:?why` may stand" },
        _ => Part::Variable { source, name, default, why },
    };
    (part, rest)
}

/// Where the brace is that ends a variable. Braces in its default come in pairs: `${KEY:-ai.{module_name}}`.
fn closing(inner: &str) -> Result<usize, &'static str> {
    let mut open = 0;
    for (at, c) in inner.char_indices() {
        match c {
            '{' if open == MAX_DEPTH => return Err("braces stand in braces too deep"),
            '{' => open += 1,
            '}' if open == 0 => return Ok(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    Err("`${` is not closed")
}

/// What in a text is written by us and not by whoever fills it in, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Syntax {
    /// `${NAME`, `:-` and `}`.
    pub(crate) ours: Vec<Range<usize>>,
    /// What is said where a variable is not set.
    pub(crate) whys: Vec<Range<usize>>,
}

/// Tells apart what a text says itself and what names variables.
pub(crate) fn syntax(text: &str) -> Syntax {
    let mut found = Syntax::default();
    look(text, 0, &mut found);
    found
}

fn look(text: &str, mut at: usize, found: &mut Syntax) {
    for part in parts(text) {
        let length = match part {
            Part::Text(text) => text.len(),
            Part::Escaped => "$${".len(),
            Part::Broken { source, .. } => source.len(),
            Part::Variable { source, name, default, why } => {
                let end = at + source.len() - 1;
                let inner = default.or(why).map_or(end, |inner| end - inner.len());
                found.ours.extend([at..at + 2 + name.len(), at + 2 + name.len()..inner, end..end + 1]);
                if let Some(default) = default {
                    look(default, inner, found);
                }
                found.whys.extend(why.map(|_| inner..end));
                source.len()
            }
        };
        at += length;
    }
}

/// What a text becomes.
#[derive(Debug, Default)]
pub(crate) struct Substituted {
    pub(crate) text: String,
    /// Whether anything in it came from a variable or a default.
    pub(crate) changed: bool,
    /// Whether a variable was unset and a placeholder stands for it.
    pub(crate) placeholder: bool,
    /// Messages with the help for each.
    pub(crate) problems: Vec<(String, String)>,
}

/// What stands for an unset variable when that is allowed.
const PLACEHOLDER: &str = "unset";

/// Replaces the variables of a text. Set but empty counts as unset, as in a shell's `:-` and `:?`.
pub(crate) fn substitute(text: &str, get: &dyn Fn(&str) -> Option<String>, allow_unset: bool) -> Substituted {
    let mut out = Substituted::default();
    fill(text, get, allow_unset, &mut out);
    out
}

fn fill(text: &str, get: &dyn Fn(&str) -> Option<String>, allow_unset: bool, out: &mut Substituted) {
    for part in parts(text) {
        match part {
            Part::Text(text) => out.text.push_str(text),
            Part::Escaped => out.text.push_str("${"),
            Part::Broken { why, .. } => {
                out.problems.push((why.to_owned(), "write `$${` for a literal `${`".to_owned()));
            }
            Part::Variable { name, default, why, .. } => {
                out.changed = true;
                let value = get(name);
                let is_empty = value.as_ref().is_some_and(String::is_empty);
                match (value.filter(|value| !value.is_empty()), default, why) {
                    (Some(value), _, _) => out.text.push_str(&value),
                    (None, Some(default), _) => fill(default, get, allow_unset, out),
                    (None, None, _) if allow_unset => {
                        out.placeholder = true;
                        out.text.push_str(PLACEHOLDER);
                    }
                    (None, None, why) => {
                        let what = why.map(|why| format!(": {why}")).unwrap_or_default();
                        let how = if is_empty { "set, but empty" } else { "not set" };
                        let help = format!("set {name}, or give a default: `${{{name}:-…}}`");
                        out.problems.push((format!("the environment variable {name} is {how}{what}"), help));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Substituted {
        let get = |name: &str| match name {
            "A" => Some("one ${B}".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        substitute(text, &get, false)
    }

    #[test]
    fn variables_and_defaults_are_replaced_once() {
        for (text, becomes) in [
            ("plain $ {x} $", "plain $ {x} $"),
            ("${A}", "one ${B}"),
            ("<${A}>", "<one ${B}>"),
            ("${B:-two}", "two"),
            ("${EMPTY:-two}", "two"),
            ("${B:-}", ""),
            ("$${A} ${A}", "${A} one ${B}"),
            ("${B:-${A}/x}", "one ${B}/x"),
            ("${B:-${C:-${D:-deep}}}-${A}", "deep-one ${B}"),
            ("${A:-${B}/x}", "one ${B}"),
            ("${B:-ai.{module_name}}.x", "ai.{module_name}.x"),
            ("${A:-ai.{module_name}}", "one ${B}"),
            ("${B:-$${A}}", "${A}"),
        ] {
            let out = with(text);
            assert_eq!((out.text.as_str(), out.problems.len()), (becomes, 0), "{text}");
        }
    }

    #[test]
    fn unset_and_broken_variables_are_problems() {
        for (text, says) in [
            ("${B}", "the environment variable B is not set"),
            ("${B:?the broker}", "the environment variable B is not set: the broker"),
            ("${EMPTY}", "the environment variable EMPTY is set, but empty"),
            ("${EMPTY:?the broker}", "the environment variable EMPTY is set, but empty: the broker"),
            ("${B:-${C}/x}", "the environment variable C is not set"),
            ("${B:-${C/x}", "`${` is not closed"),
            ("${B:-${}}", "`${}` names no variable"),
            ("${B:-{{{{{{{{{}}}}}}}}}}", "braces stand in braces too deep"),
            ("${B", "`${` is not closed"),
            ("${}", "`${}` names no variable"),
            ("${1B}", "the name of a variable begins with a letter"),
            ("${B-x}", "after the name only `:-default` or `:?why` may stand"),
        ] {
            assert_eq!(with(text).problems[0].0, says, "{text}");
        }
    }

    #[test]
    fn syntax_is_told_apart_from_what_a_text_says_itself() {
        let text = "a${B:-c${D}e}${F:?why}$${G}";
        let syntax = syntax(text);
        let shown =
            |ranges: &[Range<usize>]| ranges.iter().map(|range| &text[range.clone()]).collect::<String>();
        assert_eq!(shown(&syntax.ours), "${B:-}${D}${F:?}");
        assert_eq!(shown(&syntax.whys), "why");
    }
}
