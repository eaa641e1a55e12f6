//! Whatever a file holds, loading it ends with a topology or with problems that have places; never with a panic.

use proptest::prelude::*;

use super::load;

const REFERENCE: &str = include_str!("../../topologies/reference.yaml");

/// What one edit of a file can put in.
const PIECES: [&str; 24] = [
    "\n",
    " ",
    "  ",
    "\t",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "${",
    "}",
    "$${A}",
    "&a",
    "*a",
    "!!x",
    "<<",
    "null",
    "5",
    "é\u{200b}",
    "\u{0}",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_edited_topology_never_panics(edits in prop::collection::vec((any::<prop::sample::Index>(), 0..40usize, 0..PIECES.len()), 1..4)) {
        let mut text: Vec<char> = REFERENCE.chars().collect();
        for (at, removed, piece) in edits {
            let at = at.index(text.len());
            let end = (at + removed).min(text.len());
            text.splice(at..end, PIECES[piece].chars());
        }
        check(&text.into_iter().collect::<String>());
    }

    #[test]
    fn any_text_never_panics(text in "(?s).{0,200}") {
        check(&text);
    }
}

fn check(text: &str) {
    let dir = super::folder(&[("env", text)]);
    match load(dir.path(), "env", &[("A", "x")]) {
        Ok(topology) => assert!(topology.plan().is_some() && !topology.render().is_empty()),
        Err(error) => {
            assert!(!error.problems.is_empty());
            for problem in &error.problems {
                // only a base that is not there has none
                assert!(problem.at.is_some(), "no place: {problem}");
            }
            drop((error.render(true), error.to_json()));
        }
    }
}
