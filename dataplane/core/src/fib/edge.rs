//! The label table: class, agent and group labels to weighted egress routers.
//!
//! 2,048 copy-on-write shards, each an open-addressing table of 16-byte slots keyed by the packed
//! `tenant << 32 | label` (`shard.rs`). A set of one ordinary member stands in the slot itself, a few members in the
//! shard, more once for all shards (`sets.rs`). Per label that is 16 bytes at a load of 0.6 to 0.83 (19 to 27
//! bytes), 12 for each member of a small set, and 16 for each large set that its shard does not already hold.
//!
//! Refuses to know which router is alive and who may ask.

use std::sync::Arc;

use caplane_wire::{Label, LabelKind};

use super::entry::{AgentEntry, ClassEntry, Egress, Entry, GroupEntry, InstanceAt};
use super::sets::{Keeping, Member, Members, Packing, Reference, SetPool, Sets};
use super::shard::{Bucket, Buckets, OpenShard, Slot};
use crate::mix::mix64;

/// 2,048 shards: at 1 M labels a shard has about 500 of them (12 KB), so a delta of 1,000 scattered
/// labels copies about 9 MB; the root is 32 KB of slots and 64 KB of sets.
const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 11;

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
    /// By shard. Apart from the sets, which many messages do not look at: 32 KB that stay in the first cache.
    buckets: Arc<[Buckets]>,
    sets: Arc<[Sets]>,
    pool: Arc<SetPool>,
    used: usize,
}

/// What a class maps to.
pub(crate) struct ClassView<'a> {
    sets: &'a Sets,
    slot: &'a Slot,
}

/// Where a class would stand.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    home: &'a Bucket,
    key: u64,
    hash: u64,
}

impl Place<'_> {
    /// A place for arrays of places, where nothing stands.
    pub const NOWHERE: Place<'static> = Place {
        home: &Bucket::EMPTY,
        key: 1,
        hash: 0,
    };

    /// Loads the cache line. The value is for [`core::hint::black_box`], so that the load stays.
    #[inline]
    pub fn touch(&self) -> u64 {
        self.home.touch()
    }
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
        EdgeTable {
            buckets: vec![Buckets::default(); SHARDS].into(),
            sets: vec![Sets::default(); SHARDS].into(),
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
    fn slot(&self, key: u64) -> Option<(&Sets, &Slot)> {
        let hash = mix64(key);
        let at = shard_of(hash);
        let slot = self.buckets[at].find(hash, key)?;
        Some((&self.sets[at], slot))
    }

    #[inline]
    pub fn class(&self, tenant: u32, label: Label) -> Option<ClassView<'_>> {
        let (sets, slot) = self.slot(class_key(tenant, label))?;
        Some(ClassView { sets, slot })
    }

    #[inline]
    pub fn agent(&self, any_instance: Label) -> Option<RouteView<'_>> {
        let (sets, slot) = self.slot(u64::from(any_instance.bits()))?;
        Some(RouteView {
            tenant: slot.a,
            members: sets.members(Reference(slot.b), Packing::Instance),
        })
    }

    #[inline]
    pub fn group(&self, label: Label) -> Option<RouteView<'_>> {
        let (sets, slot) = self.slot(u64::from(label.bits()))?;
        Some(RouteView {
            tenant: slot.a,
            members: sets.members(Reference(slot.b), Packing::Route),
        })
    }

    /// Where a class would stand: the first half of [`EdgeTable::class`], apart from it so that the loads of many
    /// classes are under way at once.
    #[inline]
    pub fn place(&self, tenant: u32, label: Label) -> Place<'_> {
        let key = class_key(tenant, label);
        let hash = mix64(key);
        let home = self.buckets[shard_of(hash)].home(hash);
        Place { home, key, hash }
    }

    /// The class that belongs at a place, if it is there.
    #[inline]
    pub fn class_at<'a>(&'a self, place: &Place<'a>) -> Option<ClassView<'a>> {
        let Place { home, key, hash } = *place;
        let slot = match home.find(key) {
            None if home.goes_on(key) => self.buckets[shard_of(hash)].find_behind(hash, key)?,
            found => found?,
        };
        let sets = &self.sets[shard_of(hash)];
        Some(ClassView { sets, slot })
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let shards = self.buckets.iter().zip(&*self.sets);
        shards.flat_map(|(buckets, sets)| buckets.slots().map(|slot| entry(sets, slot)))
    }

    pub fn edit(&self) -> EdgeEdit<'_> {
        EdgeEdit {
            base: self,
            open: (0..SHARDS).map(|_| None).collect(),
            used: self.used,
        }
    }

    /// Heap bytes, large sets apart: they are shared.
    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        let buckets = self.buckets.iter().map(Buckets::heap_bytes);
        let sets = self.sets.iter().map(Sets::heap_bytes);
        buckets.sum::<usize>() + sets.sum::<usize>()
    }
}

impl<'a> ClassView<'a> {
    /// Members granted exactly this class.
    #[inline]
    pub fn own(&self) -> Members<'a> {
        self.sets.members(Reference(self.slot.a), Packing::Route)
    }

    /// Members granted this class or anything below it.
    #[inline]
    pub fn subtree(&self) -> Members<'a> {
        self.sets.members(Reference(self.slot.b), Packing::Route)
    }
}

/// A slot as it was written.
fn entry(sets: &Sets, slot: &Slot) -> Entry {
    let label = Label::from_bits(slot.key as u32);
    let egress = |reference| {
        let members = sets.members(Reference(reference), Packing::Route);
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
            let members = sets.members(Reference(slot.b), Packing::Instance);
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
            let own = shard.sets.refer(pool, &own, Packing::Route);
            let subtree = shard.sets.refer(pool, &subtree, Packing::Route);
            (own.0, subtree.0)
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
            let set = shard.sets.refer(pool, &set, Packing::Instance);
            (entry.tenant, set.0)
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
            let set = shard.sets.refer(pool, &set, Packing::Route);
            (entry.tenant, set.0)
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
        match shard.put(Slot { key, a, b }) {
            Some(old) => shard.stale_sets |= has_stored_set(&old),
            None => self.used += 1,
        }
    }

    fn remove(&mut self, key: u64) {
        let hash = mix64(key);
        let shard = open(&mut self.open, self.base, hash);
        if let Some(old) = shard.remove(key) {
            shard.stale_sets |= has_stored_set(&old);
            self.used -= 1;
        }
    }

    pub fn finish(self) -> EdgeTable {
        let (mut buckets, mut sets) = (self.base.buckets.to_vec(), self.base.sets.to_vec());
        for (at, open) in self.open.into_iter().enumerate() {
            if let Some(open) = open {
                (buckets[at], sets[at]) = open.freeze(keep);
            }
        }
        EdgeTable {
            buckets: buckets.into(),
            sets: sets.into(),
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
    open[at].get_or_insert_with(|| Box::new(base.buckets[at].edit(&base.sets[at])))
}

/// Both values of a class are sets, the second one of agents and groups.
fn is_class(slot: &Slot) -> bool {
    Label::from_bits(slot.key as u32).kind() == LabelKind::Class
}

fn has_stored_set(slot: &Slot) -> bool {
    is_class(slot) && Reference(slot.a).is_stored() || Reference(slot.b).is_stored()
}

fn keep(keeping: &mut Keeping<'_>, slot: &mut Slot) {
    if is_class(slot) {
        slot.a = keeping.keep(Reference(slot.a)).0;
    }
    slot.b = keeping.keep(Reference(slot.b)).0;
}
