//! What is wrong with a text that is not an event.

/// How deep the `data` of an incoming event may nest, and whatever stands beside it.
pub(super) const MAX_DEPTH: usize = 64;

/// Most characters of a message.
const LONGEST: usize = 300;

/// Why a text is not an event. The message may quote a key of that text: it is one line of at most 300 characters, and
/// U+FFFD stands in the place of characters that a terminal might act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", harmless(.0))]
pub struct WireError(pub(super) String);

fn harmless(text: &str) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    let mut shown: String =
        text.chars().take(LONGEST).map(|c| if acts(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;

    #[test]
    fn a_message_that_quotes_a_key_is_one_harmless_line() {
        let long = "k".repeat(3000);
        for key in ["\\u001b[31mX\\u001b]0;pwn\\u0007\\n", "\\u009b31m", "\\u202e\\u2028", &long] {
            let line = format!(r#"{{"event_type":"x","{key}":1,"{key}":2}}"#);
            let error = Decoder::default().decode(line.as_bytes()).unwrap_err().to_string();
            assert!(
                !error.contains(|c: char| c.is_control() || c == '\u{202e}' || c == '\u{2028}'),
                "{error:?}"
            );
            assert!(error.chars().count() <= 301, "{error}");
        }
    }
}
