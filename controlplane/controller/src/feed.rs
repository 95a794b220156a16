//! Which entities the last generations changed, for those who watch them.
//!
//! A ring bounded in keys, in memory only. The one writer adds to it; who watches asks for what changed since it last
//! did, each entity once however often it changed. The ring waits for nobody: what falls off it is [`Gone`]. Refuses to
//! know what entities say, who watches, and gRPC.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caplane_wire::Label;

use crate::record::{Object, ObjectKey};
use crate::rib::{Mark, Rib};

#[cfg(test)]
mod tests;

/// Keys remembered; the oldest generations fall out. A key is two texts of some 60 bytes at most as a rule: 10 MiB.
pub const KEYS_MAX: usize = 65_536;

/// Names an entity, as Read gives them, also when it is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntityKey {
    /// By name.
    Tenant(String),
    /// By name.
    Router(String),
    /// Names in order.
    Link(String, String),
    /// By URI.
    Agent(String),
    /// Agent URI, class path.
    Grant(String, String),
    /// Agent URI, skill id.
    Override(String, String),
    /// Names of the tenants that ask and are reached, class path.
    Permission(String, String, String),
    /// By name.
    Group(String),
    /// Generation.
    Pending(u64),
    /// By name.
    Policy(String),
    /// By name.
    Policer(String),
}

impl EntityKey {
    /// Whether it belongs to no tenant.
    #[must_use]
    pub fn is_everybodys(&self) -> bool {
        matches!(self, Self::Router(_) | Self::Link(..) | Self::Pending(_))
    }
}

/// An entity that a generation changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its key.
    pub key: EntityKey,
    /// Tenants it belonged to before, by name; none when it was not there or is everybody's.
    pub owners: BTreeSet<String>,
    /// It looks different; else only whose it is may have changed.
    pub itself: bool,
}

/// What a generation changed, each entity once.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes(BTreeMap<EntityKey, (BTreeSet<String>, bool)>);

impl Changes {
    fn add(&mut self, key: EntityKey, owner: Option<String>, itself: bool) {
        let (owners, is_itself) = self.0.entry(key).or_default();
        owners.extend(owner);
        *is_itself |= itself;
    }

    fn into_rows(self) -> Arc<[Changed]> {
        let rows = self.0.into_iter();
        rows.map(|(key, (owners, itself))| Changed {
            key,
            owners,
            itself,
        })
        .collect()
    }
}

/// What changed up to a generation.
#[derive(Debug, PartialEq, Eq)]
pub struct Slice {
    /// The newest generation when this was asked.
    pub upto: u64,
    /// What changed, each once, and whether who asked could see it before.
    pub keys: BTreeMap<EntityKey, bool>,
}

/// Changes were forgotten, or are not of this store: everything must be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// The oldest generation that can be gone on from.
    pub oldest: u64,
    /// The newest generation.
    pub newest: u64,
}

/// See the module's head.
#[derive(Debug)]
pub struct ChangeFeed {
    /// When this controller started (Unix milliseconds): tells its generations from those of a run before.
    run: u64,
    /// The generation it started at.
    first: u64,
    keys_max: usize,
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    /// Generations rising.
    rows: VecDeque<(u64, Arc<[Changed]>)>,
    keys: usize,
    oldest: u64,
    newest: u64,
}

impl ChangeFeed {
    /// A feed of what changes after `generation`.
    #[must_use]
    pub fn starting_at(generation: u64, run: u64) -> Self {
        Self::bounded(generation, run, KEYS_MAX)
    }

    fn bounded(generation: u64, run: u64, keys_max: usize) -> Self {
        Self {
            run,
            first: generation,
            keys_max,
            ring: Mutex::new(Ring {
                rows: VecDeque::new(),
                keys: 0,
                oldest: generation,
                newest: generation,
            }),
        }
    }

    /// What tells this run of the controller from others.
    #[must_use]
    pub fn run(&self) -> u64 {
        self.run
    }

    /// The generation this run started at.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The newest generation.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.ring().newest
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything: what changed up to `generation` is not known.
    pub(crate) fn restart(&self, generation: u64) {
        let mut ring = self.ring();
        ring.rows.clear();
        ring.keys = 0;
        (ring.oldest, ring.newest) = (generation, generation);
    }

    /// Adds what a generation changed, once it is durable.
    pub(crate) fn push(&self, generation: u64, changes: Changes) {
        let keys = changes.into_rows();
        let mut ring = self.ring();
        ring.newest = generation;
        if keys.is_empty() {
            return;
        }
        ring.keys += keys.len();
        ring.rows.push_back((generation, keys));
        while ring.keys > self.keys_max
            && let Some((generation, keys)) = ring.rows.pop_front()
        {
            ring.keys -= keys.len();
            ring.oldest = generation;
        }
    }

    /// What of the `wanted` changed after a generation: of each, whether who asks could see it before.
    ///
    /// # Errors
    /// That is no longer known, or there was no such generation.
    pub fn since(
        &self,
        generation: u64,
        wanted: impl Fn(&Changed) -> Option<bool>,
    ) -> Result<Slice, Gone> {
        let (rows, upto) = {
            let ring = self.ring();
            if !(ring.oldest..=ring.newest).contains(&generation) {
                return Err(Gone {
                    oldest: ring.oldest,
                    newest: ring.newest,
                });
            }
            let first = ring.rows.partition_point(|(of, _)| *of <= generation);
            let rows: Vec<Arc<[Changed]>> = ring
                .rows
                .range(first..)
                .map(|(_, keys)| keys.clone())
                .collect();
            (rows, ring.newest)
        };
        // Looked through without the ring: the writer does not wait for that.
        let mut keys = BTreeMap::new();
        for changed in rows.iter().flat_map(|rows| rows.iter()) {
            if let Some(seen) = wanted(changed) {
                *keys.entry(changed.key.clone()).or_default() |= seen;
            }
        }
        Ok(Slice { upto, keys })
    }
}

/// The entities that look different after what was done since `mark`: those written, those that tell of them, and those
/// that went to another tenant with their agent.
pub(crate) fn changed(rib: &Rib, mark: Mark) -> Changes {
    let before = Before::of(rib, mark);
    let mut changes = Changes::default();
    for (key, was) in rib.written_since(mark) {
        match key {
            ObjectKey::Counter(_) | ObjectKey::Request(..) => {}
            ObjectKey::Tenant(name) => {
                let owner = was.map(|_| name.clone());
                changes.add(EntityKey::Tenant(name.clone()), owner, true);
            }
            ObjectKey::Agent(uri) => agent(rib, &before, uri, was, &mut changes),
            ObjectKey::Grant(agent, path) => {
                let key = EntityKey::Grant(agent.clone(), path.clone());
                told_by(rib, &before, key, agent, &mut changes);
            }
            ObjectKey::Override(agent, skill) => {
                let key = EntityKey::Override(agent.clone(), skill.clone());
                told_by(rib, &before, key, agent, &mut changes);
            }
            ObjectKey::Router(name) => changes.add(EntityKey::Router(name.clone()), None, true),
            ObjectKey::Link(a, b) => {
                changes.add(EntityKey::Link(a.clone(), b.clone()), None, true);
            }
            ObjectKey::Permission(from, to, path) => {
                let (from, to) = (before.tenant(*from), before.tenant(*to));
                let key = EntityKey::Permission(from.clone(), to.clone(), path.clone());
                // It names its owners itself.
                changes.add(key, None, true);
            }
            ObjectKey::Group(name) => {
                let owner = match was {
                    Some(Object::Group(group)) => Some(before.tenant(group.tenant)),
                    _ => None,
                };
                changes.add(EntityKey::Group(name.clone()), owner, true);
            }
            ObjectKey::Attachment(label) => attachment(rib, *label, was, &mut changes),
            ObjectKey::Pending(generation) => {
                changes.add(EntityKey::Pending(*generation), None, true);
            }
            ObjectKey::Policy(name) => {
                let owner = match was {
                    Some(Object::Policy(policy)) => Some(before.tenant(policy.tenant)),
                    _ => None,
                };
                changes.add(EntityKey::Policy(name.clone()), owner, true);
            }
            ObjectKey::Policer(name) => {
                changes.add(EntityKey::Policer(name.clone()), None, true);
            }
        }
    }
    changes
}

/// What is looked up of the state as it was before the changes.
struct Before<'a> {
    rib: &'a Rib,
    gone_tenants: HashMap<u32, &'a str>,
    /// Tenants of the agents among the changes.
    agents: HashMap<&'a str, BTreeSet<u32>>,
}

impl<'a> Before<'a> {
    fn of(rib: &'a Rib, mark: Mark) -> Self {
        let mut before = Self {
            rib,
            gone_tenants: HashMap::new(),
            agents: HashMap::new(),
        };
        for (key, was) in rib.written_since(mark) {
            match (key, was) {
                (_, Some(Object::Tenant(tenant))) => {
                    before.gone_tenants.insert(tenant.id, &tenant.name);
                }
                (ObjectKey::Agent(uri), was) => {
                    let tenants = before.agents.entry(uri).or_default();
                    if let Some(Object::Agent(agent)) = was {
                        tenants.insert(agent.tenant);
                    }
                }
                _ => {}
            }
        }
        before
    }

    fn tenant(&self, id: u32) -> String {
        let name = self.rib.tenant_name(id);
        let name = name.or_else(|| self.gone_tenants.get(&id).copied());
        name.map_or_else(|| format!("#{id}"), str::to_owned)
    }

    /// The tenants of an agent before.
    fn owners(&self, uri: &str) -> BTreeSet<u32> {
        if let Some(known) = self.agents.get(uri) {
            return known.clone();
        }
        self.rib
            .agent(uri)
            .map(|agent| agent.tenant)
            .into_iter()
            .collect()
    }
}

/// An agent; when it comes, goes or changes its tenant, so do its grants and overrides, for those who see that tenant.
fn agent(rib: &Rib, before: &Before<'_>, uri: &str, was: Option<&Object>, changes: &mut Changes) {
    let owner = match was {
        Some(Object::Agent(agent)) => Some(agent.tenant),
        _ => None,
    };
    let name = owner.map(|id| before.tenant(id));
    changes.add(EntityKey::Agent(uri.to_owned()), name.clone(), true);
    if owner == rib.agent(uri).map(|agent| agent.tenant) {
        return;
    }
    for grant in rib.grants_of(uri) {
        let key = EntityKey::Grant(grant.agent.clone(), grant.class_path.clone());
        changes.add(key, name.clone(), false);
    }
    for told in rib.overrides_of(uri) {
        let key = EntityKey::Override(told.agent.clone(), told.skill.clone());
        changes.add(key, name.clone(), false);
    }
}

/// A grant or an override; an agent's entity tells which of its skills are granted, and where they were put.
fn told_by(rib: &Rib, before: &Before<'_>, key: EntityKey, agent: &str, changes: &mut Changes) {
    // Also of agents that it was not told of by itself: whoever saw the agent saw it.
    changes.add(key.clone(), None, true);
    for owner in before.owners(agent) {
        changes.add(key.clone(), Some(before.tenant(owner)), true);
    }
    // Grants may stand before their agent.
    if let Some(agent) = rib.agent(agent) {
        changes.add(EntityKey::Agent(agent.uri.clone()), None, true);
    }
}

/// An agent's entity tells its instances, a router's how many it has.
fn attachment(rib: &Rib, label: u32, before: Option<&Object>, changes: &mut Changes) {
    let number = Label::from_bits(label).agent_number();
    // One that is gone is among the changes itself; so is a router.
    if let Some(agent) = rib.agent_by_number(number) {
        changes.add(EntityKey::Agent(agent.uri.clone()), None, true);
    }
    let now = rib.object(&ObjectKey::Attachment(label));
    for object in [before, now.as_ref()].into_iter().flatten() {
        if let Object::Attachment(record) = object
            && let Some(router) = rib.router_by_label(record.router())
        {
            changes.add(EntityKey::Router(router.name.clone()), None, true);
        }
    }
}
