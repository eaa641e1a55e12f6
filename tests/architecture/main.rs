//! Holds the shape of the house: which folder may use which, and what every file keeps to.

mod circles;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The steps of `actors/src`: each may use only those to its right.
const MACHINE: [&str; 9] =
    ["testkit", "graph", "route", "sink", "process", "enrich", "ingress", "supervise", "event"];

/// The folders of `src`, and all that each may use of the others.
const FRONT: [(&str, &[&str]); 14] = [
    ("bin", &["cli", "runtime", "topology", "sinks", "processors", "emit", "consume"]),
    ("cli", &["runtime", "topology", "sinks", "processors", "emit", "consume", "pipes"]),
    ("testing", &["runtime", "topology", "emit"]),
    ("runtime", &["topology", "sinks", "processors", "emit"]),
    ("topology", &["sinks", "processors", "units", "secret"]),
    ("sinks", &["brokers", "units", "pipes"]),
    ("processors", &["units"]),
    ("emit", &["fault"]),
    ("consume", &["brokers", "fault", "units"]),
    ("brokers", &["units"]),
    ("fault", &[]),
    ("units", &[]),
    ("secret", &[]),
    ("pipes", &[]),
];

/// One source file: where it is below the root of the repository, and what it says.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The module path inside its crate: `src/sink/actor.rs` is `sink`, `actor`.
    fn module(&self) -> Vec<&str> {
        let (_, inside) = self.path.rsplit_once("src/").unwrap_or(("", &self.path));
        let mut parts: Vec<_> = inside.trim_end_matches(".rs").split('/').collect();
        if matches!(parts.last(), Some(&("mod" | "lib"))) {
            parts.pop();
        }
        parts
    }

    /// Its code: without comments, and without the tests at its end, which may use what they like.
    fn code(&self) -> String {
        let lines = self.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code: String = lines.flat_map(|line| [line, "\n"]).collect();
        match code.find("#[cfg(test)]\nmod tests {") {
            Some(tests) => code[..tests].to_owned(),
            None => code,
        }
    }

    /// The modules at the top of the crate that its code names, `crate::a`, `crate::{a, b}` and by `super::`.
    fn uses(&self, root: &str) -> Vec<String> {
        let code = self.code();
        let mut found = Vec::new();
        for start in [root, "super::"] {
            for (at, _) in code.match_indices(start) {
                let mut rest = &code[at + start.len()..];
                if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue; // the middle of a path or of a word
                }
                if start == "super::" {
                    let mut depth = self.module().len().saturating_sub(1);
                    while let Some(outer) = rest.strip_prefix("super::") {
                        (rest, depth) = (outer, depth.saturating_sub(1));
                    }
                    if depth > 0 {
                        continue; // still inside its own folder
                    }
                }
                found.extend(heads(rest));
            }
        }
        found
    }
}

/// The first names of `a::b`, or of each entry of `{a::b, c}`.
fn heads(path: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut found, mut entry) = (1, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => found.push(name(std::mem::take(&mut entry).trim())),
            _ if depth == 1 => entry.push(c),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found.push(name(entry.trim()));
    found.retain(|name| !name.is_empty());
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below some folders, whatever their names end with.
fn files(folders: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<_> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            match path.is_dir() {
                // A folder, or in a second work tree a file.
                _ if name == "target" || name == ".git" => {}
                true => open.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string().replace('\\', "/")
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let rust =
        files(folders).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
    let read =
        |path: PathBuf| Source { path: relative(&path), text: fs::read_to_string(path).expect("UTF-8") };
    let found: Vec<_> = rust.map(read).collect();
    assert!(!found.is_empty(), "nothing below {folders:?}");
    found
}

#[track_caller]
fn assert_none(wrong: &[String], rule: &str) {
    assert!(wrong.is_empty(), "{rule}:\n  {}", wrong.join("\n  "));
}

#[test]
fn the_steps_of_the_machine_use_only_what_lies_behind_them() {
    let place = |module: &str| MACHINE.iter().position(|step| *step == module);
    let mut wrong = Vec::new();
    for source in sources(&["actors/src"]) {
        let own = source.module().first().map_or("lib", |first| *first).to_owned();
        let Some(mine) = place(&own) else {
            assert_eq!(own, "lib", "{}: a new step has no place in the order yet", source.path);
            continue;
        };
        for used in source.uses("crate::") {
            if place(&used).is_some_and(|its| its < mine) {
                wrong.push(format!("{} uses {used}", source.path));
            }
        }
    }
    assert_none(&wrong, &format!("the order is {}", MACHINE.join(" → ")));
}

#[test]
fn the_front_uses_only_what_lies_behind_it() {
    let aliases = reexports();
    let mut wrong = Vec::new();
    for source in sources(&["src"]) {
        let own = source.module().first().map_or("lib", |first| *first).to_owned();
        let Some((_, allowed)) = FRONT.iter().find(|(folder, _)| *folder == own) else {
            assert!(
                ["lib", "guide"].contains(&&*own),
                "{}: a new folder has no place in the order yet",
                source.path
            );
            continue;
        };
        let start = if own == "bin" { "streamll::" } else { "crate::" };
        for name in source.uses(start) {
            // `crate::Topology` is `crate::topology::Topology`.
            let used = aliases.get(&name).unwrap_or(&name);
            let known = FRONT.iter().any(|(folder, _)| folder == used);
            if known && *used != own && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses {used} ({name})", source.path));
            }
        }
    }
    assert_none(
        &wrong,
        "bin → cli → runtime → topology → sinks, processors; sinks and consume → brokers; emit knows none of them",
    );
}

#[test]
fn the_crates_point_one_way() {
    // The crates of this house that one of them is built with; tests may use what they like.
    let built_with = |manifest: &str| {
        let text = fs::read_to_string(root().join(manifest)).expect(manifest);
        let (_, rest) = text.split_once("\n[dependencies]\n").expect("it has dependencies");
        let dependencies = rest.split("\n[").next().unwrap_or(rest).lines();
        let names = dependencies.filter_map(|line| line.split([' ', '.', '=']).next());
        names.filter(|name| name.starts_with("streamll")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(built_with("Cargo.toml"), ["streamll-actors", "streamll-macros"]);
    assert_eq!(built_with("actors/Cargo.toml"), [""; 0], "the machine knows nobody");
    assert_eq!(built_with("macros/Cargo.toml"), [""; 0], "what it writes names streamll, it itself does not");
}

/// The names that `src/lib.rs` shows at the top of the crate, and where each comes from.
fn reexports() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    let mut found = BTreeMap::from([("context".to_owned(), "emit".to_owned())]);
    for (at, start) in text.match_indices("pub use ") {
        let statement = &text[at + start.len()..];
        let Some((path, _)) = statement.split_once(';') else { continue };
        if let Some((module, names)) = path.split_once("::") {
            found.extend(heads(names).into_iter().map(|name| (name, module.to_owned())));
        }
    }
    assert_eq!(found.get("Topology").map(String::as_str), Some("topology"), "the test reads lib.rs as it is");
    found
}

#[test]
fn events_and_the_way_in_know_no_actix() {
    let knows = |source: &Source| {
        let pure = source.path.starts_with("actors/src/event/") || source.path == "actors/src/ingress/mod.rs";
        (pure && source.code().contains("actix")).then(|| source.path.clone())
    };
    assert_none(&sources(&["actors/src"]).iter().filter_map(knows).collect::<Vec<_>>(), "no actix in");
}

#[test]
fn backoff_is_named_in_one_file() {
    let names = |source: &Source| {
        let code = source.code();
        let of_the_crate = code.match_indices("backoff::").any(|(at, _)| {
            !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                && !code.contains("mod backoff;")
        });
        of_the_crate.then(|| source.path.clone())
    };
    let named: Vec<_> = sources(&["src", "actors/src"]).iter().filter_map(names).collect();
    assert_eq!(
        named,
        ["actors/src/supervise/backoff.rs"],
        "an unmaintained crate is easy to replace in one file"
    );
}

#[test]
fn every_source_file_says_its_job_in_its_first_line() {
    let folders = ["src", "actors", "macros", "examples", "tests", "benches"];
    let silent = sources(&folders).into_iter().filter(|source| !source.text.starts_with("//! "));
    // Input of compile-fail tests is data.
    let silent: Vec<_> = silent.map(|source| source.path).filter(|path| !path.contains("/ui/")).collect();
    assert_none(&silent, "the first line must be `//! ` and the one job of the file");
}

#[test]
fn every_topology_in_the_tree_is_named_in_a_test() {
    let tests: String =
        sources(&["tests", "src", "actors/src"]).into_iter().map(|source| source.text).collect();
    let named = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        tests.contains(&format!("\"{stem}\"")) || tests.contains(&format!("{stem}.yaml"))
    };
    let nameless: Vec<_> =
        files(&["topologies"]).into_iter().filter(|path| !named(path)).map(|path| relative(&path)).collect();
    assert_none(&nameless, "no test loads");
}

#[test]
fn every_example_and_benchmark_is_in_its_index() {
    for folder in ["examples", "benches"] {
        let index = fs::read_to_string(root().join(folder).join("README.md")).expect("an index");
        let entries = fs::read_dir(root().join(folder)).expect("a folder").flatten();
        let names = entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir() || path.extension().is_some_and(|e| e == "rs"));
        let names = names.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
        let missing: Vec<_> = names.filter(|name| !index.contains(&format!("`{name}`"))).collect();
        assert_none(&missing, &format!("not in {folder}/README.md"));
    }
}

#[test]
fn no_file_names_a_place_on_the_machine_it_was_written_on() {
    // In two halves, or this file would be the first to be found.
    let places =
        ["/wo rk/", "/ho me/", "/ro ot/", "/Us ers/", "/tmp/tar get"].map(|place| place.replace(' ', ""));
    let mut wrong = Vec::new();
    for path in files(&[""]) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            // Nobody's home, which tests of variables use.
            let line = line.replace(&format!("{}u", places[1]), "");
            if places.iter().any(|place| line.contains(place.as_str())) {
                wrong.push(format!("{}:{}: {}", relative(&path), number + 1, line.trim()));
            }
        }
    }
    assert_none(&wrong, "paths of one machine");
}

#[test]
fn the_reader_of_uses_sees_groups_supers_and_no_comments() {
    let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let text = "use crate::{event::{Event, Step}, sink::Sink};\n// crate::route\nlet x = crate::graph::Plan::new();\n";
    assert_eq!(source("actors/src/process/mod.rs", text).uses("crate::"), ["event", "sink", "graph"]);
    let text = "use super::super::route::Table;\nuse super::batch::Mark;\n";
    assert_eq!(source("actors/src/sink/actor.rs", text).uses("crate::"), ["route"]);
    assert_eq!(source("actors/src/sink/mod.rs", "use super::event::Event;").uses("crate::"), ["event"]);
    let text = "use crate::event::Event;\n#[cfg(test)]\nmod tests {\n    use crate::graph::Plan;\n}\n";
    assert_eq!(source("actors/src/sink/mod.rs", text).uses("crate::"), ["event"]);
}
