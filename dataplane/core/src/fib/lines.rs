//! Memory for the label table: cache lines in huge pages where the system has them. A lookup goes to a random line of
//! many megabytes; in pages of 4 KiB it waits for the page's address besides (two address spaces deep in a virtual
//! machine), in pages of 2 MiB hardly ever.
//!
//! What is given back is used again and never returned to the system: a process keeps what its tables took at most.
//! Refuses to know what stands in a line.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use memmap2::MmapMut;
use zerocopy::FromBytes;

/// 64 bytes that the processor loads at once.
pub(super) type Line = [u64; 8];

const HUGE_PAGE: usize = 2 << 20;
/// Asked of the system at a time. Memory that was never written to is not resident: only addresses are spent.
const CHUNK: usize = 4 * HUGE_PAGE;

/// Lines with one owner, who gives them back when it is dropped.
#[derive(Default)]
pub(super) struct Lines(&'static mut [Line]);

impl Lines {
    /// At least `count` lines of zeros; a few more where that leaves no remainder too small for others.
    pub fn zeroed(count: usize) -> Lines {
        let mut lines = Lines(take(rounded(count)));
        lines.fill([0; 8]);
        lines
    }

    /// A copy, as long as the original.
    pub fn copy_of(other: &Lines) -> Lines {
        let mut lines = Lines(take(other.len()));
        lines.copy_from_slice(other);
        lines
    }
}

impl Deref for Lines {
    type Target = [Line];

    #[inline]
    fn deref(&self) -> &[Line] {
        self.0
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        self.0
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let lines = core::mem::take(&mut self.0);
        if !lines.is_empty() {
            let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
            IN_USE.fetch_sub(lines.len(), Relaxed);
            free.entry(lines.len()).or_default().push(lines);
        }
    }
}

/// Bytes of these lines that tables of this process hold; an allocator that counts does not see them.
pub fn line_bytes() -> usize {
    IN_USE.load(Relaxed) * size_of::<Line>()
}

static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// What nobody owns, by length. Only those who change tables, and who let the last reference to one go, come here.
static FREE: Mutex<BTreeMap<usize, Vec<&'static mut [Line]>>> = Mutex::new(BTreeMap::new());

/// Few different lengths, so that what one shard gives back fits another.
fn rounded(count: usize) -> usize {
    match count {
        0..16 => count.next_power_of_two(),
        _ => count.next_multiple_of(16),
    }
}

/// The shortest free piece that is long enough; what is left of it stays free.
fn take(count: usize) -> &'static mut [Line] {
    // A panic while the lock is held leaves a valid list of pieces.
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let fitting = free.range_mut(count..).find_map(|(_, lines)| lines.pop());
    let piece = fitting.unwrap_or_else(|| fresh(count));
    let (taken, left) = piece.split_at_mut(count);
    if !left.is_empty() {
        free.entry(left.len()).or_default().push(left);
    }
    IN_USE.fetch_add(taken.len(), Relaxed);
    taken
}

/// From the system; where it gives nothing this way, from the allocator.
fn fresh(count: usize) -> &'static mut [Line] {
    let lines = count.max(CHUNK / size_of::<Line>());
    mapped(lines).unwrap_or_else(|| vec![[0; 8]; lines].leak())
}

fn mapped(lines: usize) -> Option<&'static mut [Line]> {
    // Room to begin at a page's first byte.
    let map = MmapMut::map_anon(lines * size_of::<Line>() + HUGE_PAGE).ok()?;
    // A system that refuses gives ordinary pages.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    let bytes: &'static mut [u8] = &mut Box::leak(Box::new(map))[..];
    let begin = bytes.as_ptr().align_offset(HUGE_PAGE);
    let bytes = bytes.get_mut(begin..begin + lines * size_of::<Line>())?;
    let words = <[u64]>::mut_from_bytes(bytes).ok()?;
    Some(words.as_chunks_mut().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_zero_however_they_were_used_before() {
        for count in [1, 3, 17, 250, CHUNK / 64 + 1] {
            let mut lines = Lines::zeroed(count);
            assert!(lines.len() >= count);
            assert!(lines.iter().all(|line| *line == [0; 8]), "{count}");
            lines.fill([7; 8]);
            let copy = Lines::copy_of(&lines);
            drop(lines);
            assert!(copy.iter().all(|line| *line == [7; 8]));
            assert_eq!(copy.as_ptr().align_offset(64), 0);
        }
    }
}
