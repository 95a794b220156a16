//! The receiver's memory of what it has delivered: per (source, flow) the highest sequence and a bit for each of the
//! 1,024 up to it. Knows nothing of payloads or receipts.

use std::collections::HashMap;

use super::Address;

/// Sequences remembered per flow (SPEC.md, "Receipts"). A sender never sends a new message while an unsettled one is
/// this far behind, so what falls out of the window can only be a copy.
pub(crate) const WINDOW: u32 = 1024;

const WORDS: usize = WINDOW as usize / 64;

/// Whose message numbers are being watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) source: Address,
    pub(crate) flow: u64,
}

/// What is known of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Not delivered before.
    New,
    /// Delivered before, within the window.
    Before,
    /// Older than the window: whether it was delivered is no longer known.
    TooOld,
}

/// A sliding window over sequences, compared as serial numbers (RFC 1982), so that the 32-bit counter may wrap.
#[derive(Debug, Clone)]
struct Window {
    highest: u32,
    bits: [u64; WORDS],
}

impl Window {
    fn starting_at(sequence: u32) -> Self {
        let mut window = Self {
            highest: sequence,
            bits: [0; WORDS],
        };
        window.set(sequence);
        window
    }

    fn place(sequence: u32) -> (usize, u64) {
        let bit = sequence % WINDOW;
        (bit as usize / 64, 1 << (bit % 64))
    }

    fn set(&mut self, sequence: u32) {
        let (word, mask) = Self::place(sequence);
        self.bits[word] |= mask;
    }

    fn look(&self, sequence: u32) -> Seen {
        let ahead = sequence.wrapping_sub(self.highest);
        if ahead != 0 && ahead < 1 << 31 {
            return Seen::New;
        }
        if self.highest.wrapping_sub(sequence) >= WINDOW {
            return Seen::TooOld;
        }
        let (word, mask) = Self::place(sequence);
        if self.bits[word] & mask == 0 {
            Seen::New
        } else {
            Seen::Before
        }
    }

    /// Marks a sequence for which `look` said `New`.
    fn mark(&mut self, sequence: u32) {
        let ahead = sequence.wrapping_sub(self.highest);
        if ahead != 0 && ahead < 1 << 31 {
            if ahead >= WINDOW {
                self.bits = [0; WORDS];
            } else {
                for step in 1..=ahead {
                    let (word, mask) = Self::place(self.highest.wrapping_add(step));
                    self.bits[word] &= !mask;
                }
            }
            self.highest = sequence;
        }
        self.set(sequence);
    }
}

/// Windows of at most `flows_max` flows. Two generations stand in for a list in order of use: when the young one is half
/// of `flows_max`, the old one is forgotten and the young one becomes old; a flow met again moves to the young one. So the
/// `flows_max / 2` flows used last are always remembered, at the cost of one hash lookup.
#[derive(Debug)]
pub(crate) struct Dedup {
    young: HashMap<FlowKey, Window>,
    old: HashMap<FlowKey, Window>,
    young_max: usize,
    forgotten: u64,
}

impl Dedup {
    /// # Panics
    /// Never; `flows_max` below 2 counts as 2.
    pub(crate) fn new(flows_max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            young_max: (flows_max / 2).max(1),
            forgotten: 0,
        }
    }

    /// What is known of `sequence`, changing nothing.
    pub(crate) fn look(&self, key: &FlowKey, sequence: u32) -> Seen {
        self.young
            .get(key)
            .or_else(|| self.old.get(key))
            .map_or(Seen::New, |window| window.look(sequence))
    }

    /// Remembers `sequence` as delivered; answers what was known before.
    pub(crate) fn mark(&mut self, key: FlowKey, sequence: u32) -> Seen {
        if let Some(window) = self.young.get_mut(&key) {
            let seen = window.look(sequence);
            if seen == Seen::New {
                window.mark(sequence);
            }
            return seen;
        }
        let (window, seen) = match self.old.remove(&key) {
            Some(mut window) => {
                let seen = window.look(sequence);
                if seen == Seen::New {
                    window.mark(sequence);
                }
                (window, seen)
            }
            None => (Window::starting_at(sequence), Seen::New),
        };
        if self.young.len() >= self.young_max {
            self.forgotten += self.old.len() as u64;
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, window);
        seen
    }

    /// Flows forgotten to make room: a resend on one of them would be delivered again.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
#[path = "dedup/tests.rs"]
mod tests;
