//! Whose trouble it is that a broker refuses a key: that of the events which named it, or of all. No clock is read here.

use std::collections::VecDeque;

/// Most keys that are remembered to have worked.
const WORKED: usize = 32;

/// What is known of the keys that events have named.
///
/// A refused key is the trouble of its events where others are taken beside it. Where none is beside it, a sink asks about
/// keys that have worked: only while one of them is still taken, what is refused is not for a person to mend.
#[derive(Debug, Default)]
pub(super) struct Blame {
    /// Keys that took an event and were not refused since, the newest behind.
    worked: VecDeque<String>,
    /// One of them was taken after the last refusal.
    is_certain: bool,
}

impl Blame {
    /// A key took an event, or would take one.
    pub(super) fn worked(&mut self, key: &str) {
        self.is_certain = true;
        if self.worked.iter().any(|known| known == key) {
            return;
        }
        if self.worked.len() >= WORKED {
            self.worked.pop_front();
        }
        self.worked.push_back(key.to_owned());
    }

    /// A key was refused.
    pub(super) fn refused(&mut self, key: &str) {
        self.is_certain = false;
        self.worked.retain(|known| known != key);
    }

    /// Whether something was taken after the last refusal.
    #[cfg_attr(not(feature = "rabbitmq"), allow(dead_code, reason = "only the RabbitMQ sink asks for it"))]
    pub(super) fn is_certain(&self) -> bool {
        self.is_certain
    }

    /// The keys to ask about, so many at most. Where there is none, nobody knows that any key works.
    pub(super) fn to_ask(&self, most: usize) -> Vec<String> {
        self.worked.iter().rev().take(most).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_about_the_newest_keys_that_have_worked_and_were_not_refused_since() {
        let mut blame = Blame::default();
        assert!(blame.to_ask(9).is_empty() && !blame.is_certain());
        ["a", "b", "c", "a"].iter().for_each(|key| blame.worked(key));
        assert_eq!((blame.to_ask(2), blame.is_certain()), (vec!["c".to_owned(), "b".to_owned()], true));
        blame.refused("c");
        assert_eq!((blame.to_ask(2), blame.is_certain()), (vec!["b".to_owned(), "a".to_owned()], false));
        blame.worked("a");
        assert!(blame.is_certain());
        ["a", "b"].iter().for_each(|key| blame.refused(key));
        assert!(blame.to_ask(9).is_empty());
    }

    #[test]
    fn it_remembers_no_more_than_it_may() {
        let mut blame = Blame::default();
        (0..3 * WORKED).for_each(|n| blame.worked(&n.to_string()));
        assert_eq!(blame.to_ask(usize::MAX).len(), WORKED);
    }
}
