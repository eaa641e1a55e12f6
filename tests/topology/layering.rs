//! How layers are laid over each other, and what variables of the environment can override.

use super::{errors, plan, topology};

const BASE: &str = "service: rag-api
tags: { team: search, region: eu }
processors:
  - redact: { fields: [a] }
sinks:
  live:
    type: stream
    url: redis://base
    stream_key: events
    circuit_breaker: { failure_threshold: 5, recovery_timeout: 10s }
    topics: [\"ai.#\", \"ai.*.end\"]
  console:
    type: terminal
";

fn render(env: &str, environment: &[(&str, &str)]) -> String {
    let env = format!("extends: base\n{env}");
    let loaded =
        topology(&[("base", BASE), ("env", &env)], environment).unwrap_or_else(|error| panic!("{error}"));
    // without origins
    loaded
        .render()
        .lines()
        .map(|line| line.split("  # ").next().unwrap_or_default().to_owned() + "\n")
        .collect()
}

#[test]
fn maps_merge_by_key() {
    let merged =
        render("tags: { region: us }\nsinks:\n  live:\n    circuit_breaker: { failure_threshold: 7 }\n", &[]);
    assert!(merged.contains("team: search\n  region: us\n"), "{merged}");
    assert!(merged.contains("failure_threshold: 7\n      recovery_timeout: \"10s\"\n"), "{merged}");
}

#[test]
fn a_list_replaces() {
    let merged = render("sinks: { live: { topics: [\"ai.*.error\"] } }\nprocessors: []\n", &[]);
    assert!(merged.contains("topics: [\"ai.*.error\"]\n"), "{merged}");
    assert!(merged.contains("processors: []\n"), "{merged}");
}

#[test]
fn null_removes() {
    let merged = render(
        "tags: ~\nsinks:\n  console: null\n  live: { circuit_breaker: { recovery_timeout: null } }\n",
        &[],
    );
    assert!(!merged.contains("tags"), "{merged}");
    assert!(!merged.contains("console"), "{merged}");
    assert!(merged.contains("circuit_breaker:\n      failure_threshold: 5\n"), "{merged}");
    assert!(!merged.contains("recovery_timeout"), "{merged}");
}

#[test]
fn another_type_replaces_the_sink_whole() {
    let merged = render("sinks: { live: { type: file, path: x } }\n", &[]);
    assert!(merged.contains("  live:\n    type: file\n    path: x\n  console:"), "{merged}");
}

#[test]
fn the_same_type_said_again_replaces_nothing() {
    let merged = render("sinks: { live: { type: stream } }\n", &[]);
    assert!(merged.contains("stream_key: events"), "{merged}");
}

#[test]
fn a_sink_that_is_not_enabled_is_kept_out() {
    let merged = render("sinks: { live: { enabled: false, url: \"${UNSET}\" } }\n", &[]);
    assert!(!merged.contains("live"), "{merged}");
    let merged = render("", &[("STREAMLL__SINKS__LIVE__ENABLED", "false")]);
    assert!(!merged.contains("live"), "{merged}");
    let merged = render("sinks: { live: { enabled: \"${LIVE:-false}\" } }\n", &[]);
    assert!(!merged.contains("live"), "{merged}");
    let merged = render("sinks: { live: { enabled: \"${LIVE:-false}\" } }\n", &[("LIVE", "true")]);
    assert!(merged.contains("live"), "{merged}");
}

#[test]
fn layers_reach_more_than_one_deep() {
    let files = [
        ("base", BASE),
        ("middle", "extends: base\nservice: middle\ntags: { tier: two }\n"),
        ("env", "extends: middle\n"),
    ];
    let loaded = topology(&files, &[]).expect("loads");
    let plan = loaded.plan().expect("complete");
    assert_eq!((plan.service.as_str(), plan.tags.len()), ("middle", 3));
}

#[test]
fn files_that_extend_each_other_in_a_circle_are_refused() {
    let files = [("a", "extends: env\n"), ("env", "extends: a\n")];
    let error = topology(&files, &[]).expect_err("a circle").to_string();
    assert!(error.contains("files extend each other in a circle"), "{error}");
    assert!(error.contains("a.yaml:1:10"), "{error}");
}

#[test]
fn a_variable_overrides_a_value_in_a_file() {
    let environment = [
        ("STREAMLL__SERVICE", "other"),
        ("STREAMLL__SINKS__LIVE__MAX_LEN", "7"),
        ("STREAMLL__SINKS__LIVE__CIRCUIT_BREAKER__FAILURE_THRESHOLD", "9"),
        ("STREAMLL__SINKS__LIVE__DURABLE", "true"),
        ("STREAMLL__SINKS__LIVE__STREAM_KEY", "12345"),
        ("STREAMLL__SINKS__LIVE__DELIVER_TIMEOUT", "3s"),
        ("STREAMLL_ENV", "env"),
    ];
    let plan = plan(BASE, &environment);
    assert_eq!((plan.service.as_str(), plan.sinks[0].name.as_str()), ("other", "live"));
    assert_eq!((plan.sinks[0].breaker.failure_threshold, plan.sinks[0].deliver_timeout.as_secs()), (9, 3));
}

#[test]
fn a_list_can_come_from_a_variable() {
    let base = BASE.replace("[\"ai.#\", \"ai.*.end\"]", "${TOPICS}");
    let environment = [
        ("TOPICS", "[ai.#, \"ai.x.start\"]"),
        ("STREAMLL__SINKS__CONSOLE__TOPICS", "[\"ai.*.error\"]"),
        ("STREAMLL__CLASSES__AUDIT", "[ai.a.b]"),
        ("STREAMLL__PROCESSORS", r#"[{"redact": {"fields": ["data.a"]}}]"#),
        ("STREAMLL__TAGS__TEAM", "[a]"),
    ];
    let plan = plan(&base, &environment);
    let topics =
        |n: usize| plan.sinks[n].topics.iter().flatten().map(|topic| topic.as_str()).collect::<Vec<_>>();
    assert_eq!((topics(0), topics(1)), (vec!["ai.#", "ai.x.start"], vec!["ai.*.error"]));
    assert_eq!((plan.classes[0].0.as_str(), plan.stages.len()), ("ai.a.b", 1));
    assert!(plan.tags.contains(&("team".to_owned(), "[a]".to_owned())), "a text stays one: {:?}", plan.tags);
}

#[test]
fn a_list_in_a_variable_that_cannot_be_read_is_told_how_to_write_it() {
    for (value, says) in [
        ("hunter2", "like `[a, b]`"),
        ("[hunter2", "like `[a, b]`"),
        ("[&a hunter2]", "like `[a, b]`"),
        ("[ai..hunter2]", "write `*`"),
    ] {
        let error = errors(BASE, &[("STREAMLL__SINKS__LIVE__TOPICS", value)]);
        assert!(error.contains("STREAMLL__SINKS__LIVE__TOPICS"), "{error}");
        assert!(error.contains(says), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_variable_that_changes_the_type_replaces_the_sink() {
    let error = topology(&[("env", BASE)], &[("STREAMLL__SINKS__LIVE__TYPE", "file")])
        .expect_err("no path")
        .to_string();
    assert!(error.contains("`path` is missing"), "{error}");
    let environment = [("STREAMLL__SINKS__LIVE__TYPE", "file"), ("STREAMLL__SINKS__LIVE__PATH", "x")];
    topology(&[("env", BASE)], &environment).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_variable_that_names_nothing_is_an_error_that_names_it() {
    for (variable, says) in [
        ("STREAMLL__SINKS__LIVEE__URL", "there is no sink `livee`"),
        ("STREAMLL__SINK__LIVE__URL", "there is no key `sink`"),
        ("STREAMLL__SINKS__LIVE__URI", "unknown key `uri`"),
        ("STREAMLL__SINKS__LIVE__BUFFER__MAX_SIZ", "unknown key `max_siz`"),
        ("STREAMLL__SHUTDOWN__TIMOUT", "unknown key `timout`"),
    ] {
        let error = errors(BASE, &[(variable, "redis://hunter2@x")]);
        assert!(
            error.contains(says) && error.contains(variable) && error.contains("did you mean"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = errors(BASE, &[("STREAMLL__SINKS__LI-VE__URL", "x"), ("STREAMLL__EXTENDS", "base")]);
    assert!(error.contains("no path of keys") && error.contains("there is no key `extends`"), "{error}");
}

#[test]
fn a_wrong_value_in_a_variable_names_the_variable_and_not_the_value() {
    for (variable, value) in [
        ("STREAMLL__SINKS__LIVE__MAX_LEN", "hunter2"),
        ("STREAMLL__SINKS__LIVE__POISON_AFTER", "hunter2"),
        ("STREAMLL__SINKS__LIVE__URL", "hunter2"),
        ("STREAMLL__SINKS__LIVE__TYPE", "hunter2"),
        ("STREAMLL__SINKS__LIVE__BUFFER", "hunter2"),
        ("STREAMLL__SINKS__LIVE__TOPICS", "hunter2"),
        ("STREAMLL__SINKS__LIVE__DEAD_LETTER", "hunter2"),
        ("STREAMLL__SINKS__LIVE__DELIVER_TIMEOUT", "hunter2"),
        ("STREAMLL__SINKS__LIVE__BUFFER__WHEN_FULL", "hunter2"),
        ("STREAMLL__SINKS__LIVE__ROUTING_KEY", "{hunter2}"),
        ("STREAMLL__SINKS", "hunter2"),
        ("STREAMLL__PROCESSORS", "hunter2"),
        ("STREAMLL__SERVICE", "../hunter2"),
        ("STREAMLL__TAGS", "hunter2"),
    ] {
        let error = errors(BASE, &[(variable, value)]);
        assert!(error.contains(variable), "{variable}: {error}");
        assert!(!error.contains("hunter2"), "{variable}: {error}");
    }
}

#[test]
fn keys_with_dots_and_brackets_stay_whole() {
    let error = errors(
        "\"sinks.live.url\": x\nsinks:\n  live: { type: terminal }\n  \"a[0]\": { type: terminal }\n",
        &[],
    );
    assert!(
        error.contains("unknown key `sinks.live.url`") && error.contains("`a[0]` cannot be the name"),
        "{error}"
    );
}
