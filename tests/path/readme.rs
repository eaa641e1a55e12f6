//! The README says what is: its Rust is an example, its YAML loads, its error is the real one, its links lead somewhere.

use std::fs;
use std::path::Path;

use streamll::topology::LoadOptions;
use streamll::{Registry, Topology, TopologyError};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The one block of that language.
fn block(language: &str) -> String {
    let (readme, fence) = (read("README.md"), format!("```{language}\n"));
    let mut blocks = readme.split(&fence).skip(1);
    let (text, _) = blocks.next().expect("a block").split_once("```").expect("its end");
    assert!(blocks.next().is_none(), "two blocks of {language}");
    text.to_owned()
}

fn load(yaml: &str) -> Result<Topology, TopologyError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("production.yaml"), yaml).unwrap();
    let vars = [("HOME".to_owned(), "/home/u".to_owned())].into();
    let options = LoadOptions { vars, ..LoadOptions::default() };
    Topology::load_with(folder.path(), "production", &Registry::default(), &options)
}

#[test]
fn its_rust_is_the_example_that_the_tests_run() {
    let example = read("examples/quickstart.rs");
    let code = example.lines().skip_while(|line| line.starts_with("//!") || line.is_empty());
    assert_eq!(block("rust").lines().collect::<Vec<_>>(), code.collect::<Vec<_>>());
}

#[test]
fn its_yaml_loads_without_a_warning() {
    let topology = load(&block("yaml")).unwrap();
    assert!(topology.warnings().is_empty() && topology.plan().is_some(), "{:?}", topology.warnings());
}

/// All blocks of YAML in the guide: each is a topology.
#[test]
fn the_yaml_of_the_guide_loads_without_a_warning() {
    let guide = ["sinks", "delivery", "scaling", "running", "privacy"]
        .map(|page| read(&format!("src/guide/{page}.md")))
        .concat();
    let blocks: Vec<&str> =
        guide.split("```yaml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect();
    assert!(blocks.len() >= 6, "{} blocks", blocks.len());
    for left in ["THROUGHPUT_", "LATENCY_", "_TABLE", "FIGURES"] {
        assert!(!guide.contains(left), "`{left}` is still to be filled in");
    }
    for block in blocks {
        let topology = load(block).unwrap_or_else(|error| panic!("{error}\n{block}"));
        assert!(topology.warnings().is_empty(), "{:?}\n{block}", topology.warnings());
    }
}

#[test]
fn its_error_is_what_the_yaml_with_that_mistake_gives() {
    let wrong = block("yaml").replace("failure_threshold", "failure_treshold");
    let error = load(&wrong).unwrap_err().to_string();
    // The folder is another one.
    let without_place = |text: &str| {
        let lines = text.trim_end().lines().filter(|line| !line.contains("--> "));
        lines.map(|line| line.trim_end().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(without_place(&error), without_place(&block("text")));
    assert!(error.contains("production.yaml:12:24") && block("text").contains("production.yaml:12:24"));
}

#[test]
fn what_the_documents_link_to_is_there() {
    for document in [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "src/guide/sinks.md",
        "src/guide/delivery.md",
        "src/guide/signals.md",
        "src/guide/consumers.md",
        "src/guide/privacy.md",
    ] {
        for target in read(document).split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
            let elsewhere = ["https://", "#", "crate::"].iter().any(|start| target.starts_with(start));
            let there = elsewhere || folder.with_file_name(target).exists();
            assert!(there, "{document} links to {target}");
        }
    }
}
