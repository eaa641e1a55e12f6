//! Checks that the named sinks exist, and that no event can go round between them for ever.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::error::{Class, Problem, listed};
use super::key_path::KeyPath;
use super::schema::{OnOpen, Settings};
use super::validate::{Check, CheckedSink};

impl Check<'_> {
    pub(crate) fn references(&mut self, settings: &Settings, sinks: &[CheckedSink]) {
        let everyone = settings.dead_letter.as_deref();
        if let Some(target) = everyone {
            self.sink_exists(target, &KeyPath::of(["dead_letter"]));
        }
        let mut next: BTreeMap<&str, Vec<(&str, KeyPath)>> = BTreeMap::new();
        for CheckedSink { name, settings, .. } in sinks {
            let base = KeyPath::of(["sinks", name.as_str()]);
            let fallback = match &settings.circuit_breaker.on_open {
                OnOpen::Fallback(target) => {
                    Some((target.as_str(), base.key("circuit_breaker").key("on_open").key("fallback")))
                }
                _ => None,
            };
            let dead_letter = settings.dead_letter.as_deref().map(|target| (target, base.key("dead_letter")));
            for (target, path) in fallback.into_iter().chain(dead_letter) {
                if target == name {
                    let help = "name another sink";
                    self.report(
                        Class::Cycle,
                        format!("the sink `{name}` hands its events to itself"),
                        help,
                        &path,
                    );
                } else if self.sink_exists(target, &path) {
                    next.entry(name).or_default().push((target, path));
                }
            }
            if let (None, Some(target)) = (&settings.dead_letter, everyone)
                && target != name
            {
                next.entry(name).or_default().push((target, KeyPath::of(["dead_letter"])));
            }
        }
        let mut told: Vec<Vec<&str>> = Vec::new();
        for start in next.keys() {
            let Some(round) = circle(&next, start) else { continue };
            let mut members = round.clone();
            members.sort_unstable();
            if told.contains(&members) {
                continue;
            }
            told.push(members);
            let way = listed_way(&round);
            let path = next
                .get(start)
                .and_then(|ways| ways.iter().find(|(to, _)| Some(to) == round.get(1).or(round.first())));
            let path = path.map(|(_, path)| path.clone()).unwrap_or_default();
            let message = format!("events that cannot be delivered go round in a circle: {way}");
            self.report(
                Class::Cycle,
                message,
                "let one of them end in a file: remove its `dead_letter` or `fallback`",
                &path,
            );
        }
    }

    fn sink_exists(&mut self, name: &str, path: &KeyPath) -> bool {
        let sinks = self.declared.get("sinks").and_then(Value::as_object);
        if sinks.is_some_and(|sinks| sinks.contains_key(name)) || self.reader.sources.is_placeholder(path) {
            return true;
        }
        let problem = if self.disabled.contains(name) {
            Problem::new(Class::Ref, format!("the sink `{name}` is not enabled"))
                .help("name another, or enable it")
        } else {
            let known: Vec<&str> = sinks.into_iter().flat_map(Map::keys).map(String::as_str).collect();
            let problem = Problem::new(Class::Ref, format!("there is no sink `{name}`"));
            let near = problem.nearest(name, known.iter().copied());
            if near.help.is_some() { near } else { near.help(format!("there are {}", listed(known))) }
        };
        self.reader.report_quoting(problem, path);
        false
    }
}

/// The sinks of a circle through `start`, in the order of the way.
fn circle<'a>(next: &BTreeMap<&'a str, Vec<(&'a str, KeyPath)>>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut ways = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        for (to, _) in way.last().and_then(|last| next.get(last)).into_iter().flatten() {
            if *to == start {
                return Some(way);
            }
            if seen.insert(*to) {
                ways.push(way.iter().copied().chain([*to]).collect());
            }
        }
    }
    None
}

fn listed_way(round: &[&str]) -> String {
    let names: Vec<_> = round.iter().chain(round.first()).map(|name| format!("`{name}`")).collect();
    names.join(" to ")
}
