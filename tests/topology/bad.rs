//! One wrong topology per file in `bad/`: the whole message, with its place, stands beside it in a snapshot.

use std::path::Path;

use streamll::topology::{LoadOptions, Severity, Topology};

use super::kinds::kinds;

const DIR: &str = "tests/topology/bad";

fn names() -> Vec<String> {
    let names = streamll::topology::environments(DIR);
    names.into_iter().filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).collect()
}

#[test]
fn every_wrong_topology_is_refused_with_the_message_beside_it() {
    let names = names();
    assert!(names.len() >= 45, "only {} wrong topologies", names.len());
    for name in names {
        let error = Topology::load_with(DIR, &name, &kinds(), &LoadOptions::default()).expect_err(&name);
        assert!(error.problems.iter().any(|problem| problem.severity == Severity::Error), "{name}");
        let text = error.to_string();
        assert!(!text.contains("hunter2"), "{name} shows a secret:\n{text}");
        insta::with_settings!({ snapshot_path => "bad", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, text);
        });
    }
}

#[test]
fn every_problem_of_a_file_has_a_place_in_a_file() {
    for name in names() {
        let error = Topology::load_with(DIR, &name, &kinds(), &LoadOptions::default()).expect_err(&name);
        for problem in error.problems {
            let at = problem.at.unwrap_or_else(|| panic!("{name}: no place for {}", problem.message));
            let bytes = std::fs::read(Path::new(&at.file)).expect("the file of the problem");
            let lines = String::from_utf8_lossy(&bytes).lines().count().max(1);
            assert!((1..=lines + 1).contains(&at.line), "{name}: line {}", at.line);
            assert!(at.column >= 1);
        }
    }
}

#[test]
fn problems_come_in_the_order_of_the_files() {
    for name in names() {
        let error = Topology::load_with(DIR, &name, &kinds(), &LoadOptions::default()).expect_err(&name);
        let mut places: Vec<_> = error.problems.iter().filter_map(|problem| problem.at.clone()).collect();
        let found = places.clone();
        places.sort_by_key(|at| (!at.file.contains("good_base"), at.clone()));
        assert_eq!(found, places, "{name}");
    }
}

#[test]
fn problems_as_json_have_class_place_and_help() {
    let error = Topology::load_with(DIR, "20_unknown_nested_key", &kinds(), &LoadOptions::default())
        .expect_err("wrong");
    let json = error.to_json();
    assert_eq!(json["problems"][0]["class"], "unknown_key");
    assert_eq!(json["problems"][0]["severity"], "error");
    assert_eq!(json["problems"][0]["path"], "sinks.live.circuit_breaker.treshold");
    assert_eq!(json["problems"][0]["at"]["line"], 6);
    assert_eq!(json["problems"][0]["at"]["column"], 7);
    assert_eq!(json["problems"][0]["help"], "did you mean `failure_threshold`?");
}

#[test]
fn colour_is_only_used_when_asked_for() {
    let error =
        Topology::load_with(DIR, "17_unknown_top_key", &kinds(), &LoadOptions::default()).expect_err("wrong");
    assert!(!error.to_string().contains('\u{1b}'));
    assert!(error.render(true).contains('\u{1b}'));
}
