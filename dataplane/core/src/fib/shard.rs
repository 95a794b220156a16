//! One shard of the label table: an open-addressing table in buckets of one cache line, so that a question is
//! answered, yes or no, by the first line it loads, nearly always. Refuses to know what a slot's two values mean.

use std::hint::select_unpredictable;
use std::sync::Arc;

use prefetch_index::prefetch_index;

use super::lines::{Line, Lines};
use super::sets::{Keeping, LargeSets, OpenLargeSets};
use crate::mix::fold64;

/// `key` 0 = free.
#[derive(Clone, Copy, Default)]
pub(super) struct Slot {
    pub key: u64,
    pub a: u32,
    pub b: u32,
}

impl Slot {
    /// As they stand in a bucket: `b << 32 | a`.
    pub fn values(&self) -> u64 {
        u64::from(self.b) << 32 | u64::from(self.a)
    }
}

const WIDTH: usize = 4;

/// Slots that share a cache line: four keys, then their values, `b << 32 | a`. Full slots stand in front, and once all
/// are full, the one that ranks last at the end. A key that finds its bucket full takes the place of one that ranks
/// behind it, which goes to the next bucket; so a key that does not rank behind a full bucket's last is not in any
/// further one (ordered hashing, Amble and Knuth 1974).
#[derive(Clone, Copy)]
pub(super) struct Bucket<'a>(&'a Line);

impl<'a> Bucket<'a> {
    pub const EMPTY: Bucket<'static> = Bucket(&[0; 2 * WIDTH]);

    /// Compares all keys without a branch: which of them it is cannot be foretold.
    #[inline]
    pub fn find(&self, key: u64) -> Option<Slot> {
        let mut found = WIDTH;
        for (at, other) in self.0[..WIDTH].iter().enumerate() {
            found = if *other == key { at } else { found };
        }
        let value = self.0.get(WIDTH + found)?;
        Some(Slot {
            key,
            a: *value as u32,
            b: (*value >> 32) as u32,
        })
    }

    /// Both values of a key, `b << 32 | a`; 0 = it is not here, or has none.
    #[inline]
    pub fn values(&self, key: u64) -> u64 {
        let (keys, values) = self.0.split_at(WIDTH);
        let pairs = keys.iter().zip(values);
        pairs.fold(0, |found, (other, values)| {
            select_unpredictable(*other == key, *values, found)
        })
    }

    /// May a key that is not here stand in the next bucket?
    #[inline]
    pub fn goes_on(&self, key: u64) -> bool {
        // 0, where the bucket is not full, becomes the highest.
        rank(self.0[WIDTH - 1]).wrapping_sub(1) < rank(key).wrapping_sub(1)
    }

    /// Asks for the cache line, and does not wait for it.
    #[inline]
    pub fn prefetch(&self) {
        prefetch_index(self.0, 0);
    }

    fn slots(self) -> [Slot; WIDTH] {
        core::array::from_fn(|at| slot(self.0, at))
    }

    #[inline]
    pub fn is_full(&self) -> bool {
        self.0[WIDTH - 1] != 0
    }
}

fn slot(line: &Line, at: usize) -> Slot {
    Slot {
        key: line[at],
        a: line[WIDTH + at] as u32,
        b: (line[WIDTH + at] >> 32) as u32,
    }
}

fn set_slot(line: &mut Line, at: usize, slot: Slot) {
    line[at] = slot.key;
    line[WIDTH + at] = slot.values();
}

/// Puts a slot whose key is not here into a bucket; one that has no place is handed back.
fn insert_into(line: &mut Line, new: Slot) -> Option<Slot> {
    let free = line[..WIDTH].iter().position(|key| *key == 0);
    let rejected = match free {
        Some(at) => {
            set_slot(line, at, new);
            None
        }
        None if Bucket(line).goes_on(new.key) => return Some(new),
        None => {
            let last = slot(line, WIDTH - 1);
            set_slot(line, WIDTH - 1, new);
            Some(last)
        }
    };
    if Bucket(line).is_full() {
        let mut slots = Bucket(line).slots();
        slots.sort_unstable_by_key(|slot| rank(slot.key));
        for (at, slot) in slots.into_iter().enumerate() {
            set_slot(line, at, slot);
        }
    }
    rejected
}

/// An order of keys that their numbers do not tell: products with an odd constant are a permutation.
#[inline]
fn rank(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The slots of an immutable shard.
#[derive(Clone, Default)]
pub(super) struct Buckets(Arc<Lines>);

impl Buckets {
    /// The bucket where a key stands unless it had to go on.
    #[inline]
    pub fn home(&self, hash: u64) -> Bucket<'_> {
        self.0
            .get(home(hash, self.0.len()))
            .map_or(Bucket::EMPTY, Bucket)
    }

    #[inline]
    pub fn find(&self, hash: u64, key: u64) -> Option<Slot> {
        let bucket = self.home(hash);
        match bucket.find(key) {
            None if bucket.goes_on(key) => self.find_behind(hash, key),
            found => found,
        }
    }

    /// Ends: a shard that has buckets has one that is not full.
    #[cold]
    pub fn find_behind(&self, hash: u64, key: u64) -> Option<Slot> {
        let len = self.0.len();
        let mut at = home(hash, len);
        loop {
            at = next(at, len);
            let bucket = Bucket(&self.0[at]);
            let found = bucket.find(key);
            if found.is_some() || !bucket.goes_on(key) {
                return found;
            }
        }
    }

    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        let slots = self.0.iter().flat_map(|line| Bucket(line).slots());
        slots.filter(|slot| slot.key != 0)
    }

    pub fn edit(&self, large: &LargeSets) -> OpenShard {
        OpenShard {
            lines: Lines::copy_of(&self.0),
            large: large.edit(),
            used: self.slots().count(),
            stale_sets: false,
        }
    }

    /// Heap bytes.
    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        size_of_val::<[Line]>(&self.0)
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
    lines: Lines,
    pub large: OpenLargeSets,
    used: usize,
    /// Some set may be unused: a slot that referred to one is gone.
    pub stale_sets: bool,
}

impl OpenShard {
    /// Makes room for so many slots where there is none yet.
    pub fn expect(&mut self, slots: usize) {
        if self.lines.is_empty() && slots > 0 {
            self.lines = Lines::zeroed(slots.div_ceil(2));
        }
    }

    /// Returns the slot that had the key before.
    pub fn put(&mut self, new: Slot) -> Option<Slot> {
        if let Some((bucket, at)) = self.find(new.key) {
            let line = &mut self.lines[bucket];
            let old = slot(line, at);
            set_slot(line, at, new);
            return Some(old);
        }
        // At most eleven slots of twenty are in use.
        if (self.used + 1) * 20 > self.lines.len() * WIDTH * 11 {
            self.grow();
        }
        self.insert(new);
        self.used += 1;
        None
    }

    /// The bucket that a key stands in, and where in it.
    fn find(&self, key: u64) -> Option<(usize, usize)> {
        let len = self.lines.len();
        let mut at = home(fold64(key), len);
        loop {
            let line = self.lines.get(at)?;
            if let Some(slot) = line[..WIDTH].iter().position(|other| *other == key) {
                return Some((at, slot));
            }
            if !Bucket(line).goes_on(key) {
                return None;
            }
            at = next(at, len);
        }
    }

    /// A key that is not there, where there is room.
    fn insert(&mut self, new: Slot) {
        let len = self.lines.len();
        let mut at = home(fold64(new.key), len);
        let mut slot = Some(new);
        while let Some(new) = slot {
            slot = insert_into(&mut self.lines[at], new);
            at = next(at, len);
        }
    }

    fn grow(&mut self) {
        let lines = Lines::zeroed(((self.used + 1) * 5).div_ceil(2 * WIDTH));
        let old = core::mem::replace(&mut self.lines, lines);
        for slot in old.iter().flat_map(|line| Bucket(line).slots()) {
            if slot.key != 0 {
                self.insert(slot);
            }
        }
    }

    /// Returns the slot that is gone. What may have gone past its bucket is put in anew, so that no mark of it stays.
    pub fn remove(&mut self, key: u64) -> Option<Slot> {
        let (mut at, place) = self.find(key)?;
        let (gone, len) = (slot(&self.lines[at], place), self.lines.len());
        let mut behind = Vec::new();
        loop {
            let taken = core::mem::take(&mut self.lines[at]);
            let stay = Bucket(&taken).slots().into_iter();
            behind.extend(stay.filter(|slot| slot.key != 0 && slot.key != key));
            if !Bucket(&taken).is_full() {
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

    /// `keep` moves the large sets that a slot refers to from the old ones to the new ones.
    pub fn freeze(mut self, keep: impl Fn(&mut Keeping<'_>, &mut Slot)) -> (Buckets, LargeSets) {
        if self.used == 0 {
            self.lines = Lines::default();
        }
        if self.stale_sets {
            let mut keeping = self.large.keeping();
            for line in self.lines.iter_mut() {
                for at in 0..WIDTH {
                    if line[at] == 0 {
                        continue;
                    }
                    let mut kept = slot(line, at);
                    keep(&mut keeping, &mut kept);
                    set_slot(line, at, kept);
                }
            }
            self.large = keeping.kept;
        }
        (Buckets(Arc::new(self.lines)), self.large.freeze())
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
            let mut shard = Buckets::default().edit(&LargeSets::default());
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
                let found = buckets.find(fold64(key), key).map(|slot| slot.a);
                prop_assert_eq!(found, map.get(&key).copied());
            }
            prop_assert_eq!(buckets.slots().count(), map.len());
        }
    }

    #[test]
    fn an_empty_shard_has_nothing() {
        assert!(Buckets::default().find(fold64(7), 7).is_none());
        let mut shard = Buckets::default().edit(&LargeSets::default());
        assert!(shard.remove(7).is_none());
    }
}
