//! Processes of a group, one of which is killed in the middle: everything is handled, and nothing is stuck.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use streamll::consume::Consumer;

use crate::servers::RedisServer;
use crate::{Process, STREAM, add, json, number, pending, reading, run, wait_for, wait_until};

/// What a consumer process is told: the server, and the file for the numbers that it has handled.
const URL: &str = "STREAMLL_TEST_URL";
const FILE: &str = "STREAMLL_TEST_FILE";

/// Not a test by itself: a process of the group, which writes down what it handles until it is killed.
#[test]
fn one_of_the_group() {
    let (Ok(url), Ok(file)) = (std::env::var(URL), std::env::var(FILE)) else { return };
    let file = Mutex::new(fs::OpenOptions::new().append(true).create(true).open(file).unwrap());
    // Longer than a busy machine keeps a healthy process waiting: what that has in hand is not to be claimed.
    let consumer = Consumer::connect(url, STREAM).group("g").workers(4).claim_after(Duration::from_secs(4));
    let consumer = consumer.on("token", move |event| {
        // One write, which a kill cannot cut.
        let line = format!("{}\n", number(&event));
        file.lock().unwrap().write_all(line.as_bytes())
    });
    run(consumer.run()).unwrap();
}

fn process(server: &RedisServer, file: &Path) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "killed::one_of_the_group"]).env(URL, server.url()).env(FILE, file);
    Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"))
}

fn handled(file: &Path) -> Vec<u64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

#[test]
fn of_three_consumers_one_is_killed_and_every_event_is_handled() {
    const EVENTS: u64 = 100_000;
    let server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..3).map(|i| folder.path().join(format!("{i}"))).collect();
    let mut processes: Vec<Process> = files.iter().map(|file| process(&server, file)).collect();
    run(async {
        // Each gets a share, also where one begins late.
        wait_for("all read", || reading(&server) == 3).await;
        let all = || files.iter().flat_map(|file| handled(file)).collect::<Vec<_>>();
        // Half of it is there, and the one to be killed has some of that in hand.
        add(&server, "event", (0..EVENTS / 2).map(|n| json(n, 100)));
        wait_until("the first has some", || {
            let n = handled(&files[0]).len();
            if n > 1000 { Ok(()) } else { Err(format!("{n}")) }
        })
        .await;
        let adder = std::thread::scope(|scope| {
            let adder = scope.spawn(|| add(&server, "event", (EVENTS / 2..EVENTS).map(|n| json(n, 100))));
            // Stopped before it is killed, with what it was given in hand for sure.
            let id = processes[0].0.id().to_string();
            assert!(Command::new("kill").args(["-STOP", &id]).status().unwrap().success());
            std::thread::sleep(Duration::from_millis(20));
            processes[0].0.kill().unwrap();
            adder.join()
        });
        adder.unwrap();
        processes[0].0.wait().unwrap();
        let of_the_dead = handled(&files[0]).len();
        wait_until("all are handled", || {
            let distinct: HashSet<u64> = all().into_iter().collect();
            let (n, left) = (distinct.len() as u64, pending(&server, "g"));
            if n == EVENTS && left == 0 { Ok(()) } else { Err(format!("{n} handled, {left} pending")) }
        })
        .await;
        let times = all().len() as u64;
        assert!(times - EVENTS <= 1024, "{} repeats are more than one had in hand", times - EVENTS);
        assert!(handled(&files[1]).len() > 1000 && handled(&files[2]).len() > 1000, "all had their share");
        eprintln!("the dead one had handled {of_the_dead}, {} were handled twice", times - EVENTS);
    });
}
