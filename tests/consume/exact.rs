//! What an event says stays what it says, on the other side of a broker too: numbers to the letter, keys once, and no
//! event lost for half a character.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use streamll::consume::{Consumer, DeadLetters};

use crate::servers::{RabbitNode, RedisServer};
use crate::{Running, STREAM, Seen, add, channel, publish, run, wait_for};

const DATA: &str =
    r#"{"n":1890.5413911078447,"trace":18446744073709551617, "price":1.10,"user":{"id":1046.8333333333335}}"#;

fn event(id: &str, data: &str) -> String {
    format!(
        r#"{{"event_id":"{id}","event_type":"x","timestamp":"2026-11-21T03:20:15Z","span_id":"s","data":{data}}}"#
    )
}

fn streamll(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamll"));
    command.args(args).env_clear().env("STREAMLL_TOPOLOGIES", folder).env("HOME", folder);
    command.stdin(Stdio::null()).output().expect("it runs")
}

/// What `tail` shows of all that is there, until there are so many lines.
fn tail(server: &RedisServer, args: &str, lines: usize) -> String {
    let script = format!(
        "{} tail {} --from begin {args} | head -n {lines}",
        env!("CARGO_BIN_EXE_streamll"),
        server.url()
    );
    let Output { stdout, .. } = Command::new("bash").args(["-c", &script]).output().expect("it runs");
    String::from_utf8(stdout).expect("text")
}

#[test]
fn numbers_are_found_shown_and_copied_by_the_digits_that_came() {
    let server = RedisServer::start();
    add(
        &server,
        "event",
        [event("no", r#"{"n":1890.5413911078449,"trace":18446744073709551616}"#), event("e", DATA)],
    );
    for filter in [
        "data.n=1890.5413911078447",
        "data.trace=18446744073709551617",
        "data.price=1.10",
        "data.price=1.1",
        "data.user.id=1046.8333333333335",
    ] {
        let json = tail(&server, &format!("--json --where {filter}"), 1);
        assert!(json.contains("\"event_id\":\"e\"") && json.contains(DATA), "{filter}: {json}");
    }
    let shown = tail(&server, "--where data.price=1.10", 1);
    let expected = DATA.replace("\":", "\": ").replace(',', ", ").replace(",  ", ", ");
    assert_eq!(shown, format!("[03:20:15.000] ◆ x (s) {expected}\n"));

    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.ndjson");
    let yaml = format!(
        "processors: [{{ redact: {{ fields: [data.user.name] }} }}]\nsinks: {{ log: {{ type: file, path: '{}' }} }}\n",
        log.display()
    );
    std::fs::write(folder.path().join("test.yaml"), yaml).unwrap();
    add(&server, "event", [event("r", &DATA.replace("{\"id\"", "{\"name\":\"SECRET\",\"id\""))]);
    let output = streamll(folder.path(), &["replay", &server.url(), "--env", "test"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let log = std::fs::read_to_string(&log).unwrap();
    let redacted = DATA.replace("{\"id\"", "{\"name\":\"[redacted]\",\"id\"");
    assert!(log.contains(DATA) && log.contains(&redacted) && !log.contains("SECRET"), "{log}");

    run(async {
        let seen = Seen::default();
        let consumer = Consumer::connect(server.url(), STREAM).group("g").on("x", seen.handler());
        let running = Running::start(consumer.filter("data.n", 1890.5413911078447));
        wait_for("both", || seen.len() == 2).await;
        assert_eq!(seen.events()[0].data("n").unwrap().as_f64(), Some(1890.5413911078447));
        assert_eq!(running.stop().await.balance.dead_lettered, 0);
    });
}

/// Each holds half an emoji, or a byte order mark, and is read as an event whose `data.s` is this.
fn halves() -> Vec<(&'static str, String, &'static str)> {
    let envelope = |inner: &str| serde_json::json!({ "data": inner, "headers": {} }).to_string();
    vec![
        ("event", event("1", r#"{"s":"\ud83d"}"#), "\u{fffd}"),
        ("message", event("2", r#"{"s":"a\udE00b","\ud800":1}"#), "a\u{fffd}b"),
        ("__data__", envelope(&event("3", r#"{"s":"\ud83d"}"#)), "\u{fffd}"),
        // The inner text holds the half itself, and its envelope the escape.
        ("__data__", envelope(&event("4", r#"{"s":"HALF"}"#)).replace("HALF", "\\ud83d"), "\u{fffd}"),
        ("event", format!("\u{feff}{}", event("5", r#"{"s":"x"}"#)), "x"),
        (
            "__data__",
            format!("\u{feff}{}", envelope(&format!("\u{feff}{}", event("6", r#"{"s":"x"}"#)))),
            "x",
        ),
    ]
}

#[test]
fn half_an_emoji_is_no_dead_letter_of_redis() {
    let server = RedisServer::start();
    let halves = halves();
    halves.iter().for_each(|(field, json, _)| add(&server, field, [json.clone()]));
    run(async {
        let seen = Seen::default();
        let running =
            Running::start(Consumer::connect(server.url(), STREAM).group("g").on("x", seen.handler()));
        wait_for("all of them", || seen.len() == halves.len()).await;
        let status = running.stop().await;
        assert_eq!((status.balance.handled, status.balance.dead_lettered), (6, 0), "{status:#?}");
        for (event, (_, _, expected)) in seen.events().iter().zip(&halves) {
            assert_eq!(event.data("s").unwrap().as_str(), Some(*expected));
            serde_json::from_slice::<serde_json::Value>(event.json()).expect("strict readers take it");
        }
    });
}

#[test]
fn half_an_emoji_is_no_dead_letter_of_rabbitmq() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let seen = Seen::default();
        let consumer = Consumer::connect(node.url(&vhost), "exact").group("g").on("x", seen.handler());
        let running = Running::start(consumer);
        running.until("it consumes", |status| status.connections == 1).await;
        let halves = halves();
        let (_connection, channel) = channel(node, &vhost).await;
        publish(&channel, "exact", "ai.m.x", halves.iter().map(|(_, json, _)| json.clone())).await;
        wait_for("all of them", || seen.len() == halves.len()).await;
        let status = running.stop().await;
        assert_eq!((status.balance.handled, status.balance.dead_lettered), (6, 0), "{status:#?}");
    });
}

#[test]
fn a_dead_letter_in_a_file_holds_the_event_to_the_letter_on_one_line() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead.ndjson");
    add(&server, "event", [event("e", &DATA.replace(", ", ",\n")), event("h", r#"{"s":"\ud83d"}"#)]);
    run(async {
        let consumer =
            Consumer::connect(server.url(), STREAM).group("g").dead_letters(DeadLetters::File(path.clone()));
        let running = Running::start(consumer.max_attempts(1).on("x", |_| Err::<(), _>("no")));
        running.until("both are letters", |status| status.balance.dead_lettered == 2).await;
        running.stop().await;
    });
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains(DATA) && lines[1].contains(r#""s":"\ufffd""#), "{text}");
    lines.iter().for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).expect("JSON")));
}
