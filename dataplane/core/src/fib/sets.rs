//! Sets of members as a slot refers to them in 32 bits: one ordinary member stands in the reference itself, a few
//! stand in their shard, many stand once for all shards. Refuses to know what a set is the set of.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use caplane_wire::Label;

use crate::mix::{MixMap, MixState};

/// One member of a set: an egress router of a class or group, or one instance of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Member {
    pub router: Label,
    pub weight: u32,
    /// 0 for classes and groups.
    pub instance: u8,
}

/// The members of one set, borrowed from the table.
#[derive(Clone, Copy)]
pub(crate) enum Members<'a> {
    One(Member),
    Many(&'a [Member]),
}

impl Members<'_> {
    #[inline]
    pub fn as_slice(&self) -> &[Member] {
        match self {
            Members::One(member) => core::slice::from_ref(member),
            Members::Many(members) => members,
        }
    }
}

type Set = Arc<[Member]>;

/// Large sets in use anywhere, so that equal ones are stored once. Only `apply` touches it.
#[derive(Default)]
pub(crate) struct SetPool {
    sets: Mutex<HashSet<Set, MixState>>,
}

impl SetPool {
    fn intern(&self, members: &[Member]) -> Set {
        // A panic while the lock is held leaves a valid set of sets.
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get(members) {
            return known.clone();
        }
        // Before the table of sets would grow, sets that nobody holds any more make room.
        if sets.len() == sets.capacity() {
            sets.retain(|set| Arc::strong_count(set) > 1);
        }
        let set: Set = members.into();
        sets.insert(set.clone());
        set
    }
}

/// How a slot names a set. 0 = empty; top bit = one member packed into the rest; next bit = a few members, where
/// in their shard and how many; else 1 + the place of a large set in the shard's list.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reference(pub u32);

impl Reference {
    /// Does it refer to a set that stands elsewhere?
    pub fn is_stored(self) -> bool {
        self.0 != 0 && self.0 & INLINE == 0
    }
}

const INLINE: u32 = 1 << 31;
const FEW: u32 = 1 << 30;
/// Most members that a shard keeps itself: 48 bytes, where a shared set costs a reference of 16 and is one more
/// load away. Fits three bits.
const FEW_MAX: usize = 4;
const FEW_PLACE: u32 = (1 << 27) - 1;

/// How a single member is packed.
#[derive(Clone, Copy)]
pub(super) enum Packing {
    /// 15 bits of router, 16 of weight.
    Route,
    /// 6 bits of instance, 13 of router, 12 of weight.
    Instance,
}

impl Packing {
    fn pack(self, member: &Member) -> Option<u32> {
        let (router, weight) = (member.router.number(), member.weight);
        match self {
            Packing::Route => (member.instance == 0 && router < 1 << 15 && weight < 1 << 16)
                .then_some(router << 16 | weight),
            Packing::Instance => (router < 1 << 13 && weight < 1 << 12)
                .then_some(u32::from(member.instance) << 25 | router << 12 | weight),
        }
    }

    #[inline]
    fn unpack(self, bits: u32) -> Member {
        let (router, weight, instance) = match self {
            Packing::Route => (bits >> 16 & 0x7fff, bits & 0xffff, 0),
            Packing::Instance => (bits >> 12 & 0x1fff, bits & 0xfff, bits >> 25 & 63),
        };
        Member {
            router: Label::from_bits(3 << 30 | router),
            weight,
            instance: instance as u8,
        }
    }
}

/// The sets that one shard refers to.
#[derive(Clone)]
pub(super) struct Sets {
    /// Sets of a few members, end to end; one may be part of another.
    few: Arc<[Member]>,
    large: Arc<[Set]>,
}

impl Default for Sets {
    fn default() -> Sets {
        Sets {
            few: Arc::from([]),
            large: Arc::from([]),
        }
    }
}

impl Sets {
    #[inline]
    pub fn members(&self, Reference(bits): Reference, packing: Packing) -> Members<'_> {
        if bits & INLINE != 0 {
            return Members::One(packing.unpack(bits));
        }
        if bits & FEW != 0 {
            let at = (bits & FEW_PLACE) as usize;
            let count = (bits >> 27 & 7) as usize;
            return Members::Many(&self.few[at..at + count]);
        }
        match bits.checked_sub(1) {
            Some(index) => Members::Many(&self.large[index as usize]),
            None => Members::Many(&[]),
        }
    }

    pub fn edit(&self) -> OpenSets {
        OpenSets {
            few: self.few.to_vec(),
            large: self.large.to_vec(),
        }
    }

    /// Heap bytes; large sets are shared and left out.
    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.few) + size_of_val(&*self.large)
    }
}

/// The sets of a shard being changed.
#[derive(Default)]
pub(super) struct OpenSets {
    few: Vec<Member>,
    large: Vec<Set>,
}

impl OpenSets {
    /// The reference of a set, which is added where it is not there.
    pub fn refer(&mut self, pool: &SetPool, members: &[Member], packing: Packing) -> Reference {
        let packed = match members {
            [] => return Reference(0),
            [one] => packing.pack(one),
            _ => None,
        };
        if let Some(packed) = packed {
            return Reference(INLINE | packed);
        }
        let count = members.len();
        if count <= FEW_MAX && self.few.len() + count <= FEW_PLACE as usize {
            let known = self.few.windows(count).position(|few| few == members);
            let at = known.unwrap_or_else(|| {
                self.few.extend_from_slice(members);
                self.few.len() - count
            });
            return Reference(FEW | (count as u32) << 27 | at as u32);
        }
        let set = pool.intern(members);
        let known = self.large.iter().position(|known| Arc::ptr_eq(known, &set));
        let at = known.unwrap_or_else(|| {
            self.large.push(set);
            self.large.len() - 1
        });
        Reference(at as u32 + 1)
    }

    /// Takes out what nobody refers to.
    pub fn keeping(&self) -> Keeping<'_> {
        Keeping {
            old: self,
            kept: OpenSets::default(),
            moved: MixMap::default(),
        }
    }

    pub fn freeze(self) -> Sets {
        Sets {
            few: self.few.into(),
            large: self.large.into(),
        }
    }
}

/// Sets on their way to a list without the unused ones.
pub(super) struct Keeping<'a> {
    old: &'a OpenSets,
    pub kept: OpenSets,
    moved: MixMap<u32, Reference>,
}

impl Keeping<'_> {
    /// Keeps a set and returns its new reference.
    pub fn keep(&mut self, reference: Reference) -> Reference {
        if !reference.is_stored() {
            return reference;
        }
        let Keeping { old, kept, moved } = self;
        let bits = reference.0;
        *moved.entry(bits).or_insert_with(|| {
            if bits & FEW == 0 {
                kept.large.push(old.large[bits as usize - 1].clone());
                return Reference(kept.large.len() as u32);
            }
            let (at, place) = ((bits & FEW_PLACE) as usize, kept.few.len() as u32);
            let count = (bits >> 27 & 7) as usize;
            kept.few.extend_from_slice(&old.few[at..at + count]);
            Reference(bits & !FEW_PLACE | place)
        })
    }
}
