//! Keeps secrets out of everything people read: masks source lines, and messages of code that is not ours.

use super::variables::{Part, parts};

/// Keys in front of a secret, or of an address that may hold one.
const SECRET: [&str; 13] = [
    "url",
    "urls",
    "uri",
    "dsn",
    "password",
    "passwd",
    "passphrase",
    "token",
    "secret",
    "key",
    "credentials",
    "auth",
    "authorization",
];
/// `…_key` is a secret, but for these, which name a place.
const NAMING_KEYS: [&str; 5] = ["stream_key", "routing_key", "partition_key", "ordering_key", "group_key"];
/// A message that shares this many characters with a secret is not shown.
const TELLING: usize = 4;

/// Whether the value of `key` may be a secret.
pub(crate) fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let last = key.rsplit('_').next().unwrap_or_default();
    !NAMING_KEYS.contains(&key.as_str()) && SECRET.contains(&last)
}

/// Whether the value of `key` is an address.
pub(crate) fn is_address_key(key: &str) -> bool {
    ["url", "urls", "uri", "dsn"].iter().any(|word| key.to_ascii_lowercase().ends_with(word))
}

/// A value as it may be shown: the text of the file, with everything secret in it as `***`.
pub(crate) fn mask_value(key: &str, text: &str) -> String {
    squeeze(&mask(key, text))
}

/// A source line as it may be shown; of the same width, so that carets stay right.
pub(crate) fn mask_line(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, key, value)) = next_secret(rest) {
        let end = value_end(value, in_flow(line, rest, before));
        let (value, after) = value.split_at(end);
        shown.push_str(&mask_address(before, false));
        shown.push_str(&pad(&mask(key, value)));
        rest = after;
    }
    shown + &pad(&mask_address(rest, false))
}

/// Masked characters become `\0`, so that the width stays known until the end.
fn mask(key: &str, text: &str) -> String {
    if is_address_key(key) || !is_secret_key(key) {
        return mask_address(text, is_address_key(key));
    }
    parts(text).map(|part| mask_part(&part)).collect()
}

fn mask_part(part: &Part<'_>) -> String {
    match part {
        Part::Text(text) => hidden_word(text),
        Part::Variable { source, default: Some(default), .. } => match source.rfind(default) {
            Some(at) => {
                let (before, after) = source.split_at(at);
                format!("{before}{}{}", hidden(default), after.get(default.len()..).unwrap_or_default())
            }
            None => hidden(source),
        },
        Part::Variable { source, .. } => (*source).to_owned(),
        Part::Broken { source, .. } => hidden(source),
    }
}

/// Hides a text but for the quotes around it and the blanks at its ends.
fn hidden_word(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '"' | '\'' | ' ') { c } else { '\0' }).collect()
}

fn hidden(text: &str) -> String {
    text.chars().map(|_| '\0').collect()
}

/// Hides user, password and query of every address in the text; an address without `://` only where one is `due`.
fn mask_address(text: &str, due: bool) -> String {
    let begin = match text.find("://") {
        Some(at) => at + 3,
        None if due => 0,
        None => return text.to_owned(),
    };
    let (scheme, rest) = text.split_at(begin);
    let end = rest.find([' ', '"', '\'']).filter(|_| begin > 0).unwrap_or(rest.len());
    let (address, after) = rest.split_at(end);
    let (user, host) = address.rfind('@').map_or(("", address), |at| address.split_at(at));
    let user: String = parts(user)
        .map(|part| match part {
            Part::Text(text) => {
                text.chars().map(|c| if matches!(c, ':' | '"' | '\'') { c } else { '\0' }).collect()
            }
            part => mask_part(&part),
        })
        .collect();
    let host = match host.find('?').filter(|_| !host.contains("${")) {
        Some(at) => {
            let (host, query) = host.split_at(at + 1);
            format!("{host}{}", hidden(query))
        }
        None => host.to_owned(),
    };
    format!("{scheme}{user}{host}{}", mask_address(after, false))
}

/// `***`, then blanks for the rest of what was masked.
fn pad(masked: &str) -> String {
    let mut run = 0;
    masked
        .chars()
        .map(|c| {
            run = if c == '\0' { run + 1 } else { 0 };
            match run {
                0 => c,
                1..=3 => '*',
                _ => ' ',
            }
        })
        .collect()
}

fn squeeze(masked: &str) -> String {
    let mut shown = String::new();
    for c in masked.chars() {
        match c {
            '\0' if shown.ends_with("***") => {}
            '\0' => shown.push_str("***"),
            c => shown.push(c),
        }
    }
    shown
}

/// The first secret key of a line: what stands before its value, the key, the value and all that follows.
fn next_secret(line: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(colon) = line.get(from..)?.find(':').map(|at| at + from) {
        let (before, after) = (line.get(..colon)?, line.get(colon + 1..)?);
        let key = before.trim_end_matches(['"', '\'', ' ']);
        let key = key.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        let blanks = after.len() - after.trim_start().len();
        if is_secret_key(key) && blanks > 0 && !after.trim().is_empty() {
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

/// The secret texts of a configuration, to keep them out of messages that others wrote.
#[derive(Default, Clone)]
pub(crate) struct Secrets(Vec<Secret>);

#[derive(Clone)]
struct Secret {
    text: String,
    shown: String,
    /// The characters that `shown` hides, in runs.
    hidden: Vec<Vec<char>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Remembers the value of `key`. Of an address only what [`mask_value`] hides is secret, unless it came `whole`
    /// from a variable and is none.
    pub(crate) fn add(&mut self, key: &str, text: &str, whole: bool) {
        let address = text.contains("://") || (is_address_key(key) && !whole);
        let masked = if address { mask_address(text, is_address_key(key)) } else { hidden(text) };
        let pairs: Vec<(char, char)> = masked.chars().zip(text.chars()).collect();
        let runs = pairs.split(|(shown, _)| *shown != '\0').filter(|run| !run.is_empty());
        let hidden: Vec<Vec<char>> = runs.map(|run| run.iter().map(|(_, c)| *c).collect()).collect();
        if !hidden.is_empty() {
            self.0.push(Secret { text: text.to_owned(), shown: squeeze(&masked), hidden });
        }
    }

    /// A message with every secret value that it quotes as it may be shown.
    pub(crate) fn mask(&self, message: &str) -> String {
        let long = self.0.iter().filter(|secret| secret.text.len() >= TELLING);
        long.fold(message.to_owned(), |message, secret| message.replace(&secret.text, &secret.shown))
    }

    /// Whether a text shows so much of a secret that it must not be shown.
    pub(crate) fn tells(&self, message: &str) -> bool {
        let word = |run: &[char]| {
            message.split(|c: char| !c.is_alphanumeric()).any(|word| word.chars().eq(run.iter().copied()))
        };
        self.0.iter().flat_map(|secret| &secret.hidden).any(|run| match run.len() < TELLING {
            true => word(run),
            false => run.windows(TELLING).any(|piece| message.contains(&piece.iter().collect::<String>())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_masked_and_keep_their_width() {
        for (line, shown) in [
            ("url: redis://:hunter2@host/0", "url: redis://:***    @host/0"),
            ("url: localhost", "url: localhost"),
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
            ("stream_key: events", "stream_key: events"),
            ("api_key: hunter2", "api_key: ***"),
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
    fn a_message_that_quotes_a_piece_of_a_secret_is_noticed() {
        let mut secrets = Secrets::default();
        secrets.add("url", "redis://:hunter2@host/0", true);
        assert_eq!(secrets.mask("`redis://:hunter2@host/0` is bad"), "`redis://:***@host/0` is bad");
        assert!(secrets.tells("bad password unter2"));
        assert!(!secrets.tells("redis://host/0 is no address"));
        secrets.add("max_len", "no", true);
        assert!(secrets.tells("expected a number, found `no`") && !secrets.tells("nothing"));
    }
}
