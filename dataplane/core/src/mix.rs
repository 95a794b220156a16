//! The mixing hash of tables and of member choice. Refuses to be a defence against chosen keys:
//! table keys come from the authenticated controller, and a flow that picks its own hash only
//! picks its own member.

use core::hash::{BuildHasherDefault, Hasher};

/// Mixes 64 bits so that every input bit reaches every output bit (the finaliser of SplitMix64).
#[inline(always)]
pub(crate) const fn mix64(value: u64) -> u64 {
    let mut z = value ^ (value >> 30);
    z = z.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^= z >> 27;
    z = z.wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Mixes 64 bits with one long multiplication, both halves of which are folded together: half the work of [`mix64`], good enough to spread keys over
/// the places of a table (as wyhash and foldhash do), not to choose by.
#[inline(always)]
pub(crate) const fn fold64(value: u64) -> u64 {
    let product = (value ^ 0x9e37_79b9_7f4a_7c15) as u128 * 0xd1b5_4a32_d192_ed03_u128;
    (product >> 64) as u64 ^ product as u64
}

/// Folds a second value into a hash before mixing again.
#[inline(always)]
pub(crate) const fn mix_pair(a: u64, b: u64) -> u64 {
    mix64(a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Hasher for tables keyed by one packed integer.
#[derive(Clone, Copy, Default)]
pub(crate) struct MixHasher(u64);

impl Hasher for MixHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix_pair(value, self.0.wrapping_add(1));
    }
}

/// `HashMap` state that mixes integers.
pub(crate) type MixState = BuildHasherDefault<MixHasher>;

/// Hash map keyed by packed integers.
pub(crate) type MixMap<K, V> = std::collections::HashMap<K, V, MixState>;
