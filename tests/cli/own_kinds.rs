//! The command with processors of somebody's own, which panic and hang: what is lost is said, and is no success.

use std::io::Write as _;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use streamll::{Event, Registry};

/// Makes this program the command.
const INSIDE: &str = "STREAMLL_OWN_KINDS";

#[derive(serde::Deserialize)]
struct Nothing {}

fn fragile(event: Event) -> Option<Event> {
    match event.kind().as_str() {
        "boom" => panic!("boom"),
        "hang" => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        _ => Some(event),
    }
}

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_some() {
        return streamll::cli::main(Registry::default().processor("fragile", |_: Nothing| fragile));
    }
    a_panic_in_a_sinks_own_processor_is_no_success();
    a_processor_that_hangs_is_named_and_the_rest_arrives();
    one_that_hangs_in_front_of_one_sink_holds_up_that_sink_alone();
    ExitCode::SUCCESS
}

/// Runs the command over some kinds of events, with the number of each; returns what it said, and what is in `{dir}`.
fn run(topology: &str, kinds: &[&str]) -> (Output, String, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let topology = topology.replace("{dir}", &folder.path().display().to_string());
    std::fs::write(folder.path().join("test.yaml"), topology).expect("a topology");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["run", "--env", "test", "--topologies"]).arg(folder.path());
    command.env_clear().env(INSIDE, "1").env("HOME", folder.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().expect("the command starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    for (n, kind) in kinds.iter().enumerate() {
        writeln!(stdin, r#"{{"event_type":"{kind}","data":{{"n":{n}}}}}"#).expect("it reads");
    }
    drop(stdin);
    let mut output = Output { status: Default::default(), stdout: vec![], stderr: vec![] };
    std::io::copy(child.stderr.as_mut().expect("a pipe"), &mut output.stderr).expect("it ends");
    output.status = child.wait().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said, folder)
}

fn numbers(folder: &tempfile::TempDir, name: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    let event = |line| serde_json::from_str::<serde_json::Value>(line).expect("an event");
    text.lines().filter_map(|line| event(line)["data"]["n"].as_u64()).collect()
}

fn a_panic_in_a_sinks_own_processor_is_no_success() {
    let topology = "
data_dir: '{dir}/data'
sinks:
  all: { type: file, path: '{dir}/all.ndjson' }
  some: { type: file, path: '{dir}/some.ndjson', processors: [fragile: {}] }
";
    let (output, said, folder) = run(topology, &["start", "boom", "start"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("streamll: not everything arrived: received 3, routed 3"), "{said}");
    assert!(said.contains("  some: accepted 2, delivered 2, failed in its processors 1\n"), "{said}");
    assert!(said.contains("  all: accepted 3, delivered 3\n"), "{said}");
    assert_eq!(
        (numbers(&folder, "all.ndjson"), numbers(&folder, "some.ndjson")),
        (vec![0, 1, 2], vec![0, 2])
    );
}

fn a_processor_that_hangs_is_named_and_the_rest_arrives() {
    let topology = "
data_dir: '{dir}/data'
processors: [fragile: {}]
sinks: { all: { type: file, path: '{dir}/all.ndjson' } }
shutdown: { timeout: 8s }
";
    let (output, said, folder) = run(topology, &["start", "start", "hang", "start"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("a processor hung"), "{said}");
    assert!(said.contains("  processor fragile hung once and was replaced, last at "), "{said}");
    assert!(said.contains(", from hang "), "{said}");
    assert!(said.contains("received 4, failed 1, routed 3"), "{said}");
    assert_eq!(numbers(&folder, "all.ndjson"), [0, 1, 3]);
    let letters = std::fs::read_to_string(folder.path().join("data/dead/processors.ndjson"));
    let letters = letters.expect("a dead letter");
    assert!(letters.lines().count() == 1 && letters.contains(r#""class":"processor""#), "{letters}");
}

fn one_that_hangs_in_front_of_one_sink_holds_up_that_sink_alone() {
    let topology = "
data_dir: '{dir}/data'
sinks:
  all: { type: file, path: '{dir}/all.ndjson' }
  some: { type: file, path: '{dir}/some.ndjson', processors: [fragile: {}] }
shutdown: { timeout: 8s }
";
    let (output, said, folder) = run(topology, &["start", "hang", "start"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("  processor fragile of some hung once"), "{said}");
    assert!(said.contains("  some: accepted 2, delivered 2, failed in its processors 1\n"), "{said}");
    assert_eq!(
        (numbers(&folder, "all.ndjson"), numbers(&folder, "some.ndjson")),
        (vec![0, 1, 2], vec![0, 2])
    );
}
