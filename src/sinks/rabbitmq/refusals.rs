//! What the broker refuses of single events, keys and sizes, and how warily to send what it may refuse. Each refusal ends a
//! channel with all that is under way on it, so none is asked for twice in a minute. No clock is read here.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use tokio::time::Instant;

/// When a refused key or size is tried again: the permission or the limit may have been changed.
const FORGET: Duration = Duration::from_secs(60);
/// Most keys of either kind that are remembered.
const KEPT: usize = 1 << 14;

/// What a broker says of one event, and not of all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// The user may not write to a topic that begins with this text; `true` where the text is the whole topic.
    Topic(String, bool),
    /// The event is larger than this number of bytes.
    Size(usize),
}

/// Reads what the broker said when it refused a publish; `None` where that concerns all events.
pub(super) fn read(error: &lapin::Error) -> Option<Word> {
    let ErrorKind::ProtocolError(error) = error.kind() else { return None };
    let said = error.get_message().as_str();
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
            let (_, topic) = said.split_once("access to topic '")?;
            // The broker cuts what it says at 255 bytes.
            Some(match topic.rsplit_once("' in exchange '") {
                Some((topic, _)) => Word::Topic(topic.to_owned(), true),
                None => Word::Topic(topic.trim_end_matches("...").to_owned(), false),
            })
        }
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) if said.contains("message size") => {
            let (_, limit) = said.split_once("max size ")?;
            let digits = limit.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok().map(Word::Size)
        }
        _ => None,
    }
}

/// What is known to be refused.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Keys that the user may not write to, and since when that is known.
    keys: HashMap<Box<str>, Instant>,
    /// The largest size that is taken, and since when that is known.
    largest: Option<(usize, Instant)>,
    /// How many events of keys that are not known to be taken may be under way together, after a refusal.
    pace: Option<usize>,
    /// Keys that were taken since then.
    taken: HashSet<Box<str>>,
}

impl Refusals {
    /// Whether something was refused lately: then keys are tried one by one before many events are sent together.
    pub(super) fn are_wary(&self) -> bool {
        self.pace.is_some()
    }

    /// Takes in that a minute has passed.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_old = |since: &Instant| now.saturating_duration_since(*since) >= FORGET;
        let before = self.keys.len();
        self.keys.retain(|_, since| !is_old(since));
        let had = self.largest.is_some();
        self.largest = self.largest.take().filter(|(_, since)| !is_old(since));
        if self.keys.len() < before || self.largest.is_some() != had {
            self.beware();
        }
    }

    /// What is refused next is to end no channel with much under way.
    pub(super) fn beware(&mut self) {
        self.pace = Some(1);
    }

    /// Whether it is known what the broker makes of a key.
    pub(super) fn knows(&self, key: &str) -> bool {
        self.taken.contains(key) || self.refuses_key(key)
    }

    pub(super) fn refuses_key(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// The largest size that is taken, where `bytes` is more.
    pub(super) fn refuses_size(&self, bytes: usize) -> Option<usize> {
        self.largest.map(|(largest, _)| largest).filter(|largest| bytes > *largest)
    }

    /// The broker refused this key.
    pub(super) fn refused_key(&mut self, key: &str, now: Instant) {
        self.taken.remove(key);
        if self.keys.len() >= KEPT {
            self.keys.clear();
        }
        self.keys.insert(key.into(), now);
        self.beware();
    }

    /// The broker takes nothing that is larger.
    pub(super) fn refused_size(&mut self, largest: usize, now: Instant) {
        self.largest = Some((largest, now));
        self.beware();
    }

    /// The broker took an event of this key, whether or not a queue did.
    pub(super) fn took(&mut self, key: &str) {
        if self.are_wary() && !self.taken.contains(key) {
            if self.taken.len() >= KEPT {
                self.taken.clear();
            }
            self.taken.insert(key.into());
        }
    }

    /// Forgets what is known of keys, so that they are tried again: a person must mend why they are refused.
    pub(super) fn forget_keys(&mut self) {
        self.keys.clear();
        self.taken.clear();
    }

    /// How many of these keys may be under way together: all that are known to be taken, or as many others as is wise.
    pub(super) fn stretch<'k>(&self, keys: impl Iterator<Item = &'k str>) -> usize {
        let Some(pace) = self.pace else { return usize::MAX };
        let (mut known, mut unknown) = (0, 0);
        for key in keys {
            let is_known = self.knows(key);
            if if is_known { unknown > 0 } else { known > 0 || unknown >= pace } {
                break;
            }
            *(if is_known { &mut known } else { &mut unknown }) += 1;
        }
        (known + unknown).max(1)
    }

    /// Nothing of a stretch of unknown keys was refused; at most `window` events are under way when all is well.
    pub(super) fn none_of(&mut self, window: usize) {
        self.pace = self.pace.map(|pace| pace.saturating_mul(2)).filter(|pace| *pace < window);
        if !self.are_wary() {
            self.taken.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    #[track_caller]
    fn reads(code: u16, text: &str, word: Option<Word>) {
        let error = AMQPError::from_id(code, text.into()).expect("a code of the protocol");
        assert_eq!(read(&ErrorKind::ProtocolError(error).into()), word, "{text}");
    }

    #[test]
    fn what_the_broker_says_of_one_event_is_told_from_what_it_says_of_all() {
        let whole =
            "ACCESS_REFUSED - access to topic 'a.it's' in exchange 'x' in vhost 'v' refused for user 'u'";
        reads(403, whole, Some(Word::Topic("a.it's".to_owned(), true)));
        let cut = "ACCESS_REFUSED - access to topic 'a.very.lo...";
        reads(403, cut, Some(Word::Topic("a.very.lo".to_owned(), false)));
        reads(403, "ACCESS_REFUSED - access to exchange 'x' in vhost 'v' refused for user 'u'", None);
        let large = "PRECONDITION_FAILED - message size 3000 is larger than configured max size 2000";
        reads(406, large, Some(Word::Size(2000)));
        reads(406, "PRECONDITION_FAILED - message size 3 is larger than max size 2", Some(Word::Size(2)));
        reads(406, "PRECONDITION_FAILED - message size is wrong", None);
        reads(404, "NOT_FOUND - no exchange 'x' in vhost 'v'", None);
    }

    #[test]
    fn after_a_refusal_unknown_keys_go_alone_and_known_ones_together_until_all_is_well() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let stretch = |refusals: &Refusals, keys: &str| refusals.stretch(keys.split(' '));
        assert_eq!(stretch(&refusals, "a b"), usize::MAX);
        refusals.refused_key("x", now);
        assert!(refusals.refuses_key("x"));
        assert_eq!(stretch(&refusals, "a a b"), 1);
        refusals.took("a");
        assert_eq!([stretch(&refusals, "a x a b"), stretch(&refusals, "b a")], [3, 1]);
        refusals.none_of(8);
        assert_eq!(stretch(&refusals, "b c d"), 2);
        refusals.refused_size(10, now);
        assert_eq!((stretch(&refusals, "b c d"), refusals.refuses_size(11)), (1, Some(10)));
        assert_eq!(refusals.refuses_size(10), None);
        (0..3).for_each(|_| refusals.none_of(8));
        assert!(!refusals.are_wary() && refusals.refuses_key("x"));
    }

    #[test]
    fn after_a_minute_what_was_refused_is_tried_again_by_itself() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        refusals.refused_key("x", now);
        refusals.refused_size(10, now);
        (0..10).for_each(|_| refusals.none_of(8));
        refusals.expire(now + FORGET - Duration::from_millis(1));
        assert!(refusals.refuses_key("x") && !refusals.are_wary());
        refusals.expire(now + FORGET);
        assert!(!refusals.refuses_key("x") && refusals.refuses_size(11).is_none() && refusals.are_wary());
    }

    #[test]
    fn it_holds_no_more_than_it_may() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        for n in 0..3 * KEPT {
            refusals.refused_key(&format!("x{n}"), now);
            refusals.took(&n.to_string());
        }
        assert!(refusals.keys.len() <= KEPT && refusals.taken.len() <= KEPT);
    }
}
