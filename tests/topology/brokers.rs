//! What can be wrong with a broker's sink is found without a broker, at its place, and without showing a password.

use streamll::Registry;
use streamll::topology::{LoadOptions, Topology};

use super::folder;

/// What is said of a sink with these lines.
fn wrong(lines: &[&str]) -> String {
    let text = format!("sinks:\n  live:\n    {}\n", lines.join("\n    "));
    let folder = folder(&[("env", &text)]);
    let loaded = Topology::load_with(folder.path(), "env", &Registry::default(), &LoadOptions::default());
    loaded.expect_err(&text).to_string()
}

#[track_caller]
fn assert_says(lines: &[&str], at: &str, parts: &[&str]) {
    let said = wrong(lines);
    assert!(said.contains(&format!("env.yaml:{at}")), "not at {at}:\n{said}");
    for part in parts {
        assert!(said.contains(part), "no `{part}` in:\n{said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn mistakes_of_a_redis_sink() {
    let redis = |line| ["type: redis", "url: redis://u:hunter2@localhost/0", line];
    assert_says(&["type: redis"], "2:3", &["url"]);
    for (url, part) in [
        ("http://u:hunter2@localhost", "redis://"),
        ("redis://u:hunter2@localhost:99999", "port"),
        ("redis://u:hunter2@localhost/abc", "database"),
        ("localhost", "redis://"),
        ("rediss://u:hunter2@localhost#insecure", "insecure"),
    ] {
        assert_says(&["type: redis", &format!("url: {url}")], "4:10", &[part]);
    }
    assert_says(&redis("stream_kye: x"), "5:5", &["stream_kye", "did you mean `stream_key`?"]);
    assert_says(&redis("stream_key: \"chat:{data.id\""), "5:17", &["stream_key"]);
    assert_says(&redis("max_len: lots"), "5:14", &["lots"]);
    assert_says(&redis("max_len: 0"), "5:14", &["leave it out"]);
    assert_says(&redis("expire: 10"), "5:13", &["10s"]);
    assert_says(&redis("ordering: loose"), "5:15", &["strict", "pipelined"]);
    assert_says(&redis("ca_file: ca.pem"), "5:14", &["rediss://"]);
}

#[test]
fn mistakes_of_a_rabbitmq_sink() {
    let rabbit = |line| ["type: rabbitmq", "url: amqp://u:hunter2@localhost/v", line];
    for url in ["http://u:hunter2@localhost", "localhost", "amqp://u:hunter2@", "amqp://u:hunter2@h/a/b"] {
        assert_says(&["type: rabbitmq", &format!("url: {url}")], "4:10", &["amqp://"]);
    }
    assert_says(&rabbit("exchange_typ: topic"), "5:5", &["did you mean `exchange_type`?"]);
    assert_says(&rabbit("exchange_type: topical"), "5:20", &["direct", "fanout"]);
    assert_says(&rabbit("window: 0"), "5:13", &["1024"]);
    assert_says(&rabbit("heartbeat: 1500ms"), "5:16", &["whole seconds"]);
    assert_says(&rabbit("queues: { q: { bnd: [\"ai.#\"] } }"), "5:", &["bnd"]);
    assert_says(&rabbit("queues: { q: { bind: [\"ai.#\"], type: fast } }"), "5:", &["quorum", "stream"]);
    assert_says(
        &["type: rabbitmq", "url: amqp://h", "durable: false", "queues: { q: { type: quorum } }"],
        "6:",
        &["durable"],
    );
    assert_says(
        &["type: rabbitmq", "url: amqp://h", "exchange: x", "queue: q"],
        "6:12",
        &["leave out `exchange`"],
    );
}
