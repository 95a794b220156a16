//! One shard of the label table: an open-addressing table in buckets of one cache line, so that a question is
//! answered, yes or no, by the first line it loads, nearly always. Refuses to know what a slot's two values mean.

use std::sync::Arc;

use super::sets::{Keeping, OpenSets, Sets};
use crate::mix::mix64;

/// `key` 0 = free.
#[derive(Clone, Copy, Default)]
pub(super) struct Slot {
    pub key: u64,
    pub a: u32,
    pub b: u32,
}

const WIDTH: usize = 4;

/// Slots that share a cache line: full ones in front, and once all are, the one that ranks last at the end. A key
/// that finds its bucket full takes the place of one that ranks behind it, which goes to the next bucket; so a key
/// that does not rank behind a full bucket's last is not in any further one (ordered hashing, Amble and Knuth 1974).
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub(super) struct Bucket([Slot; WIDTH]);

impl Bucket {
    pub const EMPTY: Bucket = Bucket([Slot { key: 0, a: 0, b: 0 }; WIDTH]);

    /// Compares all keys without a branch: which of them it is cannot be foretold.
    #[inline]
    pub fn find(&self, key: u64) -> Option<&Slot> {
        let mut found = WIDTH;
        for (at, slot) in self.0.iter().enumerate() {
            found = if slot.key == key { at } else { found };
        }
        self.0.get(found)
    }

    /// May a key that is not here stand in the next bucket?
    #[inline]
    pub fn goes_on(&self, key: u64) -> bool {
        let last = self.0[WIDTH - 1].key;
        last != 0 && rank(last) < rank(key)
    }

    #[inline]
    pub fn touch(&self) -> u64 {
        self.0[0].key
    }

    fn is_full(&self) -> bool {
        self.0[WIDTH - 1].key != 0
    }

    /// Puts a slot whose key is not here into a bucket; one that has no place is handed back.
    fn insert(&mut self, new: Slot) -> Option<Slot> {
        let free = self.0.iter().position(|slot| slot.key == 0);
        let rejected = match free {
            Some(at) => {
                self.0[at] = new;
                None
            }
            None if self.goes_on(new.key) => return Some(new),
            None => Some(core::mem::replace(&mut self.0[WIDTH - 1], new)),
        };
        if self.is_full() {
            self.0.sort_unstable_by_key(|slot| rank(slot.key));
        }
        rejected
    }
}

/// An order of keys that their numbers do not tell: products with an odd constant are a permutation.
#[inline]
fn rank(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The slots of an immutable shard.
#[derive(Clone)]
pub(super) struct Buckets(Arc<[Bucket]>);

impl Default for Buckets {
    fn default() -> Buckets {
        Buckets(Arc::from([]))
    }
}

impl Buckets {
    /// The bucket where a key stands unless it had to go on.
    #[inline]
    pub fn home(&self, hash: u64) -> &Bucket {
        self.0
            .get(home(hash, self.0.len()))
            .unwrap_or(&Bucket::EMPTY)
    }

    #[inline]
    pub fn find(&self, hash: u64, key: u64) -> Option<&Slot> {
        let bucket = self.home(hash);
        match bucket.find(key) {
            None if bucket.goes_on(key) => self.find_behind(hash, key),
            found => found,
        }
    }

    /// Ends: a shard that has buckets has one that is not full.
    #[cold]
    pub fn find_behind(&self, hash: u64, key: u64) -> Option<&Slot> {
        let len = self.0.len();
        let mut at = home(hash, len);
        loop {
            at = next(at, len);
            let found = self.0[at].find(key);
            if found.is_some() || !self.0[at].goes_on(key) {
                return found;
            }
        }
    }

    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        let slots = self.0.iter().flat_map(|bucket| &bucket.0);
        slots.filter(|slot| slot.key != 0)
    }

    pub fn edit(&self, sets: &Sets) -> OpenShard {
        OpenShard {
            buckets: self.0.to_vec(),
            sets: sets.edit(),
            used: self.slots().count(),
            stale_sets: false,
        }
    }

    /// Heap bytes.
    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

#[inline]
fn next(at: usize, len: usize) -> usize {
    if at + 1 == len { 0 } else { at + 1 }
}

/// Where a key belongs among `len` buckets: the low half of the hash, scaled.
#[inline]
fn home(hash: u64, len: usize) -> usize {
    (((hash & 0xffff_ffff) * len as u64) >> 32) as usize
}

/// A shard being changed.
pub(super) struct OpenShard {
    buckets: Vec<Bucket>,
    pub sets: OpenSets,
    used: usize,
    /// Some set may be unused: a slot that referred to one is gone.
    pub stale_sets: bool,
}

impl OpenShard {
    /// Returns the slot that had the key before.
    pub fn put(&mut self, new: Slot) -> Option<Slot> {
        let home = self.find(new.key);
        if let Some(slot) = home {
            return Some(core::mem::replace(slot, new));
        }
        // At most five slots of six are in use.
        if (self.used + 1) * 6 > self.buckets.len() * WIDTH * 5 {
            self.grow();
        }
        self.insert(new);
        self.used += 1;
        None
    }

    fn find(&mut self, key: u64) -> Option<&mut Slot> {
        let at = self.bucket_of(key)?;
        self.buckets[at].0.iter_mut().find(|slot| slot.key == key)
    }

    fn bucket_of(&self, key: u64) -> Option<usize> {
        let len = self.buckets.len();
        let mut at = home(mix64(key), len);
        while self.buckets.get(at)?.find(key).is_none() {
            if !self.buckets[at].goes_on(key) {
                return None;
            }
            at = next(at, len);
        }
        Some(at)
    }

    /// A key that is not there, where there is room.
    fn insert(&mut self, new: Slot) {
        let len = self.buckets.len();
        let mut at = home(mix64(new.key), len);
        let mut slot = Some(new);
        while let Some(new) = slot {
            slot = self.buckets[at].insert(new);
            at = next(at, len);
        }
    }

    fn grow(&mut self) {
        let buckets = ((self.used + 1) * 5).div_ceil(3 * WIDTH);
        let old = core::mem::replace(&mut self.buckets, vec![Bucket::default(); buckets]);
        for slot in old.iter().flat_map(|bucket| bucket.0) {
            if slot.key != 0 {
                self.insert(slot);
            }
        }
    }

    /// Returns the slot that is gone. What may have gone past its bucket is put in anew, so that no mark of it stays.
    pub fn remove(&mut self, key: u64) -> Option<Slot> {
        let gone = *self.find(key)?;
        let (mut at, len) = (self.bucket_of(key)?, self.buckets.len());
        let mut behind = Vec::new();
        loop {
            let taken = core::mem::take(&mut self.buckets[at]);
            let stay = taken.0.into_iter();
            behind.extend(stay.filter(|slot| slot.key != 0 && slot.key != key));
            if !taken.is_full() {
                break;
            }
            at = next(at, len);
        }
        for slot in behind {
            self.insert(slot);
        }
        self.used -= 1;
        Some(gone)
    }

    /// `keep` moves the sets that a slot refers to from the old ones to the new ones.
    pub fn freeze(mut self, keep: impl Fn(&mut Keeping<'_>, &mut Slot)) -> (Buckets, Sets) {
        if self.used == 0 {
            self.buckets.clear();
        }
        if self.stale_sets {
            let mut keeping = self.sets.keeping();
            let slots = self.buckets.iter_mut().flat_map(|bucket| &mut bucket.0);
            for slot in slots.filter(|slot| slot.key != 0) {
                keep(&mut keeping, slot);
            }
            self.sets = keeping.kept;
        }
        (Buckets(self.buckets.into()), self.sets.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn slot(key: u64, a: u32) -> Slot {
        Slot { key, a, b: 0 }
    }

    proptest! {
        /// Puts and removes in any order, then every question: as a map would answer.
        #[test]
        fn a_shard_answers_as_a_map_does(
            changes in proptest::collection::vec((any::<bool>(), 1u64..200, any::<u32>()), 0..400),
        ) {
            let mut shard = Buckets::default().edit(&Sets::default());
            let mut map = BTreeMap::new();
            for (put, key, value) in changes {
                let before = match put {
                    true => (shard.put(slot(key, value)), map.insert(key, value)),
                    false => (shard.remove(key), map.remove(&key)),
                };
                prop_assert_eq!(before.0.map(|slot| slot.a), before.1);
            }
            prop_assert_eq!(shard.used, map.len());
            let (buckets, _) = shard.freeze(|_, _| {});
            for key in 1..200 {
                let found = buckets.find(mix64(key), key).map(|slot| slot.a);
                prop_assert_eq!(found, map.get(&key).copied());
            }
            prop_assert_eq!(buckets.slots().count(), map.len());
        }
    }

    #[test]
    fn an_empty_shard_has_nothing() {
        assert!(Buckets::default().find(mix64(7), 7).is_none());
        let mut shard = Buckets::default().edit(&Sets::default());
        assert!(shard.remove(7).is_none());
    }
}
