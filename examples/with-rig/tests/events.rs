//! What a run of rig's agent looks like from outside, event by event.

use std::path::Path;
use std::process::Command;

#[track_caller]
fn assert_golden(name: &str) {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("with-rig").join(name);
    let events = golden::events(Command::new(env!("CARGO_BIN_EXE_with-rig")).arg(name), &scratch);
    insta::with_settings!({ snapshot_path => ".", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, golden::story(&events));
    });
}

#[test]
fn an_answer_with_a_tool_call_and_usage() {
    assert_golden("answered");
}

#[test]
fn a_model_that_answers_500() {
    assert_golden("failed");
}

#[test]
fn a_stream_that_is_dropped_early() {
    assert_golden("cancelled");
}
