//! A topology starts with one call from any program, and several live in one process.

use streamll::{Event, Handle, Topology, sinks};

use super::{Kept, LONG, block_on, end, topology};

fn emit_ten(handle: &Handle) {
    let step = streamll::step("RagPipeline");
    (0..10).for_each(|n| {
        handle.emit(Event::new(&step, "progress").with("n", n));
    });
}

fn assert_ten(kept: &Kept) {
    assert_eq!(kept.numbers(), (0..10).collect::<Vec<_>>());
}

#[test]
fn from_a_program_without_an_async_runtime() {
    let (handle, kept) = topology();
    emit_ten(&handle);
    end(&handle);
    assert_ten(&kept);
}

/// Starts, emits, flushes and ends without leaving the runtime of the caller.
async fn inside_a_runtime() {
    let (handle, kept) = topology();
    emit_ten(&handle);
    assert_eq!(handle.flush().await, 0);
    assert_ten(&kept);
    let drained = handle.shutdown(LONG).await;
    assert!(drained.complete && drained.status.balances(), "{drained:#?}");
}

#[test]
fn inside_a_current_thread_runtime() {
    block_on(inside_a_runtime());
    // Not even a timer of the caller's runtime is needed.
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(inside_a_runtime());
}

#[test]
fn inside_a_multi_thread_runtime() {
    // actix brings tokio's multi-threaded scheduler only where somebody asks for it; `actix_rt` itself is one thread.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..4).map(|_| tokio::spawn(inside_a_runtime())).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn inside_an_actix_system() {
    actix::System::new().block_on(async {
        inside_a_runtime().await;
        // The application's own system is not the topology's: it lives on.
        let own = actix::Arbiter::new();
        assert!(own.spawn(async {}));
        own.stop();
    });
}

#[test]
fn a_topology_survives_the_runtime_that_started_it() {
    let (handle, kept) = block_on(async { topology() });
    emit_ten(&handle);
    end(&handle);
    assert_ten(&kept);
}

#[test]
fn several_topologies_in_one_process_share_nothing() {
    let all: Vec<_> = (0..4).map(|_| topology()).collect();
    let sources: Vec<_> = all
        .iter()
        .map(|(handle, kept)| {
            emit_ten(handle);
            end(handle);
            assert_ten(kept);
            kept.arrivals()[0].json["source"].clone()
        })
        .collect();
    // Each numbers its own events from the beginning, under a name of its own.
    let distinct: std::collections::BTreeSet<_> = sources.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), sources.len(), "{sources:?}");
    // Enough random digits for all processes of a service, ever: readers take the same source for the same process.
    let random = |source: &serde_json::Value| {
        source.as_str().and_then(|source| source.rsplit('-').next()).map(str::len)
    };
    assert!(sources.iter().all(|source| random(source) == Some(12)), "{sources:?}");
}

#[test]
fn handles_dropped_without_a_shutdown_still_deliver() {
    let (handle, kept) = topology();
    kept.hold();
    emit_ten(&handle);
    let emitter = handle.emitter().clone();
    drop(handle);
    kept.let_go();
    kept.wait_until_closed();
    assert_ten(&kept);
    assert!(emitter.is_closed(), "who still holds an emitter hears that it is over");
}

#[test]
fn a_file_holds_every_event_when_the_shutdown_returns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/down/events.ndjson");
    let handle = Topology::builder("rag-api").sink("archive", sinks::file(&path)).start().unwrap();
    emit_ten(&handle);
    end(&handle);
    let lines = std::fs::read_to_string(path).unwrap();
    let numbers = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["data"]["n"].clone());
    assert_eq!(numbers.collect::<Vec<_>>(), (0..10).map(serde_json::Value::from).collect::<Vec<_>>());
}

#[test]
fn a_mistake_in_code_is_told_before_anything_starts() {
    let error = Topology::builder("rag-api")
        .routing_key("ai.{modul_name}")
        .sink("Live", sinks::terminal())
        .sink("Live", sinks::terminal())
        .start()
        .unwrap_err()
        .to_string();
    for part in ["`{modul_name}`", "did you mean `{module_name}`", "`Live` cannot be the name of a sink"] {
        assert!(error.contains(part), "{error}");
    }
    let dangling = {
        let mut spec = Kept::default().spec();
        spec.dead_letter = Some("nowhere".to_owned());
        Topology::builder("rag-api").sink("live", spec).start().unwrap_err().to_string()
    };
    assert!(dangling.contains("`live` names `nowhere` as its dead_letter"), "{dangling}");
}

#[test]
fn code_is_held_to_the_names_that_files_are_held_to() {
    for service in ["", "../elsewhere", "a\nb", ".hidden"] {
        let wrong = streamll::Topology::builder(service)
            .sink("kept", streamll::sinks::file("x"))
            .build()
            .unwrap_err();
        assert!(wrong.to_string().contains("cannot be the name of a service"), "{wrong}");
    }
}
