//! Keeps secrets out of every text that people read: which keys name a secret, and which messages quote one.

use super::error::nearest;
use super::key_path::KeyPath;
use super::mask::{What, mask, pad, squeeze};

/// Keys in front of a secret.
const SECRET: [&str; 16] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "pass",
    "token",
    "secret",
    "key",
    "apikey",
    "credentials",
    "credential",
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "signature",
];
/// Keys in front of an address, which may hold one.
const ADDRESS: [&str; 6] = ["url", "urls", "uri", "uris", "dsn", "webhook"];
/// `…_key` is a secret, but for these, which name a place.
const NAMING_KEYS: [&str; 5] = ["stream_key", "routing_key", "partition_key", "ordering_key", "group_key"];
/// The place of what no problem is about.
const NOWHERE: &str = "\0";
/// A message that shares this many characters with a secret is not shown.
const TELLING: usize = 4;

/// The last word of a key, in small letters: `password` of `DB_PASSWORD`, `db-password` and `dbPassword`.
fn last_word(key: &str) -> String {
    let part = key.rsplit(['_', '-', '.']).next().unwrap_or_default();
    let camel = part.char_indices().rev().find(|(at, c)| {
        c.is_ascii_uppercase()
            && part.get(..*at).is_some_and(|before| before.ends_with(|c: char| c.is_ascii_lowercase()))
    });
    camel.map_or(part, |(at, _)| part.split_at(at).1).to_ascii_lowercase()
}

/// Whether the value of `key` may be a secret.
pub(crate) fn is_secret_key(key: &str) -> bool {
    let last = last_word(key);
    !NAMING_KEYS.contains(&key.to_ascii_lowercase().as_str())
        && (SECRET.contains(&last.as_str()) || is_address_key(key))
}

/// Whether the value of `key` is an address.
pub(crate) fn is_address_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ADDRESS.iter().any(|word| key.ends_with(word))
}

/// Whether a key that nobody knows was probably meant to stand in front of a secret; `meant` is what is there instead.
pub(crate) fn may_be_secret_key(key: &str, meant: Option<&str>) -> bool {
    let words = SECRET.into_iter().filter(|word| word.len() > 4);
    match meant {
        Some(meant) => is_secret_key(meant),
        None => nearest(&key.to_ascii_lowercase(), words).is_some(),
    }
}

/// What stands behind a key.
pub(crate) fn behind(key: &str) -> What {
    match (is_address_key(key), is_secret_key(key)) {
        (true, _) => What::Address,
        (_, true) => What::Secret,
        _ => What::Text,
    }
}

/// A value as it may be shown: the text of the file, with everything secret in it as `***`.
pub(crate) fn mask_value(text: &str, what: What) -> String {
    squeeze(&mask(text, what))
}

/// An argument of the command line, or a name that a person gave, as it may be shown.
pub(crate) fn mask_argument(text: &str) -> String {
    let what = if text.contains("://") || !text.contains(':') { What::Text } else { What::Address };
    match text.contains("://") || text.contains('@') {
        true => mask_value(text, what),
        false => text.to_owned(),
    }
}

/// The secret texts of a configuration, to keep them out of messages that others wrote.
#[derive(Default, Clone)]
pub(crate) struct Secrets(Vec<Secret>);

#[derive(Clone)]
struct Secret {
    path: KeyPath,
    /// The path as problems tell it.
    place: String,
    text: String,
    shown: String,
    /// The text with other letters and digits where `shown` hides some.
    stranger: String,
    /// The characters that `shown` hides, in runs.
    hidden: Vec<Vec<char>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Remembers what a value at `path` hides.
    pub(crate) fn add(&mut self, path: &KeyPath, text: &str, what: What) {
        self.add_at(path, path.to_string(), text, what);
    }

    /// Remembers what the last key of a path hides: an address that came to a wrong place.
    pub(crate) fn add_key(&mut self, path: &KeyPath) {
        self.add_at(path, NOWHERE.to_owned(), path.last_key().unwrap_or_default(), What::Text);
    }

    fn add_at(&mut self, path: &KeyPath, place: String, text: &str, what: What) {
        let masked = mask(text, what);
        let pairs: Vec<(char, char)> = masked.chars().zip(text.chars()).collect();
        let runs = pairs.split(|(shown, _)| *shown != '\0').filter(|run| !run.is_empty());
        let hidden: Vec<Vec<char>> = runs.map(|run| run.iter().map(|(_, c)| *c).collect()).collect();
        if !hidden.is_empty() {
            let stranger =
                pairs.iter().map(|(shown, c)| if *shown == '\0' { other(*c) } else { *c }).collect();
            let (path, text, shown) = (path.clone(), text.to_owned(), squeeze(&masked));
            self.0.push(Secret { path, place, text, shown, stranger, hidden });
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn at<'a>(&'a self, scope: &'a KeyPath) -> impl Iterator<Item = &'a Secret> {
        self.0.iter().filter(move |secret| secret.path.starts_with(scope) || scope.starts_with(&secret.path))
    }

    /// What can be said of the part at `scope`: a message with every secret that it quotes as it may be shown. `None`
    /// if it shows too much of one all the same.
    pub(crate) fn told(&self, message: &str, scope: &KeyPath) -> Option<String> {
        let long = self.at(scope).filter(|secret| secret.text.len() >= TELLING);
        let message =
            long.fold(message.to_owned(), |message, secret| message.replace(&secret.text, &secret.shown));
        (!self.tells(&message, scope)).then_some(message)
    }

    /// Whether a text shows so much of a secret at `scope` that it must not be shown.
    fn tells(&self, message: &str, scope: &KeyPath) -> bool {
        let word = |run: &[char]| {
            message.split(|c: char| !c.is_alphanumeric()).any(|word| word.chars().eq(run.iter().copied()))
        };
        self.at(scope).flat_map(|secret| &secret.hidden).any(|run| match run.len() < TELLING {
            true => word(run),
            false => run.windows(TELLING).any(|piece| message.contains(&piece.iter().collect::<String>())),
        })
    }

    /// What can be said of the part at `scope` because it would be said of any other secrets as well: `again` says what
    /// the message were if others stood there. Its own words may then look like a secret, which no comparison of texts
    /// can tell: `redis` in `must begin with redis://` is no part of `redis//:…`.
    pub(crate) fn same_for_others(
        &self,
        message: &str,
        scope: &KeyPath,
        again: impl FnOnce(&[(KeyPath, String)]) -> Option<String>,
    ) -> Option<String> {
        let secrets: Vec<&Secret> = self.at(scope).collect();
        if secrets.iter().any(|secret| secret.text == secret.stranger || !secret.path.starts_with(scope)) {
            return None;
        }
        let others: Vec<_> =
            secrets.iter().map(|secret| (secret.path.clone(), secret.stranger.clone())).collect();
        let other = again(&others)?;
        if other == message {
            return Some(other);
        }
        let (mut own, mut others) = (message.to_owned(), other);
        for secret in secrets {
            own = own.replace(&secret.text, &secret.shown);
            others = others.replace(&secret.stranger, &secret.shown);
        }
        (own == others).then_some(own)
    }

    /// A text that may quote a secret from anywhere, with each that it quotes whole as it may be shown. What is said of the
    /// part at `place` itself has been looked at when it was said.
    pub(crate) fn hide(&self, text: &str, place: &str) -> String {
        let mut shown = text.to_owned();
        let quoted = |secret: &&Secret| secret.text.len() >= TELLING && text.contains(&secret.text);
        for secret in
            self.0.iter().filter(quoted).filter(|secret| place.is_empty() || !secret.place.starts_with(place))
        {
            shown = replace_word(&shown, &secret.text, &secret.shown);
        }
        shown
    }

    /// A masked line in which no secret shows whole, of the same width.
    pub(crate) fn hide_in_line(&self, line: &str) -> String {
        let mut shown = line.to_owned();
        for secret in
            self.0.iter().filter(|secret| secret.text.len() >= TELLING && line.contains(&secret.text))
        {
            let hidden: String = secret
                .text
                .chars()
                .zip(secret.stranger.chars())
                .map(|(c, other)| if c == other { c } else { '\0' })
                .collect();
            shown = replace_word(&shown, &secret.text, &pad(&hidden));
        }
        shown
    }
}

/// Replaces a text where it stands by itself, and is not the middle of another word.
fn replace_word(text: &str, word: &str, by: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(word) {
        let grows = |c: Option<char>, end: Option<char>| {
            c.is_some_and(char::is_alphanumeric) && end.is_some_and(char::is_alphanumeric)
        };
        let is_part = grows(
            before.chars().next_back().or(shown.chars().next_back().filter(|_| before.is_empty())),
            word.chars().next(),
        ) || grows(after.chars().next(), word.chars().next_back());
        shown.push_str(before);
        shown.push_str(if is_part { word } else { by });
        rest = after;
    }
    shown + rest
}

/// Another character of the same sort, so that a text of them is read in the same way.
fn other(c: char) -> char {
    match c {
        '7' => '8',
        'x' => 'y',
        'X' => 'Y',
        c if c.is_ascii_digit() => '7',
        c if c.is_lowercase() => 'x',
        c if c.is_uppercase() => 'X',
        c if c.is_alphanumeric() => 'x',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_quotes_a_piece_of_a_secret_is_noticed() {
        let (here, there) = (KeyPath::of(["a", "url"]), KeyPath::of(["b"]));
        let mut secrets = Secrets::default();
        secrets.add(&here, "redis://:hunter2@host/0", What::Address);
        let told = |text| secrets.told(text, &here);
        assert_eq!(told("`redis://:hunter2@host/0` is bad").as_deref(), Some("`redis://:***@host/0` is bad"));
        assert_eq!(told("bad password unter2"), None);
        assert!(told("redis://host/0 is no address").is_some());
        assert!(secrets.told("bad password unter2", &there).is_some(), "it is of another part");
        assert_eq!(secrets.hide("x redis://:hunter2@host/0", "b"), "x redis://:***@host/0");
        secrets.add(&there, "no", What::Secret);
        assert_eq!(secrets.told("expected a number, found `no`", &there), None);
        assert!(secrets.told("nothing", &there).is_some());
    }

    #[test]
    fn what_is_said_of_any_secret_can_be_said_of_this_one() {
        let path = KeyPath::of(["url"]);
        let mut secrets = Secrets::default();
        secrets.add(&path, "redis//:pw", What::Secret);
        let same = |says: &dyn Fn(&str) -> String| {
            secrets.same_for_others(&says("redis//:pw"), &path, |others| Some(says(&others[0].1)))
        };
        assert_eq!(
            same(&|_| "must begin with redis://".to_owned()).as_deref(),
            Some("must begin with redis://")
        );
        assert_eq!(same(&|url| format!("`{url}` is bad")).as_deref(), Some("`***` is bad"));
        assert_eq!(same(&|url| format!("bad password {}", &url[8..])), None);
    }
}
