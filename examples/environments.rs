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

    // The files take places on disk from variables: here a scratch folder, so that this example leaves nothing behind.
    let scratch = tempfile::tempdir()?;
    let mut options = LoadOptions::from_process();
    for (variable, file) in [("DATA_DIR", "data"), ("ARCHIVE", "events.ndjson"), ("ERRORS", "errors.ndjson")]
    {
        options.vars.insert(variable.to_owned(), scratch.path().join(file).display().to_string());
    }

    // Everything that is wrong in the files is found here, each with its place, and before anything runs.
    let topology = Topology::load_with(TOPOLOGIES, &environment, &Registry::default(), &options)?;
    let handle = topology.start()?;

    let step = streamll::step("RagPipeline").operation("retrieve");
    handle.emit(Event::new(&step, "start"));
    handle.emit(
        Event::new(&step, "error").with("error_type", "Timeout").with("error_message", "no answer in 2 s"),
    );

    let ended = handle.shutdown_blocking(Duration::from_secs(5));
    for sink in ended.status.sinks() {
        println!(
            "{:<8} {sink}: {} of {} delivered",
            sink.name, sink.balance.delivered, sink.balance.accepted
        );
    }
    Ok(())
}
