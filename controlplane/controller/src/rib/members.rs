//! Who is a member of what, summed per router as it changes.
//!
//! An agent's *share* is what it brings to every class, group and policy group.
//! It follows from the agent, its grants, overrides and groups alone; so each
//! change takes the old share out, changes the record and puts the new one in.
//! The cost is the agent's own classes and instances, never the table's size.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use caplane_core::fib::EntryKey;
use caplane_wire::Label;

use super::{Rib, Touched};
use crate::record::AgentRecord;

/// Sums of weights per egress router.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ClassMembers {
    /// Members of exactly this class.
    pub own: BTreeMap<Label, u64>,
    /// Members of this class or anything below; an agent counts once, with its largest weight.
    pub subtree: BTreeMap<Label, u64>,
    /// Attached instances of exactly this class.
    pub own_instances: u32,
    /// Attached instances of this class or anything below.
    pub instances: u32,
}

/// How many serve a class or anything below it, in all tenants.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ClassCount {
    /// Registered agents.
    pub agents: u32,
    /// Their attached instances.
    pub instances: u32,
}

#[derive(Debug, Default)]
pub(super) struct MemberIndex {
    classes: HashMap<(u32, Label), ClassMembers>,
    counts: HashMap<Label, ClassCount>,
    /// Attached members of a group per router.
    groups: HashMap<Label, BTreeMap<Label, u64>>,
    /// Agents in a policy group.
    policies: HashMap<u32, u32>,
    /// Registered agents of a class or anything below it.
    serving: HashMap<(u32, Label), Serving>,
}

/// Agents by number, and whether they serve exactly the class.
type Serving = BTreeMap<u32, (Arc<AgentRecord>, bool)>;

/// What one instance of an agent adds to one class.
struct Row {
    class: Label,
    own: u32,
    subtree: u32,
}

/// What an agent brings.
struct Share {
    tenant: u32,
    policy: u32,
    rows: Vec<Row>,
    groups: Vec<Label>,
}

impl MemberIndex {
    pub(super) fn class(&self, tenant: u32, class: Label) -> Option<&ClassMembers> {
        self.classes.get(&(tenant, class))
    }

    pub(super) fn count(&self, class: Label) -> ClassCount {
        self.counts.get(&class).copied().unwrap_or_default()
    }

    pub(super) fn group(&self, group: Label) -> Option<&BTreeMap<Label, u64>> {
        self.groups.get(&group)
    }

    /// Lists an agent in its classes, or strikes it off.
    fn list(&mut self, agent: &Arc<AgentRecord>, share: &Share, up: bool) {
        for row in &share.rows {
            let place = (share.tenant, row.class);
            let serving = self.serving.entry(place).or_default();
            if up {
                serving.insert(agent.number, (agent.clone(), row.own > 0));
            } else {
                serving.remove(&agent.number);
            }
            if serving.is_empty() {
                self.serving.remove(&place);
            }
        }
    }

    pub(super) fn policy_used(&self, id: u32) -> bool {
        self.policies.contains_key(&id)
    }

    /// Adds or takes away `instances` instances of a share at one router.
    fn shift(
        &mut self,
        share: &Share,
        router: Label,
        instances: u32,
        up: bool,
        touched: &mut Touched,
    ) {
        for row in &share.rows {
            let place = (share.tenant, row.class);
            let members = self.classes.entry(place).or_default();
            let times = u64::from(instances);
            add(&mut members.own, router, u64::from(row.own) * times, up);
            add(
                &mut members.subtree,
                router,
                u64::from(row.subtree) * times,
                up,
            );
            if row.own > 0 {
                members.own_instances = step(members.own_instances, instances, up);
            }
            members.instances = step(members.instances, instances, up);
            if members.subtree.is_empty() {
                self.classes.remove(&place);
            }
            let count = self.counts.entry(row.class).or_default();
            count.instances = step(count.instances, instances, up);
            touched.shared(EntryKey::Class {
                tenant: share.tenant,
                label: row.class,
            });
        }
        for &group in &share.groups {
            let at = self.groups.entry(group).or_default();
            add(at, router, u64::from(instances), up);
            if at.is_empty() {
                self.groups.remove(&group);
            }
            touched.shared(EntryKey::Group(group));
        }
    }

    /// Adds or takes away what a share is without any instance.
    fn enrol(&mut self, share: &Share, up: bool, touched: &mut Touched) {
        for row in &share.rows {
            let count = self.counts.entry(row.class).or_default();
            count.agents = step(count.agents, 1, up);
        }
        let users = self.policies.entry(share.policy).or_default();
        *users = step(*users, 1, up);
        if (up && *users == 1) || (!up && *users == 0) {
            touched.shared(EntryKey::Policy(share.policy));
        }
        if *users == 0 {
            self.policies.remove(&share.policy);
        }
    }
}

fn step(value: u32, by: u32, up: bool) -> u32 {
    if up {
        value + by
    } else {
        value
            .checked_sub(by)
            .expect("a share is taken out as it was put in")
    }
}

fn add(sums: &mut BTreeMap<Label, u64>, router: Label, weight: u64, up: bool) {
    if weight == 0 {
        return;
    }
    let sum = sums.entry(router).or_default();
    if up {
        *sum += weight;
    } else {
        *sum = sum
            .checked_sub(weight)
            .expect("a share is taken out as it was put in");
        if *sum == 0 {
            sums.remove(&router);
        }
    }
}

impl Rib {
    /// Registered agents of a tenant that serve a class or anything below it, attached or not, by number.
    pub fn serving(&self, tenant: u32, class: Label) -> impl Iterator<Item = &Arc<AgentRecord>> {
        let serving = self.members.serving.get(&(tenant, class));
        serving.into_iter().flatten().map(|(_, (agent, _))| agent)
    }

    /// Those of them that serve exactly it.
    pub fn serving_exactly(
        &self,
        tenant: u32,
        class: Label,
    ) -> impl Iterator<Item = &Arc<AgentRecord>> {
        let serving = self.members.serving.get(&(tenant, class));
        let exactly = serving.into_iter().flatten().filter(|(_, (_, own))| *own);
        exactly.map(|(_, (agent, _))| agent)
    }

    fn share(&self, agent: &AgentRecord) -> Share {
        let mut rows: BTreeMap<Label, Row> = BTreeMap::new();
        for membership in self.memberships(agent) {
            let weight = membership.weight;
            let class = membership.class;
            for place in std::iter::once(class).chain(class.ancestors()) {
                let row = rows.entry(place).or_insert(Row {
                    class: place,
                    own: 0,
                    subtree: 0,
                });
                row.subtree = row.subtree.max(weight);
                if place == class {
                    row.own = weight;
                }
            }
        }
        Share {
            tenant: agent.tenant,
            policy: agent.policy(),
            rows: rows.into_values().collect(),
            groups: self.groups_of(agent).map(|group| group.label()).collect(),
        }
    }

    /// Takes an agent out of the indexes, before something of it changes.
    pub(super) fn unindex(&mut self, uri: &str) {
        self.enrol(uri, false);
    }

    /// Puts it back, after.
    pub(super) fn index(&mut self, uri: &str) {
        self.enrol(uri, true);
    }

    fn enrol(&mut self, uri: &str, up: bool) {
        self.touched.shared(EntryKey::Identity(uri.to_owned()));
        let Some(agent) = self.agents.get(uri).cloned() else {
            return;
        };
        let share = self.share(&agent);
        self.members.enrol(&share, up, &mut self.touched);
        self.members.list(&agent, &share, up);
        let mut at: BTreeMap<Label, u32> = BTreeMap::new();
        for attachment in self.instances(agent.number) {
            *at.entry(attachment.router()).or_default() += 1;
        }
        for (&router, &instances) in &at {
            self.members
                .shift(&share, router, instances, up, &mut self.touched);
        }
        if !at.is_empty() {
            self.touched.shared(EntryKey::Agent(agent.label()));
        }
        if let Some(end) = self.lease_end(&agent) {
            let entry = (end, uri.to_owned());
            if up {
                self.leases.insert(entry);
            } else {
                self.leases.remove(&entry);
            }
        }
    }

    /// One instance came or went.
    pub(super) fn shift_instance(&mut self, number: u32, router: Label, up: bool) {
        let Some(agent) = self.agent_by_number(number).cloned() else {
            return;
        };
        let share = self.share(&agent);
        self.members.shift(&share, router, 1, up, &mut self.touched);
        self.touched.shared(EntryKey::Agent(agent.label()));
    }

    /// The lease of an agent runs only while no instance of it is attached.
    pub(super) fn relist_lease(&mut self, number: u32) {
        let Some(agent) = self.agent_by_number(number).cloned() else {
            return;
        };
        if agent.lease_seconds == 0 {
            return;
        }
        let end = agent.renewed_unix_ms + u64::from(agent.lease_seconds) * 1_000;
        let entry = (end, agent.uri.clone());
        if self.lease_end(&agent).is_some() {
            self.leases.insert(entry);
        } else {
            self.leases.remove(&entry);
        }
    }
}
