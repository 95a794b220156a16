//! Counts what the program takes from the heap: live bytes and calls, in all threads together. For the
//! measuring room and for tests; no product holds it. Refuses to know who allocates.
#![allow(dead_code, reason = "each program reads the counts it needs")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The system's allocator, counted.
pub struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);
static LIVE_BYTES: AtomicU64 = AtomicU64::new(0);
static LIVE_BLOCKS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static HEAP: Counting = Counting;

/// What is allocated now, and how often was asked for it until now.
#[derive(Clone, Copy, Debug)]
pub struct Heap {
    /// Calls that gave or moved memory: `alloc` and `realloc`.
    pub calls: u64,
    /// Bytes held, as they were asked for: the allocator's own headers and rounding are not in them.
    pub bytes: u64,
    /// Blocks held.
    pub blocks: u64,
}

/// The counts of this moment.
pub fn heap() -> Heap {
    Heap {
        calls: CALLS.load(Relaxed),
        bytes: LIVE_BYTES.load(Relaxed),
        blocks: LIVE_BLOCKS.load(Relaxed),
    }
}

// SAFETY: every call goes to `System` as it came, so its promises are kept; counting touches no memory of the
// caller. Safe code cannot stand in: `GlobalAlloc` is an unsafe trait, and nothing else sees every allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        LIVE_BLOCKS.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(layout.size() as u64, Relaxed);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE_BLOCKS.fetch_sub(1, Relaxed);
        LIVE_BYTES.fetch_sub(layout.size() as u64, Relaxed);
        // SAFETY: `at` came from `System.alloc` with this `layout`: the caller promises it.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(size as u64, Relaxed);
        LIVE_BYTES.fetch_sub(layout.size() as u64, Relaxed);
        // SAFETY: as for `dealloc`; `size` is the caller's promise too.
        unsafe { System.realloc(at, layout, size) }
    }
}
