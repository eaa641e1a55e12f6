//! The command `streamll`, as its users call it.

mod check;
mod content;
mod dead;
mod demo;
mod exact;
mod missing;
mod overlap;
#[cfg(unix)]
mod pipes;
mod run;
#[cfg(unix)]
mod signals;
mod taken;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use support::wait_for as wait_until;

/// A folder with topologies, for one test.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    /// With one topology, `test.yaml`; `{dir}` in it stands for the folder.
    pub(crate) fn with(topology: &str) -> Folder {
        let folder = Folder(tempfile::tempdir().expect("a temporary folder"));
        folder.write("test.yaml", topology);
        folder
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let text = text.replace("{dir}", &self.path("").display().to_string());
        std::fs::write(self.path(name), text).expect("a file in the temporary folder");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}

/// The command with an environment of its own.
pub(crate) fn streamll(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamll"));
    command.args(args).env_clear().env("STREAMLL_TOPOLOGIES", folder).env("HOME", folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it with `input` on its standard input, to its end.
pub(crate) fn feed(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.spawn().expect("the command starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // It may end without reading to the end; that is for the test to find.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("the command ends");
    writer.join().expect("the input is written");
    output
}

/// Sends a signal by name, as a shell would.
pub(crate) fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill runs").success());
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
