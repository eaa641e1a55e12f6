//! The last step of every problem: removes secrets, and characters that a terminal would act on, from its texts.

use std::collections::BTreeSet;

use crate::sinks::terminal::harmless;

use super::error::{Problem, TopologyError};
use super::lines::mask_unread_line;
use super::mask::{What, mask, squeeze};
use super::sources::Sources;

/// Most secrets that are looked for one by one in each text; no topology that people write has a tenth of it.
const MOST: usize = 1_000;

impl Problem {
    /// With texts that can be shown to anybody. `line` and `text` mask a source line and any other text.
    fn sealed(
        mut self,
        line: &dyn Fn(&Problem, &str) -> String,
        text: &dyn Fn(&str, &str) -> String,
    ) -> Problem {
        let place = self.path.clone();
        let shown = |said: &str| harmless(&squeeze(&mask(&text(said, &place), What::Message)));
        if let Some(mut excerpt) = self.excerpt.take() {
            excerpt.line = harmless(&line(&self, &excerpt.line));
            self.excerpt = Some(excerpt);
        }
        self.message = shown(&self.message);
        self.help = self.help.as_deref().map(shown);
        self.path = harmless(&squeeze(&mask(&text(&self.path, ""), What::Message)));
        self.variable = self.variable.as_deref().map(harmless);
        if let Some(at) = &mut self.at {
            at.file = harmless(&at.file);
        }
        self
    }
}

impl TopologyError {
    /// Problems with files that could not be read, or with what was said in code.
    pub(crate) fn sealed(self) -> TopologyError {
        let line = |_: &Problem, line: &str| mask_unread_line(line);
        let seal = |problem: Problem| problem.sealed(&line, &|text, _| text.to_owned());
        TopologyError { problems: self.problems.into_iter().map(seal).collect() }
    }
}

impl Sources {
    /// Problems with what stands in files that could be read.
    pub(crate) fn sealed(&self, mut problems: Vec<Problem>) -> Vec<Problem> {
        if self.secrets.len() > MOST {
            problems.iter_mut().for_each(|problem| problem.excerpt = None);
            let text = |text: &str, _: &str| squeeze(&mask(text, What::Text));
            return problems
                .into_iter()
                .map(|problem| problem.sealed(&|_, line| line.to_owned(), &text))
                .collect();
        }
        let lines = problems.iter().filter(|problem| problem.excerpt.is_some()).filter_map(|problem| {
            let at = problem.at.as_ref()?;
            Some((at.file.clone(), at.line))
        });
        let lines: BTreeSet<(String, usize)> = lines.collect();
        let lines = lines.iter().map(|(file, line)| (file.as_str(), *line)).collect();
        let spots = self.spots(&lines);
        let line = |problem: &Problem, line: &str| match &problem.at {
            Some(at) => {
                let spots = spots.get(&(at.file.as_str(), at.line)).map_or(&[][..], Vec::as_slice);
                self.masked(at.line, line, spots)
            }
            None => line.to_owned(),
        };
        problems
            .into_iter()
            .map(|problem| problem.sealed(&line, &|text, place| self.secrets.hide(text, place)))
            .collect()
    }
}
