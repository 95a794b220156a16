//! Writes that may be rolled back: what became of the last ones, and of the one that waits what
//! others must leave alone so that it can be.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Rib;
use crate::record::{CounterKind, Object, ObjectKey, Outcome, PendingRecord};

#[derive(Debug, Default)]
pub(super) struct PendingIndex {
    records: BTreeMap<u64, Arc<PendingRecord>>,
    waiting: Option<Waiting>,
}

/// The Write that waits to be confirmed.
#[derive(Debug)]
pub struct Waiting {
    record: Arc<PendingRecord>,
    /// What it changed.
    touched: HashSet<ObjectKey>,
    /// What of it was not there before.
    brought: HashSet<ObjectKey>,
    /// Routers, agents and policers that what comes back stands on.
    needed: HashSet<ObjectKey>,
    /// The same of tenants.
    needed_tenants: HashSet<u32>,
    /// The same of policies.
    needed_policies: HashSet<u32>,
    /// Identities of routers that come back.
    router_uris: HashSet<String>,
    /// Numbers that come back.
    numbers: HashSet<(CounterKind, u32)>,
    /// How many grants of an identity come back.
    grants: HashMap<String, usize>,
}

impl Waiting {
    fn new(record: Arc<PendingRecord>) -> Self {
        let mut waiting = Self {
            record: record.clone(),
            touched: HashSet::new(),
            brought: HashSet::new(),
            needed: HashSet::new(),
            needed_tenants: HashSet::new(),
            needed_policies: HashSet::new(),
            router_uris: HashSet::new(),
            numbers: HashSet::new(),
            grants: HashMap::new(),
        };
        for undo in &record.undo {
            // `Object::from_bytes` has read each of them.
            let Ok((key, before)) = undo.parts() else {
                continue;
            };
            match before {
                None => {
                    waiting.brought.insert(key.clone());
                }
                Some(before) => waiting.set_aside(before, undo.left),
            }
            waiting.touched.insert(key);
        }
        waiting
    }

    /// Keeps room for what comes back.
    fn set_aside(&mut self, before: Object, left: bool) {
        match before {
            Object::Tenant(tenant) => {
                self.numbers.insert((CounterKind::Tenant, tenant.id));
                self.needed.insert(ObjectKey::Policer(tenant.policer));
            }
            Object::Agent(agent) => {
                self.numbers.insert((CounterKind::Agent, agent.number));
                self.needed_tenants.insert(agent.tenant);
                self.needed_policies.insert(agent.policy);
            }
            Object::Policy(policy) => {
                self.numbers.insert((CounterKind::Policy, policy.number));
                self.needed_tenants.extend(policy.tenants());
                self.needed
                    .insert(ObjectKey::Policer(policy.policer.clone()));
            }
            Object::Policer(policer) => self.needed_tenants.extend(policer.tenants()),
            Object::Grant(grant) => {
                if !left {
                    *self.grants.entry(grant.agent.clone()).or_default() += 1;
                    // With the agent its grants go, and this one could not come back alone.
                    self.needed.insert(ObjectKey::Agent(grant.agent));
                }
            }
            Object::Override(told) => {
                self.needed.insert(ObjectKey::Agent(told.agent));
            }
            Object::Router(router) => {
                self.numbers.insert((CounterKind::Router, router.number));
                self.router_uris.insert(router.uri);
            }
            Object::Link(link) => {
                self.needed.insert(ObjectKey::Router(link.a));
                self.needed.insert(ObjectKey::Router(link.b));
            }
            Object::Permission(permission) => {
                self.needed_tenants.extend([permission.from, permission.to]);
            }
            Object::Group(group) => {
                self.numbers.insert((CounterKind::Group, group.number));
                self.needed_tenants.insert(group.tenant);
            }
            Object::Counter(_)
            | Object::Attachment(_)
            | Object::Request(_)
            | Object::Pending(_) => {}
        }
    }

    /// What is stored of it.
    #[must_use]
    pub fn record(&self) -> &Arc<PendingRecord> {
        &self.record
    }

    /// Whether it changed this object.
    #[must_use]
    pub fn touched(&self, key: &ObjectKey) -> bool {
        self.touched.contains(key)
    }

    /// Whether this object is there through it only.
    #[must_use]
    pub fn brought(&self, key: &ObjectKey) -> bool {
        self.brought.contains(key)
    }

    /// Whether what it changed stands on this object when it comes back.
    #[must_use]
    pub fn needs(&self, key: &ObjectKey, object: Option<&Object>) -> bool {
        match object {
            Some(Object::Tenant(tenant)) => self.needed_tenants.contains(&tenant.id),
            Some(Object::Policy(policy)) => self.needed_policies.contains(&policy.number),
            _ => self.needed.contains(key),
        }
    }

    /// Whether a router with this identity comes back.
    #[must_use]
    pub fn needs_router_uri(&self, uri: &str) -> bool {
        self.router_uris.contains(uri)
    }
}

impl PendingIndex {
    pub(super) fn assign(
        &mut self,
        generation: u64,
        new: Option<Arc<PendingRecord>>,
    ) -> Option<Arc<PendingRecord>> {
        let is_this = |waiting: &Waiting| waiting.record.generation == generation;
        if self.waiting.as_ref().is_some_and(is_this) {
            self.waiting = None;
        }
        match new {
            None => self.records.remove(&generation),
            Some(record) => {
                if record.outcome() == Outcome::Waiting {
                    self.waiting = Some(Waiting::new(record.clone()));
                }
                self.records.insert(generation, record)
            }
        }
    }
}

impl Rib {
    /// The Write that waits to be confirmed.
    #[must_use]
    pub fn waiting(&self) -> Option<&Waiting> {
        self.pending.waiting.as_ref()
    }

    /// A Write that waits to be confirmed or did, by its generation.
    #[must_use]
    pub fn pending(&self, generation: u64) -> Option<&Arc<PendingRecord>> {
        self.pending.records.get(&generation)
    }

    /// All of them of generations after `after`, oldest first.
    pub fn pending_after(&self, after: u64) -> impl Iterator<Item = &Arc<PendingRecord>> {
        let first = after.saturating_add(1);
        self.pending
            .records
            .range(first..)
            .map(|(_, record)| record)
    }

    /// Grants of an identity that come back when the Write that waits is rolled back.
    #[must_use]
    pub fn grants_set_aside(&self, agent: &str) -> usize {
        let waiting = self.waiting();
        waiting.map_or(0, |waiting| waiting.grants.get(agent).copied().unwrap_or(0))
    }

    pub(super) fn is_set_aside(&self, kind: CounterKind, number: u32) -> bool {
        let waiting = self.waiting();
        waiting.is_some_and(|waiting| waiting.numbers.contains(&(kind, number)))
    }
}
