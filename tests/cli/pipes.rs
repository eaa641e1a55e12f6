//! Pipes that stand still, never block, or have nobody at their other end.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::Value;

use crate::{Folder, err, feed, out, streamll, wait_until};

const FILE: &str = "sinks: { log: { type: file, path: '{dir}/log.ndjson' } }\n";

fn line(n: usize) -> String {
    format!(r#"{{"event_type":"start","data":{{"n":{n}}}}}"#)
}

fn lines(count: usize) -> String {
    (0..count).map(|n| line(n) + "\n").collect()
}

/// The numbers of lines of JSON; panics at a line that is torn.
fn numbers(text: &str) -> Vec<usize> {
    let number = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        usize::try_from(event["data"]["n"].as_u64().unwrap()).unwrap()
    };
    text.lines().map(number).collect()
}

fn all(count: usize) -> Vec<usize> {
    (0..count).collect()
}

fn mkfifo(folder: &Folder) -> PathBuf {
    let path = folder.path("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// Never blocks, for whoever has it.
fn non_blocking(end: impl AsFd + Into<OwnedFd>) -> OwnedFd {
    rustix::io::ioctl_fionbio(&end, true).unwrap();
    end.into()
}

fn is_non_blocking(end: impl AsFd) -> bool {
    rustix::fs::fcntl_getfl(end).unwrap().contains(rustix::fs::OFlags::NONBLOCK)
}

fn status(folder: &Folder) -> Value {
    serde_json::from_str(&folder.read("status")).unwrap_or_default()
}

#[test]
fn an_input_that_never_blocks_is_read_to_its_end() {
    let (reader, writer) = io::pipe().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let ends: [(OwnedFd, OwnedFd); 2] = [(reader.into(), writer.into()), (theirs.into(), ours.into())];
    for (reader, writer) in ends {
        let folder = Folder::with(FILE);
        let reader = non_blocking(reader);
        let mut command = streamll(&folder.path(""), &["run", "--env", "test"]);
        let shared = reader.try_clone().unwrap();
        command.stdin(Stdio::from(reader));
        let child = command.spawn().unwrap();
        drop(command);
        let mut writer = File::from(writer);
        // Each comes when the one before has arrived: the input is empty in between.
        for n in 0..3 {
            writeln!(writer, "{}", line(n)).unwrap();
            wait_until("it arrives", || folder.read("log.ndjson").lines().count() == n + 1);
        }
        assert!(is_non_blocking(&shared), "the flag belongs to others, too");
        drop(writer);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert!(err(&output).contains("everything arrived: received 3"), "{}", err(&output));
    }
}

#[test]
fn an_input_that_cannot_be_read_is_not_called_arrived() {
    let folder = Folder::with(FILE);
    let cases = [("text", "streamll: not everything was read"), ("json", "\"cut\":\"standard input: ")];
    for ((report, expected), is_folder) in cases.into_iter().flat_map(|case| [(case, true), (case, false)]) {
        let mut command = streamll(&folder.path(""), &["run", "--env", "test", "--report", report]);
        // A folder; or what is open for writing alone, as by `0>file`.
        command.stdin(match is_folder {
            true => File::open(folder.path("")).unwrap(),
            false => File::create(folder.path("written")).unwrap(),
        });
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", err(&output));
        assert!(
            err(&output).contains(expected) && !err(&output).contains("everything arrived"),
            "{}",
            err(&output)
        );
    }
    let path = folder.path("").display().to_string();
    let output = streamll(&folder.path(""), &["replay", &path, "--env", "test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert!(err(&output).contains("streamll: not everything was read"), "{}", err(&output));
}

#[test]
fn acknowledgements_and_reports_wait_for_outputs_that_never_block() {
    let folder = Folder::with(FILE);
    let (mut reader, writer) = io::pipe().unwrap();
    let (mut said, says) = io::pipe().unwrap();
    let ends = [writer.try_clone().unwrap(), says.try_clone().unwrap()];
    let mut command = streamll(&folder.path(""), &["run", "--env", "test", "--ack"]);
    command.stdout(non_blocking(writer)).stderr(non_blocking(says));
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut stdin = child.stdin.take().unwrap();
    let count = 30_000;
    // A complaint for each second line: neither output is read before both are full.
    let input: String = (0..count).map(|n| line(n) + "\noops\n").collect();
    let fed = thread::spawn(move || stdin.write_all(input.as_bytes()));
    wait_until("one of them is full", || is_full(&ends[0]) || is_full(&ends[1]));
    let complaints = thread::spawn(move || {
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        text
    });
    wait_until("the other is full, too", || is_full(&ends[0]));
    drop(ends);
    let mut acked = String::new();
    reader.read_to_string(&mut acked).unwrap();
    fed.join().unwrap().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let acked: Vec<usize> = acked.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(acked, (0..count).map(|n| 2 * n + 1).collect::<Vec<_>>());
    let complaints = complaints.join().unwrap();
    assert_eq!(complaints.lines().filter(|line| line.starts_with("streamll: line ")).count(), count);
    assert!(
        complaints.contains("received 60000, rejected 30000"),
        "{}",
        &complaints[complaints.len() - 300..]
    );
}

fn is_full(writer: &io::PipeWriter) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(writer, PollFlags::OUT)], Some(&now)).unwrap() == 0
}

#[test]
fn a_console_that_drops_and_that_nobody_reads_holds_up_nothing() {
    for when_full in ["wait", "shed"] {
        let folder = Folder::with(
            "sinks:\n  console: { type: terminal, buffer: { max_events: 100, when_full: drop_newest }, circuit_breaker: { on_open: drop } }\n  log: { type: file, path: '{dir}/log.ndjson' }\n",
        );
        let args = ["run", "--env", "test", "--when-full", when_full, "--status-file", "status"];
        let mut command = streamll(&folder.path(""), &args);
        command.current_dir(folder.path(""));
        let mut child = command.spawn().unwrap();
        let unread = child.stdout.take().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let count = 20_000;
        // It is held open: the end comes later.
        let fed = thread::spawn(move || stdin.write_all(lines(count).as_bytes()).map(|()| stdin));
        wait_until("everything arrives beside it", || folder.read("log.ndjson").lines().count() == count);
        wait_until("it is known that nobody reads", || {
            let console = &status(&folder)["sinks"]["console"];
            console["state"] == "open" && console["reason"].to_string().contains("nobody reads stdout")
        });
        drop(fed.join().unwrap().unwrap());
        let output = child.wait_with_output().unwrap();
        drop(unread);
        assert_eq!(output.status.code(), Some(1), "what was dropped is a loss: {}", err(&output));
        assert!(
            err(&output).contains(&format!("log: accepted {count}, delivered {count}\n")),
            "{}",
            err(&output)
        );
    }
}

#[test]
fn a_console_that_is_read_late_goes_on_at_once_and_loses_nothing() {
    for sink in ["type: terminal", "type: file, path: /dev/stdout"] {
        let folder = Folder::with(&format!("sinks: {{ console: {{ {sink} }} }}\n"));
        let mut command = streamll(&folder.path(""), &["run", "--env", "test", "--status-file", "status"]);
        command.current_dir(folder.path("")).env("STREAMLL_LOG", "off");
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let count = 5_000;
        stdin.write_all(lines(count).as_bytes()).unwrap();
        drop(stdin);
        wait_until("it is known that nobody reads", || {
            let console = &status(&folder)["sinks"]["console"];
            console["state"] == "open" && console["reason"].to_string().contains("nobody reads")
        });
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{sink}: {}", err(&output));
        let text = out(&output);
        let shown = text
            .lines()
            .map(|line| line.rsplit_once("\"n\": ").or_else(|| line.rsplit_once("\"n\":")).unwrap().1);
        let shown = shown.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
        assert!(shown.map(|n| n.parse::<usize>().unwrap()).eq(0..count), "each once, in order");
    }
}

/// A topology with a sink into a pipe with a name.
fn into_pipe(folder: &Folder, rest: &str) {
    folder.write(
        "test.yaml",
        &format!("sinks: {{ log: {{ type: file, path: '{{dir}}/pipe', circuit_breaker: {{ recovery_timeout: 100ms }} }} }}\n{rest}"),
    );
}

#[test]
fn a_pipe_that_nobody_reads_takes_nothing_and_says_so() {
    let folder = Folder::with(FILE);
    let pipe = mkfifo(&folder);
    std::os::unix::fs::symlink(&pipe, folder.path("link")).unwrap();
    for path in ["pipe", "link"] {
        folder.write(
            "test.yaml",
            &format!(
                "sinks: {{ log: {{ type: file, path: '{{dir}}/{path}' }} }}\nshutdown: {{ timeout: 1s }}\n"
            ),
        );
        let output = feed(streamll(&folder.path(""), &["run", "--env", "test"]), lines(3).as_bytes());
        assert_eq!(output.status.code(), Some(1), "{}", err(&output));
        let said = err(&output);
        assert!(said.contains("log: accepted 3, left in memory 3; open: nobody reads `"), "{said}");
    }
}

#[test]
fn a_reader_that_comes_late_gets_everything_and_one_that_goes_no_half_line_is_left_to_the_next() {
    let folder = Folder::with(FILE);
    let pipe = mkfifo(&folder);
    into_pipe(&folder, "");
    let mut command = streamll(&folder.path(""), &["run", "--env", "test", "--status-file", "status"]);
    command.current_dir(folder.path("")).env("STREAMLL_LOG", "off");
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Longer than what a pipe holds, so that a line is cut when its reader goes.
    let long =
        |n: usize| format!(r#"{{"event_type":"start","data":{{"n":{n},"text":"{}"}}}}"#, "x".repeat(100_000));
    for n in 0..10 {
        writeln!(stdin, "{}", long(n)).unwrap();
    }
    let waits = |delivered: usize| {
        wait_until("it says that nobody reads", || {
            let log = &status(&folder)["sinks"]["log"];
            log["delivered"] == delivered && log["reason"].to_string().contains("nobody reads `")
        });
    };
    waits(0);
    let mut first = BufReader::new(File::open(&pipe).unwrap());
    let mut line = String::new();
    first.read_line(&mut line).unwrap();
    first.read_exact(&mut [0; 10_000]).unwrap();
    drop(first);
    waits(1);
    let second = File::open(&pipe).unwrap();
    drop(stdin);
    let rest = thread::spawn(move || io::read_to_string(second).unwrap());
    let code = child.wait().unwrap().code();
    let rest = rest.join().unwrap();
    assert_eq!(code, Some(0));
    assert_eq!([numbers(&line), numbers(&rest)].concat(), all(10));
}

#[test]
fn a_pipe_whose_reader_stands_still_is_waited_for_with_a_reason_and_every_line_is_whole() {
    let folder = Folder::with(FILE);
    let pipe = mkfifo(&folder);
    into_pipe(&folder, "");
    let mut command = streamll(&folder.path(""), &["run", "--env", "test", "--status-file", "status"]);
    command.current_dir(folder.path("")).env("STREAMLL_LOG", "off");
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let reader = OpenOptions::new().read(true).open(&pipe).unwrap();
    stdin.write_all(lines(5_000).as_bytes()).unwrap();
    wait_until("it says so", || {
        status(&folder)["sinks"]["log"]["reason"].to_string().contains("it takes nothing")
    });
    drop(stdin);
    let read = io::read_to_string(reader).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(numbers(&read), all(5_000));
}

fn run_into(path: &str) -> Output {
    let folder = Folder::with(&format!(
        "sinks: {{ log: {{ type: file, path: '{path}' }} }}\nshutdown: {{ timeout: 1s }}\n"
    ));
    feed(streamll(&folder.path(""), &["run", "--env", "test"]), lines(3).as_bytes())
}

#[test]
fn descriptors_and_devices_are_written_for_what_they_are() {
    for path in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let output = run_into(path);
        assert_eq!(
            (output.status.code(), numbers(&out(&output))),
            (Some(0), all(3)),
            "{path}: {}",
            err(&output)
        );
    }
    assert_eq!(run_into("/dev/null").status.code(), Some(0));
    let full = run_into("/dev/full");
    assert!(err(&full).contains("left in memory 3; open: no space left for `/dev/full`"), "{}", err(&full));
    // A regular file is appended to, by whichever name.
    let folder = Folder::with("sinks: { log: { type: file, path: /dev/stdout } }\n");
    let file = folder.path("out");
    std::fs::write(&file, "{\"data\":{\"n\":0}}\n").unwrap();
    let mut command = streamll(&folder.path(""), &["run", "--env", "test"]);
    command.stdout(OpenOptions::new().append(true).open(&file).unwrap());
    let input: String = (1..4).map(|n| line(n) + "\n").collect();
    assert_eq!(feed(command, input.as_bytes()).status.code(), Some(0));
    assert_eq!(numbers(&folder.read("out")), all(4));
    // A socket has no name to be opened by.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = streamll(&folder.path(""), &["run", "--env", "test"]);
    command.stdout(OwnedFd::from(theirs));
    assert_eq!(feed(command, lines(3).as_bytes()).status.code(), Some(0));
    assert_eq!(numbers(&io::read_to_string(ours).unwrap()), all(3));
}

#[test]
fn a_reader_that_has_seen_enough_ends_nothing_and_what_comes_later_waits() {
    let folder =
        Folder::with("sinks: { log: { type: file, path: /dev/stdout } }\nshutdown: { timeout: 1s }\n");
    let mut command = streamll(&folder.path(""), &["run", "--env", "test", "--status-file", "status"]);
    command.current_dir(folder.path("")).env("STREAMLL_LOG", "off");
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}", line(0)).unwrap();
    let mut first = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut first).unwrap();
    drop(reader);
    for n in 1..=100 {
        writeln!(stdin, "{}", line(n)).unwrap();
    }
    wait_until("it says so", || {
        status(&folder)["sinks"]["log"]["reason"].to_string().contains("its reader is gone")
    });
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("log: accepted 101, delivered 1, left in memory 100"), "{}", err(&output));
}

#[test]
fn a_replay_reads_a_pipe_to_its_end() {
    let folder = Folder::with(FILE);
    let pipe = mkfifo(&folder);
    let args = ["replay", &pipe.display().to_string(), "--env", "test"];
    let child = streamll(&folder.path(""), &args).spawn().unwrap();
    let mut writer = OpenOptions::new().write(true).open(&pipe).unwrap();
    for n in 0..3 {
        writeln!(writer, "{}", line(n)).unwrap();
        wait_until("it arrives", || folder.read("log.ndjson").lines().count() == n + 1);
    }
    drop(writer);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(numbers(&folder.read("log.ndjson")), all(3));
}
