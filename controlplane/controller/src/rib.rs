//! The RIB: the desired state in memory, with the indexes that keep one change cheap.
//!
//! [`Rib::put`] and [`Rib::remove`] are the only ways to change it. Each keeps
//! the indexes true, notes which table entries it *may* have touched
//! ([`Rib::take_touched`]) and remembers what stood there before, so that any
//! number of changes can be undone ([`Rib::rollback`]): that is how a batch is
//! all or nothing, and how a failed store leaves no trace.
//!
//! Refuses to know why something is changed and whether it may be (that is
//! [`crate::change`]), tables, stores and gRPC.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use caplane_core::fib::EntryKey;
use caplane_wire::Label;

use crate::record::{
    AgentRecord, AttachmentRecord, CounterKind, CounterRecord, GrantRecord, GroupRecord,
    LinkRecord, Object, ObjectKey, OverrideRecord, PermissionRecord, RouterRecord, SHARED_TENANT,
    TenantRecord,
};
use crate::tables::TableKey;

mod allocate;
mod lookup;
mod members;
mod pending;
mod policy;
mod requests;

pub use allocate::Exhausted;
pub use lookup::Membership;
pub use members::{ClassCount, ClassMembers};
pub use pending::Waiting;

#[cfg(test)]
mod tests;

/// Table entries that may have changed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Touched {
    /// Entries by name.
    pub keys: BTreeSet<TableKey>,
    /// Every transit route, since a router or a link came, went or changed its cost.
    pub topology: bool,
}

impl Touched {
    /// True when nothing can have changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.topology
    }

    /// These and those; costs what the smaller set costs.
    fn join(&mut self, mut other: Self) {
        if other.keys.len() > self.keys.len() {
            std::mem::swap(&mut self.keys, &mut other.keys);
        }
        self.keys.extend(other.keys);
        self.topology |= other.topology;
    }

    fn shared(&mut self, key: EntryKey) {
        self.keys.insert(TableKey::Shared(key));
    }
}

/// A place in the journal to come back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

/// The desired state. See the module's head.
#[derive(Debug)]
pub struct Rib {
    generation: u64,
    intent_generation: u64,
    tenants: BTreeMap<String, TenantRecord>,
    tenant_names: BTreeMap<u32, String>,
    agents: BTreeMap<String, Arc<AgentRecord>>,
    agent_numbers: HashMap<u32, String>,
    grants: BTreeMap<(String, String), GrantRecord>,
    overrides: BTreeMap<(String, String), OverrideRecord>,
    routers: BTreeMap<String, RouterRecord>,
    router_labels: BTreeMap<Label, String>,
    router_uris: HashMap<String, String>,
    links: BTreeMap<(String, String), LinkRecord>,
    adjacent: BTreeMap<String, BTreeSet<String>>,
    permissions: BTreeMap<(u32, u32, String), PermissionRecord>,
    permissions_to: BTreeSet<(u32, u32, String)>,
    groups: BTreeMap<String, GroupRecord>,
    group_numbers: HashMap<u32, String>,
    groups_of: HashMap<String, BTreeSet<String>>,
    /// By label bits: the instances of one agent stand side by side.
    attachments: BTreeMap<u32, AttachmentRecord>,
    attached_at: HashMap<Label, BTreeSet<u32>>,
    instance_names: HashMap<(u32, String), u32>,
    counters: BTreeMap<CounterKind, u32>,
    members: members::MemberIndex,
    /// Agents whose registration ends, by time.
    leases: BTreeSet<(u64, String)>,
    requests: requests::RequestIndex,
    pending: pending::PendingIndex,
    policies: policy::PolicyIndex,
    touched: Touched,
    journal: Vec<(ObjectKey, Option<Object>)>,
}

impl Default for Rib {
    fn default() -> Self {
        Self::new()
    }
}

impl Rib {
    /// A state with nothing but the shared tenant.
    #[must_use]
    pub fn new() -> Self {
        let mut rib = Self {
            generation: 0,
            intent_generation: 0,
            tenants: BTreeMap::new(),
            tenant_names: BTreeMap::new(),
            agents: BTreeMap::new(),
            agent_numbers: HashMap::new(),
            grants: BTreeMap::new(),
            overrides: BTreeMap::new(),
            routers: BTreeMap::new(),
            router_labels: BTreeMap::new(),
            router_uris: HashMap::new(),
            links: BTreeMap::new(),
            adjacent: BTreeMap::new(),
            permissions: BTreeMap::new(),
            permissions_to: BTreeSet::new(),
            groups: BTreeMap::new(),
            group_numbers: HashMap::new(),
            groups_of: HashMap::new(),
            attachments: BTreeMap::new(),
            attached_at: HashMap::new(),
            instance_names: HashMap::new(),
            counters: BTreeMap::new(),
            members: members::MemberIndex::default(),
            leases: BTreeSet::new(),
            requests: requests::RequestIndex::default(),
            pending: pending::PendingIndex::default(),
            policies: policy::PolicyIndex::default(),
            touched: Touched::default(),
            journal: Vec::new(),
        };
        rib.assign(
            ObjectKey::Tenant(SHARED_TENANT.into()),
            Some(Object::Tenant(TenantRecord {
                name: SHARED_TENANT.into(),
                ..TenantRecord::default()
            })),
        );
        rib.touched = Touched::default();
        rib
    }

    /// The state that these stored objects are, at a generation.
    #[must_use]
    pub fn from_objects(objects: impl IntoIterator<Item = Object>, generation: u64) -> Self {
        let mut rib = Self::new();
        for object in objects {
            rib.assign(object.key(), Some(object));
        }
        rib.generation = generation;
        rib.touched = Touched::default();
        rib
    }

    /// Generation of the newest change, which may not be stored yet.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Says which generation the changes made so far belong to.
    pub fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// The newest generation in which somebody's word changed something: a Write, not what routers report or time ends.
    #[must_use]
    pub fn intent_generation(&self) -> u64 {
        self.intent_generation
    }

    /// Says which generation that is.
    pub fn set_intent_generation(&mut self, generation: u64) {
        self.intent_generation = generation;
    }

    /// Sets one object, new or not.
    pub fn put(&mut self, object: Object) {
        let key = object.key();
        let before = self.assign(key.clone(), Some(object));
        self.journal.push((key, before));
    }

    /// Removes one object; nothing happens when it is not there.
    pub fn remove(&mut self, key: &ObjectKey) {
        let before = self.assign(key.clone(), None);
        if before.is_some() {
            self.journal.push((key.clone(), before));
        }
    }

    /// Here and now, for [`rollback`](Self::rollback).
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.journal.len())
    }

    /// Whether anything changed since `mark`.
    #[must_use]
    pub fn changed_since(&self, mark: Mark) -> bool {
        self.journal.len() > mark.0
    }

    /// Undoes every change since `mark`, newest first.
    pub fn rollback(&mut self, mark: Mark) {
        while self.journal.len() > mark.0 {
            if let Some((key, before)) = self.journal.pop() {
                self.assign(key, before);
            }
        }
    }

    /// What the journal's changes come to, each object once: `None` = it is gone.
    #[must_use]
    pub fn changes(&self) -> Vec<(ObjectKey, Option<Object>)> {
        let keys: BTreeSet<&ObjectKey> = self.journal.iter().map(|(key, _)| key).collect();
        keys.into_iter()
            .map(|key| (key.clone(), self.object(key)))
            .collect()
    }

    /// What was changed since `mark`, oldest first, and what stood there before each change.
    pub fn written_since(&self, mark: Mark) -> impl Iterator<Item = (&ObjectKey, Option<&Object>)> {
        let rows = self.journal.get(mark.0..).unwrap_or_default();
        rows.iter().map(|(key, before)| (key, before.as_ref()))
    }

    /// Forgets how to undo: the changes are stored.
    pub fn settle(&mut self) {
        self.journal.clear();
    }

    /// The entries that may have changed since this was last asked.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    /// The same, without forgetting them.
    #[must_use]
    pub fn touched(&self) -> &Touched {
        &self.touched
    }

    /// Remembers entries as touched that [`take_touched`](Self::take_touched) told of before.
    pub fn put_back_touched(&mut self, touched: Touched) {
        self.touched.join(touched);
    }

    /// Sets or removes one object and answers what was there.
    fn assign(&mut self, key: ObjectKey, new: Option<Object>) -> Option<Object> {
        match (key, new) {
            (ObjectKey::Counter(kind), Some(Object::Counter(record))) => {
                let before = self.counters.insert(kind, record.next);
                Some(counter(kind, before?))
            }
            (ObjectKey::Counter(kind), _) => {
                let before = self.counters.remove(&kind);
                Some(counter(kind, before?))
            }
            (ObjectKey::Tenant(name), new) => self.assign_tenant(name, new),
            (ObjectKey::Agent(uri), new) => self.assign_agent(uri, new),
            (ObjectKey::Grant(agent, path), new) => {
                self.unindex(&agent);
                let place = (agent.clone(), path);
                let before = match new {
                    Some(Object::Grant(record)) => self.grants.insert(place, record),
                    _ => self.grants.remove(&place),
                };
                self.index(&agent);
                before.map(Object::Grant)
            }
            (ObjectKey::Override(agent, skill), new) => {
                self.unindex(&agent);
                let place = (agent.clone(), skill);
                let before = match new {
                    Some(Object::Override(record)) => self.overrides.insert(place, record),
                    _ => self.overrides.remove(&place),
                };
                self.index(&agent);
                before.map(Object::Override)
            }
            (ObjectKey::Router(name), new) => self.assign_router(name, new),
            (ObjectKey::Link(a, b), new) => self.assign_link(a, b, new),
            (ObjectKey::Permission(from, to, path), new) => {
                self.assign_permission((from, to, path), new)
            }
            (ObjectKey::Group(name), new) => self.assign_group(name, new),
            (ObjectKey::Attachment(label), new) => self.assign_attachment(label, new),
            (ObjectKey::Request(caller, key), new) => {
                let new = match new {
                    Some(Object::Request(record)) => Some(record),
                    _ => None,
                };
                self.requests.assign(caller, key, new).map(Object::Request)
            }
            (ObjectKey::Pending(generation), new) => {
                let new = match new {
                    Some(Object::Pending(record)) => Some(record),
                    _ => None,
                };
                self.pending.assign(generation, new).map(Object::Pending)
            }
            (ObjectKey::Policy(name), new) => self.assign_policy(name, new),
            (ObjectKey::Policer(name), new) => self.assign_policer(name, new),
        }
    }

    fn assign_tenant(&mut self, name: String, new: Option<Object>) -> Option<Object> {
        let before = self.tenants.remove(&name);
        if let Some(gone) = &before {
            self.tenant_names.remove(&gone.id);
        }
        if let Some(Object::Tenant(record)) = new {
            // Its policer holds its agents.
            self.touch_policies(record.id);
            self.tenant_names.insert(record.id, name.clone());
            self.tenants.insert(name, record);
        }
        before.map(Object::Tenant)
    }

    fn assign_agent(&mut self, uri: String, new: Option<Object>) -> Option<Object> {
        self.unindex(&uri);
        let before = match new {
            Some(Object::Agent(record)) => {
                self.agent_numbers.insert(record.number, uri.clone());
                self.agents.insert(uri.clone(), record)
            }
            _ => {
                let gone = self.agents.remove(&uri);
                if let Some(gone) = &gone {
                    self.agent_numbers.remove(&gone.number);
                }
                gone
            }
        };
        self.index(&uri);
        before.map(Object::Agent)
    }

    fn assign_router(&mut self, name: String, new: Option<Object>) -> Option<Object> {
        let before = self.routers.remove(&name);
        if let Some(gone) = &before {
            self.router_labels.remove(&gone.label());
            self.router_uris.remove(&gone.uri);
        }
        let same_label = match (&before, &new) {
            (Some(before), Some(Object::Router(after))) => before.number == after.number,
            _ => false,
        };
        if let Some(Object::Router(record)) = new {
            self.router_labels.insert(record.label(), name.clone());
            self.router_uris.insert(record.uri.clone(), name.clone());
            self.routers.insert(name.clone(), record);
        }
        self.touched.topology |= !same_label;
        for other in self.adjacent.get(&name).into_iter().flatten() {
            if let (Some(other), Some(this)) = (self.routers.get(other), self.routers.get(&name)) {
                let key = EntryKey::Neighbour(this.label());
                self.touched
                    .keys
                    .insert(TableKey::Router(other.label(), key));
            }
        }
        before.map(Object::Router)
    }

    fn assign_link(&mut self, a: String, b: String, new: Option<Object>) -> Option<Object> {
        let place = (a, b);
        let before = match new {
            Some(Object::Link(record)) => {
                for (one, other) in [(&place.0, &place.1), (&place.1, &place.0)] {
                    let row = self.adjacent.entry(one.clone()).or_default();
                    row.insert(other.clone());
                }
                self.links.insert(place.clone(), record)
            }
            _ => {
                for (one, other) in [(&place.0, &place.1), (&place.1, &place.0)] {
                    if let Some(row) = self.adjacent.get_mut(one) {
                        row.remove(other);
                    }
                }
                self.links.remove(&place)
            }
        };
        self.touched.topology = true;
        if let (Some(a), Some(b)) = (self.routers.get(&place.0), self.routers.get(&place.1)) {
            for (one, other) in [(a, b), (b, a)] {
                let key = EntryKey::Neighbour(other.label());
                self.touched.keys.insert(TableKey::Router(one.label(), key));
            }
        }
        before.map(Object::Link)
    }

    fn assign_permission(
        &mut self,
        place: (u32, u32, String),
        new: Option<Object>,
    ) -> Option<Object> {
        let (from, to) = (place.0, place.1);
        let reverse = (to, from, place.2.clone());
        let before = match new {
            Some(Object::Permission(record)) => {
                self.permissions_to.insert(reverse);
                self.permissions.insert(place, record)
            }
            _ => {
                self.permissions_to.remove(&reverse);
                self.permissions.remove(&place)
            }
        };
        self.touch_policies(from);
        self.touch_policies(to);
        before.map(Object::Permission)
    }

    fn assign_group(&mut self, name: String, new: Option<Object>) -> Option<Object> {
        let before = self.groups.get(&name).cloned();
        let after = match new {
            Some(Object::Group(record)) => Some(record),
            _ => None,
        };
        let moved = group_movers(before.as_ref(), after.as_ref());
        for agent in &moved {
            self.unindex(agent);
        }
        if let Some(before) = &before {
            self.group_numbers.remove(&before.number);
            for agent in &before.agents {
                if let Some(row) = self.groups_of.get_mut(agent) {
                    row.remove(&name);
                    if row.is_empty() {
                        self.groups_of.remove(agent);
                    }
                }
            }
        }
        match after {
            Some(after) => {
                self.group_numbers.insert(after.number, name.clone());
                for agent in &after.agents {
                    let row = self.groups_of.entry(agent.clone()).or_default();
                    row.insert(name.clone());
                }
                self.groups.insert(name, after);
            }
            None => {
                self.groups.remove(&name);
            }
        }
        for agent in &moved {
            self.index(agent);
        }
        before.map(Object::Group)
    }

    fn assign_attachment(&mut self, bits: u32, new: Option<Object>) -> Option<Object> {
        let label = Label::from_bits(bits);
        let before = self.attachments.remove(&bits);
        if let Some(gone) = &before {
            self.shift_instance(label.agent_number(), gone.router(), false);
            if let Some(row) = self.attached_at.get_mut(&gone.router()) {
                row.remove(&bits);
                if row.is_empty() {
                    self.attached_at.remove(&gone.router());
                }
            }
            let name = (label.agent_number(), gone.instance_name.clone());
            if self.instance_names.get(&name) == Some(&bits) {
                self.instance_names.remove(&name);
            }
        }
        if let Some(Object::Attachment(record)) = new {
            let router = record.router();
            self.attached_at.entry(router).or_default().insert(bits);
            if !record.instance_name.is_empty() {
                let name = (label.agent_number(), record.instance_name.clone());
                self.instance_names.insert(name, bits);
            }
            self.attachments.insert(bits, record);
            self.shift_instance(label.agent_number(), router, true);
        }
        self.relist_lease(label.agent_number());
        before.map(Object::Attachment)
    }
}

fn counter(kind: CounterKind, next: u32) -> Object {
    Object::Counter(CounterRecord {
        kind: kind as u32,
        next,
    })
}

/// Agents whose membership a change of a group changes.
fn group_movers(before: Option<&GroupRecord>, after: Option<&GroupRecord>) -> BTreeSet<String> {
    let agents = |group: Option<&GroupRecord>| -> BTreeSet<String> {
        group.map_or_else(BTreeSet::new, |g| g.agents.iter().cloned().collect())
    };
    let (old, new) = (agents(before), agents(after));
    let same_group = match (before, after) {
        (Some(b), Some(a)) => b.tenant == a.tenant && b.number == a.number,
        _ => false,
    };
    if same_group {
        old.symmetric_difference(&new).cloned().collect()
    } else {
        old.union(&new).cloned().collect()
    }
}
