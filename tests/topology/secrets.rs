//! No secret shows: not in errors, not in `Debug`, not in the printed topology.

use super::{errors, folder, load, topology};

const CANARY: &str = "hunter2";

/// A file with the canary in every place a secret may stand, and what is wrong beside it.
const EVERYWHERE: &str = "service: ${SECRET}
tags: { team: \"${SECRET}\" }
routing_key: \"ai.${SECRET}\"
processors:
  - redact: { fields: [\"${SECRET}\"] }
sinks:
  live:
    type: stream
    url: redis://user:hunter2@broker?password=hunter2
    password: hunter2
    stream_key: ${SECRET}
    topics: [\"ai.${SECRET}\"]
    routing_key: \"x.${SECRET}\"
  other:
    type: stream
    url: \"redis://${SECRET}@broker\"
    password: \"${UNSET:-hunter2}\"
";

fn assert_hidden(text: &str) {
    assert!(!text.contains(CANARY) && !text.contains("unter"), "{text}");
}

#[test]
fn a_loaded_topology_shows_no_secret() {
    let environment = [("SECRET", CANARY), ("STREAMLL__SINKS__OTHER__STREAM_KEY", CANARY)];
    let loaded = topology(&[("env", EVERYWHERE)], &environment).unwrap_or_else(|error| panic!("{error}"));
    assert_hidden(loaded.render());
    assert_hidden(&format!("{loaded:?} {:?}", loaded.warnings()));
    assert_hidden(&super::load(folder(&[]).path(), "env", &environment).expect_err("no file").to_string());
}

#[test]
fn a_message_about_any_line_shows_no_secret() {
    // one mistake at each line in turn, by a key that nobody knows beside what stands there
    let lines: Vec<&str> = EVERYWHERE.lines().collect();
    for at in 0..=lines.len() {
        for wrong in [
            "wrong: hunter2x",
            "- x",
            "\tx",
            "x: \"",
            "    password: [hunter2",
            "    url: {a: redis://:hunter2@x}",
        ] {
            let mut text: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            text.insert(at, wrong.replace("hunter2x", "1"));
            let dir = folder(&[("env", &text.join("\n"))]);
            if let Err(error) = load(dir.path(), "env", &[("SECRET", CANARY)]) {
                assert_hidden(&error.to_string());
                assert_hidden(&format!("{error:?}"));
                assert_hidden(&error.to_json().to_string());
            }
        }
    }
}

#[test]
fn a_wrong_value_from_a_variable_is_shown_as_it_stands_in_the_file() {
    for line in [
        "max_len: ${SECRET}",
        "durable: ${SECRET}",
        "deliver_timeout: ${SECRET}",
        "dead_letter: ${SECRET}",
        "topics: ${SECRET}",
        "topics: [\"ai.${SECRET}..x\"]",
        "routing_key: \"{${SECRET}}\"",
        "buffer: { when_full: \"${SECRET}\" }",
        "buffer: ${SECRET}",
        "processors: ${SECRET}",
        "circuit_breaker: { on_open: \"${SECRET}\" }",
        "circuit_breaker: { on_open: { fallback: \"${SECRET}\" } }",
    ] {
        let error = errors(
            &format!("sinks:\n  a:\n    type: stream\n    url: redis://x\n    {line}\n"),
            &[("SECRET", CANARY)],
        );
        assert_hidden(&error);
        assert!(error.contains("${SECRET}") && error.contains("env.yaml:5:"), "{line}: {error}");
    }
    for text in
        ["sinks:\n  a: { type: \"${SECRET}\" }\n", "sinks:\n  a: { type: stream, url: \"${SECRET}\" }\n"]
    {
        let error = errors(text, &[("SECRET", CANARY)]);
        assert_hidden(&error);
        assert!(error.contains("${SECRET}"), "{error}");
    }
}

#[test]
fn the_password_of_an_address_is_hidden_and_the_rest_is_not() {
    let error = errors("sinks:\n  a:\n    type: stream\n    url: amqp://user:hunter2@broker/x\n", &[]);
    assert_hidden(&error);
    assert!(error.contains("amqp://") && error.contains("@broker/x"), "{error}");
}

#[test]
fn the_printed_topology_says_where_values_come_from() {
    let files = [
        ("base", "service: a\nsinks:\n  live:\n    type: stream\n    url: ${URL}\n    password: x\n"),
        ("env", "extends: base\nsinks:\n  live:\n    max_len: 5\n    url: redis://u:hunter2@h\n"),
    ];
    let dir = folder(&files);
    let loaded =
        load(dir.path(), "env", &[("STREAMLL__SERVICE", "b")]).unwrap_or_else(|error| panic!("{error}"));
    let printed = loaded.render().replace(&format!("{}/", dir.path().display()), "");
    assert_eq!(
        printed,
        "service: \"***\"  # $STREAMLL__SERVICE
sinks:
  live:
    type: stream  # base.yaml:4
    url: \"redis://***:***@h\"  # env.yaml:5
    password: \"***\"  # base.yaml:6
    max_len: 5  # env.yaml:4
extends: base  # env.yaml:1
"
    );
}
