//! What may be lost when a buffer is full: one rule for both stores, memory and disk. It moves and counts nothing itself.

use super::policy::WhenFull;
use crate::event::Class;

/// A full buffer frees this part of itself at once, so that the search for victims is paid for by many events.
const CHUNK: usize = 8;
/// Lifecycle events are dear: no more of them go than must.
const SMALL_CHUNK: usize = CHUNK * CHUNK;
/// Tokens may not use the last part of a buffer: lifecycle events find room without a search.
const RESERVE: usize = 16;
/// Nor the last quarter of what may wait to be written; of that, lifecycle events may use all but the reserve.
const TOKEN_RESERVE: usize = 4;

/// How full a store is, and how full it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fill {
    pub(super) events: Level,
    /// In bytes.
    pub(super) size: Level,
    /// Bytes in memory that wait for a disk.
    pub(super) unwritten: Level,
    /// Whether one event may be larger than all of an empty store.
    pub(super) takes_any_size_alone: bool,
}

/// One measure of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Level {
    pub(super) used: usize,
    pub(super) max: usize,
}

/// An event that is to come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Newcomer {
    pub(super) class: Class,
    /// What it takes of the store, in bytes.
    pub(super) size: usize,
}

/// A class of which events may go, so that another may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Victims {
    pub(super) class: Class,
    /// What comes in is of that class itself.
    are_its_own: bool,
}

/// A store that may be full.
pub(super) trait Room {
    fn fill(&self) -> Fill;
    /// Sheds some of these.
    fn shed(&mut self, victims: Victims, newcomer: Newcomer);
}

/// Makes room for one event; `false` when it must stay out itself.
pub(super) fn make_room(when_full: WhenFull, newcomer: Newcomer, store: &mut impl Room) -> bool {
    let fill = store.fill();
    if fill.has_room_for(newcomer) {
        return true;
    }
    let is_too_large = newcomer.size > limit(newcomer.class, fill.size.max);
    if when_full == WhenFull::DropNewest || is_too_large {
        return false;
    }
    for victims in victims_of(newcomer.class) {
        store.shed(victims, newcomer);
        if store.fill().has_room_for(newcomer) {
            return true;
        }
    }
    false
}

/// How far events of a class may fill a store.
fn limit(class: Class, max: usize) -> usize {
    let limit = if class == Class::Token { max - max / RESERVE } else { max };
    limit.max(1)
}

/// How far events of a class may fill what waits to be written.
fn unwritten_limit(class: Class, max: usize) -> usize {
    match class {
        Class::Token => max - max / TOKEN_RESERVE,
        Class::Lifecycle => max - max / RESERVE,
        Class::Audit => max,
    }
}

/// Whose turn it is to go, in this order.
fn victims_of(newcomer: Class) -> impl Iterator<Item = Victims> {
    let victims = [Class::Token, Class::Lifecycle];
    let may_go =
        move |class: &Class| *class < newcomer || (*class == Class::Token && newcomer == Class::Token);
    victims.into_iter().filter(may_go).map(move |class| Victims { class, are_its_own: class == newcomer })
}

impl Fill {
    pub(super) fn has_room_for(&self, newcomer: Newcomer) -> bool {
        self.has_place_for(newcomer) && self.can_stage(newcomer)
    }

    /// Whether it fits in, once it is where it is to stay.
    pub(super) fn has_place_for(&self, newcomer: Newcomer) -> bool {
        self.is_within_count(newcomer.class) && self.is_within_size(newcomer)
    }

    /// Whether there may be one more event of that class, whatever its size.
    pub(super) fn is_within_count(&self, class: Class) -> bool {
        self.events.used < limit(class, self.events.max)
    }

    pub(super) fn is_within_size(&self, newcomer: Newcomer) -> bool {
        let is_alone = self.takes_any_size_alone && self.events.used == 0;
        is_alone || self.size.used + newcomer.size <= limit(newcomer.class, self.size.max)
    }

    /// Whether the disk keeps up.
    pub(super) fn can_stage(&self, newcomer: Newcomer) -> bool {
        self.unwritten.used + newcomer.size <= unwritten_limit(newcomer.class, self.unwritten.max)
    }
}

impl Victims {
    fn chunk(self) -> usize {
        if self.class == Class::Token { CHUNK } else { SMALL_CHUNK }
    }

    /// How many of them go at once where so many may wait.
    pub(super) fn events(self, max: usize) -> usize {
        max.div_ceil(self.chunk())
    }

    /// How many of their bytes go at once where so many may wait.
    pub(super) fn bytes(self, max: usize) -> usize {
        max / self.chunk()
    }

    /// Whether it is worth the search where there are so many. A token displaces older tokens only where a whole chunk of
    /// them goes at once.
    pub(super) fn are_worth_it(self, there: usize, chunk: usize) -> bool {
        there >= if self.are_its_own { chunk } else { 1 }
    }

    /// Whether they are of a class below the newcomer's.
    pub(super) fn are_cheaper(self) -> bool {
        !self.are_its_own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::CLASSES;

    /// A store that is only numbers: of each class so many events, each of ten bytes.
    #[derive(Debug, Clone, PartialEq)]
    struct Plain {
        waiting: [usize; 3],
        max: usize,
        asked: Vec<Class>,
    }

    impl Room for Plain {
        fn fill(&self) -> Fill {
            let events = self.waiting.iter().sum();
            Fill {
                events: Level { used: events, max: self.max },
                size: Level { used: events * 10, max: usize::MAX },
                unwritten: Level { used: 0, max: usize::MAX },
                takes_any_size_alone: false,
            }
        }

        fn shed(&mut self, victims: Victims, _: Newcomer) {
            self.asked.push(victims.class);
            let waiting = &mut self.waiting[victims.class as usize];
            let chunk = victims.events(self.max);
            if victims.are_worth_it(*waiting, chunk) {
                *waiting = waiting.saturating_sub(chunk);
            }
        }
    }

    #[track_caller]
    fn goes(waiting: [usize; 3], class: Class, comes_in: bool, left: [usize; 3]) {
        let mut store = Plain { waiting, max: 160, asked: Vec::new() };
        let newcomer = Newcomer { class, size: 10 };
        assert_eq!((make_room(WhenFull::ShedTokens, newcomer, &mut store), store.waiting), (comes_in, left));
        assert!(store.asked.is_sorted(), "the cheaper ones are asked first");
        assert!(store.asked.iter().all(|asked| *asked < class || *asked == Class::Token));
        let mut store = Plain { waiting, max: 160, asked: Vec::new() };
        assert_eq!(make_room(WhenFull::DropNewest, newcomer, &mut store), comes_in && waiting == left);
        assert_eq!(store.waiting, waiting, "only the newest is dropped");
    }

    #[test]
    fn who_goes_for_whom() {
        use Class::{Audit, Lifecycle, Token};
        // There is room, to the reserve for tokens and to the end for others.
        goes([149, 0, 0], Token, true, [149, 0, 0]);
        goes([159, 0, 0], Lifecycle, true, [159, 0, 0]);
        // A token displaces a whole eighth of tokens or nothing, and nothing dearer.
        goes([150, 0, 0], Token, true, [130, 0, 0]);
        goes([20, 130, 0], Token, true, [0, 130, 0]);
        goes([19, 131, 0], Token, false, [19, 131, 0]);
        goes([0, 150, 0], Token, false, [0, 150, 0]);
        // A lifecycle event displaces an eighth of tokens, or what there is of them, and never its own kind.
        goes([150, 10, 0], Lifecycle, true, [130, 10, 0]);
        goes([1, 159, 0], Lifecycle, true, [0, 159, 0]);
        goes([0, 160, 0], Lifecycle, false, [0, 160, 0]);
        goes([0, 0, 160], Lifecycle, false, [0, 0, 160]);
        // An audit event displaces tokens first, then no more lifecycle events than a sixty-fourth.
        goes([10, 150, 0], Audit, true, [0, 150, 0]);
        goes([0, 160, 0], Audit, true, [0, 157, 0]);
        goes([0, 1, 159], Audit, true, [0, 0, 159]);
        goes([0, 0, 160], Audit, false, [0, 0, 160]);
    }

    #[test]
    fn how_far_each_class_may_fill_a_store() {
        let limits = |max| CLASSES.map(|class| limit(class, max));
        assert_eq!(limits(160), [150, 160, 160]);
        assert_eq!(limits(15), [15, 15, 15]);
        assert_eq!(limits(0), [1, 1, 1]);
        let unwritten = |max| CLASSES.map(|class| unwritten_limit(class, max));
        assert_eq!(unwritten(160), [120, 150, 160]);
        assert_eq!(unwritten(0), [0, 0, 0]);
    }

    #[test]
    fn what_goes_at_once_is_a_part_of_what_may_wait() {
        let tokens = Victims { class: Class::Token, are_its_own: false };
        let others = Victims { class: Class::Lifecycle, are_its_own: false };
        assert_eq!((tokens.events(100), tokens.bytes(100)), (13, 12));
        assert_eq!((others.events(100), others.bytes(100)), (2, 1));
    }

    #[test]
    fn an_event_larger_than_its_store_displaces_nothing_and_may_wait_alone_in_memory() {
        struct Small(Fill);
        impl Room for Small {
            fn fill(&self) -> Fill {
                self.0
            }
            fn shed(&mut self, victims: Victims, _: Newcomer) {
                panic!("{victims:?} may stay");
            }
        }
        let large = Newcomer { class: Class::Audit, size: 101 };
        for (events, alone, comes_in) in [(0, true, true), (1, true, false), (0, false, false)] {
            let level = |used, max| Level { used, max };
            let fill = Fill {
                events: level(events, 10),
                size: level(events * 10, 100),
                unwritten: level(0, usize::MAX),
                takes_any_size_alone: alone,
            };
            assert_eq!(make_room(WhenFull::ShedTokens, large, &mut Small(fill)), comes_in);
        }
    }
}
