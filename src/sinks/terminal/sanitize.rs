//! Makes foreign text harmless: one code point after the other, without memory, so nothing can hide in a split.

use std::fmt;

use unicode_width::UnicodeWidthChar;

/// Whether a terminal might act on `c`, reorder text for it, or not show it at all. The joiners (U+200C, U+200D) stay, as
/// in routing keys: Persian words and many emoji are spelt with them.
pub(crate) fn acts(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'              // C0, DEL, C1 (8-bit CSI and OSC among them)
        | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' // zero width, marks of direction
        | '\u{2028}'..='\u{202e}'                          // line and paragraph separator, bidi embeddings
        | '\u{2060}'..='\u{206f}' | '\u{feff}'             // invisible operators, bidi isolates
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}') // annotations, tags
}

/// What is shown in the place of a character that acts.
fn picture(c: char) -> char {
    match c {
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\u{7f}' => '␡',
        _ => '\u{fffd}',
    }
}

/// `text` for people, with its line breaks and tabs, and a picture of each other character that acts.
pub(crate) fn harmless(text: &str) -> String {
    let shown = |c| if acts(c) && !matches!(c, '\n' | '\t') { picture(c) } else { c };
    text.chars().map(shown).collect()
}

/// Whether all of `text` is one column wide per byte and can be copied.
fn plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn push(c: char, out: &mut Vec<u8>) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Appends `text` on one line: line breaks become pictures too.
pub(super) fn line(text: &str, out: &mut Vec<u8>) {
    if plain(text) {
        return out.extend_from_slice(text.as_bytes());
    }
    for c in text.chars() {
        push(if acts(c) { picture(c) } else { c }, out);
    }
}

/// Appends `text` with its line breaks, each followed by blanks, so that foreign text never begins a line.
pub(super) fn flowing(text: &str, out: &mut Vec<u8>) {
    if plain(text) {
        return out.extend_from_slice(text.as_bytes());
    }
    for c in text.chars() {
        match c {
            '\n' => out.extend_from_slice(b"\n    "),
            '\t' => out.extend_from_slice(b"    "),
            c => push(if acts(c) { picture(c) } else { c }, out),
        }
    }
}

/// Appends to one line until a number of columns is full, then `…`, then nothing more.
#[derive(Debug)]
pub(super) struct Cut<'a> {
    out: &'a mut Vec<u8>,
    left: usize,
    full: bool,
}

impl<'a> Cut<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>, columns: usize) -> Cut<'a> {
        Cut { out, left: columns, full: false }
    }

    /// Whether nothing more is taken.
    pub(super) fn full(&self) -> bool {
        self.full
    }

    /// Appends harmless text.
    pub(super) fn text(&mut self, text: &str) {
        if text.len() <= self.left && !self.full && plain(text) {
            self.left -= text.len();
            return self.out.extend_from_slice(text.as_bytes());
        }
        for c in text.chars() {
            if self.full {
                return;
            }
            self.char(if acts(c) { picture(c) } else { c });
        }
    }

    /// Appends a JSON string: what acts is escaped, so that it stays the same string.
    pub(super) fn json_string(&mut self, text: &str) {
        self.char('"');
        for c in text.chars() {
            match c {
                _ if self.full => return,
                '"' => self.text("\\\""),
                '\\' => self.text("\\\\"),
                '\n' => self.text("\\n"),
                '\r' => self.text("\\r"),
                '\t' => self.text("\\t"),
                c if acts(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = fmt::Write::write_fmt(self, format_args!("\\u{unit:04x}"));
                    }
                }
                c => self.char(c),
            }
        }
        self.char('"');
    }

    fn char(&mut self, c: char) {
        if self.full {
            return;
        }
        // What has no width takes a column all the same: a thousand accents on one letter end somewhere.
        let width = c.width().unwrap_or(1).max(1);
        if width > self.left {
            self.full = true;
            return push('…', self.out);
        }
        self.left -= width;
        push(c, self.out);
    }
}

impl fmt::Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(show: fn(&str, &mut Vec<u8>), text: &str) -> String {
        let mut out = Vec::new();
        show(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn cut(text: &str, columns: usize) -> String {
        let mut out = Vec::new();
        Cut::new(&mut out, columns).text(text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_character_that_acts_is_shown_instead() {
        for (text, expected) in [
            ("plain, with 'quotes'", "plain, with 'quotes'"),
            ("Grüße 你好 🎉 👩\u{200d}🚀 می\u{200c}خواهم", "Grüße 你好 🎉 👩\u{200d}🚀 می\u{200c}خواهم"),
            ("\u{1b}[31mred\u{1b}[0m", "␛[31mred␛[0m"),
            ("\u{1b}]52;c;aGk=\u{7}", "␛]52;c;aGk=␇"),
            ("\u{1b}]8;;http://x\u{1b}\\y", "␛]8;;http://x␛\\y"),
            ("\u{9b}31m\u{7f}\u{0}", "\u{fffd}31m␡␀"),
            ("a\rb\r\nc\td", "a␍b␍␊c␉d"),
            ("pay \u{202e}001\u{202c}\u{2066}\u{2069}", "pay \u{fffd}001\u{fffd}\u{fffd}\u{fffd}"),
            ("a\u{2028}b\u{2029}c\u{200b}\u{200f}\u{feff}", "a\u{fffd}b\u{fffd}c\u{fffd}\u{fffd}\u{fffd}"),
            ("hidden\u{e0041}", "hidden\u{fffd}"),
        ] {
            assert_eq!(shown(line, text), expected, "{text:?}");
        }
    }

    #[test]
    fn flowing_text_breaks_lines_and_never_begins_one() {
        assert_eq!(shown(flowing, "a\n[16:31] \u{1b}\tb"), "a\n    [16:31] ␛    b");
    }

    #[test]
    fn a_cut_counts_columns_and_not_bytes() {
        for (text, columns, expected) in [
            ("abcd", 4, "abcd"),
            ("abcde", 4, "abcd…"),
            ("你好吗", 6, "你好吗"),
            ("你好吗", 5, "你好…"),
            ("a\u{301}\u{301}\u{301}", 2, "a\u{301}…"),
            ("", 0, ""),
        ] {
            assert_eq!(cut(text, columns), expected);
        }
    }

    #[test]
    fn a_json_string_stays_the_same_string() {
        let text = "\"\\\n\u{1b}\u{9b}\u{202e}\u{e0041}ü";
        let mut out = Vec::new();
        Cut::new(&mut out, 100).json_string(text);
        let read: String = serde_json::from_slice(&out).unwrap();
        assert_eq!(read, text);
        assert!(!String::from_utf8(out).unwrap().chars().any(acts));
    }
}
