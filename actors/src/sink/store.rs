//! The seam between a buffer's queue and where it has what waits: in memory alone, or in memory and on disk.

use std::fmt;

use tokio::time::Instant;

use super::counts::Counts;
use super::entry::Entry;
use super::overflow::{Fill, Newcomer, Victims};
use super::window::Window;
use crate::event::Delivery;

/// What a queue asks of the place where its events wait. The window is the front of the queue and always in memory; what
/// is behind it is the store's own affair.
pub(super) trait Store: fmt::Debug + Send {
    fn fill(&self, counts: &Counts) -> Fill;

    /// What an event of so many bytes of JSON takes of it.
    fn cost(&self, size: usize) -> usize;

    /// Takes in an entry at the end.
    fn append(&mut self, entry: Entry, window: &mut Window);

    /// The last entry, where it is in memory.
    fn last<'a>(&'a mut self, window: &'a mut Window) -> Option<&'a mut Entry>;

    /// An event of that size has left the window.
    fn left(&mut self, delivery: &Delivery, size: usize);

    /// Moves what is behind the window into it, as far as it has room.
    fn refill(&mut self, window: &mut Window);

    /// The number of the first entry behind the window; `None` where nothing is.
    fn first(&self) -> Option<u64>;

    /// Sheds some of one class, oldest first, and counts them.
    fn shed(
        &mut self,
        victims: Victims,
        newcomer: Newcomer,
        window: &mut Window,
        counts: &mut Counts,
        now: Instant,
    );

    /// How many of the events from a number on survive the process.
    fn on_disk(&self, from: u64, counts: &Counts) -> u64;

    /// Whether what waits from a number on survives the process, or is about to.
    fn is_kept(&self, from: u64) -> bool;

    /// Why nothing can be written to its disk, while that is so.
    fn trouble(&self, from: u64) -> Option<&str>;

    /// How many places of its disk could not be read, and how many events should have been there at its start and were not.
    fn damage(&self) -> (u64, u64);

    /// Whether it is to be on a disk, and may come there yet.
    fn awaits_disk(&self) -> bool;

    /// Whether the window has room for what rests on disk.
    fn wants_more(&self) -> bool;
}
