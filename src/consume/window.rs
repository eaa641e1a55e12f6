//! The in-flight window: which entries are in hand, and which of them are done and not yet acknowledged.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::Ticket;

/// Entries in hand, in the order of the broker.
#[derive(Debug, Default)]
pub(super) struct Window {
    entries: BTreeMap<Ticket, State>,
    /// The entries that are done, in the order in which they were finished.
    done: Vec<Ticket>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// A handler has the entry, or will have it: since then, or since the broker last heard so.
    Taken(Instant),
    /// The entry was given up, and its dead letter is not kept yet: nobody works on it.
    DeadLettered(Instant),
    Done,
}

impl Window {
    /// How many entries are in hand.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a handler has one of the entries, or will have one.
    pub(super) fn is_at_work(&self) -> bool {
        self.entries.values().any(|state| matches!(state, State::Taken(_)))
    }

    pub(super) fn contains(&self, ticket: Ticket) -> bool {
        self.entries.contains_key(&ticket)
    }

    pub(super) fn take(&mut self, ticket: Ticket, now: Instant) {
        self.entries.insert(ticket, State::Taken(now));
    }

    /// The entry can be acknowledged now. An entry that was forgotten meanwhile cannot, and is ignored.
    pub(super) fn done(&mut self, ticket: Ticket) {
        if let Some(state @ (State::Taken(_) | State::DeadLettered(_))) = self.entries.get_mut(&ticket) {
            *state = State::Done;
            self.done.push(ticket);
        }
    }

    /// The entry is to be kept as a dead letter.
    pub(super) fn dead_letter(&mut self, ticket: Ticket) {
        if let Some(state) = self.entries.get_mut(&ticket)
            && let State::Taken(since) = *state
        {
            *state = State::DeadLettered(since);
        }
    }

    /// The first entries that can be acknowledged. They stay until they are [removed](Self::remove).
    pub(super) fn done_first(&self, most: usize) -> Vec<Ticket> {
        self.done.iter().take(most).copied().collect()
    }

    /// How many entries can be acknowledged.
    pub(super) fn done_len(&self) -> usize {
        self.done.len()
    }

    /// Removes the entries that were done first.
    pub(super) fn remove(&mut self, most: usize) {
        for ticket in self.done.drain(..most.min(self.done.len())) {
            self.entries.remove(&ticket);
        }
    }

    /// Removes the done entries at the front and returns the last of them: everything up to that one is done.
    pub(super) fn remove_front(&mut self) -> Option<Ticket> {
        let mut last = None;
        while let Some(entry) = self.entries.first_entry().filter(|entry| matches!(entry.get(), State::Done))
        {
            last = Some(entry.remove_entry().0);
        }
        if last.is_some() {
            self.done.retain(|ticket| self.entries.contains_key(ticket));
        }
        last
    }

    /// Removes everything before `ticket`: the broker delivers that again by itself.
    pub(super) fn forget_before(&mut self, ticket: Ticket) {
        self.entries = self.entries.split_off(&ticket);
        self.done.retain(|ticket| self.entries.contains_key(ticket));
    }

    /// The entries that have been in hand for this time, in the order of the broker. Their time starts anew.
    pub(super) fn aged(&mut self, age: Duration, now: Instant) -> Vec<Ticket> {
        let mut aged = Vec::new();
        for (ticket, state) in &mut self.entries {
            if let State::Taken(since) | State::DeadLettered(since) = state
                && now.duration_since(*since) >= age
            {
                *since = now;
                aged.push(*ticket);
            }
        }
        aged
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag_of(ticket: Ticket) -> u64 {
        match ticket {
            Ticket::Entry { number, .. } => number,
            Ticket::Delivery { tag, .. } => tag,
        }
    }

    fn window(n: u64) -> Window {
        let mut window = Window::default();
        (0..n).for_each(|i| window.take(Ticket::delivery(1, i), Instant::now()));
        window
    }

    #[test]
    fn only_what_is_done_from_the_front_on_is_acknowledged_at_once() {
        let mut window = window(5);
        [0, 1, 3].into_iter().for_each(|i| window.done(Ticket::delivery(1, i)));
        assert_eq!(window.remove_front(), Some(Ticket::delivery(1, 1)));
        assert_eq!(window.remove_front(), None, "2 is not done");
        assert_eq!(window.done_first(9), [Ticket::delivery(1, 3)]);
        window.done(Ticket::delivery(1, 2));
        assert_eq!(
            (window.remove_front(), window.len(), window.done_len()),
            (Some(Ticket::delivery(1, 3)), 1, 0)
        );
    }

    #[test]
    fn what_is_acknowledged_one_by_one_leaves_the_rest_in_hand() {
        let mut window = window(4);
        [3, 1].into_iter().for_each(|i| window.done(Ticket::delivery(1, i)));
        assert_eq!(window.done_first(1), [Ticket::delivery(1, 3)]);
        window.remove(1);
        assert!(!window.contains(Ticket::delivery(1, 3)) && window.contains(Ticket::delivery(1, 1)));
        assert_eq!((window.len(), window.done_len()), (3, 1));
    }

    #[test]
    fn what_was_forgotten_is_not_acknowledged_when_it_is_done_at_last() {
        let mut window = window(3);
        window.done(Ticket::delivery(1, 1));
        window.forget_before(Ticket::delivery(2, 0));
        window.done(Ticket::delivery(1, 0));
        assert!(window.is_empty() && window.done_len() == 0);
    }

    #[test]
    fn what_waits_for_its_letter_to_be_kept_is_in_hand_and_nobody_works_on_it() {
        let mut window = window(2);
        window.done(Ticket::delivery(1, 0));
        assert!(window.is_at_work());
        window.dead_letter(Ticket::delivery(1, 1));
        assert!(!window.is_at_work() && window.contains(Ticket::delivery(1, 1)));
        assert_eq!(window.aged(Duration::ZERO, Instant::now()), [Ticket::delivery(1, 1)]);
        window.done(Ticket::delivery(1, 1));
        assert_eq!(window.remove_front(), Some(Ticket::delivery(1, 1)));
    }

    #[test]
    fn what_is_in_hand_for_long_is_named_once_for_each_while() {
        let mut window = window(2);
        let (age, later) = (Duration::from_secs(1), Instant::now() + Duration::from_secs(2));
        window.done(Ticket::delivery(1, 0));
        assert_eq!(window.aged(age, later), [Ticket::delivery(1, 1)]);
        assert_eq!(window.aged(age, later), []);
    }

    proptest! {
        /// Nothing is acknowledged by the front that is not done, whatever the order in which handlers end.
        #[test]
        fn the_front_never_passes_what_is_not_done(order in Just((0_u64..20).collect::<Vec<_>>()).prop_shuffle(), until in 0_usize..20) {
            let mut window = window(20);
            let mut acknowledged = None;
            for (n, i) in order.iter().enumerate().take(until) {
                window.done(Ticket::delivery(1, *i));
                acknowledged = window.remove_front().or(acknowledged);
                let first_undone = (0..20).find(|i| !order[..=n].contains(i)).unwrap_or(20);
                prop_assert_eq!(acknowledged.map_or(0, |ticket| tag_of(ticket) + 1), first_undone);
            }
        }
    }
}
