//! The switch `content`: however it is written, and where it would not hold what it says.

use streamll::topology::{Severity, Topology};
use streamll_actors::graph::Plan;

use super::{errors, plan, topology};

/// Which sinks have the step, and whether all events pass one.
fn off(plan: &Plan) -> (usize, Vec<&str>) {
    let is_step = |name: &str| name == "content";
    let all = plan.stages.iter().filter(|stage| format!("{stage:?}").contains("\"content\"")).count();
    let of = plan.sinks.iter().filter(|sink| sink.processors.first().is_some_and(|(name, _)| is_step(name)));
    (all, of.map(|sink| sink.name.as_str()).collect())
}

const SINKS: &str = "sinks:\n  a: { type: terminal }\n  b: { type: terminal }\n";

#[test]
fn it_is_on_unless_somebody_switches_it_off() {
    assert_eq!(off(&plan(SINKS, &[])), (0, vec![]));
    for on in ["on", "On", "true", "\"on\"", "'true'"] {
        let text = format!("content: {on}\n{SINKS}").replace("b: { ", &format!("b: {{ content: {on}, "));
        assert_eq!(off(&plan(&text, &[])), (0, vec![]), "{on}");
    }
}

#[test]
fn it_is_switched_off_however_that_is_written() {
    for written in ["off", "Off", "OFF", "false", "False", "\"off\"", "'false'"] {
        let top = format!("content: {written}\n{SINKS}");
        assert_eq!(off(&plan(&top, &[])), (1, vec![]), "{written}");
        let one = SINKS.replace("b: { ", &format!("b: {{ content: {written}, "));
        assert_eq!(off(&plan(&one, &[])), (0, vec!["b"]), "{written}");
        let word = written.trim_matches(['"', '\'']);
        assert_eq!(
            off(&plan(&format!("content: ${{C}}\n{SINKS}"), &[("C", word)])),
            (1, vec![]),
            "{written}"
        );
        assert_eq!(off(&plan(SINKS, &[("STREAMLL__CONTENT", word)])), (1, vec![]), "{written}");
        let variable = [("STREAMLL__SINKS__B__CONTENT", word)];
        assert_eq!(off(&plan(SINKS, &variable)), (0, vec!["b"]), "{written}");
    }
}

#[test]
fn it_stands_before_all_other_steps() {
    let text = "content: off\nprocessors: [{ filter: {} }]\nsinks:\n  a: { type: terminal, content: off, processors: [{ redact: { fields: [x] } }] }\n";
    let plan = plan(text, &[]);
    let names: Vec<_> = plan.stages.iter().map(|stage| format!("{stage:?}")).collect();
    assert!(names[0].contains("content") && names[1].contains("filter"), "{names:?}");
    let names: Vec<_> = plan.sinks[0].processors.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["content", "redact"]);
    let built = Topology::builder("x").processor("own", || Some).without_content();
    let built = built.sink("a", streamll::sinks::terminal()).build().expect("it is right");
    let first = format!("{:?}", built.plan().expect("complete").stages[0]);
    assert!(first.contains("content"), "{first}");
}

#[test]
fn what_is_printed_reads_back() {
    for written in ["off", "false", "on"] {
        let text = format!("content: {written}\nsinks:\n  a: {{ type: terminal, content: {written} }}\n");
        let loaded = topology(&[("env", &text)], &[]).expect("it is right");
        let printed: String = loaded.render().to_owned();
        assert_eq!(printed.matches("content: ").count(), 2, "{printed}");
        assert_eq!(off(&plan(&printed, &[])), off(loaded.plan().expect("complete")), "{printed}");
    }
}

#[test]
fn a_value_that_is_neither_is_refused_with_what_to_write() {
    for written in ["none", "of", "no", "0", "[off]", "{ off: true }"] {
        for text in [
            format!("content: {written}\n{SINKS}"),
            format!("sinks:\n  a:\n    type: terminal\n    content: {written}\n"),
        ] {
            let error = errors(&text, &[]);
            assert!(error.contains("`content` must be `on` or `off`"), "{written}: {error}");
            assert!(error.contains("write `content: off` to take out what was said"), "{written}: {error}");
        }
    }
    let error = errors(SINKS, &[("STREAMLL__CONTENT", "")]);
    assert!(error.contains("must be `on` or `off`") && error.contains("STREAMLL__CONTENT"), "{error}");
}

#[test]
fn a_sink_that_wants_content_where_there_is_none_is_told() {
    let text = SINKS.replace("b: { ", "b: { content: on, ");
    let home = [("HOME", "/home/u")];
    let loaded = topology(&[("env", &format!("content: off\n{text}"))], &home).expect("it starts");
    let [warning] = loaded.warnings() else { panic!("one warning: {:?}", loaded.warnings()) };
    assert_eq!((warning.severity, warning.path.as_str()), (Severity::Warning, "sinks.b.content"));
    assert!(warning.message.contains("`b` gets no content all the same"), "{}", warning.message);
    for text in [format!("content: on\n{text}"), format!("content: off\n{SINKS}")] {
        assert_eq!(topology(&[("env", &text)], &home).expect("it starts").warnings(), []);
    }
}

/// Dead letters and diverted events come to a sink past its processors.
#[test]
fn content_comes_to_no_sink_without_by_way_of_another() {
    let sinks =
        |a: &str, b: &str| format!("sinks:\n  a: {{ type: terminal{a} }}\n  b: {{ type: terminal{b} }}\n");
    let off = ", content: off";
    let to_b = [
        (sinks(", dead_letter: b", off), "dead letters of `a` hold content"),
        (
            sinks(", circuit_breaker: { on_open: { fallback: b } }", off),
            "diverted events of `a` hold content",
        ),
        (format!("dead_letter: b\n{}", sinks("", off)), "dead letters of others hold content"),
        (
            format!("dead_letter: b\nprocessors: [{{ filter: {{}} }}]\n{}", sinks(off, off)),
            "dead letters of others hold content",
        ),
    ];
    for (text, says) in to_b {
        let error = errors(&text, &[]);
        assert!(error.contains(says) && error.contains("`b` has `content: off`"), "{text}\n{error}");
        topology(&[("env", &format!("content: off\n{text}"))], &[]).expect("nothing is left of it");
    }
    for text in [
        sinks(", content: off, dead_letter: b", off),
        sinks(", content: off, dead_letter: b", ""),
        format!("dead_letter: b\n{}", sinks(off, off)),
    ] {
        topology(&[("env", &text)], &[]).unwrap_or_else(|error| panic!("{text}\n{error}"));
    }
}

#[test]
fn a_redact_that_is_passed_by_is_told() {
    let told = |text: &str| {
        let topology = topology(&[("env", text)], &[]).expect("it may start");
        let warnings: Vec<_> = topology.warnings().iter().map(|problem| problem.message.clone()).collect();
        warnings.iter().any(|warning| warning.contains("past its `redact`"))
    };
    let sinks = |keys: &str, processors: &str| {
        format!(
            "sinks:\n  a: {{ type: terminal, {keys} }}\n  b: {{ type: terminal, topics: [\"#\"], processors: [{processors}] }}\n"
        )
    };
    for keys in ["dead_letter: b", "circuit_breaker: { on_open: { fallback: b } }"] {
        assert!(told(&sinks(keys, "{ redact: { fields: [x] } }")), "{keys}");
        assert!(!told(&sinks(keys, "{ filter: {} }")), "{keys}");
    }
    assert!(!told(&sinks("enabled: true", "{ redact: { fields: [x] } }")));
}
