//! The pool of slabs that lanes and bulk streams are read into.
//!
//! A slab is one allocation of [`SLAB_BYTES`]. QUIC writes into its spare capacity, the owner of the endpoint splits
//! messages off its front, and the pool keeps the handle of what is left. When all slices of a slab have been dropped,
//! `BytesMut::try_reclaim` gives the whole of it back: no allocation after warm-up, and nothing is ever zeroed.

use std::collections::VecDeque;

use bytes::BytesMut;
use caplane_wire::{HEADER_LEN, LANE_MESSAGE_MAX};

/// Bytes of one slab: a GSO train or a GRO batch three times over, and room at the end for the longest message of a lane.
pub(crate) const SLAB_BYTES: usize = 256 << 10;

/// At the end of a slab only the message begun is read to its end; so it must always fit.
pub(crate) const FINISH_BYTES: usize = LANE_MESSAGE_MAX;

/// Room that a slab must have to be handed out: more than the finishing zone, and enough for a header with the longest
/// extensions.
const OPEN_BYTES: usize = FINISH_BYTES + HEADER_LEN;

/// How many spent slabs to ask first. Before a new one is made all are asked: it stays for good, so that is paid as often as
/// there may be slabs, while asking a few only would let their number creep up to the budget, however few are in use.
const ASKED: usize = 4;

#[derive(Debug)]
pub(crate) struct SlabPool {
    /// Slabs with room before their finishing zone.
    open: Vec<BytesMut>,
    /// Slabs without, waiting for their slices to be dropped; oldest first.
    spent: VecDeque<BytesMut>,
    existing: usize,
    max: usize,
}

/// What is read into. Bulk messages to receivers that stand still pin what they were read into for as long as they stand, so
/// they have slabs of their own: lanes never wait for them.
#[derive(Debug)]
pub(crate) struct Pools {
    pub(crate) lanes: SlabPool,
    pub(crate) bulk: SlabPool,
}

impl Pools {
    /// Slabs in existence.
    pub(crate) fn existing(&self) -> usize {
        self.lanes.existing() + self.bulk.existing()
    }
}

impl SlabPool {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            open: Vec::new(),
            spent: VecDeque::new(),
            existing: 0,
            max,
        }
    }

    /// Slabs in existence.
    pub(crate) fn existing(&self) -> usize {
        self.existing
    }

    /// An empty slab with more than [`FINISH_BYTES`] of room; `None` when the budget is in use.
    pub(crate) fn take(&mut self) -> Option<BytesMut> {
        if let Some(mut slab) = self.open.pop() {
            // When nobody holds a slice of it any more, all of it is free again.
            let _ = slab.try_reclaim(SLAB_BYTES);
            return Some(slab);
        }
        if let Some(slab) = self.reclaim(ASKED) {
            return Some(slab);
        }
        if let Some(slab) = self.reclaim(self.spent.len()) {
            return Some(slab);
        }
        if self.existing == self.max {
            return None;
        }
        self.existing += 1;
        Some(BytesMut::with_capacity(SLAB_BYTES))
    }

    fn reclaim(&mut self, asked: usize) -> Option<BytesMut> {
        for _ in 0..asked.min(self.spent.len()) {
            let mut slab = self.spent.pop_front()?;
            if slab.try_reclaim(SLAB_BYTES) {
                return Some(slab);
            }
            self.spent.push_back(slab);
        }
        None
    }

    /// A slab whose handle stayed with the owner is not coming back; its memory goes when the owner drops it.
    pub(crate) fn write_off(&mut self) {
        self.existing = self.existing.saturating_sub(1);
    }

    /// Takes back what is left of a slab; bytes in it are dropped.
    pub(crate) fn give(&mut self, mut slab: BytesMut) {
        slab.clear();
        if slab.capacity() > OPEN_BYTES {
            self.open.push(slab);
        } else {
            self.spent.push_back(slab);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;

    #[test]
    fn a_slab_comes_back_whole_when_its_slices_are_gone() {
        let mut pool = SlabPool::new(2);
        let mut slab = pool.take().expect("within budget");
        let start = slab.as_ptr();
        slab.put_bytes(1, SLAB_BYTES - 10);
        let slice = slab.split().freeze();
        pool.give(slab);
        let other = pool.take().expect("within budget");
        assert_ne!(other.as_ptr(), start, "a slice is still held");
        assert!(pool.take().is_none(), "the budget is two");
        drop(slice);
        let again = pool.take().expect("reclaimed");
        assert_eq!(again.as_ptr(), start);
        assert!(again.capacity() >= SLAB_BYTES);
        assert_eq!(pool.existing(), 2);
    }

    #[test]
    fn no_slab_is_made_while_one_is_free_whoever_stands_before_it() {
        let mut pool = SlabPool::new(64);
        let spend = |pool: &mut SlabPool| {
            let mut slab = pool.take().expect("within budget");
            slab.put_bytes(1, slab.capacity());
            let slice = slab.split().freeze();
            pool.give(slab);
            slice
        };
        // Ten stand still, one is free behind them.
        let standing: Vec<_> = (0..10).map(|_| spend(&mut pool)).collect();
        drop(spend(&mut pool));
        for _ in 0..100 {
            drop(spend(&mut pool));
        }
        assert_eq!(pool.existing(), standing.len() + 1);
    }

    #[test]
    fn a_slab_filled_to_its_last_byte_is_reclaimed_too() {
        let mut pool = SlabPool::new(1);
        let mut slab = pool.take().expect("within budget");
        slab.put_bytes(1, slab.capacity());
        let slice = slab.split().freeze();
        assert_eq!(slab.capacity(), 0);
        pool.give(slab);
        drop(slice);
        assert!(pool.take().expect("reclaimed").capacity() >= SLAB_BYTES);
    }
}
