//! Events that no queue of their sink takes are warned of, where the files tell.

use streamll::Registry;
use streamll::topology::{LoadOptions, Topology};

use super::folder;

/// What the check says of a RabbitMQ sink with these lines, beside its address.
fn said(lines: &str) -> Option<String> {
    let text = format!("sinks:\n  records:\n    type: rabbitmq\n    url: amqp://localhost\n{lines}");
    let folder = folder(&[("env", &text)]);
    let options = LoadOptions { vars: super::vars(&[("HOME", "/home/u")]), ..LoadOptions::default() };
    let loaded = Topology::load_with(folder.path(), "env", &Registry::default(), &options);
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
    let warnings = loaded.warnings();
    assert!(warnings.len() < 2, "{warnings:?}");
    warnings.first().map(|warning| warning.message.clone())
}

#[test]
fn what_is_bound_covers_what_is_sent() {
    for lines in [
        "    queues: { all: [\"ai.#\"] }",
        "    queues: { all: [\"#\"] }",
        "    queues: { errors: [\"ai.*.error\"], rest: [\"ai.#\"] }",
        "    topics: [\"ai.*.error\"]\n    queues: { errors: [\"*.*.error\", \"ai.streamll.#\"] }",
        "    except: [\"ai.*.token\"]\n    topics: [\"ai.*.error\", \"ai.*.token\"]\n    queues: { a: [\"ai.*.error\", \"ai.streamll.*\"] }",
    ] {
        assert_eq!(said(lines), None, "{lines}");
    }
}

#[test]
fn what_is_sent_and_not_bound_is_named() {
    for (lines, lost) in [
        ("    queues: { errors: [\"ai.*.error\", \"ai.streamll.#\"] }", "`ai.*.*`"),
        ("    topics: [\"ai.*.error\"]\n    queues: { errors: [\"ai.*.error\"] }", "`ai.streamll.#`"),
        (
            "    topics: [\"ai.pay.#\"]\n    queues: { a: [\"ai.pay.start\", \"ai.streamll.#\"] }",
            "`ai.pay.*`",
        ),
        (
            "    topics: [\"ai.*.error\", \"ai.*.end\"]\n    queues: { a: [\"ai.*.end\", \"ai.streamll.#\"] }",
            "`ai.*.error`",
        ),
    ] {
        let warning = said(lines).unwrap_or_else(|| panic!("no warning for\n{lines}"));
        assert!(warning.starts_with(&format!("no queue of `records` takes {lost}")), "{warning}");
    }
}

#[test]
fn where_the_files_do_not_tell_nothing_is_said() {
    for lines in [
        "    exchange: somebody_elses",
        "    queue: all",
        "    declare: false\n    queues: { errors: [\"ai.*.error\"] }",
        "    exchange_type: direct\n    queues: { errors: [\"ai.chat.error\"] }",
        "    routing_key: \"{tags.tenant:-none}\"\n    queues: { errors: [\"acme\", \"ai.streamll.#\"] }",
    ] {
        assert_eq!(said(lines), None, "{lines}");
    }
}
