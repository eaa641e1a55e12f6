//! `streamll run`: every line accounted for, whatever it is.

use std::io::Write as _;

use serde_json::Value;

use crate::{Folder, err, feed, out, signal, streamll, wait_until};

const FILE: &str = "sinks: { log: { type: file, path: '{dir}/log.ndjson' } }\n";

fn report(stderr: &str) -> Value {
    let last = stderr.lines().last().expect("a report");
    serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {last}"))
}

fn line(n: usize) -> String {
    let kind = ["start", "token", "docs_found", "end"][n % 4];
    format!(r#"{{"event_type":"{kind}","execution_id":"run{}","data":{{"n":{n}}}}}"#, n / 4)
}

#[test]
fn every_line_arrives_in_order_and_the_numbers_balance() {
    let folder = Folder::with(FILE);
    let input: String = (0..20_000).map(|n| line(n) + "\n").collect();
    let output =
        feed(streamll(&folder.path(""), &["run", "--env", "test", "--report", "json"]), input.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let report = report(&err(&output));
    assert_eq!(report["received"], 20_000);
    assert_eq!(report["routed"], 20_000);
    assert_eq!(report["balanced"], true);
    let log = &report["sinks"]["log"];
    assert_eq!((&log["accepted"], &log["delivered"]), (&20_000.into(), &20_000.into()));
    for key in ["shed", "dead_lettered", "waiting", "restarts"] {
        assert_eq!(log[key], 0, "{key}");
    }
    assert_eq!((&log["state"], &log["reason"]), (&"closed".into(), &Value::Null));
    assert!(log.get("recovered").is_none() && log.get("diverted").is_none(), "zero, so left out");
    let written = folder.read("log.ndjson");
    let numbers =
        written.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["data"]["n"].as_u64());
    assert!(numbers.eq((0..20_000).map(Some)), "all lines, in order");
}

#[test]
fn a_malformed_line_is_reported_with_its_number_and_the_rest_arrives() {
    let folder = Folder::with(FILE);
    let mut input = String::new();
    let mut wrong = 0;
    for n in 0..1000 {
        match n % 100 {
            17 => input.push_str("{\"event_type\":"),
            42 => input.push_str("{\"data\":{}}"),
            43 => input.push_str(r#"{"event_type":"x","data":{"n":NaN}}"#),
            // Empty lines are no events, and no mistakes.
            44 => input.push_str("   "),
            _ => input.push_str(&line(n)),
        }
        wrong += usize::from([17, 42, 43].contains(&(n % 100)));
        input.push('\n');
    }
    input.push_str("\u{0}\u{1}\n");
    let mut input = input.into_bytes();
    input.extend_from_slice(b"{\"event_type\":\"\xff\xfe\"");
    wrong += 2;
    let output = feed(streamll(&folder.path(""), &["run", "--env", "test", "--report", "json"]), &input);
    assert_eq!(output.status.code(), Some(1));
    let stderr = err(&output);
    assert_eq!(stderr.lines().filter(|line| line.starts_with("streamll: line ")).count(), wrong);
    assert!(
        stderr.contains("streamll: line 18: `event_type`: EOF while parsing a value at column 14"),
        "{stderr}"
    );
    assert!(stderr.contains("streamll: line 43: `event_type` is missing"), "{stderr}");
    assert!(stderr.contains("streamll: line 1002: "), "the last line needs no newline: {stderr}");
    let report = report(&stderr);
    assert_eq!(report["received"], 992);
    assert_eq!(report["rejected"], wrong);
    assert_eq!(report["sinks"]["log"]["delivered"], 992 - wrong);
    assert_eq!(folder.read("log.ndjson").lines().count(), 992 - wrong);
}

#[test]
fn an_event_of_more_than_a_mebibyte_is_refused_and_its_neighbours_arrive() {
    let folder = Folder::with(FILE);
    let large = format!(r#"{{"event_type":"x","data":{{"text":"{}"}}}}"#, "x".repeat(2 << 20));
    let input = format!("{}\n{large}\n{}\n", line(0), line(1));
    let output =
        feed(streamll(&folder.path(""), &["run", "--env", "test", "--report", "json"]), input.as_bytes());
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("streamll: line 2: "), "{}", err(&output));
    assert_eq!(report(&err(&output))["rejected"], 1);
    assert_eq!(folder.read("log.ndjson").lines().count(), 2);
}

#[test]
fn acknowledged_lines_are_exactly_those_that_are_held() {
    let folder = Folder::with(FILE);
    let input: String =
        (0..500).map(|n| if n % 50 == 7 { "oops\n".to_owned() } else { line(n) + "\n" }).collect();
    let output = feed(streamll(&folder.path(""), &["run", "--env", "test", "--ack"]), input.as_bytes());
    let acked: Vec<usize> = out(&output).lines().map(|line| line.parse().unwrap()).collect();
    let expected: Vec<usize> = (0..500).filter(|n| n % 50 != 7).map(|n| n + 1).collect();
    assert_eq!(acked, expected);
}

#[test]
fn what_a_file_cannot_take_waits_is_reported_and_ends_with_1() {
    let folder = Folder::with("sinks: { log: { type: file, path: '{dir}' } }\nshutdown: { timeout: 1s }\n");
    let output = feed(
        streamll(&folder.path(""), &["run", "--env", "test", "--report", "json"]),
        (0..10).map(|n| line(n) + "\n").collect::<String>().as_bytes(),
    );
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let report = report(&err(&output));
    let log = &report["sinks"]["log"];
    assert_eq!((&log["waiting"], &log["state"]), (&10.into(), &"open".into()));
    assert!(log["reason"].as_str().unwrap().contains("directory"), "{log}");
}

#[test]
fn filtered_and_unrouted_events_are_no_losses() {
    let folder = Folder::with(
        "processors: [{ filter: { except: ['ai.*.token'] } }]\n\
         sinks: { log: { type: file, path: '{dir}/log.ndjson', topics: ['ai.*.start'] } }\n",
    );
    let input: String = (0..400).map(|n| line(n) + "\n").collect();
    let output =
        feed(streamll(&folder.path(""), &["run", "--env", "test", "--report", "json"]), input.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let report = report(&err(&output));
    assert_eq!(
        (&report["filtered"], &report["unrouted"], &report["routed"]),
        (&100.into(), &200.into(), &100.into())
    );
}

#[test]
fn a_terminal_whose_reader_went_away_does_not_hold_the_input_for_ever() {
    let folder = Folder::with("sinks: { console: { type: terminal, buffer: { max_events: 100 } } }\n");
    let mut command = streamll(&folder.path(""), &["run", "--env", "test"]);
    command.env("STREAMLL_LOG", "off");
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    // An input without an end: the command is to end it.
    let mut n = 0;
    while writeln!(stdin, "{}", line(n)).is_ok() {
        n += 1;
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("closed by its reader"), "{}", err(&output));
    assert!(err(&output).contains("no sink can deliver any more"), "{}", err(&output));
}

#[test]
fn a_byte_order_mark_and_line_ends_of_windows_are_no_mistakes() {
    let folder = Folder::with(FILE);
    let input = format!("\u{feff}{}\r\n{}\r\n", line(0), line(1));
    let output = feed(streamll(&folder.path(""), &["run", "--env", "test"]), input.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(folder.read("log.ndjson").lines().count(), 2);
}

#[test]
fn a_status_file_that_cannot_be_written_is_wrong_usage() {
    let folder = Folder::with(FILE);
    let output =
        feed(streamll(&folder.path(""), &["run", "--env", "test", "--status-file", "/nonexistent/s"]), b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("--status-file /nonexistent/s: "), "{}", err(&output));
    // A pipe stands for devices here: root could replace those.
    let pipe = folder.path("pipe").display().to_string();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let output = feed(streamll(&folder.path(""), &["run", "--env", "test", "--status-file", &pipe]), b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("no file: name one that can be replaced"), "{}", err(&output));
}

#[test]
fn the_status_file_says_when_and_by_which_process_it_was_written() {
    let folder = Folder::with(FILE);
    let file = folder.path("status").display().to_string();
    let mut child =
        streamll(&folder.path(""), &["run", "--env", "test", "--status-file", &file]).spawn().unwrap();
    let read = || serde_json::from_str::<serde_json::Value>(&folder.read("status")).unwrap_or_default();
    wait_until("the status is there", || read()["at"].is_string());
    let first = read();
    assert_eq!(first["pid"], child.id());
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&first["service"], &first["environment"]), (&"streamll".into(), &"test".into()), "{first}");
    wait_until("it is written again", || read()["at"].as_str() > first["at"].as_str());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_signal_ends_the_input_and_delivers_what_came_in() {
    let folder = Folder::with(FILE);
    for name in ["TERM", "INT"] {
        let _ = std::fs::remove_file(folder.path("log.ndjson"));
        let mut child = streamll(&folder.path(""), &["run", "--env", "test"]).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for n in 0..100 {
            writeln!(stdin, "{}", line(n)).unwrap();
        }
        wait_until("the lines have arrived", || folder.read("log.ndjson").lines().count() == 100);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {}", err(&output));
        assert!(err(&output).contains("everything arrived: received 100, routed 100"), "{}", err(&output));
        drop(stdin);
    }
}

#[test]
fn a_second_signal_ends_at_once_and_says_what_is_left() {
    let folder = Folder::with(
        "sinks: { log: { type: file, path: '{dir}', circuit_breaker: { recovery_timeout: 1s } } }\nshutdown: { timeout: 1h }\n",
    );
    for (name, code) in [("TERM", 143), ("INT", 130)] {
        let mut child = streamll(
            &folder.path(""),
            &["run", "--env", "test", "--status-file", &folder.path("status").display().to_string()],
        )
        .spawn()
        .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{}", line(0)).unwrap();
        wait_until("the event waits", || folder.read("status").contains("\"waiting\":1"));
        drop(stdin);
        wait_until("it drains", || {
            signal(&child, name);
            child.try_wait().unwrap().is_some()
        });
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", err(&output));
        assert!(err(&output).contains("left in memory 1"), "{}", err(&output));
        let _ = std::fs::remove_file(folder.path("status"));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn one_signal_after_the_end_of_the_input_does_not_cut_the_delivery_off() {
    let folder = Folder::with(
        "sinks: { log: { type: file, path: '{dir}/log.ndjson', circuit_breaker: { recovery_timeout: 1s } } }\n\
         shutdown: { timeout: 1m }\n",
    );
    std::fs::create_dir(folder.path("log.ndjson")).unwrap();
    let status = folder.path("status").display().to_string();
    let mut child =
        streamll(&folder.path(""), &["run", "--env", "test", "--status-file", &status]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}", line(0)).unwrap();
    wait_until("the event waits", || folder.read("status").contains("\"waiting\":1"));
    drop(stdin);
    wait_until("the input was read to its end", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().flatten();
        let mut names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
        !names.any(|name| name.contains("-input"))
    });
    signal(&child, "TERM");
    std::fs::remove_dir(folder.path("log.ndjson")).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(folder.read("log.ndjson").lines().count(), 1);
}

#[test]
fn wrong_usage_ends_with_2_and_a_wrong_topology_with_78() {
    let folder = Folder::with("sinks: { log: { type: fiel, path: x } }\n");
    let usage = feed(streamll(&folder.path(""), &["run", "--colour"]), b"");
    assert_eq!(usage.status.code(), Some(2));
    let wrong = feed(streamll(&folder.path(""), &["run", "--env", "test"]), b"");
    assert_eq!(wrong.status.code(), Some(78));
    assert!(err(&wrong).contains("did you mean `file`"), "{}", err(&wrong));
    let unnamed = feed(streamll(&folder.path(""), &["run"]), b"");
    assert_eq!(unnamed.status.code(), Some(78), "no tty, no choice: refused");
    assert!(err(&unnamed).contains("test"), "it lists what there is: {}", err(&unnamed));
}

#[test]
fn what_a_disk_keeps_is_no_loss_and_is_delivered_by_the_next_run() {
    let topology = |path: &str| {
        format!(
            "data_dir: '{{dir}}/data'\nshutdown: {{ timeout: 2s }}\nsinks: {{ log: {{ type: file, path: '{{dir}}/{path}', \
             buffer: {{ type: disk }} }} }}\n"
        )
    };
    // A folder lies where the file should be.
    let folder = Folder::with(&topology(""));
    let input: String = (0..500).map(|n| line(n) + "\n").collect();
    let kept = feed(streamll(&folder.path(""), &["run", "--env", "test", "--ack"]), input.as_bytes());
    assert_eq!(kept.status.code(), Some(0), "{}", err(&kept));
    assert!(err(&kept).contains("everything arrived or is kept on disk: "), "{}", err(&kept));
    assert!(err(&kept).contains("log: accepted 500, kept on disk for the next start 500"), "{}", err(&kept));
    assert_eq!(out(&kept).lines().count(), 500, "each line is held");
    folder.write("test.yaml", &topology("log.ndjson"));
    let next = feed(streamll(&folder.path(""), &["run", "--env", "test"]), b"");
    assert_eq!(next.status.code(), Some(0), "{}", err(&next));
    assert!(err(&next).contains("log: accepted 0, delivered 500, recovered 500"), "{}", err(&next));
    assert_eq!(folder.read("log.ndjson").lines().count(), 500);
}

#[test]
fn a_long_end_says_who_still_delivers() {
    let folder = Folder::with(
        "sinks: { log: { type: file, path: '{dir}', circuit_breaker: { recovery_timeout: 1s } } }\nshutdown: { timeout: 7s }\n",
    );
    let output = feed(streamll(&folder.path(""), &["run", "--env", "test"]), (line(0) + "\n").as_bytes());
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("streamll: still delivering: log 1\n"), "{}", err(&output));
    assert!(err(&output).contains("left in memory 1"), "{}", err(&output));
}

#[test]
fn too_few_open_files_are_one_line_and_no_backtrace() {
    let folder = Folder::with("data_dir: '{dir}'\nsinks: { log: { type: file, path: '{dir}/x' } }\n");
    for limit in ["12", "16", "20", "24", "28", "32", "40"] {
        let mut command = std::process::Command::new("sh");
        let run = format!("ulimit -n {limit}; exec \"$0\" run --env test");
        command
            .args(["-c", &run, env!("CARGO_BIN_EXE_streamll")])
            .env("STREAMLL_TOPOLOGIES", folder.path(""));
        command.env("RUST_BACKTRACE", "1").env("HOME", folder.path(""));
        let output = command.stdin(std::process::Stdio::null()).output().expect("a shell");
        let said = err(&output);
        assert!(!said.contains("panicked") && !said.contains("stack backtrace"), "{limit}: {said}");
        assert!(output.status.code() == Some(0) || said.contains("ulimit -n"), "{limit}: {said}");
    }
}
