//! `streamll tail`: follows live, filters, pipes well, and ends cleanly.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::servers::{RabbitNode, RedisServer};
use crate::{Process, STREAM, add, add_numbers, channel, exchange, json, pending, publish, run, wait_for};

pub(crate) fn tail(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamll"));
    command
        .arg("tail")
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A tail that follows.
pub(crate) struct Following {
    process: Process,
    out: BufReader<ChildStdout>,
}

impl Following {
    pub(crate) fn start(args: &[&str]) -> Following {
        let mut child = tail(args).spawn().expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        Following { process: Process(child), out }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// What came behind the lines that were read, what was said, and how it ended.
    pub(crate) fn ends(mut self) -> (String, String, Option<i32>) {
        let (mut rest, mut said) = (String::new(), String::new());
        self.out.read_to_string(&mut rest).unwrap();
        self.process.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (rest, said, self.process.0.wait().unwrap().code())
    }
}

pub(crate) fn ids(lines: &str) -> Vec<String> {
    let id =
        |line: &str| serde_json::from_str::<Value>(line).unwrap()["event_id"].as_str().unwrap().to_owned();
    lines.lines().map(id).collect()
}

#[test]
fn it_follows_a_stream_with_the_rendering_of_the_terminal_sink_and_ends_at_a_signal() {
    let server = RedisServer::start();
    add_numbers(&server, 0..3);
    for name in ["INT", "TERM", "HUP", "QUIT"] {
        let mut following = Following::start(&[&server.url(), "--from", "begin"]);
        assert_eq!(following.line(), "[03:20:15.842] • RagPipeline (s) 'word0 '");
        assert_eq!((following.line(), following.line()).1, "[03:20:15.842] • RagPipeline (s) 'word2 '");
        add(&server, "event", [r#"{"event_type":"error","timestamp":"2026-11-21T03:20:16Z","operation":"llm_call","span_id":"s","data":{"error_type":"Timeout","error_message":"30 s"}}"#.to_owned()]);
        assert_eq!(following.line(), "[03:20:16.000] ✖ llm_call (s) Timeout: 30 s");
        following.signal(name);
        assert_eq!(following.ends(), (String::new(), String::new(), Some(0)));
        let _: i64 = crate::ask(&server, &format!("XTRIM {STREAM} MAXLEN 0"));
        add_numbers(&server, 0..3);
    }
}

#[test]
fn piped_into_head_it_ends_with_0_also_when_nothing_more_comes() {
    let server = RedisServer::start();
    add_numbers(&server, 0..3);
    for (events, pipe) in [(3, ""), (3, "--json"), (2000, "--json")] {
        let _: i64 = crate::ask(&server, &format!("XTRIM {STREAM} MAXLEN 0"));
        add_numbers(&server, 0..events);
        let script = format!(
            "set -o pipefail; {} tail {} --from begin {pipe} | head -n 3",
            env!("CARGO_BIN_EXE_streamll"),
            server.url()
        );
        let Output { status, stdout, stderr } = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert_eq!(status.code(), Some(0), "{pipe} {}", String::from_utf8_lossy(&stderr));
        assert_eq!(String::from_utf8_lossy(&stdout).lines().count(), 3);
        assert_eq!(String::from_utf8_lossy(&stderr), "");
    }
}

#[test]
fn it_shows_what_is_asked_for_alone() {
    let server = RedisServer::start();
    let end = r#"{"event_id":"end","event_type":"end","module_name":"Rag","topic":"ai.rag.end","data":{"conversation_id":"conv_4"},"tags":{"tenant":"acme"}}"#;
    add(&server, "event", (0..30).map(|n| json(n, 10)).chain([end.to_owned(), "not JSON".to_owned()]));
    let shown_from = |from: &str, args: &[&str], until: usize| {
        let url = server.url();
        let mut following =
            Following::start(&[&[url.as_str(), STREAM, "--json", "--from", from], args].concat());
        let lines: Vec<String> = (0..until).map(|_| following.line()).collect();
        // Nothing more comes in a while.
        std::thread::sleep(Duration::from_millis(300));
        following.signal("INT");
        let (rest, said, code) = following.ends();
        assert_eq!((rest.as_str(), code), ("", Some(0)), "{args:?}");
        assert!(said.contains("1 entries could not be shown; the last: an entry is no event"), "{said}");
        ids(&lines.join("\n"))
    };
    let shown = |args: &[&str], until| shown_from("begin", args, until);
    assert_eq!(shown(&["--where", "data.conversation_id=conv_4"], 4), ["e4", "e14", "e24", "end"]);
    assert_eq!(
        shown(&["--where", "data.conversation_id=conv_4", "--where", "data.token_index=2"], 1),
        ["e24"]
    );
    assert_eq!(shown(&["--where", "tags.tenant=acme"], 1), ["end"]);
    assert_eq!(shown(&["--type", "end", "--type", "error"], 1), ["end"]);
    assert_eq!(shown(&["--topic", "ai.*.end"], 1), ["end"]);
    let entries: Vec<(String, crate::Fields)> = crate::ask(&server, &format!("XRANGE {STREAM} - + COUNT 25"));
    assert_eq!(shown_from(&entries[24].0, &[], 6)[0], "e25");
}

#[test]
fn a_group_shares_and_acknowledges_what_was_shown() {
    let server = RedisServer::start();
    add_numbers(&server, 0..10);
    let mut following = Following::start(&[&server.url(), "--group", "watchers", "--json"]);
    let lines: Vec<String> = (0..10).map(|_| following.line()).collect();
    assert_eq!(ids(&lines.join("\n")).len(), 10);
    run(wait_for("all are acknowledged", || pending(&server, "watchers") == 0));
    following.signal("INT");
    assert_eq!(following.ends().2, Some(0));
}

#[test]
fn it_watches_an_exchange_without_taking_anything_away() {
    let node = RabbitNode::shared();
    let vhost = node.vhost();
    run(async {
        let (_connection, channel) = channel(node, &vhost).await;
        let arguments = lapin::types::FieldTable::default();
        channel.queue_declare("kept".into(), Default::default(), arguments.clone()).await.unwrap();
        exchange(&channel, "events", lapin::ExchangeKind::Topic).await;
        let mut following =
            Following::start(&[&node.url(&vhost), "events", "--topic", "ai.rag_pipeline.#", "--json"]);
        let consumers = || node.ctl(&["list_consumers", "-p", &vhost, "queue_name"]).contains("amq.gen");
        wait_for("it watches", consumers).await;
        channel
            .queue_bind("kept".into(), "events".into(), "#".into(), Default::default(), arguments)
            .await
            .unwrap();
        publish(&channel, "events", "ai.other.token", [json(0, 10)]).await;
        publish(&channel, "events", "ai.rag_pipeline.token", [json(1, 10)]).await;
        assert_eq!(ids(&following.line()), ["e1"]);
        following.signal("INT");
        assert_eq!(following.ends().2, Some(0));
        let left = || node.ctl(&["list_queues", "-p", &vhost, "name", "messages"]);
        wait_for("its own queue is gone, the other whole", || left().trim() == "kept\t2").await;
    });
}

#[test]
fn it_says_how_it_stands_and_ends_where_only_a_person_can_help() {
    let server = RedisServer::start();
    add_numbers(&server, 0..1);
    let mut following = Following::start(&[&server.url(), "--from", "begin", "--json"]);
    following.line();
    server.kill9();
    std::thread::sleep(Duration::from_millis(1500));
    server.restart();
    let mut redis = crate::client(&server);
    // It reads on behind what it has shown.
    loop {
        ::redis::cmd("XADD").arg(STREAM).arg("*").arg("event").arg(json(5, 10)).exec(&mut redis).unwrap();
        if following.line().contains("\"e5\"") {
            break;
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    following.signal("INT");
    let (_, said, code) = following.ends();
    assert!(
        said.contains("streamll: open (not receiving since ") && said.contains("connection refused"),
        "{said}"
    );
    assert!(said.contains("streamll: consuming again") && code == Some(0), "{said}");
    let _: String = crate::ask(&server, "CONFIG SET requirepass canary-9");
    for (args, code, words) in [
        (vec![server.url()], 78, "put user and password into url"),
        (vec!["redis://:canary-8@127.0.0.1:x".to_owned()], 2, "the port must be a number"),
        (
            vec![server.url(), "--where=conversation".to_owned()],
            2,
            "write it like `data.conversation_id=conv_123`",
        ),
        (vec![server.url(), "--topic=ai..x".to_owned()], 2, "empty word"),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = tail(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(words), "{args:?}: {said}");
        assert!(!said.contains("canary"), "{said}");
    }
}

#[test]
fn a_reader_that_stands_still_does_not_keep_it_from_ending() {
    let server = RedisServer::start();
    add_numbers(&server, 0..5000);
    let mut following = Following::start(&[&server.url(), "--from", "begin", "--json"]);
    following.line();
    // The pipe is full by now.
    std::thread::sleep(Duration::from_millis(500));
    following.signal("INT");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let ended = loop {
        match following.process.0.try_wait().unwrap() {
            Some(ended) => break ended,
            None => assert!(tokio::time::Instant::now() < deadline, "it does not end"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn a_key_that_is_no_stream_ends_it_with_the_code_for_configuration() {
    let server = RedisServer::start();
    let _: String = crate::ask(&server, &format!("SET {STREAM} text"));
    let mut command = Command::new("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_streamll"), "tail", &server.url(), STREAM]).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(78) && said.contains("holds no stream"),
        "{:?} {said}",
        output.status
    );
}

/// The pipe is full: the first lines wait to be written, and nobody has read them.
#[test]
fn a_group_keeps_what_was_never_shown() {
    let server = RedisServer::start();
    let (long, numbers) = ("x".repeat(2000), 0..200);
    let event = |n: u64| format!(r#"{{"event_type":"token","event_id":"e{n}","data":{{"text":"{long}"}}}}"#);
    add(&server, "event", numbers.map(event));
    let _: String = crate::ask(&server, &format!("XGROUP CREATE {STREAM} watchers 0"));
    let mut following = Following::start(&[&server.url(), "--group", "watchers", "--json"]);
    run(wait_for("they are read", || pending(&server, "watchers") > 100));
    std::thread::sleep(std::time::Duration::from_millis(500));
    following.signal("INT");
    // Nobody reads until it has ended.
    following.process.0.wait().unwrap();
    let (shown, _, code) = following.ends();
    let left = pending(&server, "watchers");
    assert_eq!(code, Some(0));
    // What was shown last may come again; what nobody has seen stays.
    let shown = ids(&shown[..shown.rfind('\n').map_or(0, |end| end + 1)]).len() as u64;
    assert!(left + shown >= 200, "{left} are left and {shown} were shown");
}
