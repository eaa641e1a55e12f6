//! What an event says stays what it says: numbers to the letter, keys once, and no event lost for half a character.

use serde_json::Value;

use crate::{Folder, err, feed, out, streamll};

/// Numbers of which a parse and a print would change at least one digit, or the way they are written.
const NUMBERS: &str = r#""points":[1046.8333333333335, 1119.0714285714287],"trace":18446744073709551617,"price":1.10,"n":1890.5413911078447,"e":{"x":1E+2,"y":-0.0,"z":0.1000000000000000055511151231257827}"#;

fn run(folder: &Folder, input: impl AsRef<[u8]>) -> String {
    let output =
        feed(streamll(&folder.path(""), &["run", "--env", "test", "--report", "json"]), input.as_ref());
    let said = err(&output);
    let report: Value = serde_json::from_str(said.lines().last().expect("a report")).expect("a report");
    assert_eq!(report["balanced"], true, "{report}");
    assert_eq!(report["rejected"], 0, "{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
    folder.read("log.ndjson") + &out(&output)
}

const LOG: &str = "sinks: { log: { type: file, path: '{dir}/log.ndjson' } }\n";

#[test]
fn what_no_processor_touches_leaves_to_the_letter_and_is_keyed_and_found_by_it() {
    let folder = Folder::with(&format!(
        "routing_key: \"ai.{{module_name}}.{{event_type}}.{{data.price}}.{{data.trace}}.{{data.e.x}}\"
processors:
  - redact: {{ fields: [data.api_key, data.messages.*.content, key] }}
  - filter: {{ where: {{ data.n: 1890.5413911078447, data.points.0: 1046.8333333333335, data.id: 18446744073709551615 }} }}
{LOG}"
    ));
    let line = |secret: &str| {
        format!(
            r#"{{{NUMBERS},"id":18446744073709551615,"api_key":{secret},"messages":[{{"content":{secret},"at":2.50}},{{ "at" : 1e2 }}],"caf\u00e9":"\u00e9" }}"#
        )
    };
    let event = format!(
        r#"{{"event_type":"start","module_name":"m","span_id":"s","execution_id":"x","data":{},"key":1,"beside":[1.10,1e2]}}"#,
        line("\"k\"")
    );
    let log = run(&folder, event + "\n{\"event_type\":\"end\",\"data\":{\"n\":1}}\n");
    assert!(log.contains(&format!("\"data\":{}", line("\"[redacted]\""))), "{log}");
    assert!(log.contains(r#""key":"[redacted]","beside":[1.10,1e2]}"#), "{log}");
    assert!(log.contains(r#""topic":"ai.m.start.1%2E10.18446744073709551617.1E+2""#), "{log}");
    assert_eq!(log.lines().count(), 1, "the other was filtered");
}

#[test]
fn what_a_run_said_at_its_start_and_what_the_graph_adds_change_no_digit() {
    let folder = Folder::with(LOG);
    let log = run(
        &folder,
        format!(
            r#"{{"event_type":"start","execution_id":"x","span_id":"s","data":{{"user_id":18446744073709551617,{NUMBERS}}}}}
{{"event_type":"token","execution_id":"x","span_id":"s","data":{{"field":"a","token":"t","token_index":0}}}}
{{"event_type":"end","execution_id":"x","span_id":"s","data":{{{NUMBERS}}}}}
"#
        ),
    );
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line.contains("\"user_id\":18446744073709551617")), "{log}");
    assert!(lines[2].contains(&format!("{{{NUMBERS},\"duration\":")), "{log}");
}

#[test]
fn the_terminal_shows_the_digits_that_came() {
    let folder = Folder::with(
        "processors: [{ redact: { fields: [data.api_key] } }]\nsinks: { screen: { type: terminal } }\n",
    );
    let shown = run(
        &folder,
        r#"{"event_type":"start","data":{"p":[1046.8333333333335,1.10],"t":18446744073709551617,"api_key":"k"}}"#,
    );
    assert!(
        shown.contains(
            r#"{"p": [1046.8333333333335, 1.10], "t": 18446744073709551617, "api_key": "[redacted]"}"#
        ),
        "{shown}"
    );
}

#[test]
fn a_key_that_stands_twice_hides_nothing() {
    for (fields, data) in [
        ("data.auth.token", r#"{"auth":{"token":"SECRET"},"auth":null}"#),
        ("data.auth.token", r#"{"auth":{"token":"SECRET"},"\u0061uth":1}"#),
        ("data.auth.token", r#"{"auth":{"token":"SECRET","t\u006fken":"SECRET"}}"#),
        ("data.messages.*.content", r#"{"messages":[{"content":"SECRET"}],"messages":[]}"#),
        (
            "data.messages.*.content",
            r#"{"messages":[{"content":"SECRET","content":null},{"content":"SECRET"}]}"#,
        ),
        ("token", r#"{"a":[{"b":{"token":"SECRET"},"b":{}}]}"#),
        ("data.a", r#"{"a":"SECRET","a":"SECRET"}"#),
    ] {
        let folder = Folder::with(&format!("processors: [{{ redact: {{ fields: [{fields}] }} }}]\n{LOG}"));
        for kind in ["start", "token"] {
            let beside = if fields == "token" { data } else { "1" };
            let log = run(&folder, format!(r#"{{"event_type":"{kind}","data":{data},"beside":{beside}}}"#));
            assert!(!log.contains("SECRET"), "{fields}: {log}");
        }
        assert_eq!(folder.read("log.ndjson").lines().count(), 2, "{data}");
    }
}

#[test]
fn a_filter_and_a_key_are_of_the_value_that_is_sent() {
    let folder = Folder::with(&format!(
        "routing_key: \"ai.{{module_name}}.{{event_type}}.{{data.tenant}}\"\nprocessors: [{{ filter: {{ where: {{ data.tenant: acme }} }} }}]\n{LOG}"
    ));
    let log = run(
        &folder,
        concat!(
            r#"{"event_type":"a","data":{"tenant":"other","tenant":"acme"}}"#,
            "\n",
            r#"{"event_type":"b","data":{"tenant":"acme","ten\u0061nt":"other"}}"#,
            "\n"
        ),
    );
    assert!(log.contains(r#""data":{"tenant":"acme"}"#) && log.contains("ai.unknown.a.acme"), "{log}");
    assert_eq!((log.lines().count(), log.contains("other")), (1, false), "{log}");
}

#[test]
fn half_an_emoji_never_costs_the_event() {
    let folder = Folder::with(LOG);
    let halves = [
        (
            r#"{"event_type":"token","data":{"token":"\ud83d","field":"answer"}}"#,
            r#"{"token":"\ufffd","field":"answer"}"#,
        ),
        (
            r#"{"event_type":"token","data":{"field":"a","token":"x\uDE00","token_index":0}}"#,
            "{\"field\":\"a\",\"token\":\"x\u{fffd}\",\"token_index\":0}",
        ),
        (
            r#"{"event_type":"x","data":{"a":[{"\udfff":"\ud83d\ud83d\ude00"}]}}"#,
            r#"{"a":[{"\ufffd":"\ufffd\ud83d\ude00"}]}"#,
        ),
        (
            r#"{"event_type":"x","module_name":"\ud800","tags":{"\ud800":"\udc00"},"beside\udfff":["\ud800"],"data":{"n":1.10}}"#,
            r#"{"n":1.10}"#,
        ),
    ];
    let mut input: Vec<u8> = halves.iter().flat_map(|(line, _)| line.bytes().chain(*b"\n")).collect();
    // A chunk that was cut inside of a character's bytes.
    input.extend_from_slice(b"{\"event_type\":\"token\",\"data\":{\"token\":\"caf\xc3\"}}\n");
    let log = run(&folder, input);
    for (line, (_, data)) in log.lines().zip(halves.into_iter().chain([("", "{\"token\":\"caf\u{fffd}\"}")]))
    {
        assert!(line.contains(&format!("\"data\":{data}")), "{line}");
        serde_json::from_str::<Value>(line).expect("strict readers take it");
    }
    assert_eq!(log.lines().count(), 5);
    assert!(
        log.contains("\"tags\":{\"\u{fffd}\":\"\u{fffd}\"")
            && log.contains("\"beside\u{fffd}\":[\"\\ufffd\"]"),
        "{log}"
    );
}

#[test]
fn a_byte_order_mark_before_any_line_is_no_part_of_it() {
    let folder = Folder::with(LOG);
    let log = run(&folder, "\u{feff}{\"event_type\":\"a\"}\n\u{feff}\n  \u{feff} {\"event_type\":\"b\"}\r\n");
    assert_eq!(log.lines().count(), 2);
}

#[test]
fn tags_are_made_strings_where_they_can_be() {
    let folder = Folder::with(LOG);
    let log = run(
        &folder,
        r#"{"event_type":"a","tags":{"n":1.10,"b":true,"none":null,"l":["a", 18446744073709551617],"s":"x"}}"#,
    );
    assert!(
        log.contains(r#""tags":{"b":"true","l":"[\"a\",18446744073709551617]","n":"1.10","s":"x","#),
        "{log}"
    );
}

#[test]
fn what_cannot_be_read_is_said_with_its_place_in_the_line() {
    let folder = Folder::with(LOG);
    let command = || streamll(&folder.path(""), &["run", "--env", "test"]);
    for (line, reason) in [
        (&br#"{"event_type":"x","data":{"n":1e400}}"#[..], "`data`: number out of range at column 31"),
        (
            b"\xef\xbb\xbf{\"event_type\":\"x\",\"data\":{\"n\":1e400}}",
            "`data`: number out of range at column 34",
        ),
        (br#"{"event_type":"x","beside":[-1e999]}"#, "`beside`: number out of range at column 29"),
        (
            br#"{"event_type":"x","data":{"n":NaN}}"#,
            "holds a bare `NaN`, which is no JSON: expected value at column 31",
        ),
        (
            br#"{"event_type":"x","data":{"n":-Infinity}}"#,
            "holds a bare `Infinity`, which is no JSON: invalid number at column 32",
        ),
        (b"{\"event_type\":\"x\",\"data\":{\"s\":\"\0\"}}", "control character"),
        (
            br#"{"event_type":"x","timestamp":1763695215}"#,
            "`timestamp`: no text; write it like 2026-11-21T03:20:15Z",
        ),
        (
            br#"{"event_type":"x","timestamp":"2026-11-21T03:20:15"}"#,
            "`timestamp`: no time; write it like 2026-11-21T03:20:15Z",
        ),
        (br#"{"event_type":"x","tags":{"user":{"id":1}}}"#, "`tags`: a tag is an object"),
    ] {
        let output = feed(command(), line);
        let said = err(&output);
        assert!(
            said.contains(&format!("line 1: {reason}"))
                || (reason.starts_with("control") && said.contains(reason)),
            "{reason}: {said}"
        );
        assert_eq!(output.status.code(), Some(1), "{said}");
    }
}
