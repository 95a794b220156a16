//! RIB to FIB: pure functions from the desired state to table entries.
//!
//! [`entry`] compiles one entry by name; [`changes`] recompiles what a change
//! touched and keeps what came out different; [`everything`] compiles all, once,
//! at the start. The same state always gives the same entries, which is why a
//! restarted controller may go on with the generations of the one before: raise
//! [`COMPILER_VERSION`] whenever that stops being true of an old store.
//!
//! Refuses to know generations, stores and who asked.

use std::collections::{BTreeMap, BTreeSet};

use caplane_core::fib::{
    AgentEntry, ClassEntry, Egress, Entry, EntryKey, GroupEntry, IdentityEntry, InstanceAt,
    Membership, NeighbourEntry, TransitEntry,
};
use caplane_wire::Label;

use crate::record::AgentRecord;
use crate::rib::{Rib, Touched};
use crate::spf::{Link, Paths, Topology};
use crate::tables::{EntryChange, TableKey, Tables};

pub mod phases;
mod policy;

#[cfg(test)]
mod tests;

/// Changes when the same stored state compiles to other entries than before.
pub const COMPILER_VERSION: u64 = 2;

/// Compiles one entry; `None` when the state has none of that name.
///
/// Transit routes come out of a whole topology: asking for one costs what all of its router cost.
#[must_use]
pub fn entry(rib: &Rib, key: &TableKey) -> Option<Entry> {
    match key {
        TableKey::Shared(EntryKey::Class { tenant, label }) => class(rib, *tenant, *label),
        TableKey::Shared(EntryKey::Agent(label)) => agent(rib, *label),
        TableKey::Shared(EntryKey::Group(label)) => group(rib, *label),
        TableKey::Shared(EntryKey::Identity(uri)) => Some(identity(rib, rib.agent(uri)?)),
        TableKey::Shared(EntryKey::Policy(id)) => policy::entry(rib, *id).map(Entry::Policy),
        TableKey::Router(router, EntryKey::Neighbour(other)) => neighbour(rib, *router, *other),
        TableKey::Router(router, EntryKey::Transit(to)) => {
            transit(&mut Paths::new(&topology(rib)), *router)
                .into_iter()
                .find(|entry| entry.router == *to)
                .map(Entry::Transit)
        }
        TableKey::Shared(EntryKey::Transit(_) | EntryKey::Neighbour(_)) | TableKey::Router(..) => {
            None
        }
    }
}

/// Recompiles what was touched and answers what differs from `tables`.
#[must_use]
pub fn changes(rib: &Rib, touched: &Touched, tables: &Tables) -> Vec<EntryChange> {
    let mut out = Vec::new();
    let mut compare = |key: TableKey, now: Option<Entry>| {
        let same = match (tables.entry(&key), &now) {
            (None, None) => true,
            (Some(before), Some(now)) => *before.entry == *now,
            _ => false,
        };
        if !same {
            out.push((key, now));
        }
    };
    for key in &touched.keys {
        compare(key.clone(), entry(rib, key));
    }
    if touched.topology {
        let topology = topology(rib);
        let mut paths = Paths::new(&topology);
        let known = topology.routers.iter().copied().chain(tables.routers());
        for router in known.collect::<BTreeSet<Label>>() {
            let mut routes: BTreeMap<Label, TransitEntry> = transit(&mut paths, router)
                .into_iter()
                .map(|entry| (entry.router, entry))
                .collect();
            for key in tables.router_keys(router) {
                match key {
                    EntryKey::Transit(to) => {
                        let now = routes.remove(to).map(Entry::Transit);
                        compare(TableKey::Router(router, key.clone()), now);
                    }
                    _ if !topology.routers.contains(&router) => {
                        compare(TableKey::Router(router, key.clone()), None);
                    }
                    _ => {}
                }
            }
            for (to, route) in routes {
                let key = TableKey::Router(router, EntryKey::Transit(to));
                compare(key, Some(Entry::Transit(route)));
            }
        }
    }
    // A neighbour whose router went may have been touched and met twice.
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out.dedup_by(|a, b| a.0 == b.0);
    out
}

/// Compiles every entry of every router.
#[must_use]
pub fn everything(rib: &Rib) -> Vec<(TableKey, Entry)> {
    let mut out = Vec::new();
    let mut keys: BTreeSet<EntryKey> = BTreeSet::new();
    for agent in rib.agents_after("") {
        keys.insert(EntryKey::Identity(agent.uri.clone()));
        keys.insert(EntryKey::Policy(agent.policy()));
        if rib.instances(agent.number).next().is_none() {
            continue;
        }
        keys.insert(EntryKey::Agent(agent.label()));
        keys.extend(
            rib.groups_of(agent)
                .map(|group| EntryKey::Group(group.label())),
        );
        for membership in rib.memberships(agent) {
            let class = membership.class;
            for label in std::iter::once(class).chain(class.ancestors()) {
                keys.insert(EntryKey::Class {
                    tenant: agent.tenant,
                    label,
                });
            }
        }
    }
    for key in keys {
        let key = TableKey::Shared(key);
        if let Some(entry) = entry(rib, &key) {
            out.push((key, entry));
        }
    }
    let mut paths = Paths::new(&topology(rib));
    for record in rib.routers_after("") {
        let router = record.label();
        for route in transit(&mut paths, router) {
            let key = TableKey::Router(router, EntryKey::Transit(route.router));
            out.push((key, Entry::Transit(route)));
        }
        for other in rib.neighbours_of(&record.name) {
            let Some(other) = rib.router(other) else {
                continue;
            };
            if let Some(entry) = neighbour(rib, router, other.label()) {
                out.push((TableKey::Router(router, entry.key()), entry));
            }
        }
    }
    out
}

fn class(rib: &Rib, tenant: u32, label: Label) -> Option<Entry> {
    let members = rib.class_members(tenant, label)?;
    let egress = |sums: &BTreeMap<Label, u64>| {
        sums.iter()
            .map(|(&router, &weight)| Egress {
                router,
                weight: u32::try_from(weight).unwrap_or(u32::MAX),
            })
            .collect()
    };
    Some(Entry::Class(ClassEntry {
        tenant,
        label,
        own: egress(&members.own),
        subtree: egress(&members.subtree),
    }))
}

fn agent(rib: &Rib, label: Label) -> Option<Entry> {
    let agent = rib.agent_by_number(label.agent_number())?;
    let instances: Vec<InstanceAt> = rib
        .instances(agent.number)
        .map(|attachment| InstanceAt {
            instance: attachment.label().instance(),
            router: attachment.router(),
            weight: agent.weight,
        })
        .collect();
    if instances.is_empty() {
        return None;
    }
    Some(Entry::Agent(AgentEntry {
        label: agent.label(),
        tenant: agent.tenant,
        instances,
    }))
}

fn group(rib: &Rib, label: Label) -> Option<Entry> {
    let group = rib.group_by_label(label)?;
    let at = rib.group_members(label)?;
    Some(Entry::Group(GroupEntry {
        label,
        tenant: group.tenant,
        routers: at.keys().copied().collect(),
    }))
}

fn identity(rib: &Rib, agent: &AgentRecord) -> Entry {
    Entry::Identity(IdentityEntry {
        uri: agent.uri.clone(),
        agent: agent.label(),
        tenant: agent.tenant,
        policy: agent.policy(),
        classes: rib
            .memberships(agent)
            .into_iter()
            .map(|membership| Membership {
                tenant: agent.tenant,
                label: membership.class,
                weight: membership.weight,
            })
            .collect(),
        groups: rib.groups_of(agent).map(|group| group.label()).collect(),
    })
}

/// The side with the lower label dials, so that a link is one connection.
fn neighbour(rib: &Rib, router: Label, other: Label) -> Option<Entry> {
    let this = rib.router_by_label(router)?;
    let other = rib.router_by_label(other)?;
    let (a, b) = if this.name < other.name {
        (&this.name, &other.name)
    } else {
        (&other.name, &this.name)
    };
    let link = rib.link(a, b)?;
    Some(Entry::Neighbour(NeighbourEntry {
        router: other.label(),
        name: other.name.clone(),
        uri: other.uri.clone(),
        address: other.address.clone(),
        dial: router < other.label(),
        cost: link.cost,
    }))
}

pub(crate) fn topology(rib: &Rib) -> Topology {
    let label = |name: &str| rib.router(name).map(|router| router.label());
    Topology {
        routers: rib.routers_after("").map(|router| router.label()).collect(),
        links: rib
            .links_after("", "")
            .filter_map(|link| {
                Some(Link {
                    a: label(&link.a)?,
                    b: label(&link.b)?,
                    cost: link.cost,
                    up: true,
                })
            })
            .collect(),
    }
}

pub(crate) fn transit(paths: &mut Paths, router: Label) -> Vec<TransitEntry> {
    paths
        .routes_from(router)
        .into_iter()
        .map(|route| TransitEntry {
            router: route.to,
            next_hops: route.next_hops,
            alternates: route.alternates,
        })
        .collect()
}
