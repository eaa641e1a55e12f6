//! Finds the ways by which content would still come to a sink with `content: off`.

use super::content::Content;
use super::error::{Class, Problem, Severity};
use super::key_path::KeyPath;
use super::registry::Step;
use super::schema::{OnOpen, Settings};
use super::sources::At;
use super::validate::{Check, CheckedSink};

impl Check<'_> {
    /// A sink that is to have no content must not get any from others, and one that is to have some should.
    pub(crate) fn content(
        &mut self,
        settings: &Settings,
        processors: &[(String, Step)],
        sinks: &[CheckedSink],
    ) {
        self.redacted_in_vain(settings, sinks);
        if settings.content == Content::Off {
            return sinks.iter().for_each(|sink| self.content_in_vain(sink));
        }
        let is_off =
            |name: &str| sinks.iter().any(|sink| sink.name == name && sink.settings.content == Content::Off);
        let on = || sinks.iter().filter(|sink| sink.settings.content == Content::On);
        for sink in on() {
            let base = KeyPath::of(["sinks", sink.name.as_str()]);
            if let Some(target) = sink.settings.dead_letter.as_deref().filter(|target| is_off(target)) {
                self.content_past(
                    &format!("dead letters of `{}`", sink.name),
                    target,
                    &base.key("dead_letter"),
                );
            }
            if let OnOpen::Fallback(target) = &sink.settings.circuit_breaker.on_open
                && is_off(target)
            {
                let path = base.key("circuit_breaker").key("on_open").key("fallback");
                self.content_past(&format!("diverted events of `{}`", sink.name), target, &path);
            }
        }
        let are_letters_of_others =
            !processors.is_empty() || on().any(|sink| sink.settings.dead_letter.is_none());
        if let Some(target) = settings.dead_letter.as_deref().filter(|to| are_letters_of_others && is_off(to))
        {
            self.content_past("dead letters of others", target, &KeyPath::of(["dead_letter"]));
        }
    }

    /// Dead letters and diverted events come to a sink past its processors.
    fn content_past(&mut self, what: &str, target: &str, path: &KeyPath) {
        let message = format!("{what} hold content, and `{target}` has `content: off`");
        let help = "name another sink, or switch content off at both, or at the top for all";
        self.report(Class::Conflict, message, help, path);
    }

    /// What comes to a sink from others does not pass its processors: `redact` there takes nothing out of it.
    fn redacted_in_vain(&mut self, settings: &Settings, sinks: &[CheckedSink]) {
        let is_target = |name: &str| {
            let of_one = |sink: &CheckedSink| {
                let letters = sink.settings.dead_letter.as_deref() == Some(name);
                let diverts =
                    matches!(&sink.settings.circuit_breaker.on_open, OnOpen::Fallback(to) if to == name);
                letters || diverts
            };
            settings.dead_letter.as_deref() == Some(name) || sinks.iter().any(of_one)
        };
        for sink in sinks.iter().filter(|sink| is_target(&sink.name)) {
            if sink.processors.iter().any(|(kind, _)| kind == "redact") {
                let message = format!(
                    "dead letters and diverted events of other sinks come to `{}` past its `redact`",
                    sink.name
                );
                let help = "put `redact` under `processors` at the top, or at the other sinks, too";
                let mut problem = Problem::new(Class::Conflict, message).help(help);
                problem.severity = Severity::Warning;
                let path = KeyPath::of(["sinks", sink.name.as_str(), "processors"]);
                self.reader.report(problem, &path, At::Key);
            }
        }
    }

    fn content_in_vain(&mut self, sink: &CheckedSink) {
        let path = KeyPath::of(["sinks", sink.name.as_str(), "content"]);
        if sink.settings.content == Content::Off || self.reader.sources.origin(&path).is_none() {
            return;
        }
        let message = format!("`{}` gets no content all the same: it is off for all sinks", sink.name);
        let help = "leave it out here; or switch content off at the other sinks, and not at the top";
        let mut problem = Problem::new(Class::Conflict, message).help(help);
        problem.severity = Severity::Warning;
        self.reader.report(problem, &path, At::Value);
    }
}
