//! What happens to the masters and the slots of a Redis Cluster.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;

use streamll::sinks;
use streamll::topology::IntoSink as _;
use streamll::{Deliveries, Delivery, Event, Sink as _, SinkContext, Step, Topology};
use tokio::time::Instant;

use crate::brokers::Broker;
use crate::oracle::Copy;
use crate::outage::{Expected, HASTY, Outage, PATIENT};
use crate::redis::run;
use crate::redis::tls::Authority;
use crate::redis_cluster::{NODE_TIMEOUT, RedisCluster};
use crate::servers::{RedisServer, free_port};
use support::wait_until;

const SECOND: Duration = Duration::from_secs(1);
/// After a replica has taken over, events flow again within this time.
const RECOVERY: Duration = Duration::from_secs(15);

/// Streams whose keys begin alike, which the sink finds by one node.
struct Streams<'c> {
    cluster: &'c RedisCluster,
    prefix: &'static str,
    seed: usize,
}

impl Streams<'_> {
    /// The key of a stream.
    pub(crate) fn key(&self, conversation: usize) -> String {
        format!("{}:conv_{conversation}", self.prefix)
    }

    /// The entries of one stream, wherever it is.
    fn stream(&self, key: &str) -> Vec<Copy> {
        let find = || self.cluster.master_of(key, self.cluster.anybody());
        self.cluster.wait("its slot has a master", || find() != usize::MAX);
        let node = find();
        let client = ::redis::Client::open(self.cluster.nodes[node].url()).expect("an address");
        let mut redis = client.get_connection().expect("it answers");
        let entries: Vec<(String, HashMap<String, Vec<u8>>)> =
            ::redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(&mut redis).expect("a stream");
        let copy = |mut fields: HashMap<String, Vec<u8>>| Copy {
            json: fields.remove("event").expect("an event"),
            attempt: fields
                .remove("attempt")
                .map_or(1, |n| String::from_utf8_lossy(&n).parse().expect("a number")),
        };
        entries.into_iter().map(|(_, fields)| copy(fields)).collect()
    }
}

impl Broker for Streams<'_> {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn port(&self) -> u16 {
        self.cluster.nodes[self.seed].port()
    }

    fn keys(&self, port: u16) -> String {
        assert_eq!(port, self.port(), "there is no proxy that all nodes are behind");
        let (url, prefix) = (self.cluster.url(self.seed), self.prefix);
        format!(
            "    type: redis\n    url: \"{url}\"\n    stream_key: \"{prefix}:{{data.conversation_id}}\"\n"
        )
    }

    /// One stream after the other; in each, first deliveries are in order.
    fn arrived(&self) -> Vec<Copy> {
        let mut all = Vec::new();
        for conversation in 0..8 {
            let key = self.key(conversation);
            let copies = self.stream(&key);
            let (mut last, mut seen) = (HashMap::new(), HashSet::new());
            for copy in &copies {
                let event: Value = serde_json::from_slice(&copy.json).expect("JSON");
                let number = |name: &str| event["data"][name].as_u64().expect("a number");
                let (producer, n) = (number("producer"), number("n"));
                // The first copy of each is in order, also where that is the second that was sent.
                if seen.insert((producer, n)) {
                    let before = last.insert(producer, n);
                    assert!(before < Some(n), "{key}: {n} came after {before:?}");
                }
            }
            all.extend(copies);
        }
        all
    }
}
/// Streams are read one after the other: the order inside of each is looked at where they are read.
fn lost(connections: usize) -> Expected {
    Expected { losses: connections, refuses_singly: true, dead_letters: false }
}

/// A master is gone; a replica takes its place, and events flow again.
fn fails_over(streams: &Streams<'_>, outage: &Outage<'_>, gone: usize) {
    let (cluster, key) = (streams.cluster, streams.key(0));
    let witness = (0..6).find(|i| *i != gone).expect("there are six");
    cluster.wait("a replica is master", || ![gone, usize::MAX].contains(&cluster.master_of(&key, witness)));
    let elected = Instant::now();
    outage.moves();
    assert!(elected.elapsed() < RECOVERY, "{:?} after the election", elected.elapsed());
    outage.recovers();
}

/// One cluster, as it takes its time to start; its masters change, and each part finds them as they are then.
#[test]
fn a_cluster_loses_masters_and_moves_slots_under_load() {
    let cluster = &RedisCluster::start();

    // The node that `url` names is the one that goes: the others are known by then.
    let seed = cluster.master_of("killed:conv_0", 1);
    let streams = Streams { cluster, prefix: "killed", seed };
    let outage = Outage::fast(&streams, HASTY);
    outage.flows();
    cluster.nodes[seed].kill9();
    outage.breaks("");
    fails_over(&streams, &outage, seed);
    cluster.nodes[seed].restart();
    outage.flows();
    outage.ends(&lost(1));
    cluster.wait("the node is a replica", || cluster.cli(seed, "ROLE").starts_with("slave"));

    let streams = Streams { cluster, prefix: "frozen", seed };
    let outage = Outage::fast(&streams, HASTY);
    outage.flows();
    let master = cluster.master_of(&streams.key(0), 1);
    cluster.nodes[master].freeze();
    // Another may be elected before the circuit opens.
    outage.falls_behind();
    fails_over(&streams, &outage, master);
    cluster.nodes[master].thaw();
    outage.flows();
    outage.ends(&lost(1));

    let streams = Streams { cluster, prefix: "moved", seed: 5 };
    let outage = Outage::fast(&streams, PATIENT);
    outage.flows();
    for conversation in 0..8 {
        move_slot(&streams, &outage, conversation);
    }
    outage.flows();
    wait_until("once it has been sent on, it knows", || {
        let moved = errors(cluster, "MOVED");
        outage.flows();
        let more = errors(cluster, "MOVED") - moved;
        if more == 0 { Ok(()) } else { Err(format!("{more} times in a hundred events")) }
    });
    outage.ends(&lost(0));

    nobody_sent_a_transaction_across_slots(cluster);
    a_majority_is_gone(cluster);
}

/// The stream and its slot go to another master.
fn move_slot(streams: &Streams<'_>, outage: &Outage<'_>, conversation: usize) {
    let (cluster, key) = (streams.cluster, &streams.key(conversation));
    let from = cluster.master_of(key, 1);
    let to = (0..8).map(|i| cluster.master_of(&streams.key(i), 1)).find(|node| *node != from);
    let to = to.expect("eight streams are not all on one node");
    // Meanwhile the sink is sent on with each batch.
    cluster.move_slot(key, from, to, || match conversation {
        0 => outage.flows(),
        _ => std::thread::sleep(SECOND / 5),
    });
}

/// How often the nodes refused something so.
fn errors(cluster: &RedisCluster, code: &str) -> u64 {
    let count = |node: usize| {
        let errors = cluster.cli(node, "INFO errorstats");
        let name = format!("errorstat_{code}:count=");
        let count = errors.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse::<u64>().ok());
        count.unwrap_or(0)
    };
    (0..6).map(count).sum()
}

fn nobody_sent_a_transaction_across_slots(cluster: &RedisCluster) {
    assert!(errors(cluster, "ASK") > 0, "no event met a slot on its way: this shows nothing");
    assert_eq!(errors(cluster, "CROSSSLOT"), 0);
}

/// Two of three masters: nobody can be elected.
fn a_majority_is_gone(cluster: &RedisCluster) {
    let streams = Streams { cluster, prefix: "minority", seed: 0 };
    let masters: Vec<_> = (0..6).filter(|i| cluster.cli(*i, "ROLE").starts_with("master")).collect();
    let outage = Outage::behind(streams.port(), &streams, HASTY);
    outage.flows();
    masters[..2].iter().for_each(|node| cluster.nodes[*node].kill9());
    outage.breaks("its cluster is down (CLUSTERDOWN)");
    outage.lasts(NODE_TIMEOUT);
    masters[..2].iter().for_each(|node| cluster.nodes[*node].restart());
    outage.recovers();
    outage.ends(&lost(2));
}

/// What is told of a `url` or a `cluster` that does not fit.
#[test]
fn wrong_use_is_told() {
    let (server, node) = (RedisServer::start(), RedisServer::start_for_cluster(&[]));
    assert_eq!(node.cli(&["ACL", "SETUSER", "app", "on", ">x", "~*", "+@all", "-cluster"]), "OK");
    let unasked = node.url().replace("redis://", "redis://app:x@");
    let open = |config: sinks::RedisConfig| {
        let mut sink = config.build().expect("it can be built");
        let error = run(sink.open(&SinkContext::detached("live"))).expect_err("it is wrong");
        error.to_string()
    };
    for (config, words) in [
        (sinks::redis(server.url()).cluster(true), "is no node of a cluster: leave out `cluster: true`"),
        (sinks::redis(format!("{0},{0}", server.url())), "is no node of a cluster"),
        (sinks::redis(node.url()), "CLUSTERDOWN"),
        (sinks::redis(node.url()), "16384 of its 16384 slots have no master"),
        (sinks::redis(format!("{}/1", node.url())), "has no databases"),
        (sinks::redis(format!("{unasked},{unasked}")), "allow it `+cluster|slots +cluster|info`"),
    ] {
        let told = open(config);
        assert!(told.contains(words), "{words}: {told}");
    }
}

/// A plain URL of any node works, also that of a replica; each stream is found where it lives, in its order.
#[test]
fn one_node_leads_to_all_streams_and_braces_keep_them_together() {
    let cluster = RedisCluster::start();
    half_of_a_slot_has_moved(&cluster);
    keys_that_hold_no_stream_are_the_trouble_of_their_events_alone(&cluster);
    a_node_that_is_silent_for_longer_than_a_delivery_may_take_is_passed_by(&cluster);
    let events = |n: u64| {
        let event = Event::new(&Step::new("M"), "start").with("n", n).with("conversation_id", n % 50);
        Delivery::new(event, "ai.m.start".into())
    };
    for seed in [0, 5] {
        let url = cluster.url(seed);
        let dead = "redis://127.0.0.1:1";
        for (url, key) in [
            (url.clone(), format!("plain{seed}:{{data.conversation_id}}")),
            (format!("{dead},{url}"), format!("{{{{tag{seed}}}}}:{{data.conversation_id}}")),
        ] {
            let config = sinks::redis(&url).stream_key(&key).expire(600 * SECOND);
            let mut sink = config.build().expect("it is right");
            run(async {
                sink.open(&SinkContext::detached("live")).await.expect("it opens");
                let mut batch = Deliveries::new((0..500).map(events).collect());
                sink.deliver(&mut batch).await.expect("it arrives");
                sink.close().await;
            });
        }
        let masters = |prefix: &str| {
            let mut masters: Vec<_> = (0..50)
                .map(|i| {
                    cluster.master_of(
                        &format!("{prefix}{seed}{}:{i}", if prefix == "{tag" { "}" } else { "" }),
                        0,
                    )
                })
                .collect();
            masters.sort_unstable();
            masters.dedup();
            masters.len()
        };
        assert_eq!((masters("plain"), masters("{tag")), (3, 1));
        for i in 0..50 {
            for key in [format!("plain{seed}:{i}"), format!("{{tag{seed}}}:{i}")] {
                let node = cluster.master_of(&key, 0);
                assert_eq!(cluster.cli(node, &format!("XLEN {key}")), "10", "{key}");
                assert_ne!(cluster.cli(node, &format!("PTTL {key}")), "-1", "{key} stays for ever");
            }
        }
    }
}

/// With the usual times of the sink, whose circuit first pauses for 30 s, and nodes that take 10 s to miss one of them: the
/// election is waited for without the circuit.
#[test]
fn the_usual_circuit_does_not_sleep_through_an_election() {
    let cluster = &RedisCluster::start_with(&["--cluster-node-timeout", "10000"]);
    let master = cluster.master_of("ai_events", 0);
    let url = cluster.url((0..6).find(|node| *node != master).expect("there are six"));
    let topology = Topology::builder("rag-api").sink("live", sinks::redis(url));
    let handle = topology.start().expect("it starts");
    let emit = |n: u64| handle.emitter().emit(Event::new(&Step::new("M"), "start").with("n", n));
    let delivered = || handle.status().sink("live").expect("it is there").balance.delivered;
    emit(0);
    wait_until("it works", || if delivered() == 1 { Ok(()) } else { Err(String::new()) });
    cluster.nodes[master].kill9();
    let killed = Instant::now();
    emit(1);
    let witness = (0..6).find(|node| *node != master).expect("there are six");
    cluster.wait("a replica is master", || {
        ![master, usize::MAX].contains(&cluster.master_of("ai_events", witness))
    });
    let elected = Instant::now();
    eprintln!("elected {:?} after the kill", killed.elapsed());
    wait_until("it works again", || {
        if delivered() == 2 { Ok(()) } else { Err(format!("{:#?}", handle.status())) }
    });
    // A first vote that failed takes longer than the sink waits for.
    let slow = elected - killed > Duration::from_secs(20);
    assert!(slow || elected.elapsed() < RECOVERY, "{:?} after the election", elected.elapsed());
    assert!(handle.shutdown_blocking(RECOVERY).complete);
}

/// Two of them in one batch, each in a slot of its own, beside others that work.
fn keys_that_hold_no_stream_are_the_trouble_of_their_events_alone(cluster: &RedisCluster) {
    let key = |n: u64| format!("taken:{n}");
    let node = cluster.master_of(&key(0), cluster.anybody());
    let mut there = (1..).filter(|n| cluster.master_of(&key(*n), node) == node);
    let taken = [0, there.next().expect("another")];
    taken.iter().for_each(|n| assert_eq!(cluster.cli(node, &format!("SET {} text", key(*n))), "OK"));
    let good = (0..50).map(|n| n + 1000);
    let sink = sinks::redis(cluster.url(node)).stream_key("taken:{data.n}");
    let handle = Topology::builder("rag-api").sink("live", sink).start().expect("it starts");
    // All in one batch.
    let live = handle.sink("live").expect("it is there");
    live.force_open();
    for n in good.chain(taken) {
        handle.emitter().emit(Event::new(&Step::new("M"), "start").with("n", n));
    }
    live.auto();
    wait_until("all are settled", || {
        let status = handle.status();
        let balance = status.sink("live").expect("it is there").balance;
        let settled = (balance.delivered, balance.dead_lettered) == (50, 2);
        if settled { Ok(()) } else { Err(format!("{status:#?}")) }
    });
    assert!(handle.shutdown_blocking(RECOVERY).status.balances());
}

/// The first address takes connections and says nothing, for three times as long as a delivery may take.
fn a_node_that_is_silent_for_longer_than_a_delivery_may_take_is_passed_by(cluster: &RedisCluster) {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().expect("it has one");
    let mut sink =
        sinks::redis(format!("redis://{silent},{}", cluster.url(cluster.anybody()))).into_sink("live");
    sink.deliver_timeout = SECOND;
    sink.breaker.recovery_timeout = SECOND / 5;
    let handle = Topology::builder("rag-api").sink("live", sink).start().expect("it starts");
    handle.emitter().emit(Event::new(&Step::new("M"), "start"));
    wait_until("it has arrived by the second address", || {
        let status = handle.status();
        let delivered = status.sink("live").expect("it is there").balance.delivered;
        if delivered == 1 { Ok(()) } else { Err(format!("{status:#?}")) }
    });
    assert!(handle.shutdown_blocking(RECOVERY).complete);
}

/// Streams of one slot, of which some have moved already: each goes where it is, in its order, with its time.
fn half_of_a_slot_has_moved(cluster: &RedisCluster) {
    let key = |n: u64| format!("{{half}}:{n}");
    let from = cluster.master_of(&key(0), cluster.anybody());
    let to = (0..6).find(|node| *node != from && cluster.cli(*node, "ROLE").starts_with("master"));
    let to = to.expect("there are three");
    let config = sinks::redis(cluster.url(from)).stream_key("{{half}}:{data.conversation_id}");
    let mut sink = config.expire(600 * SECOND).build().expect("it is right");
    let batch = |numbers: std::ops::Range<u64>| {
        let event = |n: u64| {
            let event = Event::new(&Step::new("M"), "start").with("n", n).with("conversation_id", n % 10);
            Delivery::new(event, "ai.m.start".into())
        };
        Deliveries::new(numbers.map(event).collect())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut deliver = |numbers| runtime.block_on(sink.deliver(&mut batch(numbers))).expect("it arrives");
    deliver(0..100);
    let slot = cluster.cli(from, &format!("CLUSTER KEYSLOT {}", key(0)));
    let ok = |node: usize, line: String| assert_eq!(cluster.cli(node, &line), "OK", "{line}");
    ok(to, format!("CLUSTER SETSLOT {slot} IMPORTING {}", cluster.id(from)));
    ok(from, format!("CLUSTER SETSLOT {slot} MIGRATING {}", cluster.id(to)));
    let port = cluster.nodes[to].port();
    // Their time goes along with them; what they take on their way prolongs it.
    (0..5).for_each(|n| assert_eq!(cluster.cli(from, &format!("PEXPIRE {} 60000", key(n))), "1"));
    (0..5).for_each(|n| ok(from, format!("MIGRATE 127.0.0.1 {port} {} 0 5000", key(n))));
    deliver(100..200);
    (5..10).for_each(|n| ok(from, format!("MIGRATE 127.0.0.1 {port} {} 0 5000", key(n))));
    deliver(200..300);
    [to, from]
        .into_iter()
        .for_each(|node| ok(node, format!("CLUSTER SETSLOT {slot} NODE {}", cluster.id(to))));
    for n in 0..5 {
        let time: u64 = cluster.cli(to, &format!("PTTL {}", key(n))).parse().expect("it has one");
        assert!(time > 500_000, "{} was not prolonged on its way: {time} ms", key(n));
    }
    deliver(300..400);
    assert!(errors(cluster, "ASK") > 0, "no event met a slot on its way: this shows nothing");
    let client = ::redis::Client::open(cluster.nodes[to].url()).expect("an address");
    let mut redis = client.get_connection().expect("it answers");
    for n in 0..10 {
        let entries: Vec<(String, HashMap<String, String>)> =
            ::redis::cmd("XRANGE").arg(key(n)).arg("-").arg("+").query(&mut redis).expect("a stream");
        let number = |fields: &HashMap<String, String>| {
            let event: Value = serde_json::from_str(&fields["event"]).expect("JSON");
            event["data"]["n"].as_u64().expect("a number")
        };
        let numbers = entries.iter().map(|(_, fields)| number(fields));
        assert!(numbers.eq((0..40).map(|i| i * 10 + n)), "{entries:?}");
        assert!(entries.iter().all(|(_, fields)| fields.len() == 1), "none was sent twice");
        assert_ne!(cluster.cli(to, &format!("PTTL {}", key(n))), "-1", "it stays for ever");
    }
}

/// The nodes say which of their ports speak TLS, and are who their certificate says.
#[test]
fn a_cluster_speaks_tls() {
    let authority = Authority::new();
    let certificate = authority.certificate_for("127.0.0.1", false);
    let nodes: Vec<_> = (0..3)
        .map(|_| {
            let tls = free_port().to_string();
            // Without `tls-cluster`, Redis 7.0 tells nobody of the port for TLS.
            let cluster = ["--tls-cluster", "yes", "--tls-port", &tls];
            let server = RedisServer::start_for_cluster(&[&cluster[..], &certificate.args()].concat());
            (server, tls)
        })
        .collect();
    let places: Vec<_> = nodes.iter().map(|(_, tls)| format!("127.0.0.1:{tls}")).collect();
    let ca = authority.file("ca.pem").display().to_string();
    let mut create = vec!["--tls", "--cacert", &ca, "--cluster", "create"];
    create.extend(places.iter().map(String::as_str));
    create.push("--cluster-yes");
    nodes[0].0.cli(&create);
    wait_until("the cluster is up", || {
        let down =
            nodes.iter().filter(|(node, _)| !node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
        if down.count() == 0 { Ok(()) } else { Err("it is not".to_owned()) }
    });
    let url = format!("rediss://127.0.0.1:{}", nodes[1].1);
    let sink = sinks::redis(url).stream_key("chat:{data.n}").ca_file(authority.file("ca.pem"));
    let mut sink = sink.build().expect("it is right");
    let events = (0..100)
        .map(|n| Delivery::new(Event::new(&Step::new("M"), "start").with("n", n), "ai.m.start".into()));
    run(async {
        sink.open(&SinkContext::detached("live")).await.expect("it opens");
        sink.deliver(&mut Deliveries::new(events.collect())).await.expect("it arrives");
    });
    let sizes: Vec<u32> =
        nodes.iter().map(|(node, _)| node.cli(&["DBSIZE"]).parse().expect("a number")).collect();
    assert!(sizes.iter().sum::<u32>() == 100 && !sizes.contains(&0), "{sizes:?}");
}
