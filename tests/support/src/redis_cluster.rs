//! A Redis Cluster of three masters and three replicas.

use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::servers::RedisServer;

/// After so long without an answer a node counts as gone, and a replica takes its place soon after.
pub const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// The user of the tests, who may do what the documentation says, and its password.
pub const LOGIN: [&str; 2] = ["app", "canary-8417"];
const RULES: [&str; 17] = [
    "on",
    "~*",
    "resetchannels",
    "+ping",
    "+cluster|slots",
    "+cluster|info",
    "+asking",
    "+xadd",
    "+multi",
    "+exec",
    "+pexpire",
    "+xreadgroup",
    "+xgroup",
    "+xack",
    "+xautoclaim",
    "+xclaim",
    "+xpending",
];

#[derive(Debug)]
pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub fn start() -> RedisCluster {
        RedisCluster::start_with(&[])
    }

    pub fn start_with(args: &[&str]) -> RedisCluster {
        let node = || {
            let timeout = NODE_TIMEOUT.as_millis().to_string();
            let password = format!(">{}", LOGIN[1]);
            let ours = ["--cluster-node-timeout", &timeout];
            let kept = ["--appendonly", "yes", "--appendfsync", "always", "--user", LOGIN[0], &password];
            RedisServer::start_for_cluster(&[&ours[..], &kept[..], &RULES[..], args].concat())
        };
        let nodes: Vec<_> = (0..6).map(|_| node()).collect();
        let places: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(places.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        nodes[0].cli(&create);
        let cluster = RedisCluster { nodes };
        cluster.wait("all nodes agree", || {
            (0..6).all(|i| cluster.state(i) == "ok")
                && (0..6).filter(|i| cluster.cli(*i, "ROLE").starts_with("slave")).count() == 3
                && (0..6).all(|i| !cluster.cli(i, "INFO replication").contains("master_link_status:down"))
        });
        cluster
    }

    /// The address of a node, for the user of the tests.
    pub fn url(&self, node: usize) -> String {
        format!("redis://{}:{}@127.0.0.1:{}", LOGIN[0], LOGIN[1], self.nodes[node].port())
    }

    pub fn cli(&self, node: usize, line: &str) -> String {
        self.nodes[node].cli(&line.split(' ').collect::<Vec<_>>())
    }

    pub fn state(&self, node: usize) -> String {
        let info = self.cli(node, "CLUSTER INFO");
        let state = info.lines().find_map(|line| line.strip_prefix("cluster_state:"));
        state.unwrap_or_default().trim().to_owned()
    }

    /// The master of a key, as this node sees it.
    pub fn master_of(&self, key: &str, seen_by: usize) -> usize {
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

    pub fn id(&self, node: usize) -> String {
        self.cli(node, "CLUSTER MYID").trim().to_owned()
    }

    /// The slot of a key goes to another master, with what is in it, step by step as `redis-cli --cluster reshard` does
    /// it; does something while the key is there already, and the slot is not.
    pub fn move_slot(&self, key: &str, from: usize, to: usize, meanwhile: impl FnOnce()) {
        let slot = self.cli(from, &format!("CLUSTER KEYSLOT {key}"));
        let ok = |node: usize, line: String| assert_eq!(self.cli(node, &line), "OK", "{line}");
        ok(to, format!("CLUSTER SETSLOT {slot} IMPORTING {}", self.id(from)));
        ok(from, format!("CLUSTER SETSLOT {slot} MIGRATING {}", self.id(to)));
        thread::sleep(Duration::from_millis(100));
        ok(from, format!("MIGRATE 127.0.0.1 {} {key} 0 5000", self.nodes[to].port()));
        meanwhile();
        for node in [to, from] {
            ok(node, format!("CLUSTER SETSLOT {slot} NODE {}", self.id(to)));
        }
    }

    #[track_caller]
    pub fn wait(&self, what: &str, holds: impl Fn() -> bool) {
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

    /// A node that answers.
    pub fn anybody(&self) -> usize {
        let answers = |node: &RedisServer| {
            ::redis::Client::open(node.url())
                .is_ok_and(|c| c.get_connection_with_timeout(Duration::from_millis(500)).is_ok())
        };
        self.nodes.iter().position(answers).expect("a node answers")
    }
}
