//! The disk behind a buffer: a log in a folder of its own, and what writes to it.

#[cfg(test)]
mod damage;
mod files;
mod handle;
mod head;
#[cfg(test)]
mod holes;
mod log;
mod marks;
mod mend;
#[cfg(test)]
mod model;
mod names;
#[cfg(test)]
mod power;
#[cfg(test)]
mod pressure;
mod record;
mod recover;
mod segment;
#[cfg(test)]
mod taken;
mod writer;

pub use files::FolderError;
pub(super) use files::make;
pub(super) use handle::Disk;
pub(super) use record::{HEADER, Kind, Record};
pub(super) use segment::{Recovered, Segment, Stored};
pub(crate) use writer::{open, open_inline};
