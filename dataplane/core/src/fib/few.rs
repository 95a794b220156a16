//! Sets of a few members, stored once for the whole table, in copy-on-write shards by what they contain: the same
//! routers serve many labels, so what lookups read here is small and stays in the cache. Each set is counted, so
//! that its place is used again once no slot refers to it. Refuses to know who refers.

use std::sync::Arc;

use super::sets::Member;
use crate::mix::mix_pair;

/// Most members of a set that stands here. Fits three bits.
pub(super) const FEW_MAX: usize = 4;
const SHARD_BITS: u32 = 10;
pub(super) const SHARDS: usize = 1 << SHARD_BITS;
/// Members of one shard, at most.
const SHARD_MEMBERS_MAX: usize = 1 << OFFSET_BITS;
const OFFSET_BITS: u32 = 17;
/// The upper bits of an entry of `uses` are the length of the set.
const LENGTH_SHIFT: u32 = 28;
const USES_MAX: u32 = (1 << LENGTH_SHIFT) - 1;

/// Where a set stands, in 27 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(pub u32);

impl Place {
    #[inline]
    fn shard(self) -> usize {
        (self.0 >> OFFSET_BITS) as usize % SHARDS
    }

    #[inline]
    fn offset(self) -> usize {
        self.0 as usize % SHARD_MEMBERS_MAX
    }
}

fn shard_of(members: &[Member]) -> usize {
    let hash = members.iter().fold(members.len() as u64, |hash, member| {
        let weight = u64::from(member.weight) << 8 | u64::from(member.instance);
        mix_pair(mix_pair(hash, u64::from(member.router.bits())), weight)
    });
    hash as usize % SHARDS
}

/// One shard: sets end to end.
#[derive(Clone)]
struct Shard {
    members: Arc<[Member]>,
    /// By the place of a set's first member: its length, and how many slots refer to it.
    uses: Arc<[u32]>,
}

/// All sets of a table.
#[derive(Clone)]
pub(super) struct FewSets(Arc<[Shard]>);

impl Default for FewSets {
    fn default() -> FewSets {
        let empty = Shard {
            members: Arc::from([]),
            uses: Arc::from([]),
        };
        FewSets(vec![empty; SHARDS].into())
    }
}

impl FewSets {
    #[inline]
    pub fn members(&self, place: Place, count: usize) -> &[Member] {
        let at = place.offset();
        &self.0[place.shard()].members[at..at + count]
    }

    pub fn edit(&self) -> FewEdit<'_> {
        FewEdit {
            base: self,
            open: (0..SHARDS).map(|_| None).collect(),
        }
    }

    /// Heap bytes.
    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        let bytes = |shard: &Shard| size_of_val(&*shard.members) + size_of_val(&*shard.uses);
        self.0.iter().map(bytes).sum()
    }
}

/// Sets being changed.
pub(super) struct FewEdit<'a> {
    base: &'a FewSets,
    open: Vec<Option<OpenShard>>,
}

impl FewEdit<'_> {
    /// One more slot refers to the set. `None`: it has too many members, or its shard is full.
    pub fn refer(&mut self, members: &[Member]) -> Option<Place> {
        if members.len() > FEW_MAX {
            return None;
        }
        let at = shard_of(members);
        let offset = self.shard(at).refer(members)?;
        Some(Place((at << OFFSET_BITS | offset) as u32))
    }

    /// One slot less.
    pub fn release(&mut self, place: Place) {
        self.shard(place.shard()).uses[place.offset()] -= 1;
    }

    fn shard(&mut self, at: usize) -> &mut OpenShard {
        let base = &self.base.0[at];
        self.open[at].get_or_insert_with(|| OpenShard {
            members: base.members.to_vec(),
            uses: base.uses.to_vec(),
        })
    }

    pub fn finish(self) -> FewSets {
        if self.open.iter().all(Option::is_none) {
            return self.base.clone();
        }
        let mut shards = self.base.0.to_vec();
        for (shard, open) in shards.iter_mut().zip(self.open) {
            if let Some(open) = open {
                *shard = open.freeze();
            }
        }
        FewSets(shards.into())
    }
}

struct OpenShard {
    members: Vec<Member>,
    uses: Vec<u32>,
}

impl OpenShard {
    /// In the place of the same set, else in one as long that is unused, else behind the last.
    fn refer(&mut self, members: &[Member]) -> Option<usize> {
        let (mut at, mut unused) = (0, None);
        while at < self.uses.len() {
            let length = (self.uses[at] >> LENGTH_SHIFT) as usize;
            let uses = self.uses[at] & USES_MAX;
            if length == members.len() {
                if uses == 0 {
                    unused = Some(at);
                } else if self.members[at..at + length] == *members {
                    if uses == USES_MAX {
                        return None;
                    }
                    self.uses[at] += 1;
                    return Some(at);
                }
            }
            at += length;
        }
        let at = unused.unwrap_or(self.uses.len());
        if at + members.len() > SHARD_MEMBERS_MAX {
            return None;
        }
        if unused.is_none() {
            self.members.extend_from_slice(members);
            self.uses.resize(at + members.len(), 0);
        }
        self.members[at..at + members.len()].copy_from_slice(members);
        self.uses[at] = (members.len() as u32) << LENGTH_SHIFT | 1;
        Some(at)
    }

    /// When nothing is used any more, nothing is kept.
    fn freeze(mut self) -> Shard {
        if self.uses.iter().all(|uses| uses & USES_MAX == 0) {
            self.members.clear();
            self.uses.clear();
        }
        Shard {
            members: self.members.into(),
            uses: self.uses.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caplane_wire::Label;
    use proptest::prelude::*;

    fn set(number: u32) -> Vec<Member> {
        let member = |at: u32| Member {
            router: Label::router(1 + at).unwrap(),
            weight: 1 + number,
            instance: 0,
        };
        (0..1 + number % FEW_MAX as u32).map(member).collect()
    }

    proptest! {
        /// References come and go; every one in use leads to its set, equal sets stand once, and in the end nothing
        /// is left.
        #[test]
        fn references_lead_to_their_sets(steps in proptest::collection::vec((any::<bool>(), 0u32..40), 0..300)) {
            let mut sets = FewSets::default();
            let mut held: Vec<(u32, Place)> = vec![];
            for steps in steps.chunks(20) {
                let mut edit = sets.edit();
                for (put, number) in steps {
                    if *put || held.is_empty() {
                        held.push((*number, edit.refer(&set(*number)).unwrap()));
                    } else {
                        let (_, place) = held.swap_remove(*number as usize % held.len());
                        edit.release(place);
                    }
                }
                sets = edit.finish();
                for (number, place) in &held {
                    let due = set(*number);
                    prop_assert_eq!(sets.members(*place, due.len()), &due[..]);
                    let twins = held.iter().filter(|(other, _)| other == number);
                    prop_assert!(twins.clone().all(|(_, other)| other == place));
                }
            }
            let mut edit = sets.edit();
            for (_, place) in &held {
                edit.release(*place);
            }
            prop_assert_eq!(edit.finish().heap_bytes(), 0);
        }
    }

    #[test]
    fn a_large_set_has_no_place_here() {
        let sets = FewSets::default();
        let five = [set(3), set(0)].concat();
        assert!(sets.edit().refer(&five).is_none());
    }
}
