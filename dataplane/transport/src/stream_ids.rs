//! Maps by stream id. A peer's open streams have ids close to each other (RFC 9000 section 2.1: opening one opens all below), and
//! their number is bounded, so nobody can choose ids that collide: a multiplication is hash enough, for a lookup or two per slice.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// By stream id.
pub(crate) type StreamIdMap<T> = HashMap<u64, T, BuildHasherDefault<StreamIdHasher>>;

/// Hashes one stream id.
#[derive(Debug, Default)]
pub(crate) struct StreamIdHasher(u64);

impl Hasher for StreamIdHasher {
    fn write_u64(&mut self, id: u64) {
        // Fibonacci hashing; the map wants both the lowest and the highest bits mixed.
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn neighbouring_ids_differ_in_the_bits_a_map_looks_at() {
        let hash = |id| {
            let mut hasher = StreamIdHasher::default();
            hasher.write_u64(id);
            hasher.finish()
        };
        for kind in 0..4 {
            let hashes: Vec<u64> = (0..256).map(|n| hash(kind + 4 * n)).collect();
            let low: HashSet<u64> = hashes.iter().map(|hash| hash & 511).collect();
            let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            assert!(
                low.len() > 150 && high.len() > 100,
                "{} {}",
                low.len(),
                high.len()
            );
        }
    }
}
