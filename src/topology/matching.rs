//! Checks templates and topic patterns, and warns about patterns that no topic of a topology can match.

use std::borrow::Cow;

use streamll_actors::route::{Field, Fields, Template, TopicPattern};

use super::error::{Class, Problem, Severity};
use super::key_path::KeyPath;
use super::validate::Check;

impl Check<'_> {
    pub(crate) fn template(&mut self, text: &str, path: &KeyPath) {
        if let Err(error) = Template::parse(text) {
            let mut problem = Problem::new(Class::Template, error.message());
            problem.help = error.suggestion().map(|near| format!("did you mean `{near}`?"));
            self.reader.report_inside(problem, path, text, error.offset());
        }
    }

    pub(crate) fn patterns(&mut self, patterns: &[String], topics: Option<&Template>, path: &KeyPath) {
        for (index, text) in patterns.iter().enumerate() {
            let path = path.index(index);
            match (TopicPattern::parse(text), topics) {
                (Ok(pattern), Some(topics)) => self.can_match(&pattern, topics, &path),
                (Ok(_), None) => {}
                (Err(error), _) => {
                    let error = error.to_string();
                    let (message, help) =
                        error.split_once(": ").unwrap_or((&error, "topics look like `ai.rag.token`"));
                    self.report(Class::Template, message, help, &path);
                }
            }
        }
    }

    /// Warns about a pattern that no topic of this topology matches, nor any of the system's own events.
    fn can_match(&mut self, pattern: &TopicPattern, topics: &Template, path: &KeyPath) {
        let words = topics.segments();
        let shape: Vec<Option<&str>> = words.iter().map(Option::as_deref).collect();
        let system = [Some("ai"), Some("streamll"), None];
        if !pattern.could_match(&shape) && !pattern.could_match(&system) {
            self.never(pattern, format!("topics look like `{}`", topics.as_str()), path);
        } else if let Some(meant) = in_snake_case(pattern, topics, &system) {
            self.never(pattern, format!("names of modules are written in snake case there: `{meant}`"), path);
        }
    }

    fn never(&mut self, pattern: &TopicPattern, help: String, path: &KeyPath) {
        let mut problem = Problem::new(Class::Template, format!("`{pattern}` can never match")).help(help);
        problem.severity = Severity::Warning;
        self.reader.report_quoting(problem, path);
    }
}

/// What a pattern was probably meant to be that only names of modules could match which are none: `ai.RagPipeline.*`.
fn in_snake_case(pattern: &TopicPattern, topics: &Template, system: &[Option<&str>]) -> Option<String> {
    struct Module<'a>(&'a str);
    impl Fields for Module<'_> {
        fn field(&self, field: &Field) -> Option<Cow<'_, str>> {
            (*field == Field::ModuleName).then_some(Cow::Borrowed(self.0))
        }
    }
    let alone = Template::parse("{module_name}").ok()?;
    // What is cut or escaped can be written in a pattern, too.
    let snake = |word: &str| match word.contains(['%', '~', '*', '#']) {
        true => word.to_owned(),
        false => alone.render(&Module(word)),
    };
    let meant: Vec<String> = pattern.as_str().split('.').map(snake).collect();
    let meant = meant.join(".");
    if meant == pattern.as_str() || pattern.could_match(system) {
        return None;
    }
    let segments = topics.segments();
    let modules = module_segments(topics.as_str());
    // Each event has one module: a name that is one, or one that stands in no pattern.
    let names = pattern.as_str().split('.').filter(|word| snake(word) == **word).chain(["\u{1}"]);
    let matches = |name: &str| {
        let shape = segments.iter().enumerate().map(|(n, segment)| match modules.contains(&n) {
            true => Some(name),
            false => segment.as_deref(),
        });
        pattern.could_match(&shape.collect::<Vec<_>>())
    };
    let mut names = names;
    (!names.any(matches)).then_some(meant)
}

/// Which segments of a template are the name of the module and nothing else.
fn module_segments(template: &str) -> Vec<usize> {
    let mut depth = 0_usize;
    let segments = template.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == '.' && depth == 0
    });
    segments.enumerate().filter(|(_, segment)| *segment == "{module_name}").map(|(n, _)| n).collect()
}
