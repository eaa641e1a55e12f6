//! What stands in front of a segment: whose it is, and how it goes on from the one before.
//!
//! It is how a file that is missing, was emptied or was exchanged is found, and how many events are gone with it.

use bytes::Bytes;

use super::marks::{MARK, mark};

pub(super) const HEAD: usize = 64;
/// Like the mark in front of a record, of another kind.
const MAGIC: [u8; 4] = [0xFF, 0xC1, 2, 0];
/// Where a segment says that everything before it is done. Written over in place, so it has a checksum of its own.
pub(super) const FRONT: usize = HEAD - MARK;

/// The head of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    /// Names the log that it is a part of.
    pub(super) log: u64,
    /// The number of its first record, after which its file is named.
    pub(super) first: u64,
    /// The same of the segment before it; zero where nothing was before it any more.
    pub(super) previous: u64,
    /// How many events had been written to the log before.
    pub(super) before: u64,
    /// How many of its own are not in it any more, as gaps in their places say.
    pub(super) gone: u64,
    /// Everything before it is done, and need not be there.
    pub(super) is_front: bool,
}

impl Head {
    pub(super) fn bytes(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        let fields = [self.log, self.first, self.previous, self.before, self.gone];
        let fields = fields.into_iter().flat_map(u64::to_le_bytes);
        bytes.iter_mut().skip(8).zip(fields).for_each(|(byte, field)| *byte = field);
        let sum = checksum(&bytes).to_le_bytes();
        bytes.iter_mut().zip(MAGIC.into_iter().chain(sum)).for_each(|(byte, value)| *byte = value);
        if self.is_front {
            let front = mark(self.first);
            bytes.iter_mut().skip(FRONT).zip(front).for_each(|(byte, value)| *byte = value);
        }
        bytes
    }

    /// The head that these bytes begin with.
    pub(super) fn read(bytes: &[u8]) -> Option<Head> {
        let bytes = bytes.get(..HEAD)?;
        let field = |i: usize| bytes.get(8 + 8 * i..)?.first_chunk().copied().map(u64::from_le_bytes);
        if bytes.get(..4)? != MAGIC || bytes.get(4..8)? != checksum(bytes).to_le_bytes() {
            return None;
        }
        let (first, previous) = (field(1)?, field(2)?);
        let is_front = previous == 0 || bytes.get(FRONT..)? == mark(first);
        Some(Head { log: field(0)?, first, previous, before: field(3)?, gone: field(4)?, is_front })
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes.get(8..FRONT).unwrap_or_default())
}

/// A segment without its head, if it has one that is whole: what records there are, and where they begin.
pub(super) fn split(bytes: &Bytes) -> (Option<Head>, Bytes, usize) {
    match Head::read(bytes) {
        Some(head) => (Some(head), bytes.slice(HEAD..), HEAD),
        None => (None, bytes.clone(), 0),
    }
}

/// Whether these are the first bytes of a head, and no more: its file was being made when the process or the machine died.
pub(super) fn is_unfinished(bytes: &[u8]) -> bool {
    bytes.len() < HEAD && bytes.iter().zip(MAGIC).all(|(byte, magic)| *byte == magic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_and_no_flipped_bit_makes_another_of_it() {
        for is_front in [false, true] {
            let head = Head { log: 7, first: 100, previous: 50, before: 12, gone: 3, is_front };
            let bytes = head.bytes();
            assert_eq!(Head::read(&bytes), Some(head));
            for bit in 0..HEAD * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                let read = Head::read(&flipped);
                assert!(read.is_none_or(|read| read == Head { is_front: false, ..head }), "bit {bit}");
            }
        }
    }
}
