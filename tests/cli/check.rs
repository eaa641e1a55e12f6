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

#[test]
fn warnings_can_be_denied() {
    let folder = Folder::with("sinks: { log: { type: file, path: x, topics: ['ai.RagPipeline.*'] } }\n");
    let output = feed(streamll(&folder.path(""), &["check"]), b"");
    assert_eq!(output.status.code(), Some(0), "{}", out(&output));
    assert!(out(&output).contains("`ai.rag_pipeline.*`"), "{}", out(&output));
    let output = feed(streamll(&folder.path(""), &["check", "--deny-warnings"]), b"");
    assert_eq!(output.status.code(), Some(78));
    assert!(out(&output).contains("test: 1 warning\n"), "{}", out(&output));
    let output = feed(streamll(&folder.path(""), &["check", "--deny-warnings", "--format", "json"]), b"");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["ok"], output.status.code()), (&Value::Bool(false), Some(78)));
}

#[test]
fn a_file_that_is_not_looked_at_is_named() {
    let folder = Folder::with("sinks: { log: { type: file, path: x } }\n");
    folder.write("prod.yml", "sinks: { log: { type: file, path: x } }\n");
    folder.write("pre-prod.yaml", "nothing\n");
    folder.write("Live.YAML", "nothing\n");
    let output = feed(streamll(&folder.path(""), &["check"]), b"");
    let text = out(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for says in ["prod: ok", "`pre-prod.yaml` is not looked at", "`Live.YAML` is not looked at"] {
        assert!(text.contains(says), "{text}");
    }
    let output = feed(streamll(&folder.path(""), &["check", "--format", "json"]), b"");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(2), "{report}");
}

#[test]
fn a_password_on_the_command_line_is_not_said_again() {
    let folder = Folder::with("sinks: { log: { type: file, path: '{dir}/x' } }\n");
    for secret in [
        "redis://u:hunter2@h",
        "redis//:hunter2@host",
        "u:hunter2@host",
        "https://h/hunter2",
        "redis:hunter2@h",
    ] {
        for args in [
            &["check", secret][..],
            &["check", "--env", secret],
            &["check", "--topologies", secret],
            &["check", "--format", secret],
            &["run", "--env", "test", secret],
            &["dead", "--env", "test", "show", secret, secret],
            &["dead", "--env", "test", "purge", secret],
            &["dead", "--env", "test", "replay", secret],
            &["dead", secret],
            &["replay", "--env", "test", secret],
            &["replay", "--env", "test", "x", "y", secret],
            &["tail", "redis://127.0.0.1:1", "--where", secret],
            &["tail", "redis://127.0.0.1:1", "x", secret],
            &[secret],
        ] {
            // An address that is right is no mistake: it would be read from.
            if args == ["replay", "--env", "test", "redis://u:hunter2@h"] {
                continue;
            }
            let output = feed(streamll(&folder.path(""), args), b"");
            let said = out(&output) + &err(&output);
            assert_ne!(output.status.code(), Some(0), "{args:?}: {said}");
            assert!(!said.contains("hunter2"), "{args:?}: {said}");
        }
    }
    // Of `tail` and `replay` the address itself, too.
    for url in [
        "redis//:hunter2@h",
        "u:hunter2@h",
        "http://u:hunter2@h",
        "redis://u:hunter2",
        "redis://u:hunter2@h?x=hunter2",
    ] {
        let output = feed(streamll(&folder.path(""), &["tail", url]), b"");
        assert!(
            output.status.code() == Some(2) && !err(&output).contains("hunter2"),
            "{url}: {}",
            err(&output)
        );
    }
}

#[test]
fn control_characters_of_arguments_reach_no_terminal() {
    let folder = Folder::with("sinks: { log: { type: file, path: '{dir}/x' } }\n");
    for args in [
        ["check", "--env", "\u{9b}31m"],
        ["check", "--topologies", "\u{9b}31m"],
        ["dead", "purge", "\u{9b}31m"],
        ["replay", "\u{9b}31m", "x"],
    ] {
        let mut command = streamll(&folder.path(""), &args);
        command.env("STREAMLL_ENV", "test");
        let output = feed(command, b"");
        assert!(!(out(&output) + &err(&output)).contains('\u{9b}'), "{args:?}: {}", err(&output));
    }
}
