//! `operation = "…"`: what the step is called.

use streamll::instrument;

use super::{record, start};

#[instrument(operation = "llm_call")]
fn generate() {}

#[instrument]
fn r#move() {}

#[test]
fn the_operation_is_named_by_the_argument_and_the_method_by_the_function() {
    let ((), events) = record(generate);
    let start = start(&events);
    assert_eq!((&start["operation"], &start["method_name"]), (&"llm_call".into(), &"generate".into()));
}

#[test]
fn without_it_the_operation_is_the_function() {
    let ((), events) = record(r#move);
    let start = start(&events);
    assert_eq!((&start["operation"], &start["method_name"]), (&"move".into(), &"move".into()));
}
