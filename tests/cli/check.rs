//! `streamll check`: all problems, nothing started.

use serde_json::Value;

use crate::{Folder, err, feed, out, streamll};

#[test]
fn all_environments_are_checked_and_all_their_problems_shown() {
    let folder = Folder::with("sinks: { log: { type: file, path: x } }\n");
    folder.write("wrong.yaml", "sinks:\n  log: { type: file, path: x, colour: red }\n  b: { type: kafka }\n");
    let output = feed(streamll(&folder.path(""), &["check"]), b"");
    assert_eq!(output.status.code(), Some(78));
    let text = out(&output);
    assert!(text.contains("test: ok") && text.contains("wrong: 2 problems"), "{text}");
    assert!(text.contains("wrong.yaml:2:") && text.contains("wrong.yaml:3:"), "{text}");
    let one = feed(streamll(&folder.path(""), &["check", "--env", "test"]), b"");
    assert_eq!(one.status.code(), Some(0));
}

#[test]
fn tools_read_the_problems_as_json() {
    let folder = Folder::with("sinks: { log: { type: file, path: x, colour: red } }\n");
    let output = feed(streamll(&folder.path(""), &["check", "--format", "json"]), b"");
    assert_eq!(output.status.code(), Some(78));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let problem = &report["environments"][0]["problems"][0];
    assert_eq!(problem["at"]["line"], 1);
    assert_eq!(problem["path"], "sinks.log.colour");
    assert_eq!(report["ok"], false);
}

#[test]
fn unset_variables_are_problems_unless_they_are_allowed() {
    let folder = Folder::with("sinks: { log: { type: file, path: '${LOG_FILE:?where events go}' } }\n");
    let output = feed(streamll(&folder.path(""), &["check"]), b"");
    assert_eq!(output.status.code(), Some(78));
    assert!(out(&output).contains("where events go"), "{}", out(&output));
    let allowed = feed(streamll(&folder.path(""), &["check", "--allow-unset"]), b"");
    assert_eq!(allowed.status.code(), Some(0), "{}", out(&allowed));
}

#[test]
fn the_merged_result_is_printed_with_origins_and_without_secrets() {
    let folder = Folder::with("extends: base\nsinks: { log: { type: file, path: '${LOG_FILE}' } }\n");
    folder.write("base.yaml", "service: rag-api\n");
    let mut command = streamll(&folder.path(""), &["check", "--env", "test", "--print"]);
    command.env("LOG_FILE", "/tmp/hunter2");
    let output = feed(command, b"");
    assert_eq!(output.status.code(), Some(0), "{}", out(&output));
    let text = out(&output);
    assert!(text.contains("rag-api") && text.contains("base.yaml:1"), "{text}");
    assert!(!text.contains("hunter2") && !err(&output).contains("hunter2"), "{text}");
}

#[test]
fn an_empty_folder_is_a_mistake_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let output = feed(streamll(folder.path(), &["check"]), b"");
    assert_eq!(output.status.code(), Some(78));
    assert!(err(&output).contains("--topologies"), "{}", err(&output));
}
