//! Outputs: what is recorded of them, and `outputs = false`.

use serde::Serialize;
use serde_json::{Value, json};
use streamll::instrument;

use super::{end, record, record_async};

#[derive(Serialize)]
struct Answer {
    text: &'static str,
}

struct Mute;

#[instrument]
fn nothing() {}

#[instrument]
fn no_result() -> Result<(), String> {
    Ok(())
}

#[instrument]
fn a_struct() -> Answer {
    Answer { text: "42" }
}

#[instrument]
fn in_a_result() -> Result<Answer, String> {
    Ok(a_struct())
}

#[instrument]
fn none() -> Option<u8> {
    None
}

#[instrument]
fn mute() -> Mute {
    Mute
}

#[instrument]
fn hidden() -> impl Iterator<Item = u8> + std::fmt::Debug {
    vec![1, 2].into_iter()
}

#[instrument]
fn large() -> String {
    "x".repeat(10_000)
}

#[instrument(outputs = false)]
fn silent() -> &'static str {
    "hush"
}

#[instrument(outputs = false)]
async fn silent_later(fails: bool) -> Result<&'static str, &'static str> {
    if fails { Err("told") } else { Ok("hush") }
}

#[track_caller]
fn output_of<T>(run: impl FnOnce() -> T) -> Option<Value> {
    let (_, events) = record(run);
    events.last().expect("an event")["data"].get("output").cloned()
}

#[test]
fn an_output_is_written_by_serde_else_printed_else_named() {
    assert_eq!(output_of(a_struct), Some(json!({ "text": "42" })));
    assert_eq!(output_of(in_a_result), Some(json!({ "text": "42" })));
    assert_eq!(output_of(none), Some(Value::Null));
    assert_eq!(output_of(mute), Some("instrument::outputs::Mute".into()));
    assert_eq!(output_of(|| hidden().sum::<u8>()), Some("IntoIter([1, 2])".into()));
}

#[test]
fn a_function_that_returns_nothing_has_no_output() {
    assert_eq!(output_of(nothing), None);
    assert_eq!(output_of(no_result), None);
}

#[test]
fn what_is_too_large_is_cut_and_listed() {
    let (given, events) = record(large);
    assert_eq!(given.len(), 10_000);
    let data = &end(&events)["data"];
    assert_eq!(data["truncated"], json!(["output"]));
    assert!(data["output"].as_str().unwrap().len() > 4000);
}

#[test]
fn outputs_false_records_none_but_still_tells_errors() {
    assert_eq!(output_of(silent), None);
    let (_, events) = record_async(async { (silent_later(false).await, silent_later(true).await) });
    assert_eq!(end(&events)["data"].get("output"), None);
    assert_eq!(super::error(&events)["data"]["error_message"], "told");
}
