//! Which of the two stores a buffer has now.

use std::ops::{Deref, DerefMut};

use super::backlog::Backlog;
use super::counts::Counts;
use super::entry::Entry;
use super::memory::Memory;
use super::overflow::Fill;
use super::store::Store;
use super::window::Window;

#[derive(Debug)]
pub(super) enum AnyStore {
    Memory(Memory),
    Backlog(Box<Backlog>),
}

/// What is asked for each event that comes in goes without a virtual call.
impl AnyStore {
    pub(super) fn fill(&self, counts: &Counts) -> Fill {
        match self {
            AnyStore::Memory(memory) => memory.fill(counts),
            AnyStore::Backlog(backlog) => backlog.fill(counts),
        }
    }

    pub(super) fn cost(&self, size: usize) -> usize {
        match self {
            AnyStore::Memory(memory) => memory.cost(size),
            AnyStore::Backlog(backlog) => backlog.cost(size),
        }
    }

    pub(super) fn append(&mut self, entry: Entry, window: &mut Window) {
        match self {
            AnyStore::Memory(memory) => memory.append(entry, window),
            AnyStore::Backlog(backlog) => backlog.append(entry, window),
        }
    }
}

impl Deref for AnyStore {
    type Target = dyn Store;

    fn deref(&self) -> &(dyn Store + 'static) {
        match self {
            AnyStore::Memory(memory) => memory,
            AnyStore::Backlog(backlog) => &**backlog,
        }
    }
}

impl DerefMut for AnyStore {
    fn deref_mut(&mut self) -> &mut (dyn Store + 'static) {
        match self {
            AnyStore::Memory(memory) => memory,
            AnyStore::Backlog(backlog) => &mut **backlog,
        }
    }
}
