//! A Redis Cluster of three masters and three replicas, and what is in it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::brokers::{Broker, PASSWORD, USER};
use crate::oracle::Copy;
use crate::servers::{RedisServer, free_port};

/// After so long without an answer a node counts as gone, and a replica takes its place soon after.
pub(crate) const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the documentation says that the sink needs.
const RULES: [&str; 11] = [
    "on",
    "~*",
    "resetchannels",
    "+xadd",
    "+multi",
    "+exec",
    "+ping",
    "+cluster|slots",
    "+cluster|info",
    "+type",
    "+pexpire",
];

#[derive(Debug)]
pub(crate) struct RedisCluster {
    pub(crate) nodes: Vec<RedisServer>,
    /// What the keys of the streams begin with.
    prefix: RefCell<String>,
    /// The number of the node in `url`.
    pub(crate) seed: RefCell<usize>,
}

impl RedisCluster {
    pub(crate) fn start() -> RedisCluster {
        RedisCluster::start_with(&[])
    }

    pub(crate) fn start_with(args: &[&str]) -> RedisCluster {
        let node = || {
            let (bus, timeout) = (free_port().to_string(), NODE_TIMEOUT.as_millis().to_string());
            let password = format!(">{PASSWORD}");
            let ours =
                ["--cluster-enabled", "yes", "--cluster-node-timeout", &timeout, "--cluster-port", &bus];
            let kept = ["--appendonly", "yes", "--appendfsync", "always", "--user", USER, &password];
            RedisServer::start_with(&[&ours[..], &kept[..], &RULES[..], args].concat())
        };
        let nodes: Vec<_> = (0..6).map(|_| node()).collect();
        let places: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(places.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        nodes[0].cli(&create);
        let cluster = RedisCluster { nodes, prefix: RefCell::default(), seed: RefCell::new(0) };
        cluster.wait("all nodes agree", || {
            (0..6).all(|i| cluster.state(i) == "ok")
                && (0..6).filter(|i| cluster.cli(*i, "ROLE").starts_with("slave")).count() == 3
                && (0..6).all(|i| !cluster.cli(i, "INFO replication").contains("master_link_status:down"))
        });
        cluster
    }

    /// From now on there are other streams, and another node stands in `url`.
    pub(crate) fn anew(&self, prefix: &str, seed: usize) {
        *self.prefix.borrow_mut() = prefix.to_owned();
        *self.seed.borrow_mut() = seed;
    }

    pub(crate) fn cli(&self, node: usize, line: &str) -> String {
        self.nodes[node].cli(&line.split(' ').collect::<Vec<_>>())
    }

    fn state(&self, node: usize) -> String {
        let info = self.cli(node, "CLUSTER INFO");
        let state = info.lines().find_map(|line| line.strip_prefix("cluster_state:"));
        state.unwrap_or_default().trim().to_owned()
    }

    /// Who is master of a key, as this node sees it.
    pub(crate) fn master_of(&self, key: &str, seen_by: usize) -> usize {
        let slot: u16 = self.cli(seen_by, &format!("CLUSTER KEYSLOT {key}")).trim().parse().expect("a slot");
        let nodes = self.cli(seen_by, "CLUSTER NODES");
        let port = nodes.lines().find_map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let has = |range: &str| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                first.parse().is_ok_and(|first: u16| first <= slot)
                    && last.parse().is_ok_and(|last: u16| slot <= last)
            };
            let good = words.get(2).is_some_and(|flags| flags.contains("master") && !flags.contains("fail"));
            (good && words.iter().skip(8).any(|word| has(word)))
                .then(|| words[1].split(['@', ',']).next().unwrap_or_default())
        });
        let port = port.and_then(|place| place.rsplit_once(':')).map(|(_, port)| port.to_owned());
        self.nodes.iter().position(|node| Some(node.port().to_string()) == port).unwrap_or(usize::MAX)
    }

    pub(crate) fn id(&self, node: usize) -> String {
        self.cli(node, "CLUSTER MYID").trim().to_owned()
    }

    #[track_caller]
    pub(crate) fn wait(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(
                Instant::now() < deadline,
                "waited in vain until {what}: {}",
                self.cli(1, "CLUSTER NODES")
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The key of a stream.
    pub(crate) fn key(&self, conversation: usize) -> String {
        format!("{}:conv_{conversation}", self.prefix.borrow())
    }

    /// The entries of one stream, wherever it is.
    fn stream(&self, key: &str) -> Vec<Copy> {
        let node = self.master_of(key, self.anybody());
        let client = ::redis::Client::open(self.nodes[node].url()).expect("an address");
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

    /// A node that answers.
    fn anybody(&self) -> usize {
        let answers = |node: &RedisServer| {
            ::redis::Client::open(node.url())
                .is_ok_and(|c| c.get_connection_with_timeout(Duration::from_millis(500)).is_ok())
        };
        self.nodes.iter().position(answers).expect("a node answers")
    }
}

impl Broker for RedisCluster {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn port(&self) -> u16 {
        self.nodes[*self.seed.borrow()].port()
    }

    fn keys(&self, port: u16) -> String {
        let prefix = self.prefix.borrow();
        format!(
            "    type: redis\n    url: \"redis://{USER}:{PASSWORD}@127.0.0.1:{port}\"\n    \
             stream_key: \"{prefix}:{{data.conversation_id}}\"\n"
        )
    }

    /// One stream after the other; in each, first deliveries are in order.
    fn arrived(&self) -> Vec<Copy> {
        let mut all = Vec::new();
        for conversation in 0..8 {
            let key = self.key(conversation);
            let copies = self.stream(&key);
            let mut last: HashMap<u64, u64> = HashMap::new();
            for copy in copies.iter().filter(|copy| copy.attempt == 1) {
                let event: Value = serde_json::from_slice(&copy.json).expect("JSON");
                let number = |name: &str| event["data"][name].as_u64().expect("a number");
                let before = last.insert(number("producer"), number("n"));
                assert!(before < Some(number("n")), "{key}: {} came after {before:?}", number("n"));
            }
            all.extend(copies);
        }
        all
    }
}
