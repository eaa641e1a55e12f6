//! The topology of the whole process: each test in a process of its own, with an environment of its own.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use streamll::{Emitted, Event, Registry, StartFailure, TokenStream as _, trace};
use tokio_stream::StreamExt as _;

use super::{Log, block_on, topology};

/// Set where a test runs in a process of its own.
const ALONE: &str = "STREAMLL_TEST_ALONE";

/// Runs the test of that name again, in a process of its own and in `folder`; says whether this is that process.
fn is_alone(test: &str, folder: &Path, variables: &[(&str, &str)]) -> bool {
    if env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([&*format!("global::{test}"), "--exact", "--nocapture"]).current_dir(folder);
    command.env_remove("STREAMLL_ENV").env_remove("STREAMLL_TOPOLOGIES").env(ALONE, "1");
    let out = command.envs(variables.iter().copied()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
    false
}

/// A folder with `topologies/production.yaml`, whose one sink writes `events.ndjson`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("topologies")).unwrap();
    production(folder.path(), "events.ndjson");
    folder
}

fn production(folder: &Path, events: &str) {
    let yaml = format!("service: rag-api\nsinks:\n  archive: {{ type: file, path: {events} }}\n");
    fs::write(folder.join("topologies/production.yaml"), yaml).unwrap();
}

/// The types of the events in a file.
fn kinds(file: &str) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let event = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    text.lines().map(|line| event(line)["event_type"].as_str().unwrap().to_owned()).collect()
}

fn emit(kind: &str) -> Emitted {
    streamll::emit(Event::new(&streamll::step("Chat"), kind))
}

const PRODUCTION: &[(&str, &str)] = &[("STREAMLL_ENV", "production")];

#[test]
fn init_runs_the_topology_of_the_environment_until_its_guard_goes() {
    let folder = folder();
    if !is_alone("init_runs_the_topology_of_the_environment_until_its_guard_goes", folder.path(), PRODUCTION)
    {
        return;
    }
    {
        let guard = streamll::init().unwrap();
        drop(trace("answer").enter());
        assert_eq!(guard.handle().status().sinks()[0].name.to_string(), "archive");
    }
    assert_eq!(kinds("events.ndjson"), ["start", "end"]);
    assert_eq!(emit("late"), Emitted::Closed);
}

#[test]
fn a_guard_may_go_inside_of_an_async_main_on_one_thread() {
    let folder = folder();
    let elsewhere = folder.path().join("topologies");
    let variables = [("STREAMLL_ENV", "production"), ("STREAMLL_TOPOLOGIES", elsewhere.to_str().unwrap())];
    let scratch = tempfile::tempdir().unwrap();
    if !is_alone("a_guard_may_go_inside_of_an_async_main_on_one_thread", scratch.path(), &variables) {
        return;
    }
    block_on(async {
        let _guard = streamll::init().unwrap();
        trace("answer").run(|_| tokio::task::yield_now()).await;
    });
    assert_eq!(kinds("events.ndjson"), ["start", "end"]);
}

#[test]
fn a_panic_in_main_still_delivers_its_own_story() {
    let folder = folder();
    if !is_alone("a_panic_in_main_still_delivers_its_own_story", folder.path(), PRODUCTION) {
        return;
    }
    let caught = std::panic::catch_unwind(|| {
        let _guard = streamll::init().unwrap();
        let _scope = trace("answer").enter();
        panic!("out of ink")
    });
    assert!(caught.is_err());
    assert_eq!(kinds("events.ndjson"), ["start", "error"]);
}

#[test]
fn flush_and_shutdown_are_of_the_installed_one_and_a_new_one_may_follow() {
    let folder = folder();
    let name = "flush_and_shutdown_are_of_the_installed_one_and_a_new_one_may_follow";
    if !is_alone(name, folder.path(), PRODUCTION) {
        return;
    }
    block_on(async {
        assert_eq!((streamll::flush().await, streamll::shutdown().await.is_none()), (0, true));
        assert!(streamll::shutdown_blocking().is_none());
        let first = streamll::init().unwrap();
        emit("first");
        assert_eq!(streamll::flush().await, 0);
        assert_eq!(kinds("events.ndjson"), ["first"]);

        let twice = streamll::init().unwrap_err();
        assert!(matches!(twice, StartFailure::Installed), "{twice}");
        assert!(twice.to_string().contains("`streamll::shutdown` first"), "{twice}");
        emit("second");
        let drained = streamll::shutdown().await.unwrap();
        assert!(drained.complete && drained.status.balances());
        assert!(streamll::shutdown_blocking().unwrap().complete, "whoever ends it again hears how it ended");
        assert_eq!(emit("between"), Emitted::Closed);

        let next = streamll::init_with(&Registry::default()).unwrap();
        assert_eq!(
            Log::of(|| drop(first)),
            [""; 0],
            "the first guard ends its own topology, which has ended"
        );
        assert_eq!(emit("third"), Emitted::Accepted);
        drop(next);
    });
    assert_eq!(kinds("events.ndjson"), ["first", "second", "third"]);
}

#[test]
fn init_is_refused_where_a_topology_is_installed_and_runs() {
    let folder = folder();
    if !is_alone("init_is_refused_where_a_topology_is_installed_and_runs", folder.path(), PRODUCTION) {
        return;
    }
    let (handle, kept) = topology();
    streamll::install(&handle);
    assert!(matches!(streamll::init(), Err(StartFailure::Installed)));
    assert_eq!(emit("mine"), Emitted::Accepted);
    assert_eq!(super::end(&handle, &kept).len(), 1);
    drop(streamll::init().unwrap());
}

#[test]
fn a_stream_goes_where_events_went_when_it_was_made() {
    let folder = tempfile::tempdir().unwrap();
    if !is_alone("a_stream_goes_where_events_went_when_it_was_made", folder.path(), &[]) {
        return;
    }
    let ((first, first_kept), (second, second_kept)) = (topology(), topology());
    streamll::install(&first);
    let words = tokio_stream::iter(["a"]).tokens("answer", |item| Some(*item));
    streamll::install(&second);
    block_on(words.collect::<Vec<_>>());
    assert_eq!(super::told(&super::end(&first, &first_kept)), ["start answer", "token answer", "end answer"]);
    assert_eq!(super::end(&second, &second_kept).len(), 0);
}

#[test]
fn what_did_not_arrive_is_in_the_log_when_the_guard_goes() {
    let folder = folder();
    // A folder is there where the file should be.
    production(folder.path(), "topologies");
    let yaml = folder.path().join("topologies/production.yaml");
    let quick = fs::read_to_string(&yaml).unwrap() + "shutdown: { timeout: 5s }\n";
    fs::write(&yaml, quick).unwrap();
    if !is_alone("what_did_not_arrive_is_in_the_log_when_the_guard_goes", folder.path(), PRODUCTION) {
        return;
    }
    let deliver_nothing = || {
        let guard = streamll::init().unwrap();
        (0..3).for_each(|_| {
            emit("note");
        });
        guard
    };
    let guard = deliver_nothing();
    let log = Log::of(|| drop(guard));
    let guard = deliver_nothing();
    let told_once = Log::of(|| {
        assert!(!streamll::shutdown_blocking().unwrap().complete);
        drop(guard);
    });
    assert_eq!(told_once.len(), 1, "{told_once:?}");
    let [line] = &log[..] else { panic!("{log:?}") };
    for part in ["not everything arrived", "sink=archive", "waiting=3", "shed=0"] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn what_is_wrong_with_the_topology_is_told_as_the_command_tells_it() {
    let folder = folder();
    let name = "what_is_wrong_with_the_topology_is_told_as_the_command_tells_it";
    if !is_alone(name, folder.path(), &[("STREAMLL_ENV", "")]) {
        return;
    }
    // Neither standard input nor output is a terminal here.
    let error = streamll::init().unwrap_err();
    assert!(streamll::installed().is_none());
    // What `init()?` out of `main` shows.
    let shown = format!("{error:?}");
    assert_eq!(shown, error.to_string());
    assert!(shown.starts_with("error: no environment is chosen"), "{shown}");
    // There is no command line here that takes `--env`.
    assert!(
        shown.contains("set STREAMLL_ENV; there are `production`") && !shown.contains("--env"),
        "{shown}"
    );
}

#[test]
fn a_mistake_in_the_file_is_told_with_its_place() {
    let folder = folder();
    fs::write(folder.path().join("topologies/production.yaml"), "service: a\nsnks: {}\n").unwrap();
    if !is_alone("a_mistake_in_the_file_is_told_with_its_place", folder.path(), PRODUCTION) {
        return;
    }
    let error = streamll::init().unwrap_err().to_string();
    assert!(error.contains("production.yaml:2:1") && error.contains("did you mean `sinks`"), "{error}");
}

#[test]
fn with_nothing_installed_everything_is_shed_and_counted_and_one_warning_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let name = "with_nothing_installed_everything_is_shed_and_counted_and_one_warning_says_so";
    if !is_alone(name, folder.path(), &[]) {
        return;
    }
    let log = Log::of(|| {
        drop(trace("answer").enter());
        let words = tokio_stream::iter(["a", "b"]).tokens("answer", |item: &&'static str| Some(*item));
        assert_eq!(block_on(words.collect::<Vec<_>>()), ["a", "b"]);
        emit("note");
    });
    assert_eq!(streamll::shed_before_install(), 2 + 4 + 1);
    let [line] = &log[..] else { panic!("{log:?}") };
    assert!(line.contains("streamll::init()"), "{line}");
}
