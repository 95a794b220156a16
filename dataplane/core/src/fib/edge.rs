//! The label table: class, agent and group labels to weighted egress routers.
//!
//! 2,048 copy-on-write shards, each an open-addressing table of 16-byte slots keyed by the packed
//! `tenant << 32 | label` (`shard.rs`), in huge pages (`lines.rs`). A set of one ordinary member stands in the slot
//! itself; equal sets of more stand once for the whole table (`few.rs`, `sets.rs`). Per label that is 16 bytes at a load of
//! 0.4 to 0.55 (29 to 40 bytes), 16 for each member of a different small set, and 16 for each large set that its shard
//! does not already hold.
//!
//! Refuses to know which router is alive and who may ask.

use std::sync::Arc;

use caplane_wire::{Label, LabelKind};

use super::entry::{AgentEntry, ClassEntry, Egress, Entry, GroupEntry, InstanceAt};
use super::few::{FewEdit, FewSets};
use super::sets::{Keeping, LargeSets, Member, Members, Packing, Reference, SetPool, Sets};
use super::shard::{Bucket, Buckets, OpenShard, Slot};
use crate::mix::fold64;

/// 2,048 shards: at 1 M labels a shard has about 500 of them (16 KB), so a delta of 1,000 scattered
/// labels copies about 13 MB; the root is 16 KB of slots, and 64 KB of sets.
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
    /// By shard. Apart from the sets, which many messages do not look at: 16 KB that stay in the first cache.
    buckets: Arc<[Buckets]>,
    large: Arc<[LargeSets]>,
    few: FewSets,
    pool: Arc<SetPool>,
    used: usize,
}

/// What a class maps to.
pub(crate) struct ClassView<'a> {
    sets: Sets<'a>,
    slot: Slot,
}

/// Where a class would stand.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    home: Bucket<'a>,
    key: u64,
}

impl Place<'_> {
    /// A place for arrays of places, where nothing stands.
    pub const NOWHERE: Place<'static> = Place {
        home: Bucket::EMPTY,
        key: 1,
    };

    /// Asks for the cache line, and does not wait for it.
    #[inline]
    pub fn prefetch(&self) {
        self.home.prefetch();
    }

    /// Tenant and label of the class, packed.
    #[inline]
    pub fn key(&self) -> u64 {
        self.key
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
            large: vec![LargeSets::default(); SHARDS].into(),
            few: FewSets::default(),
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
    fn slot(&self, key: u64) -> Option<(Sets<'_>, Slot)> {
        let hash = fold64(key);
        let at = shard_of(hash);
        let slot = self.buckets[at].find(hash, key)?;
        Some((self.sets(at), slot))
    }

    #[inline]
    fn sets(&self, shard: usize) -> Sets<'_> {
        Sets {
            few: &self.few,
            large: &self.large[shard],
        }
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
        let hash = fold64(key);
        let home = self.buckets[shard_of(hash)].home(hash);
        Place { home, key }
    }

    /// The members of the class that belongs at a place: of it alone (`own`), or of anything below it too. Empty where
    /// it is not there.
    #[inline]
    pub fn set_at(&self, place: &Place<'_>, own: bool) -> Reference {
        let Place { home, key } = *place;
        let mut values = home.values(key);
        // That it is not here cannot be foretold, that the bucket is full besides can: one branch for both.
        if (values == 0) & home.is_full() && home.goes_on(key) {
            let hash = fold64(key);
            let behind = self.buckets[shard_of(hash)].find_behind(hash, key);
            values = behind.map_or(0, |slot| slot.values());
        }
        Reference((values >> if own { 0 } else { 32 }) as u32)
    }

    /// The first member of a set of this class.
    #[inline]
    pub fn first(&self, key: u64, set: Reference) -> Option<Member> {
        let sets = self.sets(shard_of(fold64(key)));
        let members = sets.members(set, Packing::Route);
        members.as_slice().first().copied()
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let shards = self.buckets.iter().enumerate();
        shards.flat_map(move |(at, buckets)| {
            let sets = self.sets(at);
            buckets.slots().map(move |slot| entry(sets, &slot))
        })
    }

    /// To put about so many labels into it.
    pub fn edit(&self, labels: usize) -> EdgeEdit<'_> {
        EdgeEdit {
            base: self,
            shard_labels: labels / SHARDS,
            few: self.few.edit(),
            open: (0..SHARDS).map(|_| None).collect(),
            used: self.used,
        }
    }

    /// Heap bytes, large sets apart: they are shared.
    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        let buckets = self.buckets.iter().map(Buckets::heap_bytes);
        let large = self.large.iter().map(LargeSets::heap_bytes);
        buckets.sum::<usize>() + large.sum::<usize>() + self.few.heap_bytes()
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
fn entry(sets: Sets<'_>, slot: &Slot) -> Entry {
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
    /// Expected in a shard: one that was empty has room for them at once.
    shard_labels: usize,
    few: FewEdit<'a>,
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
        let own = self.refer(key, &own, Packing::Route);
        let subtree = self.refer(key, &subtree, Packing::Route);
        self.put(key, own.0, subtree.0);
    }

    pub fn put_agent(&mut self, entry: &AgentEntry) {
        let member = |i: &InstanceAt| Member {
            router: i.router,
            weight: i.weight,
            instance: i.instance,
        };
        let set: Vec<Member> = entry.instances.iter().map(member).collect();
        let key = u64::from(entry.label.bits());
        let set = self.refer(key, &set, Packing::Instance);
        self.put(key, entry.tenant, set.0);
    }

    pub fn put_group(&mut self, entry: &GroupEntry) {
        let member = |router: &Label| Member {
            router: *router,
            weight: 1,
            instance: 0,
        };
        let set: Vec<Member> = entry.routers.iter().map(member).collect();
        let key = u64::from(entry.label.bits());
        let set = self.refer(key, &set, Packing::Route);
        self.put(key, entry.tenant, set.0);
    }

    pub fn remove_class(&mut self, tenant: u32, label: Label) {
        self.remove(class_key(tenant, label));
    }

    /// Agents and groups.
    pub fn remove_label(&mut self, label: Label) {
        self.remove(u64::from(label.bits()));
    }

    /// The reference that the slot of this key is to have to a set.
    fn refer(&mut self, key: u64, members: &[Member], packing: Packing) -> Reference {
        if let Some(packed) = Reference::packed(members, packing) {
            return packed;
        }
        if let Some(place) = self.few.refer(members) {
            return Reference::to_few(place, members.len());
        }
        let pool = &self.base.pool;
        let shard = self.open(fold64(key));
        shard.large.refer(pool, members)
    }

    fn put(&mut self, key: u64, a: u32, b: u32) {
        let shard = self.open(fold64(key));
        match shard.put(Slot { key, a, b }) {
            Some(old) => self.release(&old),
            None => self.used += 1,
        }
    }

    fn remove(&mut self, key: u64) {
        let shard = self.open(fold64(key));
        if let Some(old) = shard.remove(key) {
            self.release(&old);
            self.used -= 1;
        }
    }

    /// The sets of a slot that is gone.
    fn release(&mut self, old: &Slot) {
        // Both values of a class are sets, the second one of agents and groups.
        let first = is_class(old).then_some(Reference(old.a));
        for reference in first.into_iter().chain([Reference(old.b)]) {
            if let Some(place) = reference.few() {
                self.few.release(place);
            }
            if reference.is_large() {
                self.open(fold64(old.key)).stale_sets = true;
            }
        }
    }

    fn open(&mut self, hash: u64) -> &mut OpenShard {
        let (base, at) = (self.base, shard_of(hash));
        self.open[at].get_or_insert_with(|| {
            let mut shard = base.buckets[at].edit(&base.large[at]);
            shard.expect(self.shard_labels);
            Box::new(shard)
        })
    }

    pub fn finish(self) -> EdgeTable {
        let (mut buckets, mut large) = (self.base.buckets.to_vec(), self.base.large.to_vec());
        for (at, open) in self.open.into_iter().enumerate() {
            if let Some(open) = open {
                (buckets[at], large[at]) = open.freeze(keep);
            }
        }
        EdgeTable {
            buckets: buckets.into(),
            large: large.into(),
            few: self.few.finish(),
            pool: self.base.pool.clone(),
            used: self.used,
        }
    }
}

fn is_class(slot: &Slot) -> bool {
    Label::from_bits(slot.key as u32).kind() == LabelKind::Class
}

fn keep(keeping: &mut Keeping<'_>, slot: &mut Slot) {
    if is_class(slot) {
        slot.a = keeping.keep(Reference(slot.a)).0;
    }
    slot.b = keeping.keep(Reference(slot.b)).0;
}
