//! Questions to the desired state. Nothing here changes it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use caplane_wire::Label;

use super::{ClassCount, ClassMembers, Rib, counter};
use crate::record::{
    ANY_CLASS, AgentRecord, AttachmentRecord, GrantRecord, GroupOf, GroupRecord, LinkRecord,
    Object, ObjectKey, OverrideRecord, PermissionRecord, RouterRecord, TenantRecord, policy_group,
};

/// A class an agent serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// The class.
    pub class: Label,
    /// 1..=65535.
    pub weight: u32,
}

impl Rib {
    /// The object with this key.
    #[must_use]
    pub fn object(&self, key: &ObjectKey) -> Option<Object> {
        Some(match key {
            ObjectKey::Counter(kind) => counter(*kind, *self.counters.get(kind)?),
            ObjectKey::Tenant(name) => Object::Tenant(self.tenants.get(name)?.clone()),
            ObjectKey::Agent(uri) => Object::Agent(self.agents.get(uri)?.clone()),
            ObjectKey::Grant(agent, path) => {
                Object::Grant(self.grants.get(&(agent.clone(), path.clone()))?.clone())
            }
            ObjectKey::Override(agent, skill) => {
                Object::Override(self.overrides.get(&(agent.clone(), skill.clone()))?.clone())
            }
            ObjectKey::Router(name) => Object::Router(self.routers.get(name)?.clone()),
            ObjectKey::Link(a, b) => Object::Link(self.link(a, b)?.clone()),
            ObjectKey::Permission(from, to, path) => {
                Object::Permission(self.permissions.get(&(*from, *to, path.clone()))?.clone())
            }
            ObjectKey::Group(name) => Object::Group(self.groups.get(name)?.clone()),
            ObjectKey::Attachment(label) => {
                Object::Attachment(self.attachments.get(label)?.clone())
            }
            ObjectKey::Request(caller, key) => Object::Request(self.request(caller, key)?.clone()),
            ObjectKey::Pending(generation) => Object::Pending(self.pending(*generation)?.clone()),
            ObjectKey::Policy(name) => Object::Policy(self.policy(name)?.clone()),
            ObjectKey::Policer(name) => Object::Policer(self.policer(name)?.clone()),
        })
    }

    /// A tenant by name.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Option<&TenantRecord> {
        self.tenants.get(name)
    }

    /// A tenant's name by number.
    #[must_use]
    pub fn tenant_name(&self, id: u32) -> Option<&str> {
        self.tenant_names.get(&id).map(String::as_str)
    }

    /// Numbers of all tenants, rising, the shared one first.
    pub fn tenant_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.tenant_names.keys().copied()
    }

    /// Tenants by name, those after `after`.
    pub fn tenants_after(&self, after: &str) -> impl Iterator<Item = &TenantRecord> {
        past(&self.tenants, after).map(|(_, record)| record)
    }

    /// Whether any agent, group, permission, policy or policer names this tenant.
    #[must_use]
    pub fn tenant_in_use(&self, id: u32) -> bool {
        let of = GroupOf::Tenant(id);
        // An agent that names a policy is of the policy's tenant.
        (0..8).any(|priority| self.members.policy_used(policy_group(of, priority)))
            || self.tenant_in_policies(id)
            || self.groups.values().any(|group| group.tenant == id)
            || self.permissions_from(id).next().is_some()
            || self.permissions_to(id).next().is_some()
    }

    /// An agent by URI.
    #[must_use]
    pub fn agent(&self, uri: &str) -> Option<&Arc<AgentRecord>> {
        self.agents.get(uri)
    }

    /// An agent by number.
    #[must_use]
    pub fn agent_by_number(&self, number: u32) -> Option<&Arc<AgentRecord>> {
        self.agents.get(self.agent_numbers.get(&number)?)
    }

    /// Agents by URI, those after `after`.
    pub fn agents_after(&self, after: &str) -> impl Iterator<Item = &Arc<AgentRecord>> {
        past(&self.agents, after).map(|(_, record)| record)
    }

    /// How many agents are registered.
    #[must_use]
    pub fn agent_count(&self) -> usize {
        self.agents.len()
    }

    /// When an agent's registration ends (Unix milliseconds): `None` without a lease, or
    /// while an instance is attached.
    #[must_use]
    pub fn lease_end(&self, agent: &AgentRecord) -> Option<u64> {
        if agent.lease_seconds == 0 || self.instances(agent.number).next().is_some() {
            return None;
        }
        Some(agent.renewed_unix_ms + u64::from(agent.lease_seconds) * 1_000)
    }

    /// Agents whose registration has ended at `now_unix_ms`, earliest first.
    pub fn expired_agents(&self, now_unix_ms: u64) -> impl Iterator<Item = &str> {
        self.leases
            .iter()
            .take_while(move |(end, _)| *end <= now_unix_ms)
            .map(|(_, uri)| uri.as_str())
    }

    /// A grant.
    #[must_use]
    pub fn grant(&self, agent: &str, path: &str) -> Option<&GrantRecord> {
        self.grants.get(&(agent.to_owned(), path.to_owned()))
    }

    /// The grants of one identity.
    pub fn grants_of<'a>(&'a self, agent: &'a str) -> impl Iterator<Item = &'a GrantRecord> {
        self.grants
            .range((agent.to_owned(), String::new())..)
            .take_while(move |((of, _), _)| of == agent)
            .map(|(_, record)| record)
    }

    /// Grants after (agent, path).
    pub fn grants_after(&self, agent: &str, path: &str) -> impl Iterator<Item = &GrantRecord> {
        past_pair(&self.grants, agent, path)
    }

    /// A skill override.
    #[must_use]
    pub fn skill_override(&self, agent: &str, skill: &str) -> Option<&OverrideRecord> {
        self.overrides.get(&(agent.to_owned(), skill.to_owned()))
    }

    /// The overrides of one agent.
    pub fn overrides_of<'a>(&'a self, agent: &'a str) -> impl Iterator<Item = &'a OverrideRecord> {
        self.overrides
            .range((agent.to_owned(), String::new())..)
            .take_while(move |((of, _), _)| of == agent)
            .map(|(_, record)| record)
    }

    /// Overrides after (agent, skill).
    pub fn overrides_after(
        &self,
        agent: &str,
        skill: &str,
    ) -> impl Iterator<Item = &OverrideRecord> {
        past_pair(&self.overrides, agent, skill)
    }

    /// A router by name.
    #[must_use]
    pub fn router(&self, name: &str) -> Option<&RouterRecord> {
        self.routers.get(name)
    }

    /// A router by label.
    #[must_use]
    pub fn router_by_label(&self, label: Label) -> Option<&RouterRecord> {
        self.routers.get(self.router_labels.get(&label)?)
    }

    /// A router by certificate URI.
    #[must_use]
    pub fn router_by_uri(&self, uri: &str) -> Option<&RouterRecord> {
        self.routers.get(self.router_uris.get(uri)?)
    }

    /// Routers by name, those after `after`.
    pub fn routers_after(&self, after: &str) -> impl Iterator<Item = &RouterRecord> {
        past(&self.routers, after).map(|(_, record)| record)
    }

    /// A link; the names in order.
    #[must_use]
    pub fn link(&self, a: &str, b: &str) -> Option<&LinkRecord> {
        self.links.get(&(a.to_owned(), b.to_owned()))
    }

    /// Links after (a, b).
    pub fn links_after(&self, a: &str, b: &str) -> impl Iterator<Item = &LinkRecord> {
        past_pair(&self.links, a, b)
    }

    /// Names of the routers that a router has links to.
    pub fn neighbours_of(&self, name: &str) -> impl Iterator<Item = &str> {
        self.adjacent
            .get(name)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// Permissions of one tenant towards others.
    pub fn permissions_from(&self, from: u32) -> impl Iterator<Item = &PermissionRecord> {
        self.permissions
            .range((from, 0, String::new())..)
            .take_while(move |((of, _, _), _)| *of == from)
            .map(|(_, record)| record)
    }

    /// Numbers of the tenants that have a permission towards this one, rising, each once.
    pub fn permissions_to(&self, to: u32) -> impl Iterator<Item = u32> {
        let mut last = None;
        self.permissions_to
            .range((to, 0, String::new())..)
            .take_while(move |(of, _, _)| *of == to)
            .map(|(_, from, _)| *from)
            .filter(move |from| last.replace(*from) != Some(*from))
    }

    /// A permission.
    #[must_use]
    pub fn permission(&self, from: u32, to: u32, path: &str) -> Option<&PermissionRecord> {
        self.permissions.get(&(from, to, path.to_owned()))
    }

    /// Permissions after (from, to, path).
    pub fn permissions_after(
        &self,
        after: Option<(u32, u32, String)>,
    ) -> impl Iterator<Item = &PermissionRecord> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.permissions
            .range((start, Bound::Unbounded))
            .map(|(_, record)| record)
    }

    /// A group by name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&GroupRecord> {
        self.groups.get(name)
    }

    /// A group by label.
    #[must_use]
    pub fn group_by_label(&self, label: Label) -> Option<&GroupRecord> {
        self.groups.get(self.group_numbers.get(&label.number())?)
    }

    /// Groups by name, those after `after`.
    pub fn groups_after(&self, after: &str) -> impl Iterator<Item = &GroupRecord> {
        past(&self.groups, after).map(|(_, record)| record)
    }

    /// The groups an agent is in: those of its own tenant that name it.
    pub fn groups_of<'a>(
        &'a self,
        agent: &'a AgentRecord,
    ) -> impl Iterator<Item = &'a GroupRecord> {
        self.groups_of
            .get(&agent.uri)
            .into_iter()
            .flatten()
            .filter_map(|name| self.groups.get(name))
            .filter(|group| group.tenant == agent.tenant)
    }

    /// The attached instances of an agent, by instance number.
    pub fn instances(&self, number: u32) -> impl Iterator<Item = &AttachmentRecord> {
        let first = Label::agent(number, 0).map_or(0, Label::bits);
        self.attachments
            .range(first..=first | 63)
            .map(|(_, record)| record)
    }

    /// An attachment by label.
    #[must_use]
    pub fn attachment(&self, label: Label) -> Option<&AttachmentRecord> {
        self.attachments.get(&label.bits())
    }

    /// The attachment of an agent that goes by this instance name.
    #[must_use]
    pub fn attachment_named(&self, number: u32, name: &str) -> Option<&AttachmentRecord> {
        let label = self.instance_names.get(&(number, name.to_owned()))?;
        self.attachments.get(label)
    }

    /// Labels attached at a router.
    pub fn attached_at(&self, router: Label) -> impl ExactSizeIterator<Item = Label> + '_ {
        let rows = self.attached_at.get(&router).unwrap_or(&NOTHING);
        rows.iter().map(|bits| Label::from_bits(*bits))
    }

    /// Routers with attachments.
    pub fn routers_with_attachments(&self) -> impl Iterator<Item = Label> + '_ {
        self.attached_at.keys().copied()
    }

    /// Sums of members of a class, when anybody of it is attached.
    #[must_use]
    pub fn class_members(&self, tenant: u32, class: Label) -> Option<&ClassMembers> {
        self.members.class(tenant, class)
    }

    /// How many serve a class or below, in all tenants.
    #[must_use]
    pub fn class_count(&self, class: Label) -> ClassCount {
        self.members.count(class)
    }

    /// Attached members of a group per router.
    #[must_use]
    pub fn group_members(&self, group: Label) -> Option<&BTreeMap<Label, u64>> {
        self.members.group(group)
    }

    /// Whether anybody is in a policy group.
    #[must_use]
    pub fn policy_used(&self, id: u32) -> bool {
        self.members.policy_used(id)
    }

    /// The class a skill is in: the operator's word before the classifier's; `None` while it waits.
    #[must_use]
    pub fn skill_class(&self, agent: &str, skill: &crate::record::SkillRecord) -> Option<Label> {
        let bits = self
            .skill_override(agent, &skill.id)
            .map_or(skill.class, |told| told.class);
        (bits != 0).then(|| Label::from_bits(bits))
    }

    /// The grant that covers a class for an identity: the most special one, "*" last.
    #[must_use]
    pub fn covering_grant<'a>(&'a self, agent: &'a str, class: Label) -> Option<&'a GrantRecord> {
        self.grants_of(agent)
            .filter(|grant| match grant.class_path.as_str() {
                ANY_CLASS => true,
                _ => grant.class != 0 && Label::from_bits(grant.class).covers(class),
            })
            .max_by_key(|grant| Label::from_bits(grant.class).depth())
    }

    /// The classes an agent serves, in label order (R4).
    ///
    /// A skill counts when a grant covers its class. A grant that no skill lies under makes
    /// the agent a member of the granted class itself: a generalist, by the operator's word.
    /// One that is inactive or out of service is a member of nothing, and what a grant out of service covers is not
    /// served, also where a grant of a class above covers it too.
    #[must_use]
    pub fn memberships(&self, agent: &AgentRecord) -> Vec<Membership> {
        let grants: Vec<&GrantRecord> = self.grants_of(&agent.uri).collect();
        if grants.is_empty() || agent.serves_nothing() {
            return Vec::new();
        }
        let weight = |grant: &GrantRecord| match grant.weight {
            0 => agent.weight,
            own => own,
        };
        let mut classes: BTreeMap<Label, u32> = BTreeMap::new();
        let mut claimed: Vec<Label> = Vec::new();
        for skill in &agent.skills {
            let Some(class) = self.skill_class(&agent.uri, skill) else {
                continue;
            };
            if let Some(grant) = self.covering_grant(&agent.uri, class) {
                if !grant.out_of_service {
                    classes.insert(class, weight(grant));
                }
                claimed.push(class);
            }
        }
        let serving = |grant: &&&GrantRecord| grant.class != 0 && !grant.out_of_service;
        for grant in grants.iter().filter(serving) {
            let class = Label::from_bits(grant.class);
            if !claimed.iter().any(|skill| class.covers(*skill)) {
                classes.insert(class, weight(grant));
            }
        }
        classes
            .into_iter()
            .map(|(class, weight)| Membership { class, weight })
            .collect()
    }
}

static NOTHING: std::collections::BTreeSet<u32> = std::collections::BTreeSet::new();

pub(super) fn past<'a, V>(
    map: &'a BTreeMap<String, V>,
    after: &str,
) -> impl Iterator<Item = (&'a String, &'a V)> {
    map.range::<str, _>((Bound::Excluded(after), Bound::Unbounded))
}

fn past_pair<'a, V>(
    map: &'a BTreeMap<(String, String), V>,
    first: &str,
    second: &str,
) -> impl Iterator<Item = &'a V> {
    let start = (first.to_owned(), second.to_owned());
    map.range((Bound::Excluded(start), Bound::Unbounded))
        .map(|(_, record)| record)
}
