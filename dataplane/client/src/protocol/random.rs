//! Random numbers for jitter and for flow ids. Knows nothing of what they are for.

use std::hash::{BuildHasher, Hasher, RandomState};

/// SplitMix64: good enough for jitter, repeatable from a seed in tests. Not for secrets.
#[derive(Debug, Clone)]
pub(crate) struct Jitter(u64);

impl Jitter {
    /// A generator whose whole future follows from `seed`.
    #[cfg(test)]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator seeded by the operating system.
    pub(crate) fn from_system() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly spread over `0.0..1.0`.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Flow ids: SipHash of a counter under keys from the operating system, so that one flow id tells nothing about the next.
#[derive(Debug)]
pub(crate) struct FlowIds {
    keys: RandomState,
    issued: std::sync::atomic::AtomicU64,
}

impl FlowIds {
    pub(crate) fn new() -> Self {
        Self {
            keys: RandomState::new(),
            issued: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// An id not issued before by this process, but for a chance of about n / 2^64.
    pub(crate) fn issue(&self) -> u64 {
        let count = self
            .issued
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.keys.hash_one(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut a, mut b) = (Jitter::seeded(7), Jitter::seeded(7));
        for _ in 0..100 {
            assert_eq!(a.next(), b.next());
            let f = a.fraction();
            assert!((0.0..1.0).contains(&f));
            b.fraction();
        }
    }

    #[test]
    fn flow_ids_differ() {
        let ids = FlowIds::new();
        let all: std::collections::HashSet<u64> = (0..10_000).map(|_| ids.issue()).collect();
        assert_eq!(all.len(), 10_000);
    }
}
