//! What a server refuses: each refusal has its class and a line for the operator, and says what was not carried out.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use streamll::ErrorClass::{Misconfigured, Overload, Rejected, Unavailable};
use streamll::sinks::redis::Ordering;

use crate::machine::Machine;
use crate::proxy::Proxy;
use support::wait_until;

use super::*;

/// Refused as a whole while something is wrong, nothing of it is carried out; afterwards all of it arrives, unmarked.
/// Returns how many connections that took.
fn refused_while(
    server: &RedisServer,
    wrong: &[&str],
    class: ErrorClass,
    words: &str,
    right: &[&str],
) -> usize {
    let proxy = Proxy::to(server.port());
    let config = sinks::redis(format!("redis://127.0.0.1:{}", proxy.port()));
    run(async {
        let mut sink = open(&config).await.unwrap();
        sink.deliver(&mut batch([1])).await.unwrap();
        wrong
            .iter()
            .for_each(|line| assert_eq!(server.cli(&line.split(' ').collect::<Vec<_>>()), "OK", "{line}"));
        let mut waiting = batch([2, 3, 4]);
        assert_told(refused(&mut sink, &mut waiting).await, class, words);
        assert_eq!(marks(&waiting), "Unsent");
        right
            .iter()
            .for_each(|line| assert_eq!(server.cli(&line.split(' ').collect::<Vec<_>>()), "OK", "{line}"));
        sink.deliver(&mut waiting).await.unwrap();
    });
    assert_eq!(numbers(server, "ai_events"), [1, 2, 3, 4]);
    proxy.connections()
}

#[test]
fn a_full_memory_keeps_the_connection() {
    let server = RedisServer::start();
    let (wrong, right) = (["CONFIG SET maxmemory 1"], ["CONFIG SET maxmemory 0"]);
    assert_eq!(
        refused_while(&server, &wrong, Overload, "raise maxmemory or trim with max_len; events wait", &right),
        1
    );
}

#[test]
fn a_missing_replica_keeps_the_connection() {
    let server = RedisServer::start();
    let (wrong, right) = (["CONFIG SET min-replicas-to-write 1"], ["CONFIG SET min-replicas-to-write 0"]);
    assert_eq!(refused_while(&server, &wrong, Overload, "min-replicas-to-write", &right), 1);
}

#[test]
fn a_demoted_master_costs_the_connection_so_that_the_name_is_looked_up_again() {
    let server = RedisServer::start();
    let (wrong, right) = (["REPLICAOF 127.0.0.1 1"], ["REPLICAOF NO ONE"]);
    assert_eq!(refused_while(&server, &wrong, Overload, "promote it", &right), 2);
}

#[test]
fn a_replica_that_lost_its_master_says_so() {
    let server = RedisServer::start();
    server.cli(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_told(told(run(open(&sink(&server))).unwrap_err()), Overload, "lost its master");
}

#[test]
fn a_server_that_cannot_save_says_so() {
    let server = RedisServer::start();
    // Nothing can be renamed to a folder that is not empty.
    std::fs::create_dir_all(server.folder().join("dump.rdb/full")).unwrap();
    ask::<()>(&server, "SET some thing");
    let cannot_save = || {
        server.cli(&["BGSAVE"]);
        match server.cli(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err") {
            true => Ok(()),
            false => Err("it saves".to_owned()),
        }
    };
    wait_until("it cannot save", cannot_save);
    server.cli(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    server.cli(&["CONFIG", "SET", "save", "3600 1"]);
    let wrong = ["CONFIG SET stop-writes-on-bgsave-error yes"];
    let right = ["CONFIG SET stop-writes-on-bgsave-error no"];
    assert_eq!(refused_while(&server, &wrong, Overload, "(MISCONF)", &right), 1);
}

#[test]
fn a_missing_permission_is_named_and_dead_letters_nothing() {
    let server = RedisServer::start();
    let url = user(&server, "+@all ~*");
    run(async {
        let mut sink = open(&sinks::redis(url)).await.unwrap();
        for rule in ["-xadd", "-multi", "-exec", "resetkeys"] {
            let mut waiting = batch([1, 2]);
            sink.open(&SinkContext::detached("live")).await.unwrap();
            server.cli(&["ACL", "SETUSER", "app", rule]);
            assert_told(
                refused(&mut sink, &mut waiting).await,
                Misconfigured,
                "allow it `+xadd +multi +exec ~ai_events`",
            );
            // Without `MULTI` the events go by themselves.
            let expected = if rule == "-multi" { "Delivered" } else { "Unsent" };
            assert_eq!(marks(&waiting), expected, "{rule}");
            server.cli(&["ACL", "SETUSER", "app", "+@all", "~*"]);
        }
        sink.deliver(&mut batch([3])).await.unwrap();
    });
    assert_eq!(numbers(&server, "ai_events"), [1, 2, 3]);
}

/// Without a transaction Redis would carry out each command by itself.
#[test]
fn a_user_without_transactions_is_refused_before_anything_is_written() {
    let server = RedisServer::start();
    for rules in ["+@all ~* -multi", "+@all ~* -exec"] {
        let url = user(&server, rules);
        let failure = told(run(open(&sinks::redis(url))).unwrap_err());
        assert_told(failure, Misconfigured, "allow it `+xadd +multi +exec ~ai_events`");
    }
}

#[test]
fn a_key_of_the_wrong_type_is_named_with_its_type() {
    let server = RedisServer::start();
    ask::<()>(&server, "HSET ai_events a 1");
    let words = "the key `ai_events` holds a hash, not a stream";
    run(async {
        assert_told(told(open(&sink(&server)).await.unwrap_err()), Misconfigured, words);
        ask::<()>(&server, "DEL ai_events");
        let mut sink = open(&sink(&server)).await.unwrap();
        ask::<()>(&server, "HSET ai_events a 1");
        let mut waiting = batch([1]);
        assert_told(refused(&mut sink, &mut waiting).await, Misconfigured, words);
        assert_eq!(marks(&waiting), "Unsent");
        ask::<()>(&server, "DEL ai_events");
        sink.deliver(&mut waiting).await.unwrap();
    });
    assert_eq!(numbers(&server, "ai_events"), [1]);
}

#[test]
fn a_key_of_another_type_that_an_event_has_named_is_trouble_of_that_event_alone() {
    let server = RedisServer::start();
    ask::<()>(&server, "SET chat:b text");
    run(async {
        let config = sink(&server).stream_key("chat:{data.id}").expire(Duration::from_secs(3600));
        let mut sink = open(&config).await.unwrap();
        let mut waiting =
            batch_of([("a", 1), ("b", 2), ("a", 3)].map(|(id, number)| event(number).with("id", id)));
        sink.deliver(&mut waiting).await.unwrap();
        let marks = marks(&waiting);
        assert!(marks.starts_with("Delivered Poison(\"the key `chat:b` holds no stream"), "{marks}");
    });
    assert_eq!(numbers(&server, "chat:a"), [1, 3]);
    assert_ne!(ask::<i64>(&server, "TTL chat:a"), -1);
    assert_eq!(ask::<i64>(&server, "TTL chat:b"), -1, "a key of somebody else's was given an end");
}

#[test]
fn a_key_of_another_type_that_all_events_share_is_for_a_person_to_mend_and_dead_letters_nothing() {
    let server = RedisServer::start();
    run(async {
        for (template, key) in [("ai:{module_name}", "ai:rag_pipeline"), ("{data.app}", "unknown")] {
            ask::<()>(&server, &format!("SET {key} text"));
            let mut sink = open(&sink(&server).stream_key(template)).await.unwrap();
            for size in [1, 3] {
                let mut waiting = batch(0..size);
                let words = format!("the key `{key}` holds a string, not a stream");
                assert_told(refused(&mut sink, &mut waiting).await, Misconfigured, &words);
                assert_eq!(marks(&waiting), "Unsent");
            }
            ask::<()>(&server, &format!("DEL {key}"));
            sink.deliver(&mut batch(0..3)).await.unwrap();
            assert_eq!(numbers(&server, key), [0, 1, 2]);
        }
    });
}

#[test]
fn one_conversation_whose_key_is_taken_stops_no_other_also_when_its_events_come_alone() {
    let server = RedisServer::start();
    ask::<()>(&server, "SET chat:b text");
    run(async {
        let mut sink = open(&sink(&server).stream_key("chat:{data.id}")).await.unwrap();
        let mut poisoned = 0;
        for (number, id) in (0..).zip(["a", "b", "b", "c", "b", "a"]) {
            let mut one = batch_of([event(number).with("id", id)]);
            sink.deliver(&mut one).await.unwrap();
            poisoned += usize::from(marks(&one).starts_with("Poison"));
        }
        assert_eq!(poisoned, 3);
        assert_eq!((numbers(&server, "chat:a"), numbers(&server, "chat:c")), (vec![0, 5], vec![3]));
    });
}

#[test]
fn a_stream_at_the_end_of_its_ids_says_so() {
    let server = RedisServer::start();
    ask::<String>(&server, &format!("XADD ai_events {max}-{max} a 1", max = u64::MAX));
    run(async {
        let mut waiting = batch([1, 2]);
        let failure = refused(&mut open(&sink(&server)).await.unwrap(), &mut waiting).await;
        assert_told(failure, Misconfigured, "the stream `ai_events` has used its last possible id");
        assert_eq!(marks(&waiting), "Unsent");
    });
}

#[test]
fn an_event_that_is_too_large_leaves_the_suspects_to_the_machine() {
    let server = RedisServer::start();
    server.cli(&["CONFIG", "SET", "proto-max-bulk-len", "1mb"]);
    for ordering in [Ordering::Strict, Ordering::Pipelined] {
        server.cli(&["FLUSHALL"]);
        run(async {
            let mut sink = open(&sink(&server).ordering(ordering)).await.unwrap();
            let large = || event(2).with("text", "x".repeat(1 << 20));
            let mut suspects = batch_of([event(1), large(), event(3)]);
            assert_told(refused(&mut sink, &mut suspects).await, Rejected, "proto-max-bulk-len");
            assert_eq!(marks(&suspects), "Open");
            // By itself, as the machine does not open it again.
            sink.deliver(&mut batch([1])).await.unwrap();
            assert_told(refused(&mut sink, &mut batch_of([large()])).await, Rejected, "proto-max-bulk-len");
            sink.deliver(&mut batch([3])).await.unwrap();
        });
        assert_eq!(numbers(&server, "ai_events"), [1, 3]);
    }
}

#[test]
fn what_comes_after_a_refusal_is_not_sent_when_pipelined() {
    let server = RedisServer::start();
    run(async {
        let mut sink = open(&sink(&server).ordering(Ordering::Pipelined)).await.unwrap();
        server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        let mut waiting = batch(0..3000);
        assert_told(refused(&mut sink, &mut waiting).await, Overload, "maxmemory");
        assert_eq!(marks(&waiting), "Unsent");
        let stats = server.cli(&["INFO", "commandstats"]);
        let refused = stats.lines().filter(|line| line.starts_with("cmdstat_xadd")).collect::<String>();
        let refused = refused.split("rejected_calls=").nth(1).unwrap().split(',').next().unwrap();
        assert!(refused.parse::<u64>().unwrap() < 1500, "all of it was sent: {stats}");
    });
}

/// A server that is out of memory at the first transaction of a connection, and silent from then on. Counts connections.
fn falls_silent_after_a_refusal() -> (u16, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, connections) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = connections.clone();
    let serve = move |stream: std::net::TcpStream| {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let (mut out, mut writes) = (stream, false);
        while let Some(head) = lines.next() {
            let parts: usize = head[1..].parse().unwrap();
            let words: Vec<String> = lines.by_ref().take(2 * parts).skip(1).step_by(2).collect();
            let answer = match words[0].as_str() {
                "XADD" => "-OOM command not allowed\r\n",
                "EXEC" if writes => "-EXECABORT Transaction discarded\r\n",
                "EXEC" => "*0\r\n",
                _ => "+OK\r\n",
            };
            writes |= words[0] == "XADD";
            if out.write_all(answer.as_bytes()).is_err() || (writes && words[0] == "EXEC") {
                break;
            }
        }
        lines.for_each(drop);
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, SeqCst);
            std::thread::spawn(move || serve(stream.unwrap()));
        }
    });
    (port, connections)
}

#[test]
fn a_connection_on_which_the_second_transaction_has_no_answer_is_never_used_again() {
    let (port, connections) = falls_silent_after_a_refusal();
    run(async {
        let config = sinks::redis(format!("redis://127.0.0.1:{port}")).stream_key("{module_name}");
        let mut sink = open(&config.ordering(Ordering::Pipelined)).await.unwrap();
        let mut waiting = batch(0..600);
        assert_told(refused(&mut sink, &mut waiting).await, Overload, "maxmemory");
        let marks = marks(&waiting);
        assert!(
            marks.starts_with("Unsent ") && marks.contains(" Open ") && marks.ends_with(" Unsent"),
            "{marks}"
        );
        // The machine does not open it again after this class.
        assert_told(refused(&mut sink, &mut batch([1])).await, Overload, "maxmemory");
    });
    assert_eq!(connections.load(SeqCst), 2);
}

#[test]
fn a_cluster_is_noticed() {
    let (a, b) = (RedisServer::start_for_cluster(&[]), RedisServer::start_for_cluster(&[]));
    assert_told(told(run(open(&sink(&a))).unwrap_err()), Unavailable, "its cluster is down");
    a.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    b.cli(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    let bus = b.cli(&["CONFIG", "GET", "cluster-port"]);
    let bus = bus.lines().last().unwrap();
    a.cli(&["CLUSTER", "MEET", "127.0.0.1", &b.port().to_string(), bus]);
    for node in [&a, &b] {
        wait_until("the cluster is up", || {
            let info = node.cli(&["CLUSTER", "INFO"]);
            if info.contains("cluster_state:ok") { Ok(()) } else { Err(info) }
        });
    }
    let mut seen = HashSet::new();
    run(async {
        for node in [&a, &b] {
            let mut live = open(&sink(node)).await.unwrap();
            live.deliver(&mut batch([1])).await.unwrap();
            let mut spread = open(&sink(node).stream_key("chat:{data.number}")).await.unwrap();
            spread.deliver(&mut batch(0..20)).await.unwrap();
            // As if it were a server by itself, it takes what is its own.
            let mut alone = open(&sink(node).cluster(false)).await.unwrap();
            let mut waiting = batch([1]);
            seen.insert(match alone.deliver(&mut waiting).await {
                Ok(()) => "took",
                Err(error) => {
                    assert_told(told(error), Misconfigured, "leave out `cluster: false`");
                    assert_eq!(marks(&waiting), "Unsent");
                    "refused"
                }
            });
        }
    });
    assert_eq!(seen.len(), 2, "one node has the stream, the other has not");
}

/// A machine with a stream for each conversation, whose user may write to keys of these patterns.
fn conversations(server: &RedisServer, rules: &str) -> Machine {
    let url = user(server, rules);
    Machine::start(&["type: redis", &format!("url: \"{url}\""), "stream_key: \"chat:{data.id}\""])
}

fn of(id: &str) -> streamll::Event {
    streamll::Event::new(&streamll::Step::new("M"), "start").with("id", id)
}

#[test]
fn a_key_that_its_user_may_not_write_stops_no_other_wherever_it_stands() {
    let rules = "+@all ~chat:a* ~chat:b*";
    for ids in [&["a", "b", "x", "a", "b"][..], &["x", "y", "a", "z", "x", "b"], &["x", "a"], &["a", "x"]] {
        for one_by_one in [false, true] {
            let server = RedisServer::start();
            let mut machine = conversations(&server, rules);
            let (mut good, mut bad) = (Vec::new(), Vec::new());
            for id in ids {
                let number = machine.send(of(id));
                if ["a", "b"].contains(id) {
                    good.push(number)
                } else {
                    bad.push(number)
                }
                if one_by_one {
                    machine.wait("it was tried", |status| {
                        status.circuit_open
                            || status.balance.delivered + status.balance.dead_lettered > number
                    });
                }
            }
            machine.settles();
            let letters = machine.ends();
            assert_eq!(letters.iter().map(|(number, _)| *number).collect::<Vec<_>>(), bad, "{ids:?}");
            for (_, reason) in letters {
                assert!(reason.contains("the user `app` may not write to the key `chat:"), "{reason}");
                assert!(reason.contains("allow it `~chat:"), "{reason}");
            }
            let mut arrived = [numbers(&server, "chat:a"), numbers(&server, "chat:b")].concat();
            arrived.sort_unstable();
            assert_eq!(arrived, good, "each once");
        }
    }
}

#[test]
fn keys_that_are_all_refused_wait_for_a_person_also_when_that_was_not_so_before() {
    let server = RedisServer::start();
    let mut machine = conversations(&server, "+@all ~chat:*");
    for id in ["a", "b", "c"] {
        machine.send(of(id));
    }
    machine.settles();
    server.cli(&["ACL", "SETUSER", "app", "resetkeys", "~other"]);
    for id in ["b", "a", "c", "a"] {
        machine.send(of(id));
    }
    machine.breaks("the user of url may not do this");
    machine.wait("it has tried again", |status| status.failures > 3);
    assert_eq!(machine.status().balance.dead_lettered, 0);
    server.cli(&["ACL", "SETUSER", "app", "~*"]);
    machine.settles();
    assert_eq!(machine.ends(), []);
    assert_eq!(numbers(&server, "chat:a"), [0, 4, 6]);
}

#[test]
fn one_stream_at_the_end_of_its_ids_and_one_key_of_another_type_stop_no_other() {
    let server = RedisServer::start();
    ask::<String>(&server, &format!("XADD chat:full {max}-{max} a 1", max = u64::MAX));
    ask::<()>(&server, "SET chat:text text");
    let mut machine = conversations(&server, "+@all ~*");
    for id in ["full", "text", "a", "full", "b", "text"] {
        machine.send(of(id));
    }
    machine.settles();
    let letters = machine.ends();
    assert_eq!(letters.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 3, 5]);
    assert!(letters[0].1.contains("`chat:full` has used its last possible id"), "{letters:?}");
    assert!(letters[1].1.contains("`chat:text` holds no stream"), "{letters:?}");
    assert_eq!((numbers(&server, "chat:a"), numbers(&server, "chat:b")), (vec![2], vec![4]));
}

#[test]
fn a_key_that_is_taken_away_before_its_end_could_be_set_stops_no_other() {
    let server = RedisServer::start();
    let url = user(&server, "+@all ~chat:*");
    run(async {
        let config = sinks::redis(url).stream_key("chat:{data.id}").expire(Duration::from_secs(3600));
        let mut sink = open(&config).await.unwrap();
        // May add to this stream, and not give it an end.
        server.cli(&["ACL", "SETUSER", "app", "resetkeys", "~chat:a", "(+xadd +multi +exec ~chat:b)"]);
        for _ in 0..2 {
            let mut waiting = batch_of([event(1).with("id", "b"), event(2).with("id", "a")]);
            sink.deliver(&mut waiting).await.unwrap();
        }
    });
    assert_eq!((numbers(&server, "chat:a"), numbers(&server, "chat:b")), (vec![2, 2], vec![1, 1]));
    assert_ne!(ask::<i64>(&server, "TTL chat:a"), -1);
}

/// What a sink does whose user may write to the keys of `a` alone, and which has done so.
fn after_a_good_one(server: &RedisServer, ids: impl IntoIterator<Item = String>, one_by_one: bool) {
    let mut machine = conversations(server, "+@all ~chat:a*");
    machine.send(of("a"));
    machine.settles();
    let (mut good, mut bad) = (vec![0], Vec::new());
    for id in ids {
        let number = machine.send(of(&id));
        if id == "a" {
            good.push(number)
        } else {
            bad.push(number)
        }
        if one_by_one {
            machine.settles();
        }
    }
    machine.settles();
    assert_eq!(machine.ends().iter().map(|(number, _)| *number).collect::<Vec<_>>(), bad);
    assert_eq!(numbers(server, "chat:a"), good, "each once");
}

#[test]
fn a_burst_of_refused_keys_stops_no_good_event_behind_it() {
    let bad = (0..6000).map(|n| format!("x{}", n % 4));
    after_a_good_one(&RedisServer::start(), bad.chain((0..1000).map(|_| "a".to_owned())), false);
}

#[test]
fn refused_keys_that_come_alone_one_after_the_other_stop_no_good_event_either() {
    let bad = (0..9).map(|n| format!("x{n}"));
    after_a_good_one(&RedisServer::start(), bad.chain(["a".to_owned()]), true);
}

#[test]
fn new_keys_alone_wait_for_a_person_when_the_permission_for_all_was_taken_away() {
    let server = RedisServer::start();
    let mut machine = conversations(&server, "+@all ~chat:*");
    for id in ["a", "b"] {
        machine.send(of(id));
    }
    machine.settles();
    server.cli(&["ACL", "SETUSER", "app", "resetkeys", "~other"]);
    for n in 0..50 {
        machine.send(of(&format!("new{n}")));
    }
    machine.breaks("the user of url may not do this");
    machine.wait("it has tried again", |status| status.failures > 3);
    assert_eq!(machine.status().balance.dead_lettered, 0);
    server.cli(&["ACL", "SETUSER", "app", "~*"]);
    machine.settles();
    assert_eq!(machine.ends(), []);
}

#[test]
fn an_eviction_policy_that_is_set_while_it_runs_is_told_at_the_end() {
    let server = RedisServer::start();
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let mut machine = conversations(&server, "+@all ~*");
    machine.send(of("a"));
    machine.settles();
    assert!(!machine.status().warnings.iter().any(|told| told.contains("eviction")));
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    machine.send(of("a"));
    machine.settles();
    let told = machine.warns();
    assert!(told.iter().any(|told| told.contains("eviction policy allkeys-lru")), "{told:?}");
}
