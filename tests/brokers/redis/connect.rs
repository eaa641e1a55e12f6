//! How it connects, what it finds there, and what becomes of connections that break.

use std::time::Duration;

use streamll::ErrorClass::{Misconfigured, Unavailable, Unknown};
use streamll::sinks::redis::Ordering;
use tokio::time::{sleep, timeout};

use crate::alone::{Holdings, Logs, alone};
use crate::proxy::Proxy;
use crate::servers::free_port;
use support::wait_until;

use super::*;
use crate::machine::Machine;

/// Long enough to be under way.
const MOMENT: Duration = Duration::from_millis(200);

fn at(port: u16) -> RedisConfig {
    sinks::redis(format!("redis://:{CANARY}@127.0.0.1:{port}"))
}

#[test]
fn nobody_there_is_unavailable_and_nothing_was_sent() {
    run(async {
        let config = at(free_port());
        assert_told(
            told(open(&config).await.unwrap_err()),
            Unavailable,
            "connection refused: is it running?; events wait",
        );
        let mut waiting = batch([1, 2]);
        assert_told(
            refused(&mut config.build().unwrap(), &mut waiting).await,
            Unavailable,
            "connection refused",
        );
        assert_eq!(marks(&waiting), "Unsent");
        let nowhere = sinks::redis("redis://nowhere.invalid");
        assert_told(told(open(&nowhere).await.unwrap_err()), Unavailable, "its name cannot be resolved");
    });
}

#[test]
fn a_login_that_is_wrong_or_missing_is_for_a_person_to_mend() {
    let server = RedisServer::start();
    let right = user(&server, "+@all ~*");
    run(async {
        for (url, words) in [
            (right.replace(CANARY, &format!("{CANARY}x")), "check user and password"),
            (right.replace("app", "nobody"), "check user and password"),
            (format!("redis://:{CANARY}@127.0.0.1:{}", server.port()), "no password, but url brings one"),
            (format!("{right}/99"), "no such database"),
        ] {
            assert_told(told(open(&sinks::redis(url)).await.unwrap_err()), Misconfigured, words);
        }
        server.cli(&["CONFIG", "SET", "requirepass", CANARY]);
        for config in [sink(&server), sink(&server).stream_key("chat:{data.id}")] {
            assert_told(told(open(&config).await.unwrap_err()), Misconfigured, "asks for a password");
        }
        assert!(open(&at(server.port())).await.is_ok());
    });
}

#[test]
fn a_full_server_says_so() {
    let server = RedisServer::start();
    let held: Vec<_> =
        (0..2).map(|_| redis::Client::open(server.url()).unwrap().get_connection().unwrap()).collect();
    server.cli(&["CONFIG", "SET", "maxclients", "2"]);
    run(async {
        for config in [sink(&server), at(server.port())] {
            assert_told(told(open(&config).await.unwrap_err()), Unavailable, "maxclients reached");
        }
        drop(held);
    });
}

#[test]
fn a_server_that_loads_its_data_is_waited_for() {
    let server = RedisServer::start_with(&[
        "--loading-process-events-interval-bytes",
        "1024",
        "--rdbcompression",
        "no",
    ]);
    for n in 0..50 {
        ask::<()>(&server, &format!("SET key{n} {}", "x".repeat(2000)));
    }
    server.cli(&["CONFIG", "SET", "key-load-delay", "100000"]);
    std::thread::scope(|scope| {
        scope.spawn(|| server.cli(&["DEBUG", "RELOAD"]));
        wait_until("it loads", || {
            let answer = server.cli(&["PING"]);
            if answer.starts_with("LOADING") { Ok(()) } else { Err(answer) }
        });
        assert_told(told(run(open(&sink(&server))).unwrap_err()), Unavailable, "is loading its data");
        server.cli(&["CONFIG", "SET", "key-load-delay", "0"]);
    });
}

#[test]
fn a_connection_that_was_closed_while_idle_costs_nothing() {
    let server = RedisServer::start();
    run(async {
        for pause in [Duration::ZERO, MOMENT] {
            let mut sink = open(&sink(&server)).await.unwrap();
            sink.deliver(&mut batch([1])).await.unwrap();
            server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
            sleep(pause).await;
            let mut next = batch([2]);
            sink.deliver(&mut next).await.unwrap();
            assert_eq!(marks(&next), "Delivered");
        }
    });
    assert_eq!(numbers(&server, "ai_events"), [1, 2, 1, 2]);
}

#[test]
fn a_server_killed_with_a_batch_under_way_may_have_it() {
    let server = RedisServer::start_with(&["--appendonly", "yes"]);
    run(async {
        let mut sink = open(&sink(&server)).await.unwrap();
        server.freeze();
        let mut lost = batch([1, 2]);
        let kill = async {
            sleep(MOMENT).await;
            server.kill9();
        };
        let (failure, ()) = futures_util::future::join(refused(&mut sink, &mut lost), kill).await;
        assert_told(failure, Unknown, "lost before it answered");
        assert_eq!(marks(&lost), "Open");
        server.restart();
        sink.open(&SinkContext::detached("live")).await.unwrap();
        sink.deliver(&mut again(&lost)).await.unwrap();
    });
    assert_eq!(numbers(&server, "ai_events"), [1, 2]);
}

#[test]
fn a_frozen_server_may_have_it_and_its_connection_is_never_used_again() {
    let server = RedisServer::start();
    run(async {
        let mut sink = open(&sink(&server)).await.unwrap();
        server.freeze();
        let mut lost = batch([1, 2]);
        assert_told(refused(&mut sink, &mut lost).await, Unknown, "no answer within 5s");
        assert_eq!(marks(&lost), "Open");
        let failure = told(sink.open(&SinkContext::detached("live")).await.unwrap_err());
        assert_told(failure, Unavailable, "no connection within 3s");
        server.thaw();
        sink.open(&SinkContext::detached("live")).await.unwrap();
        sink.deliver(&mut again(&lost)).await.unwrap();
        let arrived = entries(&server, "ai_events");
        let repeats = arrived.iter().filter(|fields| fields.len() == 2).count();
        assert!(repeats == 2 && arrived.len() <= 4, "{arrived:?}");
        assert_eq!(connections(&server), 1);
    });
}

#[test]
fn a_server_that_pauses_writes_may_have_it() {
    let server = RedisServer::start();
    run(async {
        for ordering in [Ordering::Strict, Ordering::Pipelined] {
            let mut sink = open(&sink(&server).ordering(ordering)).await.unwrap();
            server.cli(&["CLIENT", "PAUSE", "60000", "WRITE"]);
            let mut lost = batch(0..600);
            assert_told(refused(&mut sink, &mut lost).await, Unknown, "no answer within 5s");
            match ordering {
                Ordering::Strict => assert_eq!(marks(&lost), "Open"),
                // Two were under way, the others never left.
                Ordering::Pipelined => {
                    let marks = marks(&lost);
                    assert!(marks.starts_with("Open Open") && marks.ends_with("Unsent Unsent"), "{marks}");
                }
            }
            server.cli(&["CLIENT", "UNPAUSE"]);
        }
    });
}

#[test]
fn a_silent_network_may_have_it() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port());
    run(async {
        let mut sink = open(&sinks::redis(format!("redis://127.0.0.1:{}", proxy.port()))).await.unwrap();
        proxy.blackhole();
        assert_told(refused(&mut sink, &mut batch([1])).await, Unknown, "no answer within 5s");
        let failure = told(sink.open(&SinkContext::detached("live")).await.unwrap_err());
        assert_told(failure, Unavailable, "no connection within 3s");
    });
}

/// How many connections of sinks the server has.
fn connections(server: &RedisServer) -> usize {
    let list = server.cli(&["CLIENT", "LIST"]);
    list.lines().filter(|line| !line.contains("cmd=client")).count()
}

#[test]
fn a_future_that_is_dropped_leaves_no_connection_and_a_fresh_open_works() {
    let server = RedisServer::start();
    run(async {
        let mut sink = open(&sink(&server)).await.unwrap();
        server.freeze();
        assert!(timeout(MOMENT, sink.deliver(&mut batch([1]))).await.is_err());
        assert!(timeout(MOMENT, sink.open(&SinkContext::detached("live"))).await.is_err());
        assert!(timeout(MOMENT, sink.deliver(&mut batch([1]))).await.is_err());
        server.thaw();
        sink.open(&SinkContext::detached("live")).await.unwrap();
        sink.deliver(&mut batch([2])).await.unwrap();
        assert_eq!(connections(&server), 1);
        sink.close().await;
        sleep(MOMENT).await;
        assert_eq!(connections(&server), 0);
    });
    assert_eq!(numbers(&server, "ai_events").last(), Some(&2));
}

#[test]
fn what_will_hurt_is_said_once_each_and_again_only_when_it_is_new() {
    alone("redis::connect::what_will_hurt_is_said_once_each_and_again_only_when_it_is_new", || {
        let logs = Logs::keep();
        let server = RedisServer::start_with(&["--appendonly", "yes"]);
        let said = || {
            let lines = logs.lines();
            lines.into_iter().filter(|line| line.contains("sink=live")).collect::<Vec<_>>()
        };
        run(async {
            let config = sinks::redis(user(&server, "+@all ~*")).expire(Duration::from_secs(60));
            let mut sink = open(&config).await.unwrap();
            assert_eq!(said(), Vec::<String>::new(), "nothing is wrong");
            for (n, (line, words)) in [
                ("CONFIG SET appendonly no", "set appendonly yes"),
                (
                    "CONFIG SET maxmemory-policy allkeys-lru",
                    "eviction policy allkeys-lru deletes whole streams",
                ),
                ("CONFIG SET maxmemory-policy volatile-ttl", "eviction policy volatile-ttl"),
                ("REPLICAOF 127.0.0.1 1", "it is a replica"),
            ]
            .into_iter()
            .enumerate()
            {
                server.cli(&line.split(' ').collect::<Vec<_>>());
                for _ in 0..3 {
                    sink.open(&SinkContext::detached("live")).await.unwrap();
                }
                let said = said();
                assert!(said.len() == n + 1 && said[n].contains(words), "{said:#?}");
                assert!(
                    said[n].starts_with("WARN") && said[n].contains("server=redis://127.0.0.1:"),
                    "{said:#?}"
                );
            }
            assert!(!format!("{:?} {sink:?} {config:?}", said()).contains(CANARY));
        });
    });
}

#[test]
fn what_it_may_not_ask_it_does_without_quietly() {
    alone("redis::connect::what_it_may_not_ask_it_does_without_quietly", || {
        let logs = Logs::keep();
        let server = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]);
        run(open(&sinks::redis(user(&server, "+xadd +multi +exec ~ai_events")))).unwrap();
        assert_eq!(logs.lines(), Vec::<String>::new());
    });
}

#[test]
fn fifty_vain_attempts_leave_no_thread_and_no_descriptor() {
    alone("redis::connect::fifty_vain_attempts_leave_no_thread_and_no_descriptor", || {
        let server = RedisServer::start();
        server.cli(&["CONFIG", "SET", "requirepass", "other"]);
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        run(async {
            let configs = [at(free_port()), at(server.port()), at(silent.local_addr().unwrap().port())];
            let _ = open(&configs[0]).await;
            let before = Holdings::now();
            for n in 0..50 {
                for config in &configs {
                    // The silent one is cut off, but for once.
                    let limit = if n == 0 { Duration::from_secs(60) } else { MOMENT / 10 };
                    assert!(!matches!(timeout(limit, open(config)).await, Ok(Ok(_))));
                }
            }
            sleep(MOMENT).await;
            before.are_back();
        });
    });
}

#[test]
fn what_it_found_on_connecting_stands_in_its_status_until_it_finds_otherwise() {
    let server = RedisServer::start_with(&["--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"]);
    let mut machine = Machine::start(&["type: redis", &format!("url: \"{}\"", server.url())]);
    machine.emit("One");
    machine.settles();
    let warnings = machine.status().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("eviction policy allkeys-lru deletes whole streams"), "{warnings:?}");
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    machine.emit("Two");
    machine.settles();
    assert_eq!(machine.status().warnings, Vec::<String>::new());
    assert_eq!(machine.ends(), []);
}
