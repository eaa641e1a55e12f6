//! The sink in a whole topology: what no queue takes, and what an operator orders.

use std::io::Write as _;
use std::process::Stdio;

use streamll::topology::{Builder, IntoSink as _};
use streamll::{Handle, SinkState, Topology};

use super::*;
use crate::orders;
use crate::proxy::Proxy;
use support::wait_until;

/// A topology with a dead-letter file below `folder`.
fn topology(folder: &std::path::Path) -> Builder {
    Topology::builder("whole").data_dir(folder)
}

fn emit(handle: &Handle, module: &str, number: u64) {
    let event = Event::new(&Step::new(module), "start").with("number", number);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(handle.emitter().send(event));
}

fn ends(handle: &Handle) {
    let ended = handle.shutdown_blocking(Duration::from_secs(300));
    let waits = ended.status.sinks().iter().map(|sink| sink.balance.waiting).sum::<u64>();
    assert!(waits == 0 && ended.status.balances(), "{:#?}", ended.status);
}

#[test]
fn of_20000_events_exactly_those_that_no_queue_takes_are_dead_letters() {
    let (room, folder) = (Room::shared(), tempfile::tempdir().unwrap());
    let config = sinks::rabbitmq(room.url()).bind("good", QueueConfig::bound(["ai.good.#"])).window(1024);
    let handle = topology(folder.path()).sink("records", config).start().unwrap();
    let is_lost = |number: &u64| number.is_multiple_of(7);
    for number in 0..20_000 {
        emit(&handle, if is_lost(&number) { "lost" } else { "good" }, number);
    }
    ends(&handle);
    let mut arrived = room.take("good");
    arrived.sort_unstable();
    assert_eq!(arrived, (0..20_000).filter(|number| !is_lost(number)).collect::<Vec<_>>(), "once each");
    let letters = std::fs::read_to_string(folder.path().join("dead/records.ndjson")).unwrap();
    let mut dead: Vec<u64> = Vec::new();
    for line in letters.lines() {
        let letter: serde_json::Value = serde_json::from_str(line).unwrap();
        let reason = letter["reason"].as_str().unwrap();
        assert!(reason.contains("exchange `ai_events`") && reason.contains("`ai.lost.start`"), "{reason}");
        dead.push(letter["event"]["data"]["number"].as_u64().unwrap());
    }
    dead.sort_unstable();
    assert_eq!(dead, (0..20_000).filter(is_lost).collect::<Vec<_>>());
    let sink = handle.sink("records").unwrap().status();
    assert_eq!((sink.state, sink.failures), (SinkState::Closed, 0), "{sink}");
}

#[test]
fn what_no_queue_takes_is_left_with_that_reason_where_the_end_comes_first() {
    let (room, folder) = (Room::shared(), tempfile::tempdir().unwrap());
    let config = sinks::rabbitmq(room.url()).bind("good", QueueConfig::bound(["ai.good.#"]));
    let handle = topology(folder.path()).sink("records", config).start().unwrap();
    emit(&handle, "lost", 1);
    let shown =
        "closed (no queue takes events with the key `ai.lost.start`: they are tried again; 1 waiting)";
    wait_until("it shows why", || {
        let status = handle.sink("records").unwrap().status().to_string();
        if status == shown { Ok(()) } else { Err(status) }
    });
    let ended = handle.shutdown_blocking(Duration::ZERO).status;
    let records = ended.sink("records").unwrap();
    assert_eq!((records.balance.in_memory(), ended.balances()), (1, true), "{records:#?}");
    assert!(records.reason.as_deref().is_some_and(|why| why.contains("no queue takes")), "{records:#?}");
}

#[test]
fn a_run_that_ends_well_ends_without_a_complaint() {
    let (room, folder) = (Room::shared(), tempfile::tempdir().unwrap());
    let url = room.url();
    let yaml =
        format!("sinks: {{ records: {{ type: rabbitmq, url: \"{url}\", queues: {{ all: [\"#\"] }} }} }}\n");
    std::fs::write(folder.path().join("test.yaml"), yaml).unwrap();
    // A complaint would not come each time.
    for _ in 0..3 {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_streamll"));
        command
            .args(["run", "--env", "test"])
            .env("STREAMLL_TOPOLOGIES", folder.path())
            .env("HOME", folder.path());
        command.env_remove("RUST_LOG").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = "{\"event_type\":\"start\",\"data\":{\"number\":1}}\n".repeat(100);
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(!said.contains("ERROR") && !said.contains("panicked"), "{said}");
    }
    assert_eq!(room.take("all").len(), 300);
}

#[test]
fn an_operator_stops_a_sink_and_lets_it_go_on() {
    let (room, folder) = (Room::shared(), tempfile::tempdir().unwrap());
    let handle = topology(folder.path()).sink("records", room.sink()).start().unwrap();
    emit(&handle, "m", 0);
    wait_until("the first arrives", || {
        let status = handle.sink("records").unwrap().status();
        if status.balance.delivered == 1 { Ok(()) } else { Err(status.to_string()) }
    });
    handle.sink("records").unwrap().force_open();
    for number in 1..100 {
        handle.emit(Event::new(&Step::new("m"), "start").with("number", number));
    }
    let status = handle.sink("records").unwrap().status();
    assert_eq!((status.state, status.balance.delivered), (SinkState::Open, 1), "{status}");
    handle.sink("records").unwrap().auto();
    ends(&handle);
    assert_eq!(room.take("all"), (0..100).collect::<Vec<_>>());
}

#[test]
fn closed_by_hand_it_is_no_storm() {
    let (port, connections) = orders::ends_every_connection();
    let spec = sinks::rabbitmq(format!("amqp://127.0.0.1:{port}")).into_sink("live");
    orders::closed_by_hand_it_is_no_storm(spec, &connections);
}

#[test]
fn while_open_events_are_shed_where_that_is_wanted() {
    let room = Room::shared();
    let proxy = Proxy::to(room.node.port());
    let config = sinks::rabbitmq(room.url_at(proxy.port())).bind("all", QueueConfig::bound(["#"]));
    orders::while_open_events_are_shed(config.into_sink("live"), &proxy, || {
        room.read("all").iter().map(|message| serde_json::from_slice(&message.data).unwrap()).collect()
    });
}

#[test]
fn while_its_broker_is_away_a_fallback_takes_over_and_dead_letters_go_where_they_are_wanted() {
    let (room, folder) = (Room::shared(), tempfile::tempdir().unwrap());
    let away = sinks::rabbitmq("amqp://127.0.0.1:1");
    let mut away = away.into_sink("away");
    away.on_open = streamll::OnOpen::Fallback("kept".into());
    let narrow = sinks::rabbitmq(room.url()).bind("good", QueueConfig::bound(["ai.good.#"]));
    let mut narrow = narrow.into_sink("narrow");
    narrow.dead_letter = Some("graves".to_owned());
    let (kept, graves) = (folder.path().join("kept.ndjson"), folder.path().join("graves.ndjson"));
    let handle = topology(folder.path())
        .sink("away", away)
        .sink("narrow", narrow)
        .sink("kept", sinks::file(&kept))
        .sink("graves", sinks::file(&graves))
        .start()
        .unwrap();
    wait_until("it is open", || {
        let status = handle.sink("away").unwrap().status();
        if status.circuit_open { Ok(()) } else { Err(status.to_string()) }
    });
    emit(&handle, "good", 1);
    emit(&handle, "lost", 2);
    ends(&handle);
    let lines = |path| std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&kept).iter().map(|line| number(line.as_bytes())).collect::<Vec<_>>(), [1, 2]);
    let graves = lines(&graves);
    assert!(graves.len() == 1 && graves[0].contains("no queue takes it"), "{graves:?}");
    assert_eq!(room.take("good"), [1]);
}
