//! What leaves is what the page on events and its schema say.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use streamll::{Event, Step, context};
use streamll_actors::event::Decoder;

use super::{block_on, end, end_anyhow, topology};

const PAGE: &str = include_str!("../../src/guide/events.md");

fn schema() -> Value {
    serde_json::from_str(include_str!("../../src/guide/event-1.json")).expect("it is JSON")
}

/// What is wrong with a value. Of JSON Schema it knows what `event-1.json` uses, and nothing more.
fn wrong(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (keyword, rule) in schema.as_object().expect("an object") {
        let number = || rule.as_u64().expect("a number") as usize;
        let holds = match (keyword.as_str(), value) {
            ("$schema" | "$id" | "title" | "description", _) => true,
            ("type", _) => match rule {
                Value::String(name) => is(name, value),
                names => {
                    names.as_array().expect("names").iter().any(|name| is(name.as_str().unwrap(), value))
                }
            },
            ("required", Value::Object(map)) => {
                rule.as_array().unwrap().iter().all(|key| map.contains_key(key.as_str().unwrap()))
            }
            ("properties", Value::Object(map)) => {
                let each = rule.as_object().unwrap().iter();
                found.extend(
                    each.flat_map(|(key, rule)| map.get(key).map_or(vec![], |value| wrong(rule, value))),
                );
                true
            }
            ("additionalProperties", Value::Object(map)) if rule.is_object() => {
                found.extend(map.values().flat_map(|value| wrong(rule, value)));
                true
            }
            ("minLength", Value::String(text)) => text.chars().count() >= number(),
            ("maxLength", Value::String(text)) => text.chars().count() <= number(),
            ("minimum", Value::Number(n)) => n.as_u64().is_some_and(|n| n >= number() as u64),
            ("pattern", Value::String(text)) => {
                let rule = rule.as_str().unwrap();
                assert!(rule.ends_with("\\.[0-9]{6}Z$"), "the one pattern that this knows");
                text.len() == 27 && text.ends_with('Z') && streamll::Timestamp::parse(text).is_ok()
            }
            ("required" | "properties" | "minLength" | "maxLength" | "minimum" | "pattern", _) => true,
            ("additionalProperties", _) => rule == &json!(true) || rule.is_object(),
            (other, _) => panic!("`{other}` is not known here"),
        };
        if !holds {
            found.push(format!("{keyword} {rule}: {value}"));
        }
    }
    found
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "string" => value.is_string(),
        "null" => value.is_null(),
        "object" => value.is_object(),
        "integer" => value.is_u64() || value.is_i64(),
        other => panic!("`{other}` is not known here"),
    }
}

#[test]
fn what_leaves_keeps_to_the_schema_whatever_comes_in() {
    let (handle, kept) = topology();
    let step = Step::new("RagPipeline").context(&context! { conversation_id = "c", tags.tenant = "acme" });
    handle.emit(Event::new(&step, "start").with("n", 1));
    handle.emit(Event::token(&step, "answer", "x", 0));
    handle.emit(Event::new(&Step::new(""), "end"));
    for line in [
        r#"{"event_type":"x"}"#,
        r#"{"event_type":"\ud83d","event_id":"","execution_id":null,"data":null,"tags":{"n":1,"l":[1],"z":null},"seq":7}"#,
        r#"{"event_type":"x","timestamp":"9999-12-31T23:59:59+00:00","topic":7,"source":"s","seq":7,"beside":{"a":1}}"#,
        r#"{"event_type":"x","timestamp":"0001-01-01 00:00:00Z","parent_id":"p","method_name":"m","operation":"o"}"#,
    ] {
        handle.emit(Decoder::default().decode(line.as_bytes()).unwrap());
    }
    assert_eq!(block_on(handle.flush()), 0);
    end(&handle);
    let arrivals = kept.arrivals();
    assert_eq!(arrivals.len(), 7);
    for arrival in &arrivals {
        assert_eq!(wrong(&schema(), &arrival.json), [""; 0], "{}", arrival.text);
    }
    // It finds what is wrong.
    for (key, value) in [
        ("event_id", json!("")),
        ("timestamp", json!("2026-11-21T03:20:15Z")),
        ("data", json!([])),
        ("tags", json!({"n": 1})),
        ("seq", json!("1")),
        ("operation", json!(1)),
    ] {
        let mut event = arrivals[0].json.clone();
        event[key] = value;
        assert_eq!(wrong(&schema(), &event).len(), 1, "{key}");
        event.as_object_mut().unwrap().shift_remove(key);
        assert_eq!(wrong(&schema(), &event).len(), 1, "{key}");
    }
}

#[test]
fn what_the_machine_says_keeps_to_the_schema() {
    let (handle, kept) = topology();
    let sink = handle.sink("kept").unwrap();
    kept.hold();
    for index in 0..300_000 {
        handle.emit(Event::token(&Step::new("M"), "answer", "x", index));
    }
    sink.force_open();
    sink.force_close();
    kept.let_go();
    end_anyhow(&handle);
    let own: Vec<_> =
        kept.arrivals().into_iter().filter(|arrival| arrival.json["module_name"] == "streamll").collect();
    assert!(!own.is_empty());
    for arrival in own {
        assert_eq!(wrong(&schema(), &arrival.json), [""; 0], "{}", arrival.text);
    }
}

#[test]
fn the_page_names_the_keys_of_the_schema_in_the_order_in_which_they_leave() {
    let schema = schema();
    assert!(schema["$id"].as_str().unwrap().ends_with("/event-1.json"));
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let known =
        schema["required"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect::<Vec<_>>();
    let named: Vec<_> = rows.map(|(key, _)| key).filter(|key| known.contains(key)).collect();
    assert_eq!(named, known);
    let properties: BTreeSet<_> =
        schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(properties, known.iter().copied().collect());
    let example = PAGE.split_once("```json\n").unwrap().1.split_once("\n```").unwrap().0;
    let example: Map<String, Value> = serde_json::from_str(example).unwrap();
    assert_eq!(example.keys().collect::<Vec<_>>(), known);
    assert_eq!(wrong(&schema, &Value::Object(example)), [""; 0]);
}

/// The tables of the page, line by line: what comes in, and a piece of what leaves or of why it is refused.
#[test]
fn what_the_page_says_of_what_comes_in_is_so() {
    let read = |line: &[u8]| Decoder::default().decode(line);
    let taken: [(&[u8], &str); 9] = [
        (br#"{"event_type":"x","data":{"s":"\ud83d"}}"#, r#"{"s":"\ufffd"}"#),
        (b"{\"event_type\":\"x\",\"data\":{\"s\":\"\xc3\"}}", "{\"s\":\"\u{fffd}\"}"),
        (br#"{"event_type":"x","data":{"a":1,"\u0061":2}}"#, r#""data":{"\u0061":2}"#),
        (br#"{"event_type":"x","tags":{"a":1,"a":2}}"#, r#""tags":{"a":"2"}"#),
        (b"\xef\xbb\xbf{\"event_type\":\"x\"}", r#""event_type":"x""#),
        (b"{\"event_type\":\"x\",\n\"data\":{\n}}", "\"data\":{\n}"),
        (br#"{"event_type":"x","data":{"s":"\u0000"}}"#, r#"{"s":"\u0000"}"#),
        (br#"{"event_type":"x","data":{"n":1e-400}}"#, r#"{"n":1e-400}"#),
        (
            br#"{"event_type":"x","method_name":"","operation":""}"#,
            r#""method_name":null,"event_type":"x","operation":null"#,
        ),
    ];
    for (line, expected) in taken {
        let event = read(line).unwrap();
        let text = String::from_utf8(event.json().to_vec()).unwrap();
        assert!(text.contains(expected), "{text}");
    }
    let deep = |key: &str| {
        format!(r#"{{"event_type":"x","{key}":{}{}}}"#, r#"{"a":"#.repeat(65) + "1", "}".repeat(65))
    };
    let refused = [
        (r#"{"event_type":"x","event_type":"x"}"#.to_owned(), "stands twice"),
        ("{\"event_type\":\"x\",\"data\":{\"s\":\"\u{1}\"}}".to_owned(), "control character"),
        (r#"{"event_type":"x","data":{"n":1e400}}"#.to_owned(), "`data`: number out of range at column 31"),
        (r#"{"event_type":"x","data":{"n":NaN}}"#.to_owned(), "holds a bare `NaN`"),
        (deep("data"), "`data`: nests deeper than 64 at column"),
        (deep("beside"), "`beside`: nests deeper than 64 at column"),
        (format!(r#"{{"event_type":"x","data":{{"s":"{}"}}}}"#, "x".repeat(1 << 20)), "at most 1048576"),
    ];
    for (line, reason) in refused {
        let error = read(line.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
