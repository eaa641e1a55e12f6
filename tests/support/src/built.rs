//! Finds the program of an example, and builds it where that was not done.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The program of an example. `cargo test` builds all of them beside this one; `cargo test --test path` none.
pub fn built(name: &str) -> PathBuf {
    let this = env::current_exe().expect("this program");
    let program = this.ancestors().nth(2).expect("the folder of the profile").join("examples").join(name);
    let folder = root().join("examples");
    let changed =
        |path: &Path| path.metadata().and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    // Large ones have a folder.
    let files = fs::read_dir(folder.join(name)).into_iter().flatten().flatten().map(|file| file.path());
    let sources = files.filter(|file| file.extension().is_some_and(|ending| ending == "rs"));
    let sources = sources.chain([folder.join(format!("{name}.rs"))]);
    let source = sources.map(|source| changed(&source)).max().expect("a source");
    if changed(&program) <= source {
        let mut cargo = Command::new(env!("CARGO"));
        let done = cargo.args(["build", "--quiet", "--example", name]).current_dir(root()).status();
        assert!(done.is_ok_and(|status| status.success()), "`cargo build --example {name}` failed");
    }
    program
}

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
