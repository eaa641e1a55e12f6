//! Whose trouble it is that a broker refuses a key: that of the events which named it, or of all. No clock is read here.

use std::collections::HashSet;

/// Most keys that are remembered to have worked.
const WORKED: usize = 1024;
/// So many keys in a row may be refused by what worked before alone.
const IN_A_ROW: usize = 3;

/// What is known of the keys that events have named.
///
/// A refused key is the trouble of its events where others are taken: beside it, or before. What has worked and is refused
/// now is a change at the broker, which may concern all keys: then only what works afterwards counts.
#[derive(Debug, Default)]
pub(super) struct Blame {
    /// Keys that took an event.
    worked: HashSet<String>,
    /// Those that were refused since then, as far as they count.
    refused: HashSet<String>,
}

impl Blame {
    /// A key took an event.
    pub(super) fn worked(&mut self, key: &str) {
        self.refused.clear();
        if self.worked.contains(key) {
            return;
        }
        if self.worked.len() >= WORKED {
            self.worked.clear();
        }
        self.worked.insert(key.to_owned());
    }

    /// Whether these refused keys are the trouble of their events alone, which can then never arrive. `others` says whether
    /// others beside them are taken. Keys of which nobody knows that any works are for a person to mend, and their events
    /// wait.
    pub(super) fn is_theirs(&mut self, keys: &HashSet<String>, others: bool) -> bool {
        if others {
            self.refused.clear();
            self.worked.retain(|key| !keys.contains(key));
            return true;
        }
        if keys.iter().any(|key| self.worked.contains(key)) {
            self.worked.clear();
        }
        let room = (IN_A_ROW + 1).saturating_sub(self.refused.len());
        let fresh: Vec<_> = keys.difference(&self.refused).take(room).cloned().collect();
        self.refused.extend(fresh);
        !self.worked.is_empty() && self.refused.len() <= IN_A_ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_theirs(blame: &mut Blame, keys: &str, others: bool) -> bool {
        blame.is_theirs(&keys.split(' ').map(str::to_owned).collect(), others)
    }

    #[test]
    fn only_beside_others_that_work_a_key_is_the_trouble_of_its_events() {
        for (keys, others) in [("a", false), ("a b", false), ("a", true), ("a b", true)] {
            assert_eq!(is_theirs(&mut Blame::default(), keys, others), others, "{keys} {others}");
        }
    }

    #[test]
    fn keys_alone_are_judged_by_what_worked_before_and_a_fourth_in_a_row_is_one_too_many() {
        let mut blame = Blame::default();
        blame.worked("a");
        for key in ["b", "b", "c", "d", "b"] {
            assert!(is_theirs(&mut blame, key, false), "{key}");
        }
        assert!(!is_theirs(&mut blame, "e", false) && !is_theirs(&mut blame, "b", false));
        blame.worked("a");
        assert!(is_theirs(&mut blame, "e", false));
        blame.worked("a");
        assert!(!is_theirs(&mut blame, "b c d e", false));
    }

    #[test]
    fn a_key_that_has_worked_and_is_refused_now_makes_all_of_them_doubtful() {
        let mut blame = Blame::default();
        ["a", "b"].iter().for_each(|key| blame.worked(key));
        assert!(!is_theirs(&mut blame, "a", false) && !is_theirs(&mut blame, "z", false));
        blame.worked("b");
        assert!(is_theirs(&mut blame, "a", false), "another works still");
        assert!(is_theirs(&mut blame, "b", true), "others arrived beside it");
        assert!(!is_theirs(&mut blame, "b", false), "none is known to work");
    }

    #[test]
    fn it_remembers_no_more_than_it_may() {
        let mut blame = Blame::default();
        (0..3 * WORKED).for_each(|n| blame.worked(&n.to_string()));
        for n in 0..100 {
            is_theirs(&mut blame, &format!("x{n}"), false);
        }
        assert!(blame.worked.len() <= WORKED && blame.refused.len() <= IN_A_ROW + 1);
    }
}
