//! Source lines as they may be shown. They keep their width, so that carets stay right.

use std::collections::BTreeSet;

use super::mask::{What, mask, pad};
use super::schema;
use super::secrets::{behind, is_secret_key};

/// A source line as it may be shown; of the same width, so that carets stay right.
pub(crate) fn mask_line(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, key, value)) = next_secret(rest) {
        let end = value_end(value, in_flow(line, rest, before));
        let (value, after) = value.split_at(end);
        shown.push_str(&pad(&mask(before, What::Text)));
        shown.push_str(&pad(&mask(value, behind(key))));
        rest = after;
    }
    shown + &pad(&mask(rest, What::Text))
}

/// Line `number` of a text as it may be shown, also where it goes on with a secret that begins further up.
pub(crate) fn mask_line_of(text: &str, number: usize) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let Some(line) = number.checked_sub(1).and_then(|number| text.lines().nth(number)) else {
        return String::new();
    };
    let begin = line.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    let mut depth = indent(line) + usize::from(line.trim_start().starts_with("- "));
    let above = text.get(..begin).unwrap_or_default().lines().rev();
    for above in
        above.take_while(|_| line.starts_with([' ', '\t', '-'])).filter(|line| !line.trim().is_empty())
    {
        if indent(above) >= depth {
            continue;
        }
        depth = indent(above);
        let key = above.trim_start().trim_start_matches("- ").split(':').next().unwrap_or_default();
        let key = key.trim_matches(['"', '\'', ' ']);
        if is_secret_key(key) {
            return pad(&mask(line, behind(key)));
        }
        if depth == 0 {
            break;
        }
    }
    mask_line(line)
}

/// A line of a file that could not be read, whose types nobody knows: letters and digits stay only in keys, and behind
/// those of a topology itself.
pub(crate) fn mask_unread_line(line: &str) -> String {
    let known = words();
    let chars: Vec<char> = line.chars().collect();
    let mut masked = String::with_capacity(line.len());
    // Nothing goes on at the begin of a line.
    let begins = !line.starts_with([' ', '\t']);
    let (mut key_is_next, mut is_known, mut in_flow, mut quote) = (true, begins, false, None);
    let ours: Vec<char> = mask(line, What::Secret).chars().collect();
    let mut at = 0;
    while let Some(c) = chars.get(at).copied() {
        let rest = chars.get(at..).unwrap_or_default();
        let is_mark = c.is_whitespace() || (c == '-' && rest.get(1) == Some(&' '));
        if key_is_next && !is_mark {
            key_is_next = false;
            if let Some(key) = key(rest) {
                let word = key.trim_matches(['"', '\'']);
                // a line is masked already behind a key that says that a secret follows
                is_known = known.contains(word) || is_secret_key(word);
                at += key.chars().count();
                masked.push_str(&key);
                continue;
            }
        }
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => (key_is_next, in_flow) = (true, true),
            (None, ',') => key_is_next = in_flow,
            (None, '}' | '#') => is_known = false,
            _ => {}
        }
        let is_hidden = c.is_alphanumeric() && !is_known && ours.get(at) == Some(&'\0');
        masked.push(if is_hidden { '\0' } else { c });
        at += 1;
    }
    pad(&masked)
}

/// The key, with its quotes, that a text begins with.
fn key(text: &[char]) -> Option<String> {
    let quote = text.first().filter(|c| matches!(c, '"' | '\''));
    let begin = usize::from(quote.is_some());
    let word =
        text.get(begin..)?.iter().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.')).count();
    let end = match quote {
        Some(quote) => (text.get(begin + word) == Some(quote)).then_some(begin + word + 1)?,
        None => word,
    };
    let is_key = word > 0
        && text.get(end) == Some(&':')
        && (quote.is_some() || text.get(end + 1).is_none_or(|c| c.is_whitespace()));
    is_key.then(|| text.iter().take(end).collect())
}

/// The first secret key of a line: what stands before its value, the key, the value and all that follows.
fn next_secret(line: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(colon) = line.get(from..)?.find(':').map(|at| at + from) {
        let (before, after) = (line.get(..colon)?, line.get(colon + 1..)?);
        let quoted = before.ends_with(['"', '\'']);
        let key = before.trim_end_matches(['"', '\'', ' ']);
        let key =
            key.rsplit(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').next().unwrap_or_default();
        let blanks = after.len() - after.trim_start().len();
        let is_key = blanks > 0 || quoted;
        if is_secret_key(key) && is_key && !after.trim().is_empty() {
            return Some((line.get(..colon + 1 + blanks)?, key, after.get(blanks..)?));
        }
        from = colon + 1;
    }
    None
}

fn in_flow(line: &str, rest: &str, before: &str) -> bool {
    let until = line.len() - rest.len() + before.len();
    line.get(..until).is_some_and(|before| before.contains(['{', '[']))
}

/// Where the value ends that begins here; at the end of the line, when in doubt.
fn value_end(value: &str, in_flow: bool) -> usize {
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            value.get(1..).and_then(|rest| rest.find(quote)).map_or(value.len(), |at| at + 2)
        }
        Some('{' | '[') => value.len(),
        // `${VAR}` ends with a brace of its own
        _ if in_flow && !value.contains("${") => value.find([',', '}', ']']).unwrap_or(value.len()),
        _ => value.find(" #").unwrap_or(value.len()),
    }
}

/// The keys of a topology and of every sink, at any depth, but for those whose values people name as they like.
fn words() -> BTreeSet<String> {
    fn collect(value: &serde_json::Value, words: &mut BTreeSet<String>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            words.insert(key.clone());
            collect(value, words);
        }
    }
    let mut words = BTreeSet::from(["fallback".to_owned()]);
    let top = serde_json::to_value(schema::Settings::default());
    let sink = serde_json::to_value(schema::SinkSettings::default());
    top.iter().chain(&sink).for_each(|settings| collect(settings, &mut words));
    words.remove("token");
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_masked_and_keep_their_width() {
        for (line, shown) in [
            ("url: redis://:hunter2@host/0", "url: redis://:***    @host/0"),
            ("url: localhost", "url: localhost"),
            ("url: hunter2", "url: ***"),
            ("url: user:hunter2@localhost", "url: *** :***    @localhost"),
            ("seeds: amqp://user:hunter2@a,amqp://b", "seeds: amqp://*** :***    @a,amqp://b"),
            ("url: ${URL:?the broker}", "url: ${URL:?the broker}"),
            ("url: ${URL:-redis://:hunter2@h}", "url: ${URL:-redis://:***    @h}"),
            ("url: redis://${USER}:${PW}@h", "url: redis://${USER}:${PW}@h"),
            ("url: redis://h?password=hunter2", "url: redis://h?***"),
            ("password: hunter2 # why", "password: ***     # why"),
            ("password: \"hunter2\"", "password: \"***    \""),
            ("password: ${PW}", "password: ${PW}"),
            ("password: ${PW:-hunter2}", "password: ${PW:-***    }"),
            ("{ password: hunter2, max: lots }", "{ password: ***    , max: lots }"),
            ("{\"password\":\"hunter2\", max: lots }", "{\"password\":\"***    \", max: lots }"),
            ("stream_key: events", "stream_key: events"),
            ("api_key: hunter2", "api_key: ***"),
            ("api-key: hunter2", "api-key: ***"),
            ("apiKey: hunter2", "apiKey: ***"),
            ("hook: https://h/services/hunter2", "hook: https://h/***"),
            (
                "seeds: [amqp://u:hunter2@a, amqp://u:hunter2@b]",
                "seeds: [amqp://*:***    @a, amqp://*:***    @b]",
            ),
            ("password: \"hunter2", "password: \"***"),
        ] {
            assert_eq!(mask_line(line).trim_end(), shown, "{line}");
            assert_eq!(mask_line(line).chars().count(), line.chars().count(), "{line}");
        }
    }

    #[test]
    fn of_a_file_that_cannot_be_read_only_keys_and_our_own_values_show() {
        for (line, shown) in [
            ("    pin: hunter2", "    pin: ***"),
            ("    pin: \"hunter2: x", "    pin: \"***    : *"),
            ("    hunter2", "    ***"),
            ("  - pin: hunter2", "  - pin: ***"),
            (
                "  a: { type: hook, pin: hunter2, \"x\":\"hunter2\" } # hunter2",
                "  a: { type: hook, pin: ***    , \"x\":\"***    \" } # ***",
            ),
            ("service: \"x", "service: \"x"),
            ("\talert_after: 5s", "\talert_after: 5s"),
        ] {
            assert_eq!(mask_unread_line(line).trim_end(), shown, "{line}");
        }
    }

    #[test]
    fn a_line_that_goes_on_with_a_secret_is_masked() {
        for (text, number, shown) in [
            ("a:\n  password:\n    \"hunter2\n  b: c", 3, "    \"***"),
            ("a:\n  password: |\n    hunter2\n    hunter3\n  b: c", 4, "    ***"),
            ("a:\n  tokens_of:\n  password:\n  - hunter2", 4, "  *"),
            ("a:\n  urls:\n  - redis://:hunter2@h", 3, "  - redis://:***    @h"),
            ("a:\n  password: x\n  b: hunter", 3, "  b: hunter"),
        ] {
            let masked = mask_line_of(text, number);
            assert!(masked.starts_with(shown) && !masked.contains("hunter2"), "{masked}");
        }
    }
}
