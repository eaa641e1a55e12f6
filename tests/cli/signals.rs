//! What the command does at each signal that ends a process by default.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{Folder, err, feed, signal, streamll, wait_until};

const FILE: &str = "sinks: { log: { type: file, path: '{dir}/log.ndjson' } }\n";
/// Its sink cannot deliver, and its end takes an hour.
const AWAY: &str = "sinks: { log: { type: file, path: '{dir}', circuit_breaker: { recovery_timeout: 1s } } }\nshutdown: { timeout: 1h }\n";

/// Those whose default is to end a process, and that do not tell of a fault inside of it: name, number.
const ENDS: [(&str, i32); 14] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("USR1", 10),
    ("USR2", 12),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("XCPU", 24),
    ("VTALRM", 26),
    ("PROF", 27),
    ("IO", 29),
    ("PWR", 30),
    ("RTMIN", 34),
];

fn line(n: usize) -> String {
    format!(r#"{{"event_type":"start","data":{{"n":{n}}}}}"#)
}

/// The command, started by a shell that ignores some signals.
fn ignoring(signals: &str, folder: &Path, args: &[&str]) -> Command {
    let command = streamll(folder, args);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' {signals}; exec \"$0\" \"$@\"")]).arg(command.get_program());
    shell.args(command.get_args()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

fn number(child: &Child, signal: i32) {
    crate::signal(child, &signal.to_string());
}

#[cfg(target_os = "linux")]
#[test]
fn every_signal_that_asks_for_an_end_delivers_what_came_in() {
    for (name, signal) in ENDS {
        let folder = Folder::with(FILE);
        let mut child = streamll(&folder.path(""), &["run", "--env", "test"]).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for n in 0..100 {
            writeln!(stdin, "{}", line(n)).unwrap();
        }
        wait_until("the lines have arrived", || folder.read("log.ndjson").lines().count() == 100);
        number(&child, signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {:?} {}", output.status, err(&output));
        assert!(err(&output).contains("everything arrived: received 100, routed 100"), "{}", err(&output));
        drop(stdin);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_second_one_ends_at_once_with_its_own_code_and_says_what_is_left() {
    let folder = Folder::with(AWAY);
    let status = folder.path("status").display().to_string();
    for (name, signal) in ENDS.into_iter().filter(|(name, _)| ["HUP", "QUIT", "USR1", "RTMIN"].contains(name))
    {
        let args = ["run", "--env", "test", "--status-file", &status];
        let mut child = streamll(&folder.path(""), &args).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{}", line(0)).unwrap();
        wait_until("the event waits", || folder.read("status").contains("\"waiting\":1"));
        wait_until("it drains, and ends", || {
            number(&child, signal);
            child.try_wait().unwrap().is_some()
        });
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(128 + signal), "{name}: {}", err(&output));
        assert!(err(&output).contains("left in memory 1"), "{}", err(&output));
        let _ = std::fs::remove_file(&status);
    }
}

#[test]
fn what_was_ignored_at_the_start_stays_ignored() {
    let folder = Folder::with(FILE);
    let mut child = ignoring("HUP INT QUIT", &folder.path(""), &["run", "--env", "test"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}", line(0)).unwrap();
    wait_until("it runs", || folder.read("log.ndjson").lines().count() == 1);
    for name in ["HUP", "INT", "QUIT"] {
        signal(&child, name);
    }
    for n in 1..100 {
        writeln!(stdin, "{}", line(n)).unwrap();
    }
    wait_until("it goes on", || folder.read("log.ndjson").lines().count() == 100);
    signal(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(err(&output).contains("everything arrived: received 100"), "{}", err(&output));
}

/// A signal may come before anything listens: then nothing has been read. Afterwards what was read arrives.
#[test]
fn a_signal_while_it_starts_loses_nothing_that_was_acknowledged() {
    for delay in [0, 1, 2, 4, 8, 16, 32] {
        let folder = Folder::with(FILE);
        let mut child = streamll(&folder.path(""), &["run", "--env", "test", "--ack"]).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for n in 0..100 {
            let _ = writeln!(stdin, "{}", line(n));
        }
        std::thread::park_timeout(Duration::from_millis(delay));
        signal(&child, "HUP");
        let output = child.wait_with_output().unwrap();
        let (acked, arrived) =
            (crate::out(&output).lines().count(), folder.read("log.ndjson").lines().count());
        match output.status.code() {
            Some(code) => assert_eq!((code, acked <= arrived), (0, true), "{}", err(&output)),
            None => assert_eq!((output.status.signal(), acked, arrived), (Some(1), 0, 0)),
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_limit_on_the_size_of_files_is_a_full_disk_and_no_end() {
    let folder = Folder::with(&format!("{FILE}shutdown: {{ timeout: 1s }}\n"));
    let command = streamll(&folder.path(""), &["run", "--env", "test"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -S -f 1; exec \"$0\" \"$@\""]).arg(command.get_program());
    shell.args(command.get_args()).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input: String = (0..100).map(|n| line(n) + "\n").collect();
    let output = feed(shell, input.as_bytes());
    assert_eq!(output.status.code(), Some(1), "{:?} {}", output.status, err(&output));
    assert!(err(&output).contains("no space left for"), "{}", err(&output));
}

#[test]
fn a_demo_ends_in_order_too() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["HUP", "QUIT", "TERM", "INT"] {
        let mut child = streamll(folder.path(), &["demo"]).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        signal(&child, name);
        // What is still said must find a reader.
        std::io::copy(&mut out, &mut std::io::sink()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {:?} {}", output.status, err(&output));
        assert!(err(&output).contains("everything arrived: received"), "{}", err(&output));
    }
}

#[test]
fn a_replay_ends_in_order_too_also_while_nobody_writes_into_its_pipe() {
    let folder = Folder::with(FILE);
    let pipe = folder.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for name in ["HUP", "QUIT", "TERM"] {
        let args = ["replay", &pipe.display().to_string(), "--env", "test"];
        let mut child = streamll(&folder.path(""), &args).spawn().unwrap();
        wait_until("it listens", || handles(&child, name));
        signal(&child, name);
        wait_until("it ends", || child.try_wait().unwrap().is_some());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {:?} {}", output.status, err(&output));
        assert!(err(&output).contains("streamll: not everything was read"), "{}", err(&output));
    }
}

/// Whether a process catches a signal by now.
fn handles(child: &Child, name: &str) -> bool {
    let (_, signal) = ENDS.into_iter().find(|(known, _)| *known == name).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal - 1) & 1 == 1)
}
