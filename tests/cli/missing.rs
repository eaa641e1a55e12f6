//! A disk buffer of which files are missing, emptied or put back: `run` delivers what is there, and says once what is not.

use std::path::PathBuf;

use serde_json::Value;

use crate::{Folder, err, feed, streamll};

const EVENTS: u64 = 2000;

/// A sink whose file lies where a folder is, until the test takes that away; 2000 events wait in several segments.
fn kept() -> Folder {
    let folder = Folder::with(
        "data_dir: '{dir}/data'\nshutdown: { timeout: 5s }\nsinks: { log: { type: file, path: '{dir}/log.ndjson', \
         buffer: { type: disk, max_size: 2MiB } } }\n",
    );
    std::fs::create_dir(folder.path("log.ndjson")).unwrap();
    let line = |n: u64| {
        format!("{{\"event_type\":\"start\",\"data\":{{\"n\":{n},\"text\":\"{}\"}}}}\n", "x".repeat(300))
    };
    let input: String = (0..EVENTS).map(line).collect();
    let (code, log) = run(&folder, &input);
    assert_eq!((code, &log["on_disk"]), (Some(0), &EVENTS.into()), "{log:#}");
    assert!(segments(&folder).len() >= 5, "{:?}", segments(&folder));
    folder
}

/// How a run ended, and its report.
fn run(folder: &Folder, input: &str) -> (Option<i32>, Value) {
    let output =
        feed(streamll(&folder.path(""), &["run", "--env", "test", "--report", "json"]), input.as_bytes());
    let said = err(&output);
    let report = said.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    let mut report = report.unwrap_or_else(|| panic!("{said}"));
    assert_eq!(report["balanced"], true, "{report:#}");
    let mut log = report["sinks"]["log"].take();
    log["said"] = said.into();
    (output.status.code(), log)
}

fn segments(folder: &Folder) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder.path("data/buffers/log")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    files
}

/// The numbers of the events that arrived, and what the gaps among them tell of.
fn arrived(folder: &Folder) -> (Vec<u64>, u64) {
    let (mut numbers, mut told) = (Vec::new(), 0);
    for line in folder.read("log.ndjson").lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        numbers.extend(event["data"]["n"].as_u64());
        told += event["data"]["count"].as_u64().unwrap_or(0);
    }
    (numbers, told)
}

#[test]
fn two_files_that_were_exchanged_cost_nothing() {
    for (a, b) in [(0, 1), (1, 4), (0, usize::MAX)] {
        let folder = kept();
        let files = segments(&folder);
        let (a, b) = (&files[a], &files[b.min(files.len() - 1)]);
        let between = folder.path("between");
        for (from, to) in [(a, &between), (b, a), (&between, b)] {
            std::fs::rename(from, to).unwrap();
        }
        std::fs::remove_dir(folder.path("log.ndjson")).unwrap();
        let (code, log) = run(&folder, "");
        assert_eq!((code, &log["delivered"]), (Some(0), &EVENTS.into()), "{log:#}");
        assert_eq!(arrived(&folder), ((0..EVENTS).collect(), 0));
    }
}

#[test]
fn a_missing_and_an_emptied_file_are_counted_named_and_marked_and_end_one_run_with_1() {
    let folder = kept();
    let files = segments(&folder);
    std::fs::remove_file(&files[1]).unwrap();
    std::fs::File::create(&files[3]).unwrap();
    // With the sink still away: what is missing is told of now, and what is there waits on.
    let (code, log) = run(&folder, "");
    let (missing, recovered) = (log["missing"].as_u64().unwrap(), log["recovered"].as_u64().unwrap());
    assert_eq!((code, missing + recovered), (Some(1), EVENTS), "{log:#}");
    assert!(missing > 0);
    for file in [&files[1], &files[3]] {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(log["said"].as_str().unwrap().contains(name), "{log:#}");
    }
    std::fs::remove_dir(folder.path("log.ndjson")).unwrap();
    let (code, log) = run(&folder, "");
    assert_eq!((code, log.get("missing")), (Some(0), None), "once: {log:#}");
    assert_eq!(log["delivered"], recovered);
    let (numbers, told) = arrived(&folder);
    assert_eq!((numbers.len() as u64, told), (recovered, missing));
    assert!(numbers.is_sorted_by(|a, b| a < b));
}

#[test]
fn marks_of_a_later_state_cost_repeats_and_no_event() {
    let folder = kept();
    let buffer = folder.path("data/buffers/log");
    let earlier: Vec<_> =
        segments(&folder).into_iter().map(|file| (std::fs::read(&file).unwrap(), file)).collect();
    std::fs::remove_dir(folder.path("log.ndjson")).unwrap();
    assert_eq!(run(&folder, "").0, Some(0));
    assert_eq!(arrived(&folder).0, (0..EVENTS).collect::<Vec<_>>());
    // The files are put back, and the marks are not.
    assert!(buffer.join("marks").is_file());
    for (bytes, file) in earlier {
        std::fs::write(file, bytes).unwrap();
    }
    let (code, log) = run(&folder, "");
    assert_eq!((code, &log["delivered"], log.get("missing")), (Some(0), &EVENTS.into(), None), "{log:#}");
    let again: Vec<u64> = (0..EVENTS).chain(0..EVENTS).collect();
    assert_eq!(arrived(&folder).0, again);
}
