//! A buffer on a disk that is much too small: nothing crashes, and what was accepted and not shed arrives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use streamll::topology::{LoadOptions, Registry, Topology};
use streamll::{Confirmation, Event};

use crate::brokers::{Broker as _, Redis};
use support::wait_until;

/// A file system of its own, gone when the test is.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Small {
        fs::create_dir_all(at).expect("a folder");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(at).output();
        let mounted = mounted.expect("mount is there");
        let why = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "a small file system cannot be mounted: {why}");
        Small(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Of a test that has failed, something may still have it open.
        let lazily = std::thread::panicking().then_some("--lazy");
        let unmounted = Command::new("umount").args(lazily).arg(&self.0).status();
        assert!(
            std::thread::panicking() || unmounted.is_ok_and(|status| status.success()),
            "it stays mounted"
        );
    }
}

/// What the disk's thread has done so far: the processor time that it had, and how often it was woken.
fn work_of_the_disk() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("this is Linux");
    let of = |task: fs::DirEntry| {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let counts = |line: &&str| line.contains("ctxt_switches");
        (read("comm").trim() == "disk-live").then(|| {
            let stat = read("stat");
            let ticks = stat.split_whitespace().skip(13).take(2);
            ticks.chain(read("status").lines().filter(counts)).map(str::to_owned).collect::<Vec<_>>()
        })
    };
    tasks.flatten().find_map(of).expect("the thread of the disk is there")
}

/// Only root may mount. Anybody else is root in a user namespace of his own: the test runs itself there once more.
fn in_a_namespace(test: &str) {
    let this = std::env::current_exe().expect("this program");
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount"]).arg(this).args(["--exact", test, "--nocapture"]);
    let ran = unshare.status();
    assert!(
        ran.is_ok_and(|status| status.success()),
        "`{test}` failed, or could not run: it mounts a small file system, as root or in a user namespace (`unshare --user \
         --map-root-user --mount`); this system may allow neither"
    );
}

#[test]
fn a_disk_of_16_mib_with_64_mib_offered_and_the_broker_away() {
    if !rustix::process::geteuid().is_root() {
        return in_a_namespace("full_disk::a_disk_of_16_mib_with_64_mib_offered_and_the_broker_away");
    }
    let redis = Redis::start();
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let small = Small::mount(&data);
    let yaml = format!(
        "service: chaos\ndata_dir: {}\nsinks:\n  live:\n{}    buffer: {{ type: disk, max_size: 1GiB }}\n    \
         circuit_breaker: {{ recovery_timeout: 200ms, recovery_max: 1s }}\n",
        data.display(),
        redis.keys(redis.port())
    );
    fs::write(folder.path().join("chaos.yaml"), yaml).expect("a file");
    redis.server.kill9();
    let topology = Topology::load_with(folder.path(), "chaos", &Registry::default(), &LoadOptions::default());
    let handle = topology.unwrap_or_else(|error| panic!("{error}")).start().expect("it starts");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let step = streamll::step("Chaos");
    let text = "x".repeat(16 << 10);
    // Once enough was shed, what is left fits: it need not be full in the end.
    let told = || {
        let says = handle.status().sink("live").expect("it is there").to_string();
        if says.contains("its disk buffer cannot be written: No space left") { Ok(()) } else { Err(says) }
    };
    let (mut unconfirmed, mut was_told) = (Vec::new(), false);
    for n in 0..4096_u64 {
        let event = Event::new(&step, "progress").with("n", n).with("text", text.as_str());
        let sent = handle.emitter().send_with_receipt(event, streamll::Patience::Healthy);
        unconfirmed.push((n, runtime.block_on(sent)));
        was_told |= told().is_ok();
    }
    if !was_told {
        wait_until("the disk is full, and the status says so", told);
    }
    let accepted = handle.status().sink("live").expect("it is there").balance;
    assert!(accepted.holds() && accepted.shed > 0, "{accepted:?}");
    redis.server.restart();
    wait_until("everything that waited has arrived", || {
        let status = handle.status().sink("live").expect("it is there").clone();
        if status.balance.waiting == 0 { Ok(()) } else { Err(format!("{status:#?}")) }
    });
    // It recovers whole: the status, the senders, and the thread.
    wait_until("no trouble of the disk is left", || {
        let status = handle.status().sink("live").expect("it is there").clone();
        if status.disk_trouble.is_none() { Ok(()) } else { Err(format!("{status:#?}")) }
    });
    let more = async {
        for n in 4096..4196_u64 {
            handle.emitter().send(Event::new(&step, "progress").with("n", n)).await;
        }
        handle.emitter().send_confirmed(Event::new(&step, "progress").with("n", 4196)).await
    };
    let more = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), more).await });
    assert_eq!(more.expect("senders go on"), Confirmation::Held(1));
    wait_until("all of that has arrived", || {
        let waiting = handle.status().sink("live").expect("it is there").balance.waiting;
        if waiting == 0 { Ok(()) } else { Err(format!("{waiting} are waiting")) }
    });
    wait_until("the thread of the disk is at rest", || {
        let before = work_of_the_disk();
        std::thread::sleep(Duration::from_millis(500));
        let after = work_of_the_disk();
        if before == after { Ok(()) } else { Err(format!("{before:?}, then {after:?}")) }
    });
    let confirmed = runtime.block_on(async {
        let mut confirmed = Vec::new();
        for (n, sent) in unconfirmed {
            if let Confirmation::Held(_) = sent.confirmation().await {
                confirmed.push(n);
            }
        }
        confirmed.extend(4096..=4196);
        confirmed
    });
    let drained = handle.shutdown_blocking(Duration::from_secs(60));
    assert!(drained.status.balances());
    let numbers = drained.status.sink("live").expect("it is there").balance;
    assert_eq!((numbers.accepted, numbers.waiting), (4197, 0));
    let arrived: Vec<u64> = redis
        .arrived()
        .iter()
        .filter_map(|copy| {
            serde_json::from_slice::<serde_json::Value>(&copy.json).ok()?["data"]["n"].as_u64()
        })
        .collect();
    assert_eq!(arrived.len() as u64, numbers.delivered);
    assert_eq!(numbers.delivered + numbers.shed, 4197);
    assert_eq!(arrived, confirmed, "what was held has arrived, in order, and nothing else");
    assert!(arrived.len() > 800, "{} fit on the disk", arrived.len());
    // It has the files of the buffer open.
    drop(handle);
    drop(small);
}
