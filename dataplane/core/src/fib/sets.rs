//! Sets of members as a slot refers to them in 32 bits: one ordinary member stands in the reference itself, all others
//! once for the whole table, a few (`few.rs`) and many apart. Refuses to know what a set is the set of.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use caplane_wire::Label;

use super::few::{FewSets, Place};
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

/// How a slot names a set. 0 = empty; top bit = one member packed into the rest; next bit = a few members, how many
/// and where (`few.rs`); else 1 + the place of a large set in the shard's list.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reference(pub u32);

const INLINE: u32 = 1 << 31;
const FEW: u32 = 1 << 30;
const FEW_COUNT_SHIFT: u32 = 27;
const FEW_PLACE: u32 = (1 << FEW_COUNT_SHIFT) - 1;

impl Reference {
    /// Of a set that needs no place: empty, or one ordinary member.
    pub fn packed(members: &[Member], packing: Packing) -> Option<Reference> {
        match members {
            [] => Some(Reference(0)),
            [one] => packing.pack(one).map(|bits| Reference(INLINE | bits)),
            _ => None,
        }
    }

    pub fn to_few(place: Place, count: usize) -> Reference {
        Reference(FEW | (count as u32) << FEW_COUNT_SHIFT | place.0)
    }

    /// Where the few members stand.
    #[inline]
    pub fn few(self) -> Option<Place> {
        (self.0 & (INLINE | FEW) == FEW).then_some(Place(self.0 & FEW_PLACE))
    }

    #[inline]
    fn few_count(self) -> usize {
        (self.0 >> FEW_COUNT_SHIFT & 7) as usize
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Does the one member stand in the reference itself?
    #[inline]
    pub fn is_packed(self) -> bool {
        self.0 & INLINE != 0
    }

    /// The router of one packed member of a class.
    #[inline]
    pub fn router(self) -> Label {
        Packing::Route.unpack(self.0).router
    }

    pub fn is_large(self) -> bool {
        self.0 != 0 && self.0 & (INLINE | FEW) == 0
    }
}

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

/// The large sets that one shard of slots refers to.
#[derive(Clone)]
pub(super) struct LargeSets(Arc<[Set]>);

impl Default for LargeSets {
    fn default() -> LargeSets {
        LargeSets(Arc::from([]))
    }
}

impl LargeSets {
    pub fn edit(&self) -> OpenLargeSets {
        OpenLargeSets(self.0.to_vec())
    }

    /// Heap bytes of the references; the sets are shared and left out.
    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

/// Every set of the table, as one shard of slots sees them.
#[derive(Clone, Copy)]
pub(super) struct Sets<'a> {
    pub few: &'a FewSets,
    pub large: &'a LargeSets,
}

impl<'a> Sets<'a> {
    #[inline]
    pub fn members(self, reference: Reference, packing: Packing) -> Members<'a> {
        if reference.0 & INLINE != 0 {
            return Members::One(packing.unpack(reference.0));
        }
        if let Some(place) = reference.few() {
            return Members::Many(self.few.members(place, reference.few_count()));
        }
        match reference.0.checked_sub(1) {
            Some(index) => Members::Many(&self.large.0[index as usize]),
            None => Members::Many(&[]),
        }
    }
}

/// The large sets of a shard being changed.
#[derive(Default)]
pub(super) struct OpenLargeSets(Vec<Set>);

impl OpenLargeSets {
    /// The reference of a set that is not to be packed, which is added where it is not there.
    pub fn refer(&mut self, pool: &SetPool, members: &[Member]) -> Reference {
        let set = pool.intern(members);
        let known = self.0.iter().position(|known| Arc::ptr_eq(known, &set));
        let at = known.unwrap_or_else(|| {
            self.0.push(set);
            self.0.len() - 1
        });
        Reference(at as u32 + 1)
    }

    /// Takes out what nobody refers to.
    pub fn keeping(&self) -> Keeping<'_> {
        Keeping {
            old: self,
            kept: OpenLargeSets::default(),
            moved: MixMap::default(),
        }
    }

    pub fn freeze(self) -> LargeSets {
        LargeSets(self.0.into())
    }
}

/// Large sets on their way to a list without the unused ones.
pub(super) struct Keeping<'a> {
    old: &'a OpenLargeSets,
    pub kept: OpenLargeSets,
    moved: MixMap<u32, Reference>,
}

impl Keeping<'_> {
    /// Keeps a set and returns its new reference.
    pub fn keep(&mut self, reference: Reference) -> Reference {
        if !reference.is_large() {
            return reference;
        }
        let Keeping { old, kept, moved } = self;
        *moved.entry(reference.0).or_insert_with(|| {
            kept.0.push(old.0[reference.0 as usize - 1].clone());
            Reference(kept.0.len() as u32)
        })
    }
}
