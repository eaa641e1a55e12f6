//! Which characters of a text may be secret: of addresses user, password, query and path, of a secret all of it.

use std::net::IpAddr;

use super::variables::syntax;

/// In these the path is a vhost or a database.
const BROKERS: [&str; 6] = ["amqp", "amqps", "redis", "rediss", "file", "unix"];
/// Words that stand for a password in an example.
const EXAMPLES: [&str; 9] =
    ["password", "passwd", "pass", "pw", "pwd", "secret", "token", "your_password", "your-password"];

/// What a text is, as far as masking it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A secret.
    Secret,
    /// An address, or several. Without `://` it may be a password that came to the wrong place.
    Address,
    /// Anything, which may hold addresses.
    Text,
    /// A message for people, which may hold addresses, and examples of such.
    Message,
}

/// A text with `\0` for each character that may be secret, so that its width stays known. What names variables stays.
pub(crate) fn mask(text: &str, what: What) -> String {
    let syntax = if what == What::Message { <_>::default() } else { syntax(text) };
    let (mut ours, mut whys) = (vec![false; text.len()], vec![false; text.len()]);
    for (flags, ranges) in [(&mut ours, &syntax.ours), (&mut whys, &syntax.whys)] {
        let flags = |range: &std::ops::Range<usize>| {
            flags.get_mut(range.clone()).into_iter().for_each(|flags| flags.fill(true))
        };
        ranges.iter().for_each(flags);
    }
    let at = |flags: &[bool], at: usize| flags.get(at).is_some_and(|flag| *flag);
    let why: Vec<bool> = text.char_indices().map(|(n, _)| at(&whys, n)).collect();
    // a sign in what is ours parts no address
    let view = text.char_indices().map(|(n, c)| if at(&whys, n) || at(&ours, n) { OURS } else { c });
    let view: Vec<char> = view.collect();
    let mut hidden = vec![false; view.len()];
    match what {
        What::Secret => {
            for (c, hidden) in view.iter().zip(&mut hidden) {
                *hidden = !matches!(c, '"' | '\'' | ' ');
            }
        }
        _ => addresses(&view, what, &mut hidden),
    }
    // what is said to people where a variable is not set
    for range in &syntax.whys {
        let begin = text.get(..range.start).unwrap_or_default().chars().count();
        let said: Vec<char> = text.get(range.clone()).unwrap_or_default().chars().collect();
        let mut flags = vec![false; said.len()];
        addresses(&said, What::Message, &mut flags);
        hidden.iter_mut().skip(begin).zip(flags).for_each(|(hidden, flag)| *hidden = flag);
    }
    let shown = text.chars().zip(view).zip(why).zip(hidden);
    shown.map(|(((c, view), why), hidden)| if hidden && (why || view != OURS) { '\0' } else { c }).collect()
}

/// Stands for a character that is part of no value.
const OURS: char = '\u{1}';

fn addresses(view: &[char], what: What, hidden: &mut [bool]) {
    let mut begins = begins(view).into_iter().peekable();
    if begins.peek().is_none() {
        match what {
            What::Address => bare(view, hidden),
            What::Message => words(view, hidden),
            _ => {}
        }
        return;
    }
    while let Some((scheme, begin)) = begins.next() {
        let end = begins.peek().map_or(view.len(), |(next, _)| *next);
        let piece = view.get(begin..end).unwrap_or_default();
        let piece = match what {
            What::Address => piece,
            _ => piece.get(..length(piece, what)).unwrap_or_default(),
        };
        // what parts it from the next, or ends a sentence
        let parts = |c: &char| {
            c.is_whitespace() || matches!(c, ',' | ';' | '.' | ':' | '"' | '\'' | '`' | ')' | ']' | '}')
        };
        let length = piece.iter().rposition(|c| !parts(c)).map_or(0, |last| last + 1);
        let scheme: String = view.get(scheme..begin - 3).unwrap_or_default().iter().collect();
        if let (Some(piece), Some(hidden)) = (piece.get(..length), hidden.get_mut(begin..begin + length)) {
            address(&scheme, piece, what, hidden);
        }
    }
}

/// Where addresses begin: their scheme, and what is behind its `://`. Inside of an address another one begins only
/// behind something that parts them.
fn begins(view: &[char]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (at, _) in view.windows(3).enumerate().filter(|(_, sign)| *sign == [':', '/', '/']) {
        let before = view.get(..at).unwrap_or_default();
        let scheme = before.iter().rposition(|c| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '-' | '.'));
        let scheme = scheme.map_or(0, |last| last + 1);
        let parted = scheme.checked_sub(1).and_then(|at| view.get(at)).is_none_or(|c| {
            c.is_whitespace()
                || matches!(c, ',' | ';' | '[' | '{' | '(' | '<' | '"' | '\'' | '`' | '|' | '=' | &OURS)
        });
        if found.is_empty() || parted {
            found.push((scheme, at + 3));
        }
    }
    found
}

/// How long an address is that stands among other words.
fn length(piece: &[char], what: What) -> usize {
    let ends =
        |c: &char| c.is_whitespace() || matches!(c, '"' | '\'') || (what == What::Message && *c == '`');
    let at = piece.iter().rposition(|c| *c == '@');
    match piece.iter().position(ends) {
        None => piece.len(),
        // a blank in a password, which should have been encoded
        Some(end)
            if what == What::Text
                && at.is_some_and(|at| at > end)
                && !is_host(piece.get(..end).unwrap_or_default()) =>
        {
            let at = at.unwrap_or_default();
            let rest = piece.get(at..).unwrap_or_default();
            at + rest.iter().position(ends).unwrap_or(rest.len())
        }
        Some(end) => end,
    }
}

/// Whether this can be a host with its port, or a path behind it, and so no user with a password.
fn is_host(piece: &[char]) -> bool {
    let end = piece.iter().position(|c| matches!(c, '/' | '?' | '#')).unwrap_or(piece.len());
    let place = piece.get(..end).unwrap_or_default();
    let behind = place.iter().rposition(|c| *c == ']').map_or(0, |at| at + 1);
    let mut parts = place.get(behind..).unwrap_or_default().split(|c| *c == ':').skip(1);
    parts.next().is_none_or(|port| port.iter().all(|c| c.is_ascii_digit() || *c == OURS))
        && parts.next().is_none()
}

/// Hides what of one address, behind its `://`, may be secret.
fn address(scheme: &str, piece: &[char], what: What, hidden: &mut [bool]) {
    let hide = |hidden: &mut [bool], from: usize, to: usize, but: &[char]| {
        for (c, hidden) in piece.iter().zip(hidden.iter_mut()).take(to).skip(from) {
            *hidden = !but.contains(c);
        }
    };
    let host = piece.iter().rposition(|c| *c == '@').unwrap_or(0);
    if what != What::Message || !is_example(piece.get(..host).unwrap_or_default()) {
        hide(hidden, 0, host, &[':', '"', '\'']);
    }
    let rest = piece.get(host..).unwrap_or_default();
    let behind = |signs: &[char]| rest.iter().position(|c| signs.contains(c)).map(|at| host + at + 1);
    let end = behind(&['/', '?', '#']).map_or(piece.len(), |at| at - 1);
    if host == 0 && !is_host(rest) {
        // a user without a host: what looks like its port is a password
        let port = rest.iter().position(|c| *c == ':').map_or(0, |at| at + 1);
        if what != What::Message || !is_example(rest.get(..end).unwrap_or_default()) {
            hide(hidden, port, end, &['"', '\'']);
        }
    }
    let path = behind(&['/']).filter(|_| !BROKERS.contains(&scheme) && what != What::Message);
    for secret in path.into_iter().chain(behind(&['?'])) {
        hide(hidden, secret, piece.len(), &[]);
    }
}

/// `user:password`, `<password>`: what stands in an example.
fn is_example(user: &[char]) -> bool {
    let password = user.split(|c| *c == ':').next_back().unwrap_or_default();
    let password: String = password.iter().collect();
    let in_brackets = [("<", ">"), ("{", "}"), ("[", "]"), ("$", "")];
    password.is_empty()
        || EXAMPLES.contains(&password.to_ascii_lowercase().as_str())
        || password.chars().all(|c| matches!(c, '*' | '.' | '…' | OURS))
        || in_brackets.iter().any(|(begin, end)| password.starts_with(begin) && password.ends_with(end))
}

/// Hides what stands in the place of an address and is none; a host that everybody has is no secret.
fn bare(view: &[char], hidden: &mut [bool]) {
    let text: String = view.iter().collect();
    let text = text.trim_matches(['"', '\'', ' ']);
    let host = text
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(text, |(host, _)| host);
    if host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return;
    }
    let place = view.iter().rposition(|c| *c == '@');
    let place = place.filter(|at| view.iter().take(*at).any(|c| *c == ':'));
    for (c, hidden) in view.iter().zip(hidden).take(place.unwrap_or(view.len())) {
        *hidden = !matches!(c, ':' | '@' | ',' | '"' | '\'' | ' ' | '[' | ']' | '{' | '}');
    }
}

/// Hides what stands before an `@` in a message, where a colon says that there is a password: `redis//:…@host`.
fn words(view: &[char], hidden: &mut [bool]) {
    let mut begin = 0;
    for word in view.split(|c| c.is_whitespace() || matches!(c, '`' | '"' | '\'' | '<' | '>')) {
        let until = word.iter().rposition(|c| *c == '@').unwrap_or(0);
        let user = word.get(..until).unwrap_or_default();
        if user.contains(&':') && !is_example(user) {
            for (c, hidden) in word.iter().zip(hidden.iter_mut().skip(begin)).take(until) {
                *hidden = *c != ':';
            }
        }
        begin += word.len() + 1;
    }
}

/// `***`, then blanks for the rest of what was masked.
pub(crate) fn pad(masked: &str) -> String {
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

/// `***` for each run of what was masked.
pub(crate) fn squeeze(masked: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn shows(what: What, cases: &[(&str, &str)]) {
        for (text, shown) in cases {
            assert_eq!(squeeze(&mask(text, what)), *shown, "{text}");
            assert_eq!(mask(text, what).chars().count(), text.chars().count(), "{text}");
        }
    }

    #[test]
    fn of_an_address_only_place_and_scheme_show() {
        shows(
            What::Address,
            &[
                ("redis://:hunter2@host/0", "redis://:***@host/0"),
                ("redis://:hun ter@2@host/0", "redis://:***@host/0"),
                ("amqp://u:hunter2@a,amqp://u:hunter2@b/v", "amqp://***:***@a,amqp://***:***@b/v"),
                ("amqp://u:hunter2@a, amqp://b:5672", "amqp://***:***@a, amqp://b:5672"),
                ("redis://:a://hunter2@b", "redis://:***:***@b"),
                ("redis://h?password=hunter2", "redis://h?***"),
                ("redis://user:hunter2", "redis://user:***"),
                ("redis://:hunter2", "redis://:***"),
                ("redis://[::1]:7000/0#insecure", "redis://[::1]:7000/0#insecure"),
                ("https://hooks.example.com/services/T0/hunter2", "https://hooks.example.com/***"),
                ("https://hooks.example.com", "https://hooks.example.com"),
                ("redis//:hunter2@host", "***:***@host"),
                ("hunter2", "***"),
                ("user@hunter2", "***@***"),
                ("user:hunter2@localhost", "***:***@localhost"),
                ("localhost:6379", "localhost:6379"),
                ("10.0.0.1", "10.0.0.1"),
                ("${URL}", "${URL}"),
                ("${URL:-hunter2}", "${URL:-***}"),
                ("redis://${USER}:${PW}@h", "redis://${USER}:${PW}@h"),
                ("redis://${USER}:${PW:-hunter2}@h:${PORT}", "redis://${USER}:${PW:-***}@h:${PORT}"),
                (
                    "${URL:?such as rediss://rag:<password>@h:6379}",
                    "${URL:?such as rediss://rag:<password>@h:6379}",
                ),
                ("${URL:?such as rediss://rag:hunter2@h}", "${URL:?such as rediss://***:***@h}"),
            ],
        );
    }

    #[test]
    fn addresses_are_found_among_other_words() {
        shows(
            What::Text,
            &[
                ("see redis://:hunter2@h, and mail", "see redis://:***@h, and mail"),
                ("redis://:hun ter2@h", "redis://:***@h"),
                ("see https://h/hunter2 there", "see https://h/*** there"),
                ("see redis://h or mail me@x", "see redis://h or mail me@x"),
                ("hunter2", "hunter2"),
            ],
        );
        shows(
            What::Message,
            &[
                (
                    "`http://u:hunter2@h` is wrong; write `redis://user:password@host:6379/0`",
                    "`http://***:***@h` is wrong; write `redis://user:password@host:6379/0`",
                ),
                ("redis//:hunter2@h: no such file", "***:***@h: no such file"),
                ("write `amqp://h1:5672,amqp://h2:5672`", "write `amqp://h1:5672,amqp://h2:5672`"),
                ("read https://docs.example.com/page", "read https://docs.example.com/page"),
                ("`scheme://user:password@host`, or a list", "`scheme://user:password@host`, or a list"),
            ],
        );
    }

    #[test]
    fn a_secret_is_hidden_but_for_what_names_a_variable() {
        shows(
            What::Secret,
            &[
                ("hunter2", "***"),
                ("\"hunter2\"", "\"***\""),
                ("${PW}", "${PW}"),
                ("${PW:-hunter2}", "${PW:-***}"),
                ("${PW:-${OTHER:-hunter2}}", "${PW:-${OTHER:-***}}"),
                ("${PW:?the password}", "${PW:?the password}"),
                ("hunter2${PW", "***"),
            ],
        );
    }
}
