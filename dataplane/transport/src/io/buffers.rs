//! Buffers that the kernel receives into by itself: an io_uring provided-buffer ring.
//!
//! A buffer is the kernel's from the moment it is given until a completion names it, and ours from then until it is given back.
//! Whole buffers only: incremental consumption was found to return spurious errors.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The ring must begin at a page.
const PAGE: usize = 4_096;

pub(super) struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    count: u16,
    size: usize,
    tail: u16,
    /// Which buffers are ours now.
    ours: Box<[bool]>,
}

// SAFETY: why not safe code: the memory is shared with the kernel, which Rust's references cannot express, so it is held by
// pointers, and those are not `Send`. Invariants: both allocations are owned by this value alone, and are not bound to a thread.
unsafe impl Send for Buffers {}

impl Buffers {
    /// `count` buffers, a power of two, of `size` bytes.
    pub(super) fn new(count: u16, size: usize) -> Self {
        assert!(
            count.is_power_of_two(),
            "the ring's positions wrap by a mask"
        );
        let (ring, memory) = Self::layouts(count, size);
        // SAFETY: why not safe code: the kernel writes to this memory while no reference to it may exist. Invariants: both
        // layouts have a size above zero.
        let (entries, memory) = unsafe { (alloc_zeroed(ring), alloc_zeroed(memory)) };
        let (Some(entries), Some(memory)) = (NonNull::new(entries.cast()), NonNull::new(memory))
        else {
            handle_alloc_error(ring);
        };
        Self {
            entries,
            memory,
            count,
            size,
            tail: 0,
            ours: vec![true; usize::from(count)].into(),
        }
    }

    fn layouts(count: u16, size: usize) -> (Layout, Layout) {
        let entries = usize::from(count) * size_of::<BufRingEntry>();
        let layout = |size| Layout::from_size_align(size, PAGE).expect("a few megabytes");
        (layout(entries), layout(usize::from(count) * size))
    }

    /// Tells the kernel of the ring as buffer group `group`, and gives it all buffers.
    pub(super) fn register(&mut self, submitter: &Submitter<'_>, group: u16) -> io::Result<()> {
        let address = self.entries.as_ptr() as u64;
        // SAFETY: why not safe code: only this call registers a buffer ring. Invariants: the address is of `count` zeroed
        // entries that live until this value is dropped, which its owner does only after the ring is closed or has forgotten
        // the group (see `UringDriver::drop`).
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, group, 0)? };
        for id in 0..self.count {
            self.give(id);
        }
        Ok(())
    }

    /// Gives a buffer of ours to the kernel.
    pub(super) fn give(&mut self, id: u16) {
        let ours = std::mem::take(&mut self.ours[usize::from(id)]);
        assert!(ours, "a buffer is given once");
        let at = usize::from(self.tail & (self.count - 1));
        // SAFETY: why not safe code: the entries and the tail are shared with the kernel. Invariants: `at` is below `count`,
        // so the entry and the buffer lie in their allocations; the kernel reads an entry only once the tail has passed it,
        // and the release store of the tail makes the entry's fields visible before; the tail lies in the reserved field of
        // the first entry, is aligned to 2, and we never write that field otherwise.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(at);
            entry.set_addr(self.memory.as_ptr().add(usize::from(id) * self.size) as u64);
            entry.set_len(self.size as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    /// Notes that a completion named this buffer: it is ours until given again. False for one that is ours already.
    pub(super) fn take(&mut self, id: u16) -> bool {
        match self.ours.get_mut(usize::from(id)) {
            Some(ours) => !std::mem::replace(ours, true),
            None => false,
        }
    }

    /// A buffer of ours.
    pub(super) fn bytes(&mut self, id: u16) -> &mut [u8] {
        assert!(
            self.ours[usize::from(id)],
            "the kernel does not write to it"
        );
        // SAFETY: why not safe code: see `give`. Invariants: the buffer lies in the allocation, which was zeroed, so its bytes
        // are initialised; it is ours, so the kernel does not write to it; the borrow of `self` keeps it from being given.
        unsafe {
            let start = self.memory.as_ptr().add(usize::from(id) * self.size);
            std::slice::from_raw_parts_mut(start, self.size)
        }
    }

    /// Frees the memory.
    ///
    /// # Safety
    /// The kernel must not use the ring or a buffer any more.
    pub(super) unsafe fn free(&mut self) {
        let (ring, memory) = Self::layouts(self.count, self.size);
        // SAFETY: why not safe code: see `new`. Invariants: allocated there with these layouts; the caller calls this once and
        // vouches for the kernel.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), ring);
            dealloc(self.memory.as_ptr(), memory);
        }
    }
}
