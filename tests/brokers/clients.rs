//! What the sinks write is read by clients of other people's, in another language.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use streamll::topology::{LoadOptions, Registry, Topology};
use streamll::{Event, Handle, context};

use crate::servers::{RabbitNode, RedisServer};

/// The Python of the environment that `tests/run` makes.
#[track_caller]
fn python() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let python = target.join("python/bin/python");
    let python_there = python.is_file();
    assert!(
        python_there,
        "the clients in Python are missing: `tests/run` installs them, or: python3 -m venv {0} && {0}/bin/pip install \
         -r tests/brokers/requirements.txt",
        target.join("python").display()
    );
    python
}

/// Runs a script, which holds the assertions, and emits once it is ready.
#[track_caller]
fn read_by(script: &str, args: &[&str], emit: impl FnOnce()) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/brokers").join(script);
    let mut command = Command::new(python());
    command.arg(path).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut script = command.spawn().expect("python starts");
    let mut said = BufReader::new(script.stdout.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a line");
    if line == "ready\n" {
        emit();
    }
    let output = script.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{line}{}", String::from_utf8_lossy(&output.stderr));
}

/// A topology with one sink, in YAML.
fn start(sink: &str) -> Handle {
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = format!("service: rag-api\nsinks:\n  live: {{ {sink} }}\n");
    std::fs::write(folder.path().join("clients.yaml"), yaml).expect("a file");
    let options = LoadOptions::default();
    let topology = Topology::load_with(folder.path(), "clients", &Registry::default(), &options);
    topology.unwrap_or_else(|error| panic!("{error}")).start().expect("it starts")
}

fn call_of(module: &str) -> streamll::Step {
    streamll::step(module).operation("llm_call").context(&context! { conversation_id = "conv_123" })
}

/// A call of a model that fails half-way.
fn a_call_that_fails(handle: &Handle) {
    let call = call_of("RagPipeline");
    handle.emit(Event::new(&call, "start").with("question", "why?"));
    for i in 0..20 {
        handle.emit(Event::token(&call, "answer", format!("«{i}» "), i));
    }
    handle.emit(Event::new(&call, "error").with("error_type", "Timeout"));
    handle.emit(Event::new(&call, "end"));
}

#[track_caller]
fn end(handle: &Handle) {
    let drained = handle.shutdown_blocking(handle.shutdown_timeout());
    assert!(drained.complete && drained.status.balances(), "{:#?}", drained.status);
}

#[test]
fn redis_py_reads_a_stream_live_and_afterwards() {
    let redis = RedisServer::start();
    let handle = start(&format!("type: redis, url: \"{}\", stream_key: ml_events", redis.url()));
    read_by("read_redis.py", &[&redis.port().to_string(), "ml_events"], || a_call_that_fails(&handle));
    end(&handle);
}

#[test]
fn pika_consumes_the_errors_alone() {
    let node = RabbitNode::shared();
    let url = node.url(&node.vhost());
    let handle = start(&format!("type: rabbitmq, url: \"{url}\", queues: {{ everything: [\"ai.#\"] }}"));
    read_by("read_rabbitmq.py", &[&url], || {
        a_call_that_fails(&handle);
        handle.emit(Event::new(&call_of("Last"), "error"));
    });
    end(&handle);
}
