//! `streamll replay`: a file, or a range of a stream, once more through a topology.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::servers::RedisServer;
use crate::{Fields, STREAM, add, add_numbers, ask, json};

/// A folder with a topology that copies into a file.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.ndjson");
    let yaml = format!(
        "service: copy\nrouting_key: 'copy.{{event_type}}'\nsinks: {{ log: {{ type: file, path: '{}' }} }}\n",
        path.display()
    );
    fs::write(folder.path().join("test.yaml"), yaml).unwrap();
    folder
}

fn replay(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamll"));
    command.arg("replay").args(args).args(["--env", "test", "--report", "json"]).env_clear();
    command.env("STREAMLL_TOPOLOGIES", folder).env("HOME", folder).stdin(Stdio::null()).output().unwrap()
}

fn copied(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("copy.ndjson")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(said.lines().last().expect("a report"))
        .unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn a_stream_is_copied_whole_or_from_one_id_to_another() {
    let server = RedisServer::start();
    add_numbers(&server, 0..2500);
    let entries: Vec<(String, Fields)> = ask(&server, &format!("XRANGE {STREAM} - +"));
    let id = |n: usize| entries[n].0.as_str();
    for (args, expected) in [
        (vec![], 0..2500_u64),
        (vec!["--from", id(99)], 100..2500),
        (vec!["--to", id(1500)], 0..1501),
        (vec!["--from", id(9), "--to", id(19)], 10..20),
    ] {
        let folder = folder();
        let output = replay(folder.path(), &[&[server.url().as_str(), STREAM], &args[..]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let copied = copied(folder.path());
        let numbers = copied.iter().map(|event| event["seq"].as_u64().unwrap());
        assert!(numbers.eq(expected.clone()), "{args:?}: {}", copied.len());
        assert_eq!((&copied[0]["source"], &copied[0]["topic"]), (&"test".into(), &"copy.token".into()));
        assert_eq!(copied[0]["timestamp"], "2026-11-21T03:20:15.842142Z", "as it happened");
        assert_eq!(report(&output)["received"], expected.end - expected.start);
    }
}

#[test]
fn what_is_no_event_is_said_counted_and_the_rest_is_copied() {
    let server = RedisServer::start();
    add_numbers(&server, 0..10);
    add(&server, "event", ["not JSON".to_owned(), json(10, 10)]);
    let streamed = folder();
    let output = replay(streamed.path(), &[&server.url()]);
    assert_eq!((output.status.code(), copied(streamed.path()).len()), (Some(1), 11));
    assert_eq!(report(&output)["rejected"], 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("an entry is no event"));
    let filed = folder();
    let source = filed.path().join("events.ndjson");
    fs::write(&source, format!("{}\nnot JSON\n{}\n", json(0, 10), json(1, 10))).unwrap();
    let output = replay(filed.path(), &[&source.display().to_string()]);
    assert_eq!((output.status.code(), copied(filed.path()).len()), (Some(1), 2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("streamll: line 2: "));
}

#[test]
fn a_file_is_copied_in_order_and_what_is_not_there_is_said() {
    let folder = folder();
    let source = folder.path().join("events.ndjson");
    fs::write(&source, (0..20_000).map(|n| json(n, 10) + "\n").collect::<String>()).unwrap();
    let output = replay(folder.path(), &[&source.display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(copied(folder.path()).iter().map(|event| event["seq"].as_u64().unwrap()).eq(0..20_000));
    let server = RedisServer::start();
    let _: String = ask(&server, "CONFIG SET requirepass canary");
    for (source, code, words) in [
        ("nowhere.ndjson", 1, "nowhere.ndjson: No such file"),
        (&server.url(), 1, "put user and password into url"),
    ] {
        let output = replay(folder.path(), &[source]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(words), "{said}");
    }
    let usage = replay(folder.path(), &["nowhere.ndjson", "--from", "1-1"]);
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn what_is_asked_for_wrongly_is_a_mistake_of_usage_and_nothing_is_started() {
    let (server, folder) = (RedisServer::start(), folder());
    add_numbers(&server, 0..3);
    let url = server.url();
    for (args, words) in [
        (&[url.as_str(), STREAM, "--from", "yesterday"][..], "`yesterday` is no id"),
        (&[&url, STREAM, "--to", "yesterday"], "`yesterday` is no id"),
        (&[&url, STREAM, "--from", "7-0", "--to", "6-9"], "--to `6-9` is before --from `7-0`"),
        (&["amqp://guest:canary@127.0.0.1:1", STREAM], "only a Redis stream can be replayed"),
        (&["http://canary@127.0.0.1:1", STREAM], "must begin with `redis://`"),
    ] {
        let output = replay(folder.path(), args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(2) && said.contains(words),
            "{args:?}: {:?} {said}",
            output.status
        );
        assert!(!said.contains("canary"), "{said}");
        assert!(!folder.path().join("copy.ndjson").exists(), "{args:?}: the topology was started");
    }
}

#[test]
fn where_there_is_nothing_to_replay_it_says_so() {
    let (server, folder) = (RedisServer::start(), folder());
    add_numbers(&server, 0..3);
    for (args, words) in [
        (&["nowhere"][..], "there is nothing in stream `nowhere`: is that its name?"),
        (&[STREAM, "--from", "99999999999999-0"], "there is nothing in that range of stream `ai_events`"),
    ] {
        let output = replay(folder.path(), &[&[server.url().as_str()], args].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(0) && said.contains(words), "{:?} {said}", output.status);
    }
}

#[test]
fn the_field_of_an_entry_is_named_by_an_option() {
    let server = RedisServer::start();
    add(&server, "payload", [json(3, 10)]);
    let folder = folder();
    let output = replay(folder.path(), &[&server.url(), STREAM, "--field", "payload"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(copied(folder.path())[0]["event_id"], "e3");
    let output = replay(folder.path(), &["some.ndjson", "--field", "payload"]);
    assert_eq!(output.status.code(), Some(2));
}
