//! The label table: class, agent and group labels to weighted egress routers.
//!
//! 4,096 copy-on-write shards, each an open-addressing table of 16-byte slots keyed by the packed
//! `tenant << 32 | label`. A set of one ordinary member stands in the slot itself; other sets stand
//! once per shard and are shared between shards through [`SetPool`]. Per label that is 16 bytes at a
//! load of 0.5 to 0.75 (22 to 32 bytes), plus 16 bytes for each set its shard does not already hold.
//!
//! Refuses to know which router is alive and who may ask.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use caplane_wire::{Label, LabelKind};

use super::entry::{AgentEntry, ClassEntry, Egress, Entry, GroupEntry, InstanceAt};
use crate::mix::{MixState, mix64};

/// 4,096 shards: at 1 M labels a shard has about 250 of them (6 KB), so a delta of 1,000 scattered
/// labels copies about 6 MB; the root is 128 KB.
const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 12;

/// One member of a set: an egress router of a class or group, or one instance of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Member {
    pub router: Label,
    pub weight: u32,
    /// 0 for classes and groups.
    pub instance: u8,
}

type Set = Arc<[Member]>;

/// Sets in use anywhere, so that equal ones are stored once. Only `apply` touches it.
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

/// `key` 0 = free. Classes: `a` = own set, `b` = subtree set. Agents and groups: `a` = tenant, `b` = set.
#[derive(Clone, Copy, Default)]
struct Slot {
    key: u64,
    a: u32,
    b: u32,
}

/// Set references: 0 = empty, top bit = one member packed into the rest, else 1 + index of the
/// shard's sets.
const INLINE: u32 = 1 << 31;

fn pack_route(member: &Member) -> Option<u32> {
    // 15 bits of router, 16 of weight.
    let router = member.router.number();
    (member.instance == 0 && router < 1 << 15 && member.weight < 1 << 16)
        .then_some(INLINE | router << 16 | member.weight)
}

fn pack_instance(member: &Member) -> Option<u32> {
    // 6 bits of instance, 13 of router, 12 of weight.
    let router = member.router.number();
    (router < 1 << 13 && member.weight < 1 << 12)
        .then_some(INLINE | u32::from(member.instance) << 25 | router << 12 | member.weight)
}

#[inline]
fn unpack_route(bits: u32) -> Member {
    Member {
        router: Label::from_bits(3 << 30 | (bits >> 16 & 0x7fff)),
        weight: bits & 0xffff,
        instance: 0,
    }
}

#[inline]
fn unpack_instance(bits: u32) -> Member {
    Member {
        router: Label::from_bits(3 << 30 | (bits >> 12 & 0x1fff)),
        weight: bits & 0xfff,
        instance: (bits >> 25 & 63) as u8,
    }
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

#[derive(Clone)]
struct Shard {
    slots: Arc<[Slot]>,
    sets: Arc<[Set]>,
}

impl Shard {
    #[inline]
    fn find(&self, hash: u64, key: u64) -> Option<Slot> {
        let slots = &*self.slots;
        let mut at = home(hash, slots.len());
        // Ends: a shard always has a free slot (load at most 0.75), or no slot at all.
        loop {
            let slot = slots.get(at)?;
            if slot.key == key {
                return Some(*slot);
            }
            if slot.key == 0 {
                return None;
            }
            at = if at + 1 == slots.len() { 0 } else { at + 1 };
        }
    }

    #[inline]
    fn members(&self, reference: u32, unpack: fn(u32) -> Member) -> Members<'_> {
        if reference & INLINE != 0 {
            Members::One(unpack(reference))
        } else {
            match reference.checked_sub(1) {
                Some(index) => Members::Many(&self.sets[index as usize]),
                None => Members::Many(&[]),
            }
        }
    }
}

/// Where a key belongs in a table of `len` slots: the low half of the hash, scaled.
#[inline]
fn home(hash: u64, len: usize) -> usize {
    (((hash & 0xffff_ffff) * len as u64) >> 32) as usize
}

#[inline]
fn shard_of(hash: u64) -> usize {
    (hash >> (64 - SHARD_BITS)) as usize
}

#[inline]
fn class_key(tenant: u32, label: Label) -> u64 {
    u64::from(tenant) << 32 | u64::from(label.bits())
}

/// The label table.
#[derive(Clone)]
pub(crate) struct EdgeTable {
    shards: Arc<[Shard]>,
    pool: Arc<SetPool>,
    used: usize,
}

/// What a class maps to.
pub(crate) struct ClassView<'a> {
    pub own: Members<'a>,
    pub subtree: Members<'a>,
}

/// What an agent or a group maps to.
pub(crate) struct RouteView<'a> {
    pub tenant: u32,
    pub members: Members<'a>,
}

impl EdgeTable {
    pub fn empty() -> EdgeTable {
        EdgeTable::with_pool(Arc::default())
    }

    fn with_pool(pool: Arc<SetPool>) -> EdgeTable {
        let shard = Shard {
            slots: Arc::from([]),
            sets: Arc::from([]),
        };
        EdgeTable {
            shards: vec![shard; SHARDS].into(),
            pool,
            used: 0,
        }
    }

    /// An empty table that goes on sharing sets with this one.
    pub fn cleared(&self) -> EdgeTable {
        EdgeTable::with_pool(self.pool.clone())
    }

    pub fn len(&self) -> usize {
        self.used
    }

    #[inline]
    fn slot(&self, key: u64) -> Option<(&Shard, Slot)> {
        let hash = mix64(key);
        let shard = &self.shards[shard_of(hash)];
        shard.find(hash, key).map(|slot| (shard, slot))
    }

    #[inline]
    pub fn class(&self, tenant: u32, label: Label) -> Option<ClassView<'_>> {
        let (shard, slot) = self.slot(class_key(tenant, label))?;
        Some(ClassView {
            own: shard.members(slot.a, unpack_route),
            subtree: shard.members(slot.b, unpack_route),
        })
    }

    #[inline]
    pub fn agent(&self, any_instance: Label) -> Option<RouteView<'_>> {
        let (shard, slot) = self.slot(u64::from(any_instance.bits()))?;
        Some(RouteView {
            tenant: slot.a,
            members: shard.members(slot.b, unpack_instance),
        })
    }

    #[inline]
    pub fn group(&self, label: Label) -> Option<RouteView<'_>> {
        let (shard, slot) = self.slot(u64::from(label.bits()))?;
        Some(RouteView {
            tenant: slot.a,
            members: shard.members(slot.b, unpack_route),
        })
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.shards.iter().flat_map(|shard| {
            let full = shard.slots.iter().filter(|slot| slot.key != 0);
            full.map(move |slot| shard.entry(slot))
        })
    }

    pub fn edit(&self) -> EdgeEdit<'_> {
        EdgeEdit {
            base: self,
            open: (0..SHARDS).map(|_| None).collect(),
            used: self.used,
        }
    }

    /// Heap bytes of slots, set references and the root; sets themselves are shared and left out.
    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        let shards = self.shards.iter();
        let inner = shards.map(|s| size_of_val(&*s.slots) + size_of_val(&*s.sets));
        inner.sum::<usize>() + size_of_val(&*self.shards)
    }
}

impl Shard {
    fn entry(&self, slot: &Slot) -> Entry {
        let label = Label::from_bits(slot.key as u32);
        let egress = |reference| {
            let members = self.members(reference, unpack_route);
            let members = members.as_slice().iter();
            members
                .map(|m| Egress {
                    router: m.router,
                    weight: m.weight,
                })
                .collect::<Vec<_>>()
        };
        match label.kind() {
            LabelKind::Agent => {
                let members = self.members(slot.b, unpack_instance);
                let instances = members.as_slice().iter().map(|m| InstanceAt {
                    instance: m.instance,
                    router: m.router,
                    weight: m.weight,
                });
                Entry::Agent(AgentEntry {
                    label,
                    tenant: slot.a,
                    instances: instances.collect(),
                })
            }
            LabelKind::Group => Entry::Group(GroupEntry {
                label,
                tenant: slot.a,
                routers: egress(slot.b).iter().map(|e| e.router).collect(),
            }),
            LabelKind::Class | LabelKind::Router => Entry::Class(ClassEntry {
                tenant: (slot.key >> 32) as u32,
                label,
                own: egress(slot.a),
                subtree: egress(slot.b),
            }),
        }
    }
}

/// A shard being changed.
struct OpenShard {
    slots: Vec<Slot>,
    sets: Vec<Set>,
    used: usize,
    /// A slot lost or changed its set: some set may be unused.
    stale_sets: bool,
}

/// A table being changed: only the shards that are touched are copied, once.
pub(crate) struct EdgeEdit<'a> {
    base: &'a EdgeTable,
    open: Vec<Option<Box<OpenShard>>>,
    used: usize,
}

impl EdgeEdit<'_> {
    pub fn put_class(&mut self, entry: &ClassEntry) {
        let member = |e: &Egress| Member {
            router: e.router,
            weight: e.weight,
            instance: 0,
        };
        let own: Vec<Member> = entry.own.iter().map(member).collect();
        let subtree: Vec<Member> = entry.subtree.iter().map(member).collect();
        let key = class_key(entry.tenant, entry.label);
        self.put(key, |shard, pool| {
            let own = shard.reference(pool, &own, pack_route);
            (own, shard.reference(pool, &subtree, pack_route))
        });
    }

    pub fn put_agent(&mut self, entry: &AgentEntry) {
        let member = |i: &InstanceAt| Member {
            router: i.router,
            weight: i.weight,
            instance: i.instance,
        };
        let set: Vec<Member> = entry.instances.iter().map(member).collect();
        self.put(u64::from(entry.label.bits()), |shard, pool| {
            (entry.tenant, shard.reference(pool, &set, pack_instance))
        });
    }

    pub fn put_group(&mut self, entry: &GroupEntry) {
        let member = |router: &Label| Member {
            router: *router,
            weight: 1,
            instance: 0,
        };
        let set: Vec<Member> = entry.routers.iter().map(member).collect();
        self.put(u64::from(entry.label.bits()), |shard, pool| {
            (entry.tenant, shard.reference(pool, &set, pack_route))
        });
    }

    pub fn remove_class(&mut self, tenant: u32, label: Label) {
        self.remove(class_key(tenant, label));
    }

    /// Agents and groups.
    pub fn remove_label(&mut self, label: Label) {
        self.remove(u64::from(label.bits()));
    }

    fn put(&mut self, key: u64, values: impl FnOnce(&mut OpenShard, &SetPool) -> (u32, u32)) {
        let hash = mix64(key);
        let pool = &self.base.pool;
        let shard = open(&mut self.open, self.base, hash);
        let (a, b) = values(shard, pool);
        if shard.put(hash, Slot { key, a, b }) {
            self.used += 1;
        }
    }

    fn remove(&mut self, key: u64) {
        let hash = mix64(key);
        if open(&mut self.open, self.base, hash).remove(hash, key) {
            self.used -= 1;
        }
    }

    pub fn finish(self) -> EdgeTable {
        let mut shards = self.base.shards.to_vec();
        for (at, open) in self.open.into_iter().enumerate() {
            if let Some(open) = open {
                shards[at] = open.freeze();
            }
        }
        EdgeTable {
            shards: shards.into(),
            pool: self.base.pool.clone(),
            used: self.used,
        }
    }
}

fn open<'o>(
    open: &'o mut [Option<Box<OpenShard>>],
    base: &EdgeTable,
    hash: u64,
) -> &'o mut OpenShard {
    let at = shard_of(hash);
    open[at].get_or_insert_with(|| {
        let shard = &base.shards[at];
        Box::new(OpenShard {
            slots: shard.slots.to_vec(),
            sets: shard.sets.to_vec(),
            used: shard.slots.iter().filter(|slot| slot.key != 0).count(),
            stale_sets: false,
        })
    })
}

impl OpenShard {
    fn reference(
        &mut self,
        pool: &SetPool,
        members: &[Member],
        pack: fn(&Member) -> Option<u32>,
    ) -> u32 {
        match members {
            [] => return 0,
            [one] => {
                if let Some(packed) = pack(one) {
                    return packed;
                }
            }
            _ => {}
        }
        let set = pool.intern(members);
        let index = match self.sets.iter().position(|known| Arc::ptr_eq(known, &set)) {
            Some(index) => index,
            None => {
                self.sets.push(set);
                self.sets.len() - 1
            }
        };
        index as u32 + 1
    }

    /// True when the key is new.
    fn put(&mut self, hash: u64, new: Slot) -> bool {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let len = self.slots.len();
        let mut at = home(hash, len);
        loop {
            let slot = &mut self.slots[at];
            if slot.key == 0 || slot.key == new.key {
                let fresh = slot.key == 0;
                self.stale_sets |= !fresh;
                *slot = new;
                self.used += usize::from(fresh);
                return fresh;
            }
            at = (at + 1) % len;
        }
    }

    fn grow(&mut self) {
        let slots = vec![Slot::default(); ((self.used + 1) * 2).max(4)];
        let old = core::mem::replace(&mut self.slots, slots);
        let len = self.slots.len();
        for slot in old.into_iter().filter(|slot| slot.key != 0) {
            let mut at = home(mix64(slot.key), len);
            while self.slots[at].key != 0 {
                at = (at + 1) % len;
            }
            self.slots[at] = slot;
        }
    }

    /// True when the key was there. What follows it in its probe run moves up, so that no tombstone stays.
    fn remove(&mut self, hash: u64, key: u64) -> bool {
        let len = self.slots.len();
        if len == 0 {
            return false;
        }
        let mut hole = home(hash, len);
        while self.slots[hole].key != key {
            if self.slots[hole].key == 0 {
                return false;
            }
            hole = (hole + 1) % len;
        }
        let mut at = hole;
        loop {
            at = (at + 1) % len;
            let slot = self.slots[at];
            if slot.key == 0 {
                break;
            }
            // The slot may move into the hole unless its home lies after the hole (cyclically).
            let distance_home = (at + len - home(mix64(slot.key), len)) % len;
            let distance_hole = (at + len - hole) % len;
            if distance_home >= distance_hole {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = Slot::default();
        self.used -= 1;
        self.stale_sets = true;
        true
    }

    fn freeze(mut self) -> Shard {
        if self.stale_sets && !self.sets.is_empty() {
            self.drop_unused_sets();
        }
        if self.used == 0 {
            self.slots.clear();
        }
        Shard {
            slots: self.slots.into(),
            sets: self.sets.into(),
        }
    }

    fn drop_unused_sets(&mut self) {
        let mut place: Vec<u32> = vec![0; self.sets.len()];
        let mut kept = Vec::with_capacity(self.sets.len());
        let sets = &self.sets;
        let mut move_to = |reference: &mut u32| {
            if *reference == 0 || *reference & INLINE != 0 {
                return;
            }
            let old = *reference as usize - 1;
            if place[old] == 0 {
                kept.push(sets[old].clone());
                place[old] = kept.len() as u32;
            }
            *reference = place[old];
        };
        for slot in self.slots.iter_mut().filter(|slot| slot.key != 0) {
            let label = Label::from_bits(slot.key as u32);
            if label.kind() == LabelKind::Class {
                move_to(&mut slot.a);
            }
            move_to(&mut slot.b);
        }
        self.sets = kept;
    }
}
