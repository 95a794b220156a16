//! Policies and policers: who names whom, so that a change recompiles the policy groups it may have touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use caplane_core::fib::EntryKey;

use super::Rib;
use crate::record::{
    AgentRecord, GroupOf, Object, PolicerRecord, PolicyRecord, TenantRecord, policy_group,
};

#[derive(Debug, Default)]
pub(super) struct PolicyIndex {
    policies: BTreeMap<String, Arc<PolicyRecord>>,
    names: HashMap<u32, String>,
    /// Tenant, policy number.
    of_tenant: BTreeSet<(u32, u32)>,
    policers: BTreeMap<String, Arc<PolicerRecord>>,
}

impl PolicyIndex {
    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    pub(super) fn has_number(&self, number: u32) -> bool {
        self.names.contains_key(&number)
    }
}

impl Rib {
    pub(super) fn assign_policy(&mut self, name: String, new: Option<Object>) -> Option<Object> {
        let before = self.policies.policies.remove(&name);
        if let Some(gone) = &before {
            self.policies.names.remove(&gone.number);
            self.policies.of_tenant.remove(&(gone.tenant, gone.number));
            self.touch_groups(GroupOf::Policy(gone.number));
        }
        if let Some(Object::Policy(record)) = new {
            self.policies.names.insert(record.number, name.clone());
            let place = (record.tenant, record.number);
            self.policies.of_tenant.insert(place);
            self.touch_groups(GroupOf::Policy(record.number));
            self.policies.policies.insert(name, record);
        }
        before.map(Object::Policy)
    }

    pub(super) fn assign_policer(&mut self, name: String, new: Option<Object>) -> Option<Object> {
        let holds = |of: &str| of == name;
        let held: Vec<GroupOf> = self
            .policies
            .policies
            .values()
            .filter(|policy| holds(&policy.policer))
            .map(|policy| GroupOf::Policy(policy.number))
            .collect();
        let tenants: Vec<u32> = self
            .tenants
            .values()
            .filter(|tenant| holds(&tenant.policer))
            .map(|tenant| tenant.id)
            .collect();
        for of in held {
            self.touch_groups(of);
        }
        for tenant in tenants {
            self.touch_policies(tenant);
        }
        let before = match new {
            Some(Object::Policer(record)) => self.policies.policers.insert(name, record),
            _ => self.policies.policers.remove(&name),
        };
        before.map(Object::Policer)
    }

    /// The policy groups of a tenant that somebody is in, those of its policies too.
    pub(super) fn touch_policies(&mut self, tenant: u32) {
        let policies: Vec<u32> = self.policy_numbers(tenant).collect();
        self.touch_groups(GroupOf::Tenant(tenant));
        for number in policies {
            self.touch_groups(GroupOf::Policy(number));
        }
    }

    fn touch_groups(&mut self, of: GroupOf) {
        for priority in 0..8 {
            let id = policy_group(of, priority);
            if self.members.policy_used(id) {
                self.touched.shared(EntryKey::Policy(id));
            }
        }
    }

    /// Numbers of the policies of a tenant, rising.
    fn policy_numbers(&self, tenant: u32) -> impl Iterator<Item = u32> + '_ {
        let place = (tenant, 0)..=(tenant, u32::MAX);
        self.policies
            .of_tenant
            .range(place)
            .map(|(_, number)| *number)
    }

    /// A policy by name.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<&Arc<PolicyRecord>> {
        self.policies.policies.get(name)
    }

    /// A policy by number.
    #[must_use]
    pub fn policy_by_number(&self, number: u32) -> Option<&Arc<PolicyRecord>> {
        self.policies
            .policies
            .get(self.policies.names.get(&number)?)
    }

    /// The policy that an agent names.
    #[must_use]
    pub fn policy_of(&self, agent: &AgentRecord) -> Option<&Arc<PolicyRecord>> {
        self.policy_by_number(agent.policy)
    }

    /// Policies by name, those after `after`.
    pub fn policies_after(&self, after: &str) -> impl Iterator<Item = &Arc<PolicyRecord>> {
        super::lookup::past(&self.policies.policies, after).map(|(_, record)| record)
    }

    /// A policer by name.
    #[must_use]
    pub fn policer(&self, name: &str) -> Option<&Arc<PolicerRecord>> {
        self.policies.policers.get(name)
    }

    /// Policers by name, those after `after`.
    pub fn policers_after(&self, after: &str) -> impl Iterator<Item = &Arc<PolicerRecord>> {
        super::lookup::past(&self.policies.policers, after).map(|(_, record)| record)
    }

    /// Whether an agent names this policy.
    #[must_use]
    pub fn policy_in_use(&self, policy: &PolicyRecord) -> bool {
        let of = GroupOf::Policy(policy.number);
        (0..8).any(|priority| self.members.policy_used(policy_group(of, priority)))
    }

    /// Whether a policy or a tenant names this policer.
    #[must_use]
    pub fn policer_in_use(&self, name: &str) -> bool {
        self.policies_after("").any(|policy| policy.policer == name)
            || self.tenants_after("").any(|tenant| tenant.policer == name)
    }

    /// Whether a policy or a policer names this tenant.
    pub(super) fn tenant_in_policies(&self, id: u32) -> bool {
        self.policies_after("")
            .any(|policy| policy.tenants().any(|tenant| tenant == id))
            || self
                .policers_after("")
                .any(|policer| policer.tenants().any(|tenant| tenant == id))
    }

    /// The policer that holds the agents of a tenant that name `policy`, or no policy.
    #[must_use]
    pub fn policer_of(
        &self,
        tenant: u32,
        policy: Option<&PolicyRecord>,
    ) -> Option<&Arc<PolicerRecord>> {
        let own = policy.map(|policy| policy.policer.as_str());
        let name = match own {
            Some(name) if !name.is_empty() => name,
            _ => self.tenant_by_id(tenant)?.policer.as_str(),
        };
        self.policer(name)
    }

    /// Whether an agent may connect to others directly.
    #[must_use]
    pub fn may_connect(&self, agent: &AgentRecord) -> bool {
        match self.policy_of(agent) {
            Some(policy) => policy.direct,
            None => self
                .tenant_by_id(agent.tenant)
                .is_some_and(|tenant| tenant.direct),
        }
    }

    fn tenant_by_id(&self, id: u32) -> Option<&TenantRecord> {
        self.tenant(self.tenant_name(id)?)
    }
}
