//! Warns if a broker's queues do not take every event of their sink: such events would come back as unroutable.

use streamll_actors::route::{Template, TopicPattern};

use super::error::{Class, Problem, Severity};
use super::key_path::KeyPath;
use super::sources::At;
use super::validate::{Check, CheckedSink};

/// A word that stands in no pattern, and so for all of those. The sign of patterns for "one word".
const ANY: &str = "*";
/// Most topics that are tried: patterns that name more words than this allows are not checked.
const MOST: usize = 10_000;

impl Check<'_> {
    pub(crate) fn coverage(&mut self, sink: &CheckedSink, topics: Option<&Template>) {
        let (Some(keeps), Some(topics)) = (&sink.keeps, topics) else { return };
        let parsed = |texts: &[String]| {
            texts.iter().map(|text| TopicPattern::parse(text)).collect::<Result<Vec<_>, _>>()
        };
        let bound: Vec<String> = keeps.iter().flat_map(|(_, patterns)| patterns).cloned().collect();
        let takes = sink.settings.topics.clone().unwrap_or_else(|| vec!["#".to_owned()]);
        let (Ok(bound), Ok(takes), Ok(except)) =
            (parsed(&bound), parsed(&takes), parsed(&sink.settings.except))
        else {
            return;
        };
        let is_any =
            |patterns: &[TopicPattern], topic: &str| patterns.iter().any(|pattern| pattern.matches(topic));
        let words: Vec<&str> =
            [&bound, &takes, &except].into_iter().flatten().flat_map(|p| p.as_str().split('.')).collect();
        let mut lost: Vec<String> = samples(topics, &words)
            .into_iter()
            .filter(|topic| is_any(&takes, topic) && !is_any(&except, topic) && !is_any(&bound, topic))
            .collect();
        // A key of the sink's own has nothing to do with topics.
        if sink.settings.routing_key.is_some() {
            lost.clear();
        }
        // Gap markers and alerts come to every sink, under their own keys.
        if !is_any(&bound, "ai.streamll.gap") || !is_any(&bound, "ai.streamll.*") {
            lost.push("ai.streamll.#".to_owned());
        }
        let Some(first) = lost.first() else { return };
        let names: Vec<&str> = keeps.iter().map(|(name, _)| name.as_str()).collect();
        let others = if lost.len() > 1 { ", and others" } else { "" };
        let problem = Problem::new(
            Class::Template,
            format!(
                "no queue of `{}` takes `{first}`{others}: what no queue takes ends as a dead letter",
                sink.name
            ),
        );
        let mut problem =
            problem.help(format!("bind `{first}` to {}, or leave it out by `except`", names.join(" or ")));
        problem.severity = Severity::Warning;
        self.reader.report(problem, &KeyPath::of(["sinks", sink.name.as_str(), "queues"]), At::Key);
    }
}

/// One topic for every way in which the patterns can tell topics apart: each of their words, or any other, where the
/// template has a placeholder.
fn samples(topics: &Template, words: &[&str]) -> Vec<String> {
    let mut words: Vec<&str> =
        words.iter().copied().filter(|word| !word.contains(['*', '#'])).chain([ANY]).collect();
    words.sort_unstable();
    words.dedup();
    let mut samples = vec![String::new()];
    for segment in topics.segments() {
        let choices = segment.as_deref().map_or(words.clone(), |word| vec![word]);
        if samples.len() * choices.len() > MOST {
            return Vec::new();
        }
        let longer = |sample: &String| {
            let joint = if sample.is_empty() { "" } else { "." };
            choices.iter().map(|word| format!("{sample}{joint}{word}")).collect::<Vec<_>>()
        };
        samples = samples.iter().flat_map(longer).collect();
    }
    samples
}
