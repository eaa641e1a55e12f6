//! `${VAR}`, `${VAR:-default}` and `${VAR:?why}` in texts; `$${` writes `${`.

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// Taken as it is.
    Text(&'a str),
    /// `${…}`, with its whole source text.
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
    if text.starts_with("$${") {
        let (escaped, rest) = text.split_at(3);
        return (Part::Text(escaped.split_at(1).1), rest);
    }
    let Some(inner) = text.strip_prefix("${") else {
        let end = [text.find("$${"), text.find("${")].into_iter().flatten().min().unwrap_or(text.len());
        let (plain, rest) = text.split_at(end);
        return (Part::Text(plain), rest);
    };
    let Some(close) = inner.find('}') else {
        return (Part::Broken { source: text, why: "`${` is not closed" }, "");
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
    for part in parts(text) {
        match part {
            Part::Text(text) => out.text.push_str(text),
            Part::Broken { why, .. } => {
                out.problems.push((why.to_owned(), "write `$${` for a literal `${`".to_owned()));
            }
            Part::Variable { name, default, why, .. } => {
                out.changed = true;
                match (get(name).filter(|value| !value.is_empty()), default, why) {
                    (Some(value), _, _) => out.text.push_str(&value),
                    (None, Some(default), _) => out.text.push_str(default),
                    (None, None, _) if allow_unset => {
                        out.placeholder = true;
                        out.text.push_str(PLACEHOLDER);
                    }
                    (None, None, why) => {
                        let what = why.map(|why| format!(": {why}")).unwrap_or_default();
                        let help = format!("set {name}, or give a default: `${{{name}:-…}}`");
                        out.problems
                            .push((format!("the environment variable {name} is not set{what}"), help));
                    }
                }
            }
        }
    }
    out
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
            ("${EMPTY}", "the environment variable EMPTY is not set"),
            ("${B", "`${` is not closed"),
            ("${}", "`${}` names no variable"),
            ("${1B}", "the name of a variable begins with a letter"),
            ("${B-x}", "after the name only `:-default` or `:?why` may stand"),
        ] {
            assert_eq!(with(text).problems[0].0, says, "{text}");
        }
    }
}
