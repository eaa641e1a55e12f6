//! `${VAR}` in the values of a file.

use streamll::topology::{LoadOptions, Topology};

use super::{errors, folder, kinds, plan, topology};

#[test]
fn variables_stand_in_values_only_after_the_file_was_read() {
    let text = "tags: { a: \"${A}\" }\nsinks:\n  a: { type: terminal }\n";
    let plan = plan(text, &[("A", "x }\nsinks: {}")]);
    assert_eq!((plan.tags[0].1.as_str(), plan.sinks.len()), ("x }\nsinks: {}", 1));
}

#[test]
fn defaults_and_escapes_are_understood() {
    let text = "service: ${A:-one}-${B:-two}\ntags: { x: \"$${A}\", y: '${B:-}' }\nsinks:\n  a: { type: terminal }\n";
    let plan = plan(text, &[("B", "b")]);
    let tags = [("x", "${A}"), ("y", "b")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!((plan.service.as_str(), plan.tags), ("one-b", tags.to_vec()));
}

#[test]
fn a_variable_can_stand_for_a_number_a_switch_or_a_duration() {
    let text = "sinks:\n  a:\n    type: stream\n    url: ${URL}\n    max_len: ${MAX:-5}\n    durable: ${DURABLE}\n    stream_key: ${KEY}\n    deliver_timeout: ${T}\n    poison_after: ${P}\n";
    let environment = [("URL", "redis://x"), ("DURABLE", "true"), ("KEY", "123"), ("T", "2s"), ("P", "4")];
    let plan = plan(text, &environment);
    assert_eq!((plan.sinks[0].poison_after, plan.sinks[0].deliver_timeout.as_secs()), (4, 2));
}

#[test]
fn every_unset_variable_is_reported_at_its_place() {
    let text = "service: ${A}\nsinks:\n  a: { type: stream, url: \"${B:?what dashboards read}\" }\n";
    let error = errors(text, &[("B", "")]);
    assert!(error.contains("A is not set") && error.contains("env.yaml:1:10"), "{error}");
    assert!(
        error.contains("B is set, but empty: what dashboards read") && error.contains("env.yaml:3:27"),
        "{error}"
    );
}

#[test]
fn an_unset_variable_hides_no_other_mistake() {
    let error = errors(
        "service: ${A}\nalert_after: 5\nsinks:\n  a: { type: stream, url: \"${B}\", colour: x }\n",
        &[],
    );
    for says in ["A is not set", "needs a unit", "B is not set", "unknown key `colour`"] {
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(error.matches("error: ").count(), 4, "{error}");
}

#[test]
fn a_value_that_an_upper_layer_replaces_needs_no_variable() {
    let files = [
        ("base", "service: ${UNSET}\nsinks: { a: { type: terminal } }\n"),
        ("env", "extends: base\nservice: x\n"),
    ];
    topology(&files, &[]).expect("loads");
}

#[test]
fn what_a_variable_holds_is_not_read_for_variables_again() {
    let text = "service: ${A}\nsinks:\n  a: { type: terminal }\n";
    assert_eq!(plan(text, &[("A", "${B}")]).service, "${B}");
    assert_eq!(plan(text, &[("A", "x"), ("STREAMLL__SERVICE", "${B}")]).service, "${B}");
}

fn allowing_unset(text: &str) -> Result<Topology, String> {
    let options = LoadOptions { vars: Default::default(), allow_unset: true };
    Topology::load_with(folder(&[("env", text)]).path(), "env", &kinds::kinds(), &options)
        .map_err(|error| error.to_string())
}

#[test]
fn unset_variables_can_be_allowed_everywhere() {
    let text = "service: ${A}\nrouting_key: ${K}\nalert_after: ${T}\ndead_letter: ${D}\nprocessors:\n  - coalesce: { window: \"${W}\" }\nsinks:\n  a:\n    type: stream\n    url: ${U}\n    max_len: ${M}\n    topics: [\"${P}\"]\n    buffer: { max_size: \"${S}\", when_full: \"${F}\" }\n    dead_letter: ${D}\n  b:\n    type: ${TYPE}\n";
    let loaded = allowing_unset(text).unwrap_or_else(|error| panic!("{error}"));
    assert!(loaded.plan().is_none(), "it cannot be started");
}

#[test]
fn other_mistakes_are_found_while_unset_variables_are_allowed() {
    let error =
        allowing_unset("sinks:\n  a:\n    type: stream\n    url: ${U}\n    max_len: lots\n    colour: x\n")
            .expect_err("wrong");
    assert!(error.contains("found the text `lots`") && error.contains("unknown key `colour`"), "{error}");
}
