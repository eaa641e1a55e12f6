//! JSON text with changes: every value that is not changed stays exactly as it is written.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Map, Value};

use super::json::{self, Cursor, DEPTH, unquoted};

/// The object with this member set: in its place, or behind all others.
pub(super) fn set(object: &str, key: &str, value: &Value) -> String {
    let (mut out, mut is_there) = (String::with_capacity(object.len() + key.len() + 32), false);
    let mut cursor = Cursor::new(object);
    let is_empty = !members(&mut cursor, &mut out, |its, cursor, out| {
        let old = cursor.value();
        if its == key {
            is_there = true;
            out.push_str(&value.to_string());
        } else {
            out.push_str(old);
        }
        true
    });
    if !is_there {
        add(is_empty, key, value, &mut out);
    }
    out.push('}');
    out
}

/// The object without this member.
pub(super) fn remove(object: &str, key: &str) -> String {
    let mut out = String::with_capacity(object.len());
    members(&mut Cursor::new(object), &mut out, |its, cursor, out| {
        let old = cursor.value();
        if its != key {
            out.push_str(old);
        }
        its != key
    });
    out.push('}');
    out
}

/// The object such that it reads as `new`. What reads the same already stays as it is written.
pub(super) fn object(object: &str, new: &Map<String, Value>) -> String {
    let mut out = String::with_capacity(object.len());
    patch_object(&mut Cursor::new(object), new, 0, &mut out);
    out
}

fn patch_object(cursor: &mut Cursor<'_>, new: &Map<String, Value>, depth: usize, out: &mut String) {
    if new.is_empty() && copied_empty(cursor, out) {
        return;
    }
    let (before, mut kept) = (*cursor, 0);
    let mut is_empty = !members(cursor, out, |key, cursor, out| match new.get(&*key) {
        Some(value) => {
            patch(cursor, value, depth + 1, out);
            kept += 1;
            true
        }
        None => {
            cursor.value();
            false
        }
    });
    if kept < new.len() {
        let known: HashSet<_> = json::members(cursor.since(before)).map(|(key, _)| unquoted(key)).collect();
        for (key, value) in new.iter().filter(|(key, _)| !known.contains(&***key)) {
            add(is_empty, key, value, out);
            is_empty = false;
        }
    }
    out.push('}');
}

fn patch(cursor: &mut Cursor<'_>, new: &Value, depth: usize, out: &mut String) {
    match (cursor.first(), new) {
        (Some(b'{'), Value::Object(new)) if depth < DEPTH => patch_object(cursor, new, depth, out),
        (Some(b'['), Value::Array(new)) if depth < DEPTH => patch_list(cursor, new, depth, out),
        _ => {
            let before = *cursor;
            let is_same = match (cursor.first(), new) {
                (Some(b'"'), Value::String(new)) => unquoted(cursor.value()) == *new,
                _ => cursor.parse(depth) == *new,
            };
            match is_same {
                true => out.push_str(cursor.since(before)),
                false => out.push_str(&new.to_string()),
            }
        }
    }
}

fn patch_list(cursor: &mut Cursor<'_>, new: &[Value], depth: usize, out: &mut String) {
    if new.is_empty() && copied_empty(cursor, out) {
        return;
    }
    let (before, start, mut count) = (*cursor, out.len(), 0);
    out.push('[');
    let mut more = cursor.opens();
    while more {
        if count > 0 {
            out.push(',');
        }
        copy_blanks(cursor, out);
        match new.get(count) {
            Some(new) => patch(cursor, new, depth + 1, out),
            None => drop(cursor.value()),
        }
        copy_blanks(cursor, out);
        count += 1;
        more = cursor.goes_on();
    }
    if count != new.len() {
        out.truncate(start + 1);
        align(cursor.since(before), new, depth, out);
    }
    out.push(']');
}

/// Some items came or went: those that are the same as before stay as they are written.
fn align(list: &str, new: &[Value], depth: usize, out: &mut String) {
    /// How many items may be gone in a row.
    const AHEAD: usize = 64;
    let old: Vec<_> = json::items(list).map(|item| (item, Cursor::new(item).parse(depth + 1))).collect();
    let mut rest = &old[..];
    for (i, new) in new.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        match rest.iter().take(AHEAD).position(|(_, old)| old == new) {
            Some(gone) => {
                out.push_str(rest.get(gone).map_or("", |(item, _)| item));
                rest = rest.get(gone + 1..).unwrap_or_default();
            }
            None => out.push_str(&new.to_string()),
        }
    }
}

/// Copies an object up to its closing bracket, and says whether a member is in it. `each` writes the value of one and
/// says that it stays.
fn members<'a>(
    cursor: &mut Cursor<'a>,
    out: &mut String,
    mut each: impl FnMut(Cow<'a, str>, &mut Cursor<'a>, &mut String) -> bool,
) -> bool {
    out.push('{');
    let mut any = false;
    let mut more = cursor.opens();
    while more {
        let (before, start) = (*cursor, out.len());
        if any {
            out.push(',');
        }
        let key = unquoted(cursor.key());
        out.push_str(cursor.since(before));
        match each(key, cursor, out) {
            true => {
                copy_blanks(cursor, out);
                any = true;
            }
            false => out.truncate(start),
        }
        more = cursor.goes_on();
    }
    any
}

fn add(is_empty: bool, key: &str, value: &Value, out: &mut String) {
    if !is_empty {
        out.push(',');
    }
    out.push_str(&Value::from(key).to_string());
    out.push(':');
    out.push_str(&value.to_string());
}

/// Copies an object or a list in which nothing stands; `false` where something does.
fn copied_empty(cursor: &mut Cursor<'_>, out: &mut String) -> bool {
    let mut ahead = *cursor;
    if ahead.opens() {
        return false;
    }
    out.push_str(ahead.since(*cursor));
    *cursor = ahead;
    true
}

fn copy_blanks(cursor: &mut Cursor<'_>, out: &mut String) {
    let before = *cursor;
    cursor.blanks();
    out.push_str(cursor.since(before));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const TEXT: &str = r#"{ "p" : [1046.8333333333335, 1.10 ,{"x":1e2}] , "\u006e":18446744073709551617,"e":{ },"s":"\u00e9" }"#;

    #[track_caller]
    fn changed(change: impl FnOnce(&mut Map<String, Value>)) -> String {
        let mut map = json::object(TEXT);
        change(&mut map);
        let text = object(TEXT, &map);
        assert_eq!(json::object(&text), map);
        text
    }

    #[test]
    fn a_change_leaves_all_else_to_the_letter() {
        assert_eq!(changed(|_| ()), TEXT);
        let spans = [
            (r#""\u00e9""#, "\"x\"", "/s", json!("x")),
            ("1e2", "null", "/p/2/x", json!(null)),
            ("1.10", "[1.5]", "/p/1", json!([1.5])),
            ("18446744073709551617", "7", "/n", json!(7)),
            ("{ }", r#"{"k":1}"#, "/e", json!({"k": 1})),
        ];
        for (old, text, pointer, new) in spans {
            let read = changed(|map| {
                let mut value = Value::Object(std::mem::take(map));
                *value.pointer_mut(pointer).unwrap() = new;
                *map = value.as_object().unwrap().clone();
            });
            assert_eq!(read, TEXT.replace(old, text), "{pointer}");
        }
    }

    #[test]
    fn what_comes_and_goes_leaves_its_neighbours_to_the_letter() {
        assert_eq!(
            changed(|map| {
                map.shift_remove("e");
                map.shift_insert(0, "new".to_owned(), json!(1.5));
                let n = map.shift_remove("n").unwrap();
                map.insert("n".to_owned(), n);
            }),
            r#"{ "p" : [1046.8333333333335, 1.10 ,{"x":1e2}] , "\u006e":18446744073709551617,"s":"\u00e9" ,"new":1.5}"#
        );
        let list = |change: fn(&mut Vec<Value>)| {
            changed(|map| change(map["p"].as_array_mut().unwrap())).split_once(" , \"").unwrap().0.to_owned()
        };
        assert_eq!(list(|items| drop(items.remove(0))), r#"{ "p" : [1.10,{"x":1e2}]"#);
        assert_eq!(list(|items| items.push(json!(2))), r#"{ "p" : [1046.8333333333335,1.10,{"x":1e2},2]"#);
        assert_eq!(list(Vec::clear), r#"{ "p" : []"#);
        assert_eq!(changed(Map::clear), "{}");
        assert_eq!(
            (set("{ }", "a\"", &json!(1)), remove(r#"{"a":1 }"#, "a")),
            (r#"{"a\"":1}"#.into(), "{}".into())
        );
        assert_eq!(set(r#"{"a":1.0 ,"\u0062": 2}"#, "b", &json!([])), r#"{"a":1.0 ,"\u0062": []}"#);
        assert_eq!(remove(r#"{"a":1.0 ,"\u0062": 2}"#, "a"), r#"{"\u0062": 2}"#);
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-c\"\\\\é]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-d]", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_text_always_reads_as_what_it_was_changed_to(old in values(), new in values(), pretty: bool) {
            let (old, new) = (json!({ "a": old, "b": 1 }), json!({ "a": new, "c": 2 }));
            let text = if pretty { serde_json::to_string_pretty(&old).unwrap() } else { old.to_string() };
            prop_assert_eq!(json::object(&text), old.as_object().unwrap().clone());
            let patched = object(&text, new.as_object().unwrap());
            prop_assert_eq!(json::object(&patched), new.as_object().unwrap().clone());
            prop_assert_eq!(object(&text, old.as_object().unwrap()), text);
        }
    }
}
