//! Which keys have worked and which were refused, and so whether a refusal concerns single events or all. No clock is read here.

use std::collections::VecDeque;

/// Most keys that are remembered to have worked.
const WORKED: usize = 32;

/// What is known of the keys that events have named.
///
/// A refused key concerns only its events where other keys are taken beside it. Where no other key is beside it, a sink asks
/// about keys that have worked. While one of them is still taken, the refusal is nothing that a person must mend before
/// other events can arrive.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Keys that took an event and were not refused since, the newest behind.
    worked: VecDeque<String>,
    /// One of them was taken after the last refusal.
    is_certain: bool,
}

impl Suspects {
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

    /// Whether a key was taken after the last refusal.
    #[cfg_attr(not(feature = "rabbitmq"), allow(dead_code, reason = "only the RabbitMQ sink asks for it"))]
    pub(super) fn is_certain(&self) -> bool {
        self.is_certain
    }

    /// The keys to ask about, at most `most` of them. Where there is none, no key is known to work.
    pub(super) fn to_ask(&self, most: usize) -> Vec<String> {
        self.worked.iter().rev().take(most).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_about_the_newest_keys_that_have_worked_and_were_not_refused_since() {
        let mut suspects = Suspects::default();
        assert!(suspects.to_ask(9).is_empty() && !suspects.is_certain());
        ["a", "b", "c", "a"].iter().for_each(|key| suspects.worked(key));
        assert_eq!((suspects.to_ask(2), suspects.is_certain()), (vec!["c".to_owned(), "b".to_owned()], true));
        suspects.refused("c");
        assert_eq!(
            (suspects.to_ask(2), suspects.is_certain()),
            (vec!["b".to_owned(), "a".to_owned()], false)
        );
        suspects.worked("a");
        assert!(suspects.is_certain());
        ["a", "b"].iter().for_each(|key| suspects.refused(key));
        assert!(suspects.to_ask(9).is_empty());
    }

    #[test]
    fn it_remembers_no_more_than_it_may() {
        let mut suspects = Suspects::default();
        (0..3 * WORKED).for_each(|n| suspects.worked(&n.to_string()));
        assert_eq!(suspects.to_ask(usize::MAX).len(), WORKED);
    }
}
