//! One topology per environment: which sinks run, in development, staging or production, is a file and not code.
//!
//! Give the environment as an argument, or as `STREAMLL_ENV`: `cargo run --example environments -- staging`.

use std::io::IsTerminal;
use std::time::Duration;

use streamll::topology::{LoadOptions, choose_environment, environments};
use streamll::{Event, Registry, Topology};

const TOPOLOGIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/topologies");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let named = std::env::args().nth(1);
    let variable = std::env::var("STREAMLL_ENV").ok();
    let tty = std::io::stdout().is_terminal();
    let environment = choose_environment(named.as_deref(), variable.as_deref(), tty, TOPOLOGIES)?;
    println!("there are {}; this is {environment}", environments(TOPOLOGIES).join(", "));

    // The files take addresses and places from variables. Where nothing is given, the brokers are at an address where
    // nobody listens: the topology starts all the same, and says so.
    let scratch = tempfile::tempdir()?;
    let mut options = LoadOptions::from_process();
    for (variable, value) in [
        ("DATA_DIR", scratch.path().display().to_string()),
        ("REDIS_URL", "redis://127.0.0.1:1".to_owned()),
        ("RABBITMQ_URL", "amqp://127.0.0.1:1".to_owned()),
    ] {
        options.vars.entry(variable.to_owned()).or_insert(value);
    }

    // Everything that is wrong in the files is found here, each with its place, and before anything runs.
    let topology = Topology::load_with(TOPOLOGIES, &environment, &Registry::default(), &options)?;
    let handle = topology.start()?;

    let step = streamll::step("RagPipeline").operation("retrieve");
    handle.emit(Event::new(&step, "start"));
    handle.emit(
        Event::new(&step, "error").with("error_type", "Timeout").with("error_message", "no answer in 2 s"),
    );

    // What is open keeps its events in memory until the end of the process; the numbers say how many.
    let ended = handle.shutdown_blocking(Duration::from_secs(5));
    for sink in ended.status.sinks() {
        println!(
            "{:<8} {sink}: {} of {} delivered",
            sink.name, sink.balance.delivered, sink.balance.accepted
        );
    }
    Ok(())
}
