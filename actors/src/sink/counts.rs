//! The numbers of one buffer: what waits in it, wherever that is, and what became of the rest.

use super::balance::Balance;
use crate::event::Class;

#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Events that wait, markers not counted.
    pub(super) events: usize,
    pub(super) bytes: usize,
    /// Those that are not with the sink, by class.
    pub(super) idle: [usize; 3],
    pub(super) notices: usize,
    /// What became of the others.
    pub(super) balance: Balance,
}

impl Counts {
    /// More events wait.
    pub(super) fn count_in(&mut self, class: Class, events: usize, bytes: usize) {
        self.events += events;
        self.bytes += bytes;
        self.give_back(class, events);
    }

    /// Some that were not with the sink are shed.
    pub(super) fn count_shed(&mut self, class: Class, events: usize, bytes: usize) {
        self.events -= events;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.lend(class, events);
        self.balance.shed += events as u64;
    }

    /// Some are with the sink from now on.
    pub(super) fn lend(&mut self, class: Class, events: usize) {
        if let Some(idle) = self.idle.get_mut(class as usize) {
            *idle -= events;
        }
    }

    /// Some are with the sink no more.
    pub(super) fn give_back(&mut self, class: Class, events: usize) {
        if let Some(idle) = self.idle.get_mut(class as usize) {
            *idle += events;
        }
    }

    pub(super) fn idle(&self, class: Class) -> usize {
        self.idle.get(class as usize).copied().unwrap_or(0)
    }
}
