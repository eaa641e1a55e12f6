//! Everyone's events: written by redis-py and by pika, and in the encodings of the Python project.

use std::path::Path;
use std::process::{Command, Stdio};

use streamll::Event;
use streamll::consume::{Consumer, Start};

use crate::servers::{RabbitNode, RedisServer};
use crate::{Running, STREAM, Seen, add, entries, field, run, wait_for};

/// Runs a script of this folder with the Python that `tests/run` prepares.
#[track_caller]
fn python(script: &str, args: &[&str]) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let python = target.join("python/bin/python");
    let python_there = python.is_file();
    assert!(python_there, "the clients in Python are missing: `tests/run` installs them");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/consume").join(script);
    let output = Command::new(python).arg(path).args(args).stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The answer that tokens make together.
fn answer(events: &[Event]) -> String {
    let token = |event: &Event| event.data("token").and_then(|token| token.as_str().map(str::to_owned));
    events.iter().filter_map(token).collect()
}

#[test]
fn what_redis_py_writes_is_read() {
    let server = RedisServer::start();
    python("write_redis.py", &[&server.port().to_string(), STREAM]);
    run(async {
        let seen = Seen::default();
        let consumer = Consumer::connect(server.url(), STREAM).start(Start::Begin).until("+");
        let ended =
            consumer.filter("data.conversation_id", "conv_123").on_topic("#", seen.handler()).run().await;
        let status = ended.unwrap();
        assert_eq!(
            (status.balance.handled, status.balance.failed, status.balance.filtered),
            (22, 1, 1),
            "{status:#?}"
        );
        assert!(status.last_failure.unwrap().contains("bare `NaN`"));
        let events = seen.events();
        assert_eq!(answer(&events), (0..20).map(|i| format!("«{i}» ")).collect::<String>());
        assert!(events.iter().all(|event| event.module_name() == "RagPipeline"));
        assert_eq!(events[0].timestamp().to_string(), "2026-11-21T03:20:03.287476Z");
    });
}

#[test]
fn what_pika_publishes_is_read() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let seen = Seen::default();
        let consumer = Consumer::connect(node.url(&vhost), "production_ai_events").group("g");
        let running = Running::start(consumer.on_topic("ai.rag_pipeline.token", seen.handler()));
        running.until("it consumes", |status| status.connections == 1).await;
        let url = node.url(&vhost);
        tokio::task::spawn_blocking(move || python("write_rabbitmq.py", &[&url, "production_ai_events"]))
            .await
            .unwrap();
        wait_for("all tokens", || seen.len() == 20).await;
        let status = running.stop().await;
        assert_eq!(answer(&seen.events()), (0..20).map(|i| format!("«{i}» ")).collect::<String>());
        assert_eq!(status.balance.dead_lettered, 0, "{status:#?}");
    });
}

#[test]
fn entries_as_the_python_project_writes_them_are_read() {
    let server = RedisServer::start();
    // A line each: the field, and its value.
    let lines = include_str!("foreign_entries.tsv").lines().filter(|line| !line.starts_with('#'));
    for line in lines {
        let (name, value) = line.split_once('\t').expect("a tab");
        add(&server, name, [value.replace("\\x89", "\u{89}").replace("\\r", "\r").replace("\\n", "\n")]);
    }
    run(async {
        let seen = Seen::default();
        let consumer =
            Consumer::connect(server.url(), STREAM).group("g").on_topic("ai.rag_pipeline.#", seen.handler());
        let running = Running::start(consumer);
        running
            .until("all are settled", |status| status.balance.received == 9 && status.balance.in_flight == 0)
            .await;
        let status = running.stop().await;
        assert_eq!((status.balance.handled, status.balance.dead_lettered), (7, 2), "{status:#?}");
        let kinds: Vec<_> = seen.events().iter().map(|event| event.kind().to_string()).collect();
        assert_eq!(kinds, ["start", "token", "token", "end", "start", "token", "end"]);
        assert_eq!(answer(&seen.events()), "The answer is forty-two");
        let letters = entries(&server, "ai_events.dead");
        assert!(field(&letters[0], "reason").contains("holds a bare `NaN`, which is no JSON"), "{letters:?}");
        assert!(field(&letters[1], "reason").contains("is no event"), "{letters:?}");
    });
}
