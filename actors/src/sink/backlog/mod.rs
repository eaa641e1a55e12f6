//! The store that has a disk: what of a buffer is not in its window is written and at rest there, or still to be written.
//!
//! The window is the front of the queue, in memory, where the sink takes from. While it has room nothing else exists, and
//! the disk only follows; once it is full, events wait in the tail until they are written, and then rest on disk alone.

mod gone;
mod load;
mod part;
mod reader;
mod room;
mod state;
mod unwritten;
mod work;

pub(super) use gone::TakenAway;
pub(super) use load::Loaded;
pub(super) use part::Shed;
pub(super) use reader::Reader;
pub(super) use state::{Backlog, segment_size};
pub(super) use work::Work;
