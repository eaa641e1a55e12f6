//! One Redis server beside a cluster of three masters, with the same memory in all.

use super::{Rate, Table, alone, conversations, token};
use streamll::BatchPolicy;
use streamll::sinks;
use support::servers::RedisServer;

use std::process::Command;

/// What all servers of one kind may use together, in MB.
const MEMORY: usize = 1536;
/// As large as the sink likes them by default.
const BATCH: BatchPolicy =
    BatchPolicy { max_events: 1024, max_size: 1 << 20, linger: std::time::Duration::ZERO };

pub(crate) fn measure(events: usize, rounds: usize) {
    let (one, three) = (servers(1), servers(3));
    for conversations_in_turn in [1, 8, 64, 1024] {
        let title = format!("Redis, {conversations_in_turn} conversations in turn, {events} events");
        let mut table = Table::new(&title, "redis-benchmark, one server, one client");
        let steps = conversations(conversations_in_turn);
        for _ in 0..rounds {
            clear(&[&one[..], &three].concat());
            table.bare(benchmark(one[0], events, 1));
            clear(&[&one[..], &three].concat());
            table.row(
                "redis-benchmark --cluster, a client for each master",
                f64::NAN,
                benchmark(three[0], events, 3),
            );
            for (name, servers) in
                [("the sink alone, one server", &one), ("the sink alone, three masters", &three)]
            {
                clear(servers);
                let sink = sinks::redis(servers[0].url()).stream_key("chat:{data.conversation_id}");
                let rate = alone(sink.build().expect("a sink"), BATCH, events, &steps);
                table.row(name, f64::NAN, rate);
            }
        }
        table.print();
    }
}

fn clear(servers: &[&RedisServer]) {
    for server in servers {
        server.cli(&["FLUSHALL"]);
    }
}

/// So many masters without replicas; one is a server by itself.
fn servers(count: usize) -> Vec<&'static RedisServer> {
    let memory = format!("{}mb", MEMORY / count);
    let server = || {
        let start = if count > 1 { RedisServer::start_for_cluster } else { RedisServer::start_with };
        start(&["--maxmemory", &memory])
    };
    // Leaked: they end with the process.
    let servers: Vec<&'static RedisServer> = (0..count).map(|_| &*Box::leak(Box::new(server()))).collect();
    if count > 1 {
        let places: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(places.iter().map(String::as_str));
        create.push("--cluster-yes");
        servers[0].cli(&create);
        while !servers.iter().all(|server| server.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")) {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
    servers
}

/// What the server's own benchmark reaches with events of the same length.
fn benchmark(server: &RedisServer, events: usize, clients: usize) -> Rate {
    let json = String::from_utf8(token(&super::step(), 0).json().to_vec()).expect("JSON is UTF-8");
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-c", &clients.to_string(), "--csv"]);
    command.args(["-n", &events.to_string(), "-P", "256"]);
    if clients > 1 {
        command.arg("--cluster");
    }
    command.args(["XADD", "chat:{tag}", "*", "event", &json]);
    let output = command.output().expect("redis-benchmark is there: tests/run installs it");
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().last().and_then(|line| line.rsplit("\",\"").nth(6)?.parse().ok());
    Rate { events: rate.unwrap_or_else(|| panic!("no rate in {text}")), processor: f64::NAN }
}
