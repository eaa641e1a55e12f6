//! Topologies: what is refused and how it is said, how layers are laid, what never shows.

mod bad;
mod bombs;
#[cfg(all(feature = "redis", feature = "rabbitmq"))]
mod brokers;
mod canary;
mod content;
#[cfg(feature = "rabbitmq")]
mod coverage;
mod environment;
mod fuzz;
mod good;
mod kinds;
mod layering;
mod secrets;
mod variables;

use std::collections::BTreeMap;
use std::path::Path;

use streamll::topology::{LoadOptions, Topology, TopologyError};
use streamll_actors::graph::Plan;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(dir.path().join(format!("{name}.yaml")), text).expect("a file");
    }
    dir
}

fn vars(vars: &[(&str, &str)]) -> BTreeMap<String, String> {
    vars.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn load(dir: &Path, env: &str, environment: &[(&str, &str)]) -> Result<Topology, TopologyError> {
    let options = LoadOptions { vars: vars(environment), allow_unset: false };
    Topology::load_with(dir, env, &kinds::kinds(), &options)
}

/// The environment `env` of these files.
fn topology(files: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Topology, TopologyError> {
    load(folder(files).path(), "env", environment)
}

/// The plan of one file.
fn plan(text: &str, environment: &[(&str, &str)]) -> Plan {
    let loaded = topology(&[("env", text)], environment).unwrap_or_else(|error| panic!("{error}"));
    loaded.plan().expect("complete").clone()
}

/// What is wrong with one file, as text without the folder.
fn errors(text: &str, environment: &[(&str, &str)]) -> String {
    let dir = folder(&[("env", text)]);
    let error = load(dir.path(), "env", environment).expect_err("must be refused");
    error.to_string().replace(&format!("{}/", dir.path().display()), "")
}
