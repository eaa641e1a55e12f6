//! Writes single values of the wire format into memory.

use serde::Serialize;

/// `"key":"value"`.
pub(super) fn tag(key: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + value.len() + 5);
    write(key, &mut out);
    out.push(b':');
    write(value, &mut out);
    out
}

/// A string without its quotes, for where the quotes stand in a fragment.
pub(super) fn write_inner(text: &str, out: &mut Vec<u8>) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        return out.extend_from_slice(text.as_bytes());
    }
    let mut quoted = Vec::with_capacity(text.len() + 8);
    write(text, &mut quoted);
    out.extend_from_slice(quoted.get(1..quoted.len() - 1).unwrap_or_default());
}

pub(super) fn write_optional(text: Option<&str>, out: &mut Vec<u8>) {
    match text {
        Some(text) => write(text, out),
        None => out.extend_from_slice(b"null"),
    }
}

/// Writing a string, a number or a JSON value into memory cannot fail: no map here has keys that are not strings.
pub(super) fn write<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok());
}
