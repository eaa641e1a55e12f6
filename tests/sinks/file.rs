//! What the file sink leaves on disk, also when something goes wrong half-way.

use std::fs;
use std::path::Path;

use streamll::sinks;
use streamll_actors::event::Event;
use streamll_actors::sink::ErrorClass;
use streamll_actors::testkit::conformance;
use tempfile::tempdir;

use crate::{deliver, incoming, run, step};

fn event(n: u64) -> Event {
    Event::new(&step("x", "s"), "start").with("n", n)
}

/// The number of each line; panics at a line that is no JSON.
fn numbers(path: &Path) -> Vec<u64> {
    let number =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["data"]["n"].as_u64().unwrap();
    fs::read_to_string(path).unwrap().lines().map(number).collect()
}

#[test]
fn events_are_appended_a_line_each_also_by_the_next_run() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    deliver(&mut sinks::file(&path).build(), [event(1), event(2)]).unwrap();
    deliver(&mut sinks::file(&path).build(), [event(3)]).unwrap();
    assert_eq!(numbers(&path), [1, 2, 3]);
    assert!(fs::read_to_string(&path).unwrap().ends_with("}\n"));
}

#[cfg(unix)]
#[test]
fn the_file_and_the_folders_above_it_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempdir().unwrap();
    let path = folder.path().join("a/b/events.ndjson");
    deliver(&mut sinks::file(&path).build(), [event(1)]).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!((mode(&folder.path().join("a")), mode(&folder.path().join("a/b"))), (0o700, 0o700));
}

#[cfg(unix)]
#[test]
fn a_file_that_was_moved_away_is_opened_anew() {
    let folder = tempdir().unwrap();
    let (path, moved) = (folder.path().join("events.ndjson"), folder.path().join("events.ndjson.1"));
    let mut sink = sinks::file(&path).build();
    deliver(&mut sink, [event(1)]).unwrap();
    fs::rename(&path, &moved).unwrap();
    deliver(&mut sink, [event(2)]).unwrap();
    assert_eq!((numbers(&moved), numbers(&path)), (vec![1], vec![2]));
    fs::rename(&path, &moved).unwrap();
    fs::write(&path, "").unwrap(); // as logrotate's `create` does
    deliver(&mut sink, [event(3)]).unwrap();
    assert_eq!((numbers(&moved), numbers(&path)), (vec![2], vec![3]));
    fs::remove_file(&path).unwrap();
    deliver(&mut sink, [event(4)]).unwrap();
    assert_eq!(numbers(&path), [4]);
}

#[test]
fn a_file_that_was_truncated_goes_on_from_its_begin() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let mut sink = sinks::file(&path).build();
    deliver(&mut sink, [event(1)]).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    deliver(&mut sink, [event(2)]).unwrap();
    assert_eq!(numbers(&path), [2]);
}

#[test]
fn a_torn_line_of_an_earlier_run_is_ended_first() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    fs::write(&path, "{\"data\":{\"n\":1}}\n{\"data\":{\"n").unwrap();
    deliver(&mut sinks::file(&path).build(), [event(2)]).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1], "{\"data\":{\"n");
    assert!(serde_json::from_str::<serde_json::Value>(lines[2]).is_ok());
}

#[test]
fn an_event_whose_data_came_over_several_lines_is_one_line() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    deliver(
        &mut sinks::file(&path).build(),
        [incoming("{\"event_type\":\"x\",\"data\":{\n\"n\":\n7}}"), event(8)],
    )
    .unwrap();
    assert_eq!(numbers(&path), [7, 8]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_overload_and_says_where() {
    let error = deliver(&mut sinks::file("/dev/full").build(), [event(1)]).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Overload);
    assert!(error.to_string().starts_with("no space left for `/dev/full`"), "{error}");
}

#[test]
fn it_keeps_the_contract_of_a_sink() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let lines = || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.lines().map(|line| line.as_bytes().to_vec()).collect()
    };
    run(conformance(|| sinks::file(&path).build(), lines));
}

/// A soft limit on the size of files makes a real write stop in its middle, as a full disk does, without a mount.
#[cfg(target_os = "linux")]
#[test]
fn a_batch_that_was_written_in_part_is_taken_back_and_comes_once() {
    // In a process of its own: the limit is one of the whole process.
    if std::env::var_os("STREAMLL_TEST_FILE").is_none() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("events.ndjson");
        deliver(&mut sinks::file(&path).build(), [event(1)]).unwrap();
        let me = std::env::current_exe().unwrap();
        let name = "file::a_batch_that_was_written_in_part_is_taken_back_and_comes_once";
        // `ulimit -f` counts blocks of 512 or 1024 bytes; the batch is larger than either. SIGXFSZ would end the process.
        let output = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -S -f 1; exec \"$0\" --exact \"$1\""])
            .args([me.as_os_str(), name.as_ref()])
            .env("STREAMLL_TEST_FILE", &path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(numbers(&path), [1], "the torn batch was taken back");
        deliver(&mut sinks::file(&path).build(), (2..20).map(event)).unwrap();
        assert_eq!(numbers(&path), (1..20).collect::<Vec<u64>>());
        return;
    }
    let path = std::env::var_os("STREAMLL_TEST_FILE").unwrap();
    let error = deliver(&mut sinks::file(&path).build(), (2..20).map(event)).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Overload, "{error}");
}

#[test]
fn a_path_that_cannot_be_a_file_is_for_a_person_to_mend() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [folder.path().to_owned(), file.join("below.ndjson")] {
        let error = deliver(&mut sinks::file(&path).build(), [event(1)]).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Misconfigured, "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_sink_goes_on_once_its_path_is_mended() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    fs::create_dir(&path).unwrap();
    let mut sink = sinks::file(&path).build();
    deliver(&mut sink, [event(1)]).unwrap_err();
    fs::remove_dir(&path).unwrap();
    deliver(&mut sink, [event(1)]).unwrap();
    assert_eq!(numbers(&path), [1]);
}
