//! What each kind of queue takes from the RabbitMQ sink: confirmed events per second into a classic queue, a quorum queue
//! and a stream, on one node and on a cluster of three.
//!
//! `cargo bench --bench rabbitmq_queues` starts nodes of its own; every figure is the median of some rounds, in each of
//! which all queues are measured in turn. `cargo test` runs it once, with few events and one node, to see that it works.

use std::time::Duration;

use streamll::sinks;
use streamll::sinks::rabbitmq::{QueueConfig, QueueType};
use streamll::{Event, Step, Topology};
use support::servers::{RabbitCluster, RabbitNode};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KINDS: [(QueueType, &str); 3] =
    [(QueueType::Classic, "classic"), (QueueType::Quorum, "quorum"), (QueueType::Stream, "stream")];

fn main() {
    let thorough = std::env::args().any(|argument| argument == "--bench");
    let (events, rounds) = if thorough { (60_000, 5) } else { (500, 1) };
    println!("confirmed events/s, emit → confirm; brokers and client share the processor");
    println!("{:<12} {:>10} {:>10} {:>10}   MiB of the broker for each", "", "classic", "quorum", "stream");
    let node = RabbitNode::start();
    table("one node", &[&node], events, rounds);
    drop(node);
    if thorough {
        let cluster = RabbitCluster::start();
        table("three nodes", &cluster.nodes.each_ref(), events, rounds);
    }
}

fn table(name: &str, nodes: &[&RabbitNode], events: usize, rounds: usize) {
    let mut rates = KINDS.map(|_| Vec::new());
    let mut growth = KINDS.map(|_| Vec::new());
    for _ in 0..rounds {
        for ((kind, _), (rates, growth)) in KINDS.iter().zip(rates.iter_mut().zip(&mut growth)) {
            // A queue of its own for each, as one that holds much is slower.
            let vhost = nodes[0].vhost();
            let before = memory(nodes[0]);
            rates.push(rate(&nodes[0].url(&vhost), *kind, events));
            growth.push(memory(nodes[0]) - before);
            // What it holds must not weigh on the next.
            nodes[0].ctl(&["delete_vhost", &vhost]);
        }
    }
    let [classic, quorum, stream] = rates.map(median);
    let growth = growth.map(|values| format!("{:.0}", median(values))).join(" / ");
    println!("{name:<12} {classic:>10.0} {quorum:>10.0} {stream:>10.0}   {growth}");
}

/// From one emitting thread, which waits where the path is full, to the last confirm.
fn rate(url: &str, kind: QueueType, events: usize) -> f64 {
    let config = sinks::rabbitmq(url).bind("all", QueueConfig::bound(["ai.#"]).kind(kind));
    let handle = Topology::builder("bench").sink("live", config).start().expect("it starts");
    let step = Step::new("RagPipeline").operation("llm_call");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let rate = runtime.block_on(async {
        // The sink is open, and the queue made.
        handle.emitter().send(Event::token(&step, "answer", "The", 0)).await;
        assert_eq!(handle.flush().await, 0);
        let began = Instant::now();
        for index in 0..events {
            handle.emitter().send(Event::token(&step, "answer", " forty", index as u64)).await;
        }
        assert_eq!(handle.flush().await, 0, "{}", handle.sink("live").expect("it is there").status());
        events as f64 / began.elapsed().as_secs_f64()
    });
    let ended = handle.shutdown_blocking(Duration::from_secs(10));
    assert!(ended.complete && ended.status.balances(), "{:#?}", ended.status);
    rate
}

/// What the node has of memory, in MiB.
fn memory(node: &RabbitNode) -> f64 {
    let bytes = node.ctl(&["eval", "[erlang:garbage_collect(P) || P <- processes()], erlang:memory(total)."]);
    bytes.parse::<f64>().expect("a number") / f64::from(1 << 20)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
