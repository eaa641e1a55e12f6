//! Finds circles of files: files of one crate that use each other, directly or through others.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, Path, UseTree, Visibility};

use crate::Source;

/// The circles that may be, each with its reason: the files of the crate in it, without `src/`.
const ALLOWED: [(&str, &[&str], &str); 8] = [
    (
        "src",
        &["emit/ambient", "emit/layer/entered", "emit/layer/open", "emit/scope"],
        "what is around a scope is scopes and spans, which are made of what is around them",
    ),
    ("actors/src", &["sink/actor", "sink/attempt"], "to be parted"),
    (
        "actors/src",
        &[
            "sink/backlog",
            "sink/backlog/reader",
            "sink/buffer",
            "sink/disk",
            "sink/queue",
            "sink/shed",
            "sink/status",
        ],
        "to be parted",
    ),
    ("actors/src", &["sink/disk/log", "sink/disk/recover"], "to be parted"),
    (
        "src",
        &[
            "consume/consumer",
            "consume/desk",
            "consume/engine",
            "consume/rabbitmq",
            "consume/redis",
            "consume/stream",
        ],
        "to be parted",
    ),
    ("src", &["consume/dead_letter", "consume/source", "consume/window"], "to be parted"),
    (
        "src",
        &["sinks/rabbitmq/config", "sinks/rabbitmq/declare", "sinks/rabbitmq/publish", "sinks/rabbitmq/sink"],
        "to be parted",
    ),
    (
        "src",
        &["sinks/redis/again", "sinks/redis/config", "sinks/redis/nodes", "sinks/redis/sink"],
        "to be parted",
    ),
];

type Names = Vec<String>;

/// One file, as its `use` items and its paths show it.
#[derive(Default)]
struct File {
    /// The names that it binds, by `use`, with the paths that they stand for.
    bound: BTreeMap<String, Names>,
    /// All paths that it names.
    paths: Vec<Names>,
}

impl File {
    fn read(text: &str) -> File {
        let mut file = File::default();
        file.visit_file(&syn::parse_file(text).expect("Rust"));
        file
    }

    fn add(&mut self, mut path: Names, tree: &UseTree) {
        match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.add(path, &part.tree);
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add(path.clone(), tree)),
            UseTree::Glob(_) => self.paths.push(path),
            UseTree::Name(name) => self.bind(path, &name.ident.to_string(), None),
            UseTree::Rename(name) => self.bind(path, &name.ident.to_string(), Some(name.rename.to_string())),
        }
    }

    fn bind(&mut self, mut path: Names, name: &str, rename: Option<String>) {
        if name != "self" {
            path.push(name.to_owned());
        }
        if let Some(last) = path.last().cloned() {
            self.bound.insert(rename.unwrap_or(last), path.clone());
        }
        self.paths.push(path);
    }
}

/// Tests may use what they like.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<Path>().is_ok_and(|what| what.is_ident("test"))
    })
}

impl<'ast> Visit<'ast> for File {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let before = self.paths.len();
        self.add(Vec::new(), &item.tree);
        // To show what another file has is not to use it: who names it here is taken to that file.
        if !matches!(item.vis, Visibility::Inherited) {
            self.paths.truncate(before);
        }
    }

    /// `pub(super)` names no more than who may see it.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast Path) {
        self.paths.push(path.segments.iter().map(|part| part.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

/// The files of one crate, by their modules.
struct Crate(BTreeMap<Names, File>);

impl Crate {
    fn of(sources: &[Source]) -> Crate {
        let of = |source: &Source| {
            (source.module().into_iter().map(str::to_owned).collect(), File::read(&source.text))
        };
        Crate(sources.iter().map(of).collect())
    }

    /// The path from the root of the crate, where it leads into the crate.
    fn whole(&self, module: &Names, path: &Names) -> Option<Names> {
        let mut whole = module.clone();
        let mut rest = &path[..];
        match path.first()?.as_str() {
            "crate" => (whole, rest) = (Vec::new(), &path[1..]),
            "self" | "super" => {
                while let Some(step @ ("self" | "super")) = rest.first().map(String::as_str) {
                    if step == "super" {
                        whole.pop();
                    }
                    rest = &rest[1..];
                }
            }
            first => {
                let child = [module.as_slice(), &[first.to_owned()]].concat();
                if !self.0.contains_key(&child) {
                    return None;
                }
            }
        }
        whole.extend_from_slice(rest);
        Some(whole)
    }

    /// The module in whose file that stands to which a whole path leads, through what other files re-export.
    fn file_of(&self, path: &[String], depth: u8) -> Option<Names> {
        let module =
            (0..=path.len()).rev().map(|n| &path[..n]).find(|module| self.0.contains_key(*module))?;
        let reexport = path.get(module.len()).and_then(|name| self.0[module].bound.get(name));
        if let Some(reexport) =
            reexport.and_then(|path| self.whole(&module.to_vec(), path)).filter(|_| depth < 8)
        {
            let whole = [reexport.as_slice(), &path[module.len() + 1..]].concat();
            return self.file_of(&whole, depth + 1);
        }
        Some(module.to_vec())
    }

    /// A folder's own file may put the parts of the folder together: by relative paths, which are not counted.
    fn uses(&self, module: &Names) -> BTreeSet<Names> {
        let paths = self.0[module].paths.iter();
        let paths = paths
            .filter(|path| path.first().is_some_and(|first| ["crate", "super"].contains(&first.as_str())));
        let paths = paths.filter_map(|path| self.whole(module, path));
        paths.filter_map(|path| self.file_of(&path, 0)).filter(|used| used != module).collect()
    }

    /// All files that can be come to from one.
    fn reached(&self, uses: &BTreeMap<Names, BTreeSet<Names>>, from: &Names) -> BTreeSet<Names> {
        let (mut found, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(module) = open.pop() {
            open.extend(uses[module].iter().filter(|used| found.insert((*used).clone())));
        }
        found
    }

    /// The circles, each once, by the names of its files.
    fn circles(&self) -> BTreeSet<Vec<String>> {
        let uses = self.0.keys().map(|module| (module.clone(), self.uses(module))).collect();
        let reached: BTreeMap<_, _> =
            self.0.keys().map(|module| (module, self.reached(&uses, module))).collect();
        let circle = |module: &Names| {
            let mutual = |other: &&Names| reached[*other].contains(module);
            let of: Vec<_> = reached[module].iter().filter(mutual).map(|other| other.join("/")).collect();
            (!of.is_empty()).then_some(of)
        };
        self.0.keys().filter_map(circle).collect()
    }
}

#[test]
fn files_use_each_other_in_no_circles_but_those_allowed() {
    let mut found = Vec::new();
    for folder in ["actors/src", "src", "macros/src"] {
        let circles = Crate::of(&crate::sources(&[folder])).circles();
        found.extend(circles.into_iter().map(|circle| (folder, circle)));
    }
    let is_allowed = |folder: &str, circle: &[String]| {
        ALLOWED.iter().any(|(its, files, _)| *its == folder && files.iter().eq(circle))
    };
    let wrong: Vec<_> = found
        .iter()
        .filter(|(folder, circle)| !is_allowed(folder, circle))
        .map(|(folder, circle)| format!("{folder}: {}", circle.join(", ")))
        .collect();
    crate::assert_none(
        &wrong,
        "files that use each other in a circle; part them, or name the circle with its reason",
    );
    assert_eq!(
        found.len(),
        ALLOWED.len(),
        "a circle that is allowed is there no more: take it out of the list"
    );
}

#[test]
fn a_circle_is_found_through_groups_reexports_and_paths_and_not_in_tests() {
    let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let of = |files: &[(&str, &str)]| {
        let files: Vec<_> = files.iter().map(|(path, text)| source(path, text)).collect();
        Crate::of(&files).circles().into_iter().map(|circle| circle.join(" ")).collect::<Vec<_>>()
    };
    let lib = ("src/lib.rs", "mod a; mod b; pub use a::A;");
    assert_eq!(of(&[lib, ("src/a.rs", "use crate::{b::{B, C}};"), ("src/b.rs", "use crate::A;")]), ["a b"]);
    assert_eq!(
        of(&[lib, ("src/a.rs", "fn f() { super::b::g() }"), ("src/b.rs", "use super::a::A as X;")]),
        ["a b"]
    );
    assert_eq!(
        of(&[lib, ("src/a.rs", "use crate::b::B;"), ("src/b.rs", "use std::fmt; struct B;")]),
        [""; 0]
    );
    let tests = "#[cfg(test)] mod tests { use crate::a::A; }";
    assert_eq!(of(&[lib, ("src/a.rs", "use crate::b::B;"), ("src/b.rs", tests)]), [""; 0]);
    let folder = ("src/b/mod.rs", "mod c; use c::C; const N: u8 = 1;");
    assert_eq!(of(&[lib, ("src/a.rs", ""), folder, ("src/b/c.rs", "fn f() -> u8 { super::N }")]), [""; 0]);
    let of_both = ("src/b/mod.rs", "mod c; use c::C; use crate::a::A;");
    assert_eq!(
        of(&[lib, ("src/a.rs", "use crate::b::C;"), of_both, ("src/b/c.rs", "use super::A;")]),
        ["a b/c"]
    );
}
