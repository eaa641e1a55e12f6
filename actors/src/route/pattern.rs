//! Topic patterns, with the meaning that they have in RabbitMQ: which events a sink takes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use thiserror::Error;

/// The longest pattern, in bytes: the limit of an AMQP routing key.
const MAX_PATTERN: usize = 255;

/// A pattern over the words of a topic. `.` separates words, `*` is exactly one word, `#` is zero or more words.
///
/// `ai.*.token` matches the tokens of every module. `ai.#` matches every topic whose first word is `ai`, also `ai`
/// itself.
#[derive(Debug, Clone)]
pub struct TopicPattern {
    text: Box<str>,
    words: Box<[Word]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Literal(Box<str>),
    One,
    Many,
}

/// Why a topic pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The pattern is empty.
    #[error("the topic pattern is empty: write `#` for every topic")]
    Empty,
    /// The pattern is longer than 255 bytes.
    #[error("the topic pattern is {0} bytes long: topics have at most {MAX_PATTERN} bytes")]
    TooLong(usize),
    /// A dot is at the beginning, at the end, or beside another dot.
    #[error("the topic pattern `{0}` has an empty word: write `*` for any one word, or remove a dot")]
    EmptyWord(String),
    /// A wildcard is mixed with text.
    #[error(
        "`{word}` in the topic pattern `{pattern}` mixes a wildcard with text: `*` and `#` stand for whole words, try `{suggestion}`"
    )]
    MixedWord {
        /// The whole pattern.
        pattern: String,
        /// The word.
        word: String,
        /// A pattern that is valid and close.
        suggestion: String,
    },
    /// The pattern holds a space or a control character.
    #[error(
        "the topic pattern {pattern:?} holds {found:?}: topics have neither blanks nor control characters, remove it"
    )]
    Blank {
        /// The whole pattern.
        pattern: String,
        /// The character.
        found: char,
    },
}

impl TopicPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// If the pattern is empty or longer than 255 bytes, has an empty word, mixes a wildcard with text in one word, or
    /// holds spaces or control characters.
    pub fn parse(text: &str) -> Result<TopicPattern, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong(text.len()));
        }
        if let Some(found) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
            return Err(PatternError::Blank { pattern: text.into(), found });
        }
        let words = text.split('.').map(|word| Word::parse(word, text)).collect::<Result<_, _>>()?;
        Ok(TopicPattern { text: text.into(), words })
    }

    /// Returns whether the pattern matches this topic. This takes at most (words of the pattern × words of the topic)
    /// steps, and allocates nothing.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        // RabbitMQ: the empty key has no words at all.
        let words = if topic.is_empty() { 0 } else { usize::MAX };
        self.walk(topic.split('.').take(words), |literal, word| literal == word)
    }

    /// Returns whether some topic of this shape could match. A shape has, for each segment, a literal, or `None` for
    /// any single word.
    #[must_use]
    pub fn could_match(&self, shape: &[Option<&str>]) -> bool {
        self.walk(shape.iter(), |literal, segment| segment.is_none_or(|word| word == literal))
    }

    /// Returns the pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Compares both sides in one pass. On a mismatch, only the last `#` takes one word more. Everything before that
    /// `#` has matched at its earliest place, and a later place would leave fewer words for the rest.
    fn walk<T>(&self, topic: impl Iterator<Item = T> + Clone, fits: impl Fn(&str, T) -> bool) -> bool {
        let (mut words, mut rest) = (self.words.iter(), topic);
        let mut last_many = None;
        loop {
            let (mut next_words, mut next_rest) = (words.clone(), rest.clone());
            let fit = match (next_words.next(), next_rest.next()) {
                (Some(Word::Many), _) => {
                    words = next_words;
                    last_many = Some((words.clone(), rest.clone()));
                    continue;
                }
                (None, None) => return true,
                (Some(_), None) => return false, // a `#` that takes more leaves even less
                (Some(Word::One), Some(_)) => true,
                (Some(Word::Literal(literal)), Some(word)) => fits(literal, word),
                (None, Some(_)) => false,
            };
            if fit {
                (words, rest) = (next_words, next_rest);
                continue;
            }
            let Some((after_many, taken)) = &mut last_many else { return false };
            if taken.next().is_none() {
                return false;
            }
            (words, rest) = (after_many.clone(), taken.clone());
        }
    }
}

impl Word {
    fn parse(word: &str, pattern: &str) -> Result<Word, PatternError> {
        match word {
            "" => Err(PatternError::EmptyWord(pattern.into())),
            "*" => Ok(Word::One),
            "#" => Ok(Word::Many),
            mixed if mixed.contains(['*', '#']) => Err(PatternError::MixedWord {
                pattern: pattern.into(),
                word: mixed.into(),
                suggestion: mend(pattern),
            }),
            literal => Ok(Word::Literal(literal.into())),
        }
    }
}

/// Replaces a mixed word by the widest wildcard.
fn mend(pattern: &str) -> String {
    let words = pattern.split('.').map(|word| match word {
        word if word.contains('#') => "#",
        word if word.contains('*') => "*",
        word => word,
    });
    words.collect::<Vec<_>>().join(".")
}

impl FromStr for TopicPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<TopicPattern, PatternError> {
        TopicPattern::parse(text)
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for TopicPattern {
    fn eq(&self, other: &TopicPattern) -> bool {
        self.text == other.text
    }
}

impl Eq for TopicPattern {}

impl Hash for TopicPattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn matching(pattern: &str, yes: &[&str], no: &[&str]) {
        let pattern = TopicPattern::parse(pattern).unwrap();
        for topic in yes {
            assert!(pattern.matches(topic), "`{pattern}` should match `{topic}`");
        }
        for topic in no {
            assert!(!pattern.matches(topic), "`{pattern}` should not match `{topic}`");
        }
    }

    #[test]
    fn patterns_mean_what_they_mean_in_rabbitmq() {
        matching(
            "ai.rag.token",
            &["ai.rag.token"],
            &["ai.rag", "ai.rag.token.x", "ai.rag.tokens", "AI.rag.token", ""],
        );
        matching("ai.*.token", &["ai.rag.token", "ai..token"], &["ai.token", "ai.a.b.token", "ai.rag.end"]);
        matching("ai.#", &["ai", "ai.rag", "ai.rag.token"], &["aix", "x.ai", ""]);
        matching("#", &["", "ai", "a.b.c.d"], &[]);
        matching("*", &["ai"], &["", "ai.rag"]);
        matching("#.error", &["error", "ai.rag.error"], &["error.ai", "ai.errors"]);
        matching("ai.#.error", &["ai.error", "ai.a.b.c.error", "ai.error.error"], &["error", "ai.error.x"]);
        matching("*.#.*", &["a.b", "a.b.c"], &["", "a"]);
        matching("#.#", &["", "a", "a.b"], &[]);
        matching("#.a.#.b.#", &["a.b", "x.a.y.b.z", "b.a.b"], &["b.a", "a", "b"]);
        matching("user%2E1.größe.👍", &["user%2E1.größe.👍"], &["user.1.größe.👍"]);
    }

    #[track_caller]
    fn refused(pattern: &str, expected: &str) {
        assert_eq!(TopicPattern::parse(pattern).unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_a_way_out() {
        refused("", "the topic pattern is empty: write `#` for every topic");
        refused(&"a".repeat(256), "the topic pattern is 256 bytes long: topics have at most 255 bytes");
        let empty = |p| {
            format!("the topic pattern `{p}` has an empty word: write `*` for any one word, or remove a dot")
        };
        for pattern in ["a..b", ".a", "a.", "."] {
            refused(pattern, &empty(pattern));
        }
        let mixed = |word, all, mended| {
            format!(
                "`{word}` in the topic pattern `{all}` mixes a wildcard with text: `*` and `#` stand for whole words, try `{mended}`"
            )
        };
        refused("ai.rag*.token", &mixed("rag*", "ai.rag*.token", "ai.*.token"));
        refused("ai.##", &mixed("##", "ai.##", "ai.#"));
        refused("ai.*#", &mixed("*#", "ai.*#", "ai.#"));
        let blank = |p: &str, c: char| {
            format!(
                "the topic pattern {p:?} holds {c:?}: topics have neither blanks nor control characters, remove it"
            )
        };
        refused("ai.a b", &blank("ai.a b", ' '));
        refused("ai.a\nb", &blank("ai.a\nb", '\n'));
        refused("ai.a\0", &blank("ai.a\0", '\0'));
        assert!(TopicPattern::parse(&"a".repeat(255)).is_ok());
    }

    #[test]
    fn what_an_error_suggests_is_a_pattern() {
        for pattern in ["ai.rag*.token", "a#.*b", "**.x"] {
            let Err(PatternError::MixedWord { suggestion, .. }) = TopicPattern::parse(pattern) else {
                panic!()
            };
            assert!(TopicPattern::parse(&suggestion).is_ok(), "{suggestion}");
        }
    }

    #[test]
    fn many_hashes_cost_no_more_than_words_times_words() {
        let pattern = TopicPattern::parse(&format!("{}b", "#.a.".repeat(63))).unwrap();
        let topic = vec!["a"; 20_000].join(".");
        assert!(!pattern.matches(&topic));
        assert!(pattern.matches(&format!("{topic}.b")));
    }

    #[test]
    fn a_pattern_that_no_key_of_the_template_can_match_is_known() {
        let shape = [Some("ai"), None, None]; // ai.{module_name}.{event_type}
        for possible in ["#", "ai.#", "ai.*.token", "ai.safe.*", "*.*.*", "#.error", "ai.*.#.token"] {
            assert!(TopicPattern::parse(possible).unwrap().could_match(&shape), "{possible}");
        }
        for impossible in ["ai", "ai.*", "ai.*.token.*", "app.#", "*.*.*.*", "#.ai.*.*.*"] {
            assert!(!TopicPattern::parse(impossible).unwrap().could_match(&shape), "{impossible}");
        }
    }

    #[test]
    fn it_shows_and_compares_as_it_was_written() {
        let pattern: TopicPattern = "ai.*.token".parse().unwrap();
        assert_eq!(pattern.to_string(), "ai.*.token");
        assert_eq!(pattern, pattern.clone());
        assert_ne!(pattern, TopicPattern::parse("ai.#").unwrap());
    }

    /// The definition, word by word.
    fn reference(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], topic) => topic.is_empty(),
            (["#", rest @ ..], _) => (0..=topic.len()).any(|n| reference(rest, &topic[n..])),
            ([_, ..], []) => false,
            ([word, rest @ ..], [first, topic @ ..]) => {
                (*word == "*" || word == first) && reference(rest, topic)
            }
        }
    }

    fn words(
        from: &'static [&'static str],
        len: std::ops::Range<usize>,
    ) -> impl Strategy<Value = Vec<&'static str>> {
        proptest::collection::vec(proptest::sample::select(from), len)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn it_agrees_with_the_definition(
            pattern in words(&["a", "b", "*", "#"], 1..7),
            topic in words(&["a", "b", "c", ""], 1..8),
        ) {
            let text = topic.join(".");
            let topic = if text.is_empty() { vec![] } else { topic };
            let parsed = TopicPattern::parse(&pattern.join(".")).unwrap();
            prop_assert_eq!(parsed.matches(&text), reference(&pattern, &topic));
        }

        #[test]
        fn a_shape_could_match_exactly_if_some_topic_of_it_does(
            pattern in words(&["a", "b", "*", "#"], 1..6),
            shape in words(&["a", "b", "?"], 1..6),
        ) {
            let mut topics: Vec<Vec<&str>> = vec![vec![]];
            for segment in &shape {
                let choices: &[&str] = if *segment == "?" { &["a", "b", "other"] } else { &[segment] };
                topics = choices.iter().flat_map(|c| topics.iter().map(|t| [t.as_slice(), &[c]].concat())).collect();
            }
            let expected = topics.iter().any(|topic| reference(&pattern, topic));
            let shape: Vec<Option<&str>> = shape.into_iter().map(|s| (s != "?").then_some(s)).collect();
            prop_assert_eq!(TopicPattern::parse(&pattern.join(".")).unwrap().could_match(&shape), expected);
        }

        #[test]
        fn any_text_is_a_pattern_or_an_error(pattern in ".{0,40}", topic in ".{0,40}") {
            if let Ok(pattern) = TopicPattern::parse(&pattern) {
                let _ = pattern.matches(&topic);
            }
        }
    }
}
