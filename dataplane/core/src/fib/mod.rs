//! The forwarding table: immutable, versioned, in copy-on-write shards, so that a delta costs what
//! it changes and a clone costs a handful of reference counts.
//!
//! Refuses to know protobuf, files and peers: the router and the controller convert to and from
//! [`Entry`], and which peer is alive is [`crate::forward`]'s business.

mod check;
mod edge;
mod entry;
mod few;
mod identities;
mod lines;
mod policy;
mod serving;
mod sets;
mod shard;
#[cfg(test)]
mod tests;

pub use entry::{
    AgentEntry, Allow, ClassEntry, ClassRate, Delta, Egress, Entry, EntryKey, Generation,
    GroupEntry, IdentityEntry, InstanceAt, Membership, NeighbourEntry, PolicyEntry, Rate,
    Rejection, TransitEntry,
};
pub use lines::line_bytes;
pub use policy::Policy;
pub use serving::Serving;

pub(crate) use edge::{ClassView, RouteView};
pub(crate) use serving::BATCH;
pub(crate) use sets::{Member, Members};

use std::collections::BTreeMap;
use std::sync::Arc;

use caplane_wire::{Label, LabelKind};

use crate::mix::MixMap;
use edge::EdgeTable;
use identities::Identities;
pub(crate) use identities::{SHARDS, uri_shard};

type Policies = MixMap<u32, Arc<Policy>>;

/// One generation of a router's table. Cheap to clone; clones share what did not change.
#[derive(Clone)]
pub struct Fib {
    domain: u32,
    router: Label,
    generation: Generation,
    edge: EdgeTable,
    identities: Identities,
    policies: Arc<Policies>,
    transit: Arc<BTreeMap<Label, TransitEntry>>,
    neighbours: Arc<BTreeMap<Label, NeighbourEntry>>,
}

impl Fib {
    /// A table without entries, generation 0, of the router with this label.
    pub fn empty(domain: u32, router: Label) -> Fib {
        Fib {
            domain,
            router,
            generation: Generation(0),
            edge: EdgeTable::empty(),
            identities: Identities::empty(),
            policies: Arc::default(),
            transit: Arc::default(),
            neighbours: Arc::default(),
        }
    }

    /// The administrative domain of this router.
    pub fn domain(&self) -> u32 {
        self.domain
    }

    /// The router's own label.
    pub fn router(&self) -> Label {
        self.router
    }

    /// Version of this table.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What this table says to every router, as the table of another one: its next hops and its neighbours are for
    /// [`Fib::apply`] to add.
    pub fn for_router(&self, router: Label) -> Fib {
        Fib {
            router,
            transit: Arc::default(),
            neighbours: Arc::default(),
            ..self.clone()
        }
    }

    /// The table after `delta`; `self` stays as it is. A delta with base 0 replaces everything.
    ///
    /// # Errors
    ///
    /// One [`Rejection`] per entry that breaks a rule (and one without a key when base or generation
    /// do not fit); nothing of the delta is applied then.
    pub fn apply(&self, delta: &Delta) -> Result<Fib, Vec<Rejection>> {
        if let Some(rejection) = check::order(self, delta) {
            return Err(vec![rejection]);
        }
        let mut next = self.clone();
        next.generation = delta.generation;
        if delta.base.0 == 0 {
            let empty = Fib::empty(self.domain, self.router);
            next.edge = self.edge.cleared();
            next.identities = empty.identities;
            next.policies = empty.policies;
            next.transit = empty.transit;
            next.neighbours = empty.neighbours;
        }
        next.apply_small(delta);
        let context = check::Context {
            router: self.router,
            policies: &next.policies,
            neighbours: &next.neighbours,
        };
        let rejections = check::entries(&context, delta);
        if !rejections.is_empty() {
            return Err(rejections);
        }
        next.apply_edge(delta);
        next.apply_identities(delta);
        let dangling = check::removes(&next, delta);
        if dangling.is_empty() {
            Ok(next)
        } else {
            Err(dangling)
        }
    }

    /// Policy groups, transit routes and neighbours: few, and what the other entries refer to.
    fn apply_small(&mut self, delta: &Delta) {
        for entry in &delta.upserts {
            match entry {
                // The same again changes nothing for those attached.
                Entry::Policy(e) if self.policies.get(&e.id).is_some_and(|p| p.entry() == e) => {}
                Entry::Policy(e) => {
                    let policy = Arc::new(Policy::compile(e.clone()));
                    Arc::make_mut(&mut self.policies).insert(e.id, policy);
                }
                Entry::Transit(e) => {
                    Arc::make_mut(&mut self.transit).insert(e.router, e.clone());
                }
                Entry::Neighbour(e) => {
                    Arc::make_mut(&mut self.neighbours).insert(e.router, e.clone());
                }
                _ => {}
            }
        }
        for key in &delta.removes {
            match key {
                EntryKey::Policy(id) => {
                    Arc::make_mut(&mut self.policies).remove(id);
                }
                EntryKey::Transit(label) => {
                    Arc::make_mut(&mut self.transit).remove(label);
                }
                EntryKey::Neighbour(label) => {
                    Arc::make_mut(&mut self.neighbours).remove(label);
                }
                _ => {}
            }
        }
    }

    fn apply_edge(&mut self, delta: &Delta) {
        let put = |e: &Entry| matches!(e, Entry::Class(_) | Entry::Agent(_) | Entry::Group(_));
        let del = |k: &EntryKey| {
            matches!(
                k,
                EntryKey::Class { .. } | EntryKey::Agent(_) | EntryKey::Group(_)
            )
        };
        if !delta.upserts.iter().any(put) && !delta.removes.iter().any(del) {
            return;
        }
        let labels = delta.upserts.iter().filter(|entry| put(entry)).count();
        let mut edit = self.edge.edit(labels);
        for entry in &delta.upserts {
            match entry {
                Entry::Class(e) => edit.put_class(e),
                Entry::Agent(e) => edit.put_agent(e),
                Entry::Group(e) => edit.put_group(e),
                _ => {}
            }
        }
        for key in &delta.removes {
            match key {
                EntryKey::Class { tenant, label } => edit.remove_class(*tenant, *label),
                EntryKey::Agent(label) | EntryKey::Group(label) => edit.remove_label(*label),
                _ => {}
            }
        }
        self.edge = edit.finish();
    }

    fn apply_identities(&mut self, delta: &Delta) {
        let put = |e: &Entry| matches!(e, Entry::Identity(_));
        let del = |k: &EntryKey| matches!(k, EntryKey::Identity(_));
        if !delta.upserts.iter().any(put) && !delta.removes.iter().any(del) {
            return;
        }
        let mut edit = self.identities.edit();
        // Removes first: an agent may pass from one URI to another in one delta.
        for key in &delta.removes {
            if let EntryKey::Identity(uri) = key {
                edit.remove(uri);
            }
        }
        for entry in &delta.upserts {
            if let Entry::Identity(e) = entry {
                edit.put(e);
            }
        }
        edit.finish();
    }
}

/// What the table holds.
impl Fib {
    /// Every entry, in no promised order: what a snapshot to disk or to a peer is made of.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let policies = self.policies.values();
        let policies = policies.map(|p| Entry::Policy(p.entry().clone()));
        let neighbours = self.neighbours.values().cloned().map(Entry::Neighbour);
        let transit = self.transit.values().cloned().map(Entry::Transit);
        let identities = self.identities.iter();
        let identities = identities.map(|i| Entry::Identity(i.as_ref().clone()));
        policies
            .chain(neighbours)
            .chain(transit)
            .chain(identities)
            .chain(self.edge.entries())
    }

    /// Number of class, agent and group entries.
    pub fn labels(&self) -> usize {
        self.edge.len()
    }

    /// The identity with this certificate URI.
    pub fn identity(&self, uri: &str) -> Option<&IdentityEntry> {
        self.identities.of_uri(uri).map(AsRef::as_ref)
    }

    /// The identity of an agent (any instance label of it will do).
    pub fn identity_of(&self, agent: Label) -> Option<&IdentityEntry> {
        self.identities.of_agent(agent).map(AsRef::as_ref)
    }

    /// All identities, in no promised order.
    pub fn identities(&self) -> impl Iterator<Item = &IdentityEntry> + '_ {
        self.identities.iter().map(AsRef::as_ref)
    }

    /// The class entry, as it was written.
    pub fn class(&self, tenant: u32, label: Label) -> Option<ClassEntry> {
        let view = self.edge.class(tenant, label)?;
        let egress = |members: &[Member]| {
            let members = members.iter();
            members
                .map(|m| Egress {
                    router: m.router,
                    weight: m.weight,
                })
                .collect()
        };
        Some(ClassEntry {
            tenant,
            label,
            own: egress(view.own().as_slice()),
            subtree: egress(view.subtree().as_slice()),
        })
    }

    /// Does any router have members of the class, or of anything below it?
    #[inline]
    pub fn serves(&self, tenant: u32, label: Label) -> bool {
        let view = self.edge.class(tenant, label);
        view.is_some_and(|view| !view.subtree().as_slice().is_empty())
    }

    /// The agent entry (any instance label of it will do).
    pub fn agent(&self, agent: Label) -> Option<AgentEntry> {
        let label = agent.any_instance();
        let view = self.edge.agent(label)?;
        let instances = view.members.as_slice().iter();
        let instances = instances.map(|m| InstanceAt {
            instance: m.instance,
            router: m.router,
            weight: m.weight,
        });
        Some(AgentEntry {
            label,
            tenant: view.tenant,
            instances: instances.collect(),
        })
    }

    /// The group entry.
    pub fn group(&self, group: Label) -> Option<GroupEntry> {
        let view = self.edge.group(group)?;
        let routers = view.members.as_slice().iter().map(|m| m.router).collect();
        Some(GroupEntry {
            label: group,
            tenant: view.tenant,
            routers,
        })
    }

    /// The policy group with this number, compiled.
    pub fn policy(&self, id: u32) -> Option<&Arc<Policy>> {
        self.policies.get(&id)
    }

    /// May the identities of policy group `policy` send to `label` of `tenant`? For an agent or a
    /// group its own tenant counts and `tenant` is not looked at; a class is allowed by itself or
    /// by a class above it; an agent also where a class it serves is allowed, or a reply.
    pub fn allows(&self, policy: u32, tenant: u32, label: Label) -> bool {
        let Some(policy) = self.policy(policy) else {
            return false;
        };
        match label.kind() {
            LabelKind::Class => policy.allows_class(tenant, label),
            LabelKind::Agent => {
                let route = self
                    .edge
                    .agent(label.any_instance())
                    .map(|view| view.tenant);
                let identity = self.identity_of(label);
                route
                    .or(identity.map(|i| i.tenant))
                    .is_some_and(|tenant| self.allows_agent(policy, tenant, label))
            }
            LabelKind::Group => {
                let group = self.edge.group(label);
                group.is_some_and(|view| policy.allows_tenant(view.tenant))
            }
            LabelKind::Router => false,
        }
    }

    /// Unicast to an agent of `tenant`: the tenant as a whole, a reply, or a class the agent serves
    /// (a flow pinned to the answering instance needs no more than the class it asked for).
    #[inline]
    pub(crate) fn allows_agent(&self, policy: &Policy, tenant: u32, agent: Label) -> bool {
        policy.allows_tenant(tenant)
            || policy.allows_reply(tenant)
            || self.identity_of(agent).is_some_and(|identity| {
                let mut classes = identity.classes.iter();
                classes.any(|m| policy.allows_class(m.tenant, m.label))
            })
    }

    /// Next hops towards a router.
    pub fn transit(&self, router: Label) -> Option<&TransitEntry> {
        self.transit.get(&router)
    }

    /// Next hops towards all routers, lowest label first.
    pub fn transits(&self) -> impl Iterator<Item = &TransitEntry> + '_ {
        self.transit.values()
    }

    /// A router this one keeps a link to.
    pub fn neighbour(&self, router: Label) -> Option<&NeighbourEntry> {
        self.neighbours.get(&router)
    }

    /// Routers this one keeps links to, lowest label first.
    pub fn neighbours(&self) -> impl Iterator<Item = &NeighbourEntry> + '_ {
        self.neighbours.values()
    }
}

/// What the forwarder asks.
impl Fib {
    #[inline]
    pub(crate) fn class_view(&self, tenant: u32, label: Label) -> Option<ClassView<'_>> {
        self.edge.class(tenant, label)
    }

    #[inline]
    pub(crate) fn agent_view(&self, any_instance: Label) -> Option<RouteView<'_>> {
        self.edge.agent(any_instance)
    }

    #[inline]
    pub(crate) fn group_view(&self, label: Label) -> Option<RouteView<'_>> {
        self.edge.group(label)
    }

    pub(crate) fn identity_arc(&self, uri: &str) -> Option<&Arc<IdentityEntry>> {
        self.identities.of_uri(uri)
    }

    /// Shards whose identities may differ, without looking at any (see [`identities::uri_shard`]).
    pub(crate) fn changed_identities<'a>(
        &'a self,
        other: &'a Fib,
    ) -> impl Iterator<Item = usize> + 'a {
        self.identities.changed(&other.identities)
    }

    /// True when no policy group differs, without looking at any.
    pub(crate) fn same_policies(&self, other: &Fib) -> bool {
        Arc::ptr_eq(&self.policies, &other.policies)
    }

    /// True when no next hop and no neighbour differs, without looking at any.
    pub(crate) fn same_topology(&self, other: &Fib) -> bool {
        Arc::ptr_eq(&self.transit, &other.transit)
            && Arc::ptr_eq(&self.neighbours, &other.neighbours)
    }
}
