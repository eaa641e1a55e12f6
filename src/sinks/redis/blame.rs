//! Whose trouble a key is that holds no stream: that of the events which named it, or of the configuration.

use std::collections::HashSet;

/// What is known of the keys that events have named.
#[derive(Debug)]
pub(super) struct Blame {
    /// Whether values of the events make the keys, so that some of many may be taken.
    by_value: bool,
    /// The last two keys whose streams took an event.
    worked: [Option<String>; 2],
    /// The first two keys since then that hold no stream.
    wrong: HashSet<String>,
}

impl Blame {
    pub(super) fn new(by_value: bool) -> Blame {
        Blame { by_value, worked: [None, None], wrong: HashSet::new() }
    }

    /// A stream took an event.
    pub(super) fn worked(&mut self, key: &str) {
        self.wrong.clear();
        if self.worked[0].as_deref() != Some(key) {
            self.worked.swap(0, 1);
            self.worked[0] = Some(key.to_owned());
        }
    }

    /// Whether keys of one transaction that hold no stream are the trouble of their events alone, which can then never
    /// arrive. `others` says whether others of the transaction arrived. A key that all events have, or keys of which
    /// nobody knows that any works, are for a person to mend, and the events wait.
    pub(super) fn is_theirs(&mut self, keys: &HashSet<String>, others: bool) -> bool {
        if others {
            self.wrong.clear();
        }
        let room = 2_usize.saturating_sub(self.wrong.len());
        let fresh: Vec<_> = keys.difference(&self.wrong).take(room).cloned().collect();
        self.wrong.extend(fresh);
        let worked_before = || self.worked.iter().flatten().any(|key| !keys.contains(key));
        (others && self.by_value) || (self.wrong.len() == 1 && (others || worked_before()))
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
        for by_value in [false, true] {
            for (keys, others, theirs) in
                [("a", false, false), ("a b", false, false), ("a", true, true), ("a b", true, by_value)]
            {
                assert_eq!(is_theirs(&mut Blame::new(by_value), keys, others), theirs, "{keys} {others}");
            }
        }
    }

    #[test]
    fn one_key_alone_is_judged_by_what_worked_before_and_a_second_is_one_too_many() {
        for by_value in [false, true] {
            let mut blame = Blame::new(by_value);
            blame.worked("a");
            assert!(!is_theirs(&mut blame, "a", false), "it is the only one that ever worked");
            blame.worked("b");
            assert!(is_theirs(&mut blame, "a", false) && is_theirs(&mut blame, "a", false));
            assert!(!is_theirs(&mut blame, "c", false) && !is_theirs(&mut blame, "a", false));
            blame.worked("b");
            assert!(is_theirs(&mut blame, "c", false) && !is_theirs(&mut blame, "d e", false));
            assert!(!is_theirs(&mut blame, "c", false), "it is known of more");
        }
    }
}
