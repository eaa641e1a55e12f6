//! Consumers of a Redis Cluster: masters that go, slots that move, and a whole service that scales out.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use streamll::consume::{Consumer, ConsumerState};
use streamll::{Emitted, Event, Step, Topology, context, sinks};

use crate::redis_cluster::RedisCluster;
use crate::servers::RabbitCluster;
use crate::{
    Process, Running, STREAM, Seen, add_numbers, channel, entries, field, json, number, pending, publish,
    reading, run, wait_for, wait_until,
};

/// The place of the stream, as one of the replicas or masters sees it that are still there.
fn home(cluster: &RedisCluster) -> usize {
    cluster.master_of(STREAM, cluster.anybody())
}

/// The new place of the stream, once that takes something.
fn elected(cluster: &RedisCluster, old: usize) -> usize {
    cluster.wait("a replica is master", || {
        let new = home(cluster);
        ![old, usize::MAX].contains(&new) && is_master(cluster, new) && cluster.state(new) == "ok"
    });
    home(cluster)
}

#[test]
fn a_group_goes_on_when_its_master_dies_and_when_its_slot_moves() {
    let cluster = RedisCluster::start();
    let first = home(&cluster);
    add_numbers(&cluster.nodes[first], 0..500);
    // Not a word in it of the node that has the stream.
    let url = cluster.url((0..6).find(|node| *node != first).unwrap());
    run(async {
        let seen = Seen::default();
        let consumer = Consumer::connect(url, STREAM).group("g").max_attempts(1).skip_duplicates(10_000);
        let handler = seen.handler();
        let consumer = consumer.on("token", move |event: Event| match number(&event) {
            300 => Err("it is poison"),
            _ => {
                handler(event);
                Ok(())
            }
        });
        let running = Running::start(consumer);
        wait_for("the first", || seen.len() == 499).await;
        running.until("the dead letter is kept", |status| status.balance.dead_lettered == 1).await;
        let dead = format!("{STREAM}.dead");
        let keeper = cluster.master_of(&dead, first);
        assert_ne!(keeper, first, "the dead letters are on another node: else this shows nothing");
        assert_eq!(field(&entries(&cluster.nodes[keeper], &dead)[0], "reason"), "it is poison");
        // Else the master may die with it, and it would come again.
        wait_for("all is acknowledged", || pending(&cluster.nodes[first], "g") == 0).await;

        cluster.nodes[first].kill9();
        let second = elected(&cluster, first);
        add_numbers(&cluster.nodes[second], 500..1000);
        wait_for("what came behind the election", || seen.len() == 999).await;

        let third =
            (0..6).find(|node| ![first, second].contains(node) && is_master(&cluster, *node)).unwrap();
        cluster.move_slot(STREAM, second, third, || {});
        add_numbers(&cluster.nodes[third], 1000..1500);
        wait_for("what came behind the move", || seen.len() == 1499).await;
        wait_for("all is acknowledged", || pending(&cluster.nodes[third], "g") == 0).await;
        let status = running.stop().await;
        assert_eq!((status.gaps, status.balance.dead_lettered), (0, 1), "{status:#?}");
        let expected = (0..1500).filter(|n| *n != 300);
        assert!(seen.numbers().into_iter().eq(expected), "all in order, each once");
    });
}

/// Its connection stays up all the time: nothing but the silence tells that the master is no more.
#[test]
fn a_group_goes_on_when_its_master_is_frozen_and_when_that_comes_back_as_a_replica() {
    let cluster = RedisCluster::start();
    let first = home(&cluster);
    add_numbers(&cluster.nodes[first], 0..500);
    run(async {
        let seen = Seen::default();
        let consumer = Consumer::connect(cluster.url(first), STREAM).group("g").skip_duplicates(10_000);
        let running = Running::start(consumer.on("token", seen.handler()));
        wait_for("the first", || seen.len() == 500).await;

        cluster.nodes[first].freeze();
        let second = elected(&cluster, first);
        add_numbers(&cluster.nodes[second], 500..1000);
        wait_for("what came behind the election", || seen.len() == 1000).await;

        cluster.nodes[first].thaw();
        cluster.wait("the old master follows the new one", || !is_master(&cluster, first));
        add_numbers(&cluster.nodes[second], 1000..1500);
        wait_for("what came with both", || seen.len() == 1500).await;
        wait_for("all is acknowledged", || pending(&cluster.nodes[second], "g") == 0).await;
        let status = running.stop().await;
        assert!(status.connections >= 2 && status.gaps == 0, "{status:#?}");
        assert!(seen.numbers().into_iter().eq(0..1500), "all in order, each once");
    });
}

/// A quorum queue and a stream go on without one node of three, and their consumers with them, each where it was.
#[test]
fn queues_on_three_nodes_are_read_on_when_the_node_of_their_consumers_is_killed() {
    let cluster = RabbitCluster::start();
    let vhost = cluster.nodes[0].vhost();
    run(async {
        let (_connection, channel) = channel(&cluster.nodes[1], &vhost).await;
        for (queue, kind) in [("work", "quorum"), ("log", "stream")] {
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
            let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.into(), durable, arguments).await.unwrap();
        }
        // The first address is the one that is killed.
        let urls = cluster.urls(&vhost);
        let start = |queue: &str, seen: &Seen| {
            let consumer = Consumer::connect(urls.clone(), "").group(queue).skip_duplicates(10_000);
            Running::start(consumer.on_topic("#", seen.handler()))
        };
        let (work, log) = (Seen::default(), Seen::default());
        let running = loop {
            let running = [start("work", &work), start("log", &log)];
            for running in &running {
                running.until("it consumes", |status| status.state == ConsumerState::Consuming).await;
            }
            let connections = cluster.nodes[1].ctl(&["list_connections", "pid"]);
            if connections.lines().filter(|pid| pid.starts_with("<a@localhost.")).count() == 2 {
                break running;
            }
            // A node that has just begun may be too busy to be waited for.
            for running in running {
                running.stop().await;
            }
        };
        let fill = async |numbers: std::ops::Range<u64>| {
            for queue in ["work", "log"] {
                publish(&channel, "", queue, numbers.clone().map(|n| json(n, 10))).await;
            }
        };
        fill(0..300).await;
        wait_for("the first", || work.len() == 300 && log.len() == 300).await;
        cluster.nodes[0].kill9();
        fill(300..600).await;
        wait_for("what came without the node", || work.len() == 600 && log.len() == 600).await;
        for running in running {
            let status = running.stop().await;
            assert!(status.connections >= 2 && status.gaps == 0, "{status:#?}");
        }
        for seen in [work, log] {
            let numbers: HashSet<u64> = seen.numbers().into_iter().collect();
            assert!(numbers.len() == 600 && seen.len() == 600, "each once");
        }
    });
}

fn is_master(cluster: &RedisCluster, node: usize) -> bool {
    cluster.cli(node, "ROLE").starts_with("master")
}

const URL: &str = "STREAMLL_TEST_CLUSTER";
const FILE: &str = "STREAMLL_TEST_FILE";
const PRODUCER: &str = "STREAMLL_TEST_PRODUCER";
const EVENTS: u64 = 50_000;

/// Not a test by itself: a process that reads in the group, and writes down what it has handled.
#[test]
fn one_that_reads() {
    let (Ok(url), Ok(file)) = (std::env::var(URL), std::env::var(FILE)) else { return };
    let file = Mutex::new(fs::OpenOptions::new().append(true).create(true).open(file).unwrap());
    let consumer = Consumer::connect(url, STREAM).group("g").workers(4).claim_after(Duration::from_secs(1));
    let consumer = consumer.on("progress", move |event: Event| {
        let line =
            format!("{} {}\n", event.source().unwrap_or_default(), event.data("n").unwrap_or_default());
        file.lock().unwrap().write_all(line.as_bytes())
    });
    run(consumer.run()).unwrap();
}

/// Not a test by itself: a process that writes, as one of several of a service.
#[test]
fn one_that_writes() {
    let (Ok(url), Ok(_)) = (std::env::var(URL), std::env::var(PRODUCER)) else { return };
    let topology = Topology::builder("rag-api").sink("live", sinks::redis(url).stream_key(STREAM));
    let handle = topology.start().unwrap();
    run(async {
        for n in 0..EVENTS {
            let conversation = context! { conversation_id = n % 100 };
            let event = Event::new(&Step::new("RagPipeline").context(&conversation), "progress").with("n", n);
            assert_eq!(handle.emitter().send(event).await, Emitted::Accepted);
        }
    });
    let ended = handle.shutdown_blocking(Duration::from_secs(60));
    assert!(ended.complete && ended.status.balances(), "{:#?}", ended.status);
}

fn process(test: &str, url: &str, variable: &str, value: &Path) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test]).env(URL, url).env(variable, value);
    Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"))
}

#[test]
fn four_processes_write_three_read_one_is_killed_and_every_event_is_handled() {
    // Nothing fails here: a disk that is slow for once is not to look like a dead master.
    let cluster = RedisCluster::start_with(&["--appendonly", "no", "--cluster-node-timeout", "15000"]);
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..3).map(|i| folder.path().join(format!("{i}"))).collect();
    // Each knows another node.
    let reader = |i: usize| process("cluster::one_that_reads", &cluster.url(i), FILE, &files[i]);
    let mut readers: Vec<Process> = (0..3).map(reader).collect();
    // Each gets a share, also where one begins late.
    run(wait_for("all read", || reading(&cluster.nodes[home(&cluster)]) == 3));
    let writer = |i: usize| process("cluster::one_that_writes", &cluster.url(i), PRODUCER, Path::new("yes"));
    let mut writers: Vec<Process> = (2..6).map(writer).collect();
    let handled = |file: &PathBuf| fs::read_to_string(file).unwrap_or_default().lines().count();
    run(async {
        wait_for("all have begun", || files.iter().all(|file| handled(file) > 2000)).await;
        readers[0].0.kill().unwrap();
        readers[0].0.wait().unwrap();
        for writer in &mut writers {
            assert!(writer.0.wait().unwrap().success(), "a writer does not end well");
        }
        let home = home(&cluster);
        wait_until("all are handled", || {
            let left = pending(&cluster.nodes[home], "g");
            let texts: Vec<_> =
                files.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect();
            let distinct: HashSet<&str> = texts.iter().flat_map(|text| text.lines()).collect();
            let n = distinct.len() as u64;
            if n == 4 * EVENTS && left == 0 { Ok(()) } else { Err(format!("{n} handled, {left} pending")) }
        })
        .await;
        let texts: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        let sources: HashSet<&str> =
            texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(sources.len(), 4, "each process is a source of its own: {sources:?}");
    });
}
