//! Disk buffers whose folder cannot be written at the start: the graph starts, and takes the folder once that has passed.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use streamll_actors::event::{Confirmation, Event};
use streamll_actors::graph::{Plan, SinkSpec, StartError};
use streamll_actors::sink::{BufferPolicy, SinkState};
use streamll_actors::testkit::{Journal, Rig, run, settle};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

/// A file system of its own, gone when the test is.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path, options: &str) -> Mounted {
        mount(at, options);
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(at: &Path, options: &str) {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status();
    assert!(mounted.unwrap().success(), "this test mounts a file system, for which it must run as root");
}

fn spec(journal: &Journal) -> SinkSpec {
    let mut spec = journal.spec("records", Duration::from_millis(5));
    spec.buffer = BufferPolicy::disk();
    spec
}

fn plan(data: &Path, journal: &Journal) -> Plan {
    let other = journal.spec("other", Duration::from_millis(5));
    let mut plan = Plan::new("test").sink(spec(journal)).sink(other);
    plan.data_dir = data.into();
    plan
}

/// How the folder cannot be written, and how it can be again.
const TROUBLES: [(&str, &str); 2] = [("ro", "remount,rw"), ("size=1m,nr_inodes=2", "remount,nr_inodes=0")];

#[test]
fn a_sink_whose_folder_cannot_be_written_at_the_start_waits_for_it_alone_and_then_takes_it() {
    for (trouble, mended) in TROUBLES {
        let data = tempfile::tempdir().unwrap();
        let _mounted = Mounted::new(data.path(), trouble);
        run(async {
            let (journal, other) = (Journal::new([]), Journal::new([]));
            let mut plan = plan(data.path(), &journal);
            plan.sinks[1] = other.spec("other", Duration::from_millis(5));
            let rig = Rig::start(plan).await;
            rig.emit_all(0..100);
            settle().await;
            sleep(60 * SECOND).await;
            assert_eq!((journal.numbers().len(), other.numbers().len()), (0, 100), "{trouble}");
            let status = rig.graph.status();
            let records = status.sink("records").unwrap();
            assert!(status.balances() && records.awaits_disk && records.disk_trouble.is_some());
            assert_eq!((records.state, records.balance.in_memory()), (SinkState::Open, 100));
            assert!(records.reason.as_deref().unwrap().starts_with("its buffer cannot be written ("));
            mount(data.path(), mended);
            sleep(10 * SECOND).await;
            let event = Event::new(&rig.step, "start").with("n", 100_u64);
            assert_eq!(rig.graph.emitter().send_confirmed(event).await, Confirmation::Held(2));
            assert!(rig.end().await.complete);
            assert_eq!(journal.numbers(), (0..=100).collect::<Vec<_>>());
        });
    }
}

#[test]
fn one_that_ends_before_has_lost_what_waited_and_says_so_even_where_nothing_did() {
    let data = tempfile::tempdir().unwrap();
    let _mounted = Mounted::new(data.path(), "ro");
    run(async {
        for events in [10, 0] {
            let rig = Rig::start(plan(data.path(), &Journal::new([]))).await;
            rig.emit_all(0..events);
            let ended = rig.end().await;
            assert!(!ended.complete && !ended.lacks_only_locks());
            assert_eq!(ended.status.sink("records").unwrap().balance.in_memory(), events);
        }
    });
}

#[test]
fn a_folder_that_is_none_is_a_wrong_configuration() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("file");
    std::fs::write(&file, "").unwrap();
    run(async {
        let plan = plan(&file, &Journal::new([]));
        let refused = streamll_actors::graph::GraphHandle::start(plan, streamll_actors::graph::Threads::One);
        assert!(matches!(refused.await, Err(StartError::Buffer { .. })));
    });
}
