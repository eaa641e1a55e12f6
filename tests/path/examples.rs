//! The examples, run as a user runs them: each ends by itself, without a broker, and shows what it says.

use std::path::Path;
use std::process::{Command, Stdio};

use support::built;

/// Runs one example and returns what it printed; `with` are variables of its environment.
fn run(name: &str, with: &[(&str, &str)]) -> String {
    let mut command = Command::new(built(name));
    command
        .stdin(Stdio::null())
        .env_remove("STREAMLL_ENV")
        .env("RUST_BACKTRACE", "0")
        .envs(with.iter().copied());
    let out = command.output().expect("it runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{name}: {}\n{stdout}\n{stderr}", out.status);
    stdout.into_owned()
}

#[track_caller]
fn assert_shows(out: &str, parts: &[&str]) {
    for part in parts {
        assert!(out.contains(part), "no `{part}` in:\n{out}");
    }
}

#[test]
fn quickstart() {
    let out = run("quickstart", &[]);
    assert_shows(&out, &["▶ llm_call", "• llm_call", "' forty'", "■ llm_call", "everything arrived: true"]);
}

#[test]
fn environments() {
    // No broker is running: both start open, say why, and keep what they got.
    let out = run("environments", &[("STREAMLL_ENV", "staging")]);
    assert_shows(&out, &["this is staging", "✖ retrieve", "console  closed (delivering): 2 of 2"]);
    let out = run("environments", &[("STREAMLL_ENV", "production")]);
    assert_shows(&out, &["this is production", "live     open (not sending since", "redis://127.0.0.1:1: "]);
    assert_shows(
        &out,
        &["records  open (not sending since", "cannot connect to 127.0.0.1:1: ", "2 waiting): 0 of 2"],
    );
}

#[test]
fn custom_sink() {
    let out = run("custom_sink", &[]);
    assert_shows(
        &out,
        &["got \"ai.rag_pipeline.start\"", "got \"ai.rag_pipeline.docs_found\"", "everything arrived: true"],
    );
    assert!(!out.contains("token"), "{out}");
}

#[test]
fn custom_processor() {
    let out = run("custom_processor", &[]);
    assert_shows(&out, &["Tyger", "12 received = "]);
    let tokens = out.lines().filter(|line| line.contains("• llm_call")).count();
    assert!((1..10).contains(&tokens), "{tokens} lines of merged tokens:\n{out}");
}

#[test]
fn custom_actor() {
    let out = run("custom_actor", &[]);
    assert_shows(&out, &["◆ usage", "tokens by tenant: {\"acme\": 4500, \"globex\": 1450}"]);
}

#[test]
fn failing_sink() {
    let out = run("failing_sink", &[]);
    assert_shows(
        &out,
        &["connection refused", "restarts 2", "the numbers balance: true; everything arrived: true"],
    );
    let turns = |name: &str| out.lines().filter(|l| l.starts_with("after") && l.contains(name)).count();
    assert_eq!(turns("healthy"), 1, "nothing ever changes for the healthy sink:\n{out}");
    assert!(turns("fails") >= 3 && turns("panics") >= 2 && turns("hangs") >= 3, "{out}");
}

#[test]
fn rag_service() {
    let fast = ("OPENAI_STUB_DELAY_MS", "1");
    let out = run("rag_service", &[fast]);
    assert_shows(
        &out,
        &["◆ docs_found", "• stream", "✖ llm_call", "\"output_tokens\"", "console  closed (delivering): "],
    );
    // No broker is running: it answers all the same, and says what waits.
    let out = run("rag_service", &[fast, ("STREAMLL_ENV", "production")]);
    let down = ["live     open (not sending since", "records  open (not sending since", " waiting): 0 of "];
    assert_shows(&out, &down);
}

#[test]
fn rag_service_emits_what_it_has_always_emitted() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rag_service");
    let events = golden::events(&mut Command::new(built("rag_service")), &scratch);
    insta::with_settings!({ snapshot_path => "../../examples/rag_service", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("events", golden::story(&events));
    });
}

#[test]
fn two_services() {
    let out = run("two_services", &[]);
    // With a server of its own, or a word on where to get one.
    if out.contains("no redis-server is installed") {
        return assert_shows(&out, &["name it, redis://… or amqp://…"]);
    }
    assert_shows(
        &out,
        &[
            "rag: everything arrived: true",
            "When Sun and Moon line up their pulls add: that is a spring tide. «Größe» 🌊 matters, too.\n",
            "chat: conv_2 is complete: true",
            "alerts: opened a ticket: Calculator failed: \"upstream took 30 s\"",
            "alerts: the numbers balance: true",
        ],
    );
}
