//! `content: off` for lines that come in on standard input: of what they say nothing arrives.

use serde_json::Value;

use crate::{Folder, err, feed, out, streamll};

const CANARY: &str = "canary-51c7";

/// The canary in each place of a line where somebody may say something.
const LINES: &str = r#"{"event_type":"start","execution_id":"run_1","span_id":"s","data":{"question":"C","conversation_id":"conv_1"},"tags":{"tenant":"acme"}}
{"event_type":"token","execution_id":"run_1","span_id":"s","data":{"field":"answer","token":"C","token_index":0}}
{"event_type":"token","execution_id":"run_1","span_id":"s","data":{"field":"answer","token":"C","token_index":1,"logprobs":[{"token":"C"}]}}
{"event_type":"llm_end","execution_id":"run_1","span_id":"s","data":{"model":"m","usage":{"input_tokens":12,"C":1,"note":"C"},"input_tokens":12.50,"deep":{"er":[{"text":"C"}]}}}
{"event_type":"llm_end","execution_id":"run_1","span_id":"s","data":{"model":{"secret":"C"},"tokens":"C","user_id":["C"],"finish_reasons":[["C"]],"stream":"C"}}
{"event_type":"error","execution_id":"run_1","span_id":"s","data":{"error_type":"Refused","error_message":"C is not a number","model":"m","model":"m"}}
{"event_type":"note","execution_id":"run_1","span_id":"s","data":{},"prompt":"C","auth":{"key":"C"},"trace_id":"t","level":"C"}
{"event_type":"end","execution_id":"run_1","span_id":"s","data":{"answer":"C","\u0061nswer":"C"}}
"#;

fn lines() -> String {
    LINES.replace('C', CANARY)
}

#[test]
fn of_an_incoming_line_nothing_that_was_said_arrives() {
    let folder = Folder::with(
        "content: off\nrouting_key: \"ai.{data.question}.{event_type}\"\nsinks:\n  log: { type: file, path: '{dir}/log.ndjson' }\n  console: { type: terminal, content: on }\n",
    );
    let output =
        feed(streamll(&folder.path(""), &["run", "--env", "test", "--report", "json"]), lines().as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let log = folder.read("log.ndjson");
    for shown in [&log, &out(&output), &err(&output)] {
        assert!(!shown.contains(CANARY), "{shown}");
    }
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(events.len(), LINES.lines().count());
    let data = |place: usize| events[place]["data"].to_string();
    assert_eq!(data(2), r#"{"field":"answer","token":"","token_index":1,"conversation_id":"conv_1"}"#);
    assert!(
        log.contains(r#""data":{"model":"m","usage":{"input_tokens":12},"input_tokens":12.50,"#),
        "to the letter: {log}"
    );
    assert_eq!(data(4), r#"{"conversation_id":"conv_1"}"#);
    assert_eq!(data(5), r#"{"error_type":"Refused","model":"m","conversation_id":"conv_1"}"#);
    assert_eq!((&events[6]["trace_id"], &events[6]["level"]), (&"t".into(), &Value::Null));
    assert!(events[3]["data"]["duration"].is_number(), "{log}");
    assert_eq!(events[0]["tags"]["tenant"], "acme");
    assert!(events.iter().all(|event| event["topic"].as_str().is_some_and(|topic| topic.starts_with("ai."))));
}

#[test]
fn one_sink_is_without_it_by_a_variable() {
    let folder = Folder::with(
        "sinks:\n  log: { type: file, path: '{dir}/log.ndjson' }\n  all: { type: file, path: '{dir}/all.ndjson' }\n",
    );
    let mut command = streamll(&folder.path(""), &["run", "--env", "test"]);
    command.env("STREAMLL__SINKS__LOG__CONTENT", "off");
    let output = feed(command, lines().as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(!folder.read("log.ndjson").contains(CANARY));
    assert_eq!(folder.read("log.ndjson").lines().count(), LINES.lines().count());
    assert!(folder.read("all.ndjson").matches(CANARY).count() > 10);
}

#[test]
fn check_shows_the_switch_and_warns_where_it_is_in_vain() {
    let folder = Folder::with("content: off\nsinks: { log: { type: terminal, content: on } }\n");
    let output = feed(streamll(&folder.path(""), &["check", "--env", "test", "--print"]), b"");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(
        out(&output).contains("content: \"off\"") || out(&output).contains("content: off"),
        "{}",
        out(&output)
    );
    let said = out(&output) + &err(&output);
    assert!(said.contains("`log` gets no content all the same"), "{said}");
}
