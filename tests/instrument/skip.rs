//! `skip(…)`: inputs that are not recorded.

use serde_json::json;
use streamll::instrument;

use super::{record, start};

#[instrument(skip(api_key, r#type))]
fn ask(question: &str, api_key: &str, r#type: u8) -> bool {
    question.len() + api_key.len() > usize::from(r#type)
}

#[instrument(skip(b))]
fn of_a_pattern((a, b): (u8, u8)) -> u8 {
    a + b
}

/// Must compile: what is skipped is not even looked at.
#[instrument(skip(moved))]
fn moves(moved: String) -> String {
    moved
}

#[test]
fn what_is_skipped_is_not_recorded_and_all_else_is() {
    let (_, events) = record(|| ask("why", "hush", 1));
    assert_eq!(start(&events)["data"], json!({ "question": "why" }));
    let (_, events) = record(|| of_a_pattern((1, 2)));
    assert_eq!(start(&events)["data"], json!({ "a": 1 }));
    let (given, events) = record(|| moves("x".into()));
    assert_eq!((given.as_str(), &start(&events)["data"]), ("x", &json!({})));
}
