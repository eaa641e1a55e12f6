//! How a value becomes one segment of a key: snake case, escaping, and cutting with a hash.

use std::borrow::Cow;

/// The longest segment that a value makes, in bytes.
pub(super) const MAX_VALUE: usize = 64;
/// The bytes of `~` and 16 hexadecimal digits, to which every value can be cut.
pub(super) const MARK: usize = 17;

/// `RAGPipeline` and `RagPipeline` → `rag_pipeline`. A name in snake case stays as it is.
pub(super) fn snake_case(name: &str) -> Cow<'_, str> {
    if !name.chars().any(char::is_uppercase) {
        return Cow::Borrowed(name);
    }
    let mut snake = String::with_capacity(name.len() + 4);
    let (mut chars, mut before) = (name.chars().peekable(), None::<char>);
    while let Some(c) = chars.next() {
        let begins_word = c.is_uppercase()
            && before.is_some_and(|before| match before.is_uppercase() {
                true => chars.peek().is_some_and(|next| next.is_lowercase()),
                false => before.is_alphanumeric(),
            });
        if begins_word {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
        before = Some(c);
    }
    Cow::Owned(snake)
}

/// Appends one value as (part of) one segment of at most `limit` bytes.
pub(super) fn push_segment(key: &mut String, value: &str, limit: usize) {
    if value.len() <= limit && value.bytes().all(is_plain) {
        return key.push_str(value);
    }
    let start = key.len();
    let mut cut = start;
    for c in value.chars() {
        push_escaped(key, c);
        let used = key.len() - start;
        if used + MARK <= limit {
            cut = key.len();
        } else if used > limit {
            key.truncate(cut);
            key.push('~');
            push_hex(key, u64::BITS, fnv1a(value));
            return;
        }
    }
}

fn push_escaped(key: &mut String, c: char) {
    if !must_encode(c) {
        return key.push(c);
    }
    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
        key.push('%');
        push_hex(key, u8::BITS, byte.into());
    }
}

/// Appends the lowest `bits` of a number, four to a digit: upper case, for `%XX` has one spelling.
fn push_hex(key: &mut String, bits: u32, number: u64) {
    for shift in (0..bits).step_by(4).rev() {
        let digit = u32::try_from(number >> shift & 0xF).ok().and_then(|digit| char::from_digit(digit, 16));
        key.extend(digit.map(|digit| digit.to_ascii_uppercase()));
    }
}

/// FNV-1a, 64 bits: the same in every process and version.
fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Characters that are written as they are. Nearly every name has only these.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':' | b'/')
}

pub(super) fn must_encode(c: char) -> bool {
    matches!(c, '.' | '*' | '#' | '%' | '~' | '{' | '}') || is_hidden(c)
}

/// Spaces, control characters, and marks that change the direction of text or are invisible. The joiners (U+200C,
/// U+200D) stay, because Persian words and many emoji need them.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || c.is_whitespace()
        || matches!(
            c,
            '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        )
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}
