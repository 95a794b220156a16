//! Which entities the last generations changed, for those who watch them.
//!
//! A ring bounded in keys, in memory only. The one writer adds to it; who watches asks for what changed since it last
//! did, each entity once however often it changed. The ring waits for nobody: what falls off it is [`Gone`]. Refuses to
//! know what entities say, who watches, and gRPC.

use std::collections::{BTreeSet, HashMap, VecDeque};
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
}

/// What changed up to a generation.
#[derive(Debug, PartialEq, Eq)]
pub struct Slice {
    /// The newest generation when this was asked.
    pub upto: u64,
    /// What changed, each once.
    pub keys: BTreeSet<EntityKey>,
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
    rows: VecDeque<(u64, Arc<[EntityKey]>)>,
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

    /// Adds what a generation changed, once it is durable.
    pub(crate) fn push(&self, generation: u64, keys: BTreeSet<EntityKey>) {
        let keys: Arc<[EntityKey]> = keys.into_iter().collect();
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

    /// What of the `wanted` changed after a generation.
    ///
    /// # Errors
    /// That is no longer known, or there was no such generation.
    pub fn since(
        &self,
        generation: u64,
        wanted: impl Fn(&EntityKey) -> bool,
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
            let rows: Vec<Arc<[EntityKey]>> = ring
                .rows
                .range(first..)
                .map(|(_, keys)| keys.clone())
                .collect();
            (rows, ring.newest)
        };
        // Looked through without the ring: the writer does not wait for that.
        let keys = rows.iter().flat_map(|keys| keys.iter());
        let keys = keys.filter(|key| wanted(key)).cloned().collect();
        Ok(Slice { upto, keys })
    }
}

/// The entities that look different after what was done since `mark`: those written, and those that tell of them.
pub(crate) fn changed(rib: &Rib, mark: Mark) -> BTreeSet<EntityKey> {
    let gone_tenants: HashMap<u32, &str> = rib
        .written_since(mark)
        .filter_map(|(_, before)| match before {
            Some(Object::Tenant(tenant)) => Some((tenant.id, tenant.name.as_str())),
            _ => None,
        })
        .collect();
    let tenant = |id: u32| {
        let name = rib
            .tenant_name(id)
            .or_else(|| gone_tenants.get(&id).copied());
        name.map_or_else(|| format!("#{id}"), str::to_owned)
    };
    let mut keys = BTreeSet::new();
    for (key, before) in rib.written_since(mark) {
        match key {
            ObjectKey::Counter(_) | ObjectKey::Request(..) => {}
            ObjectKey::Tenant(name) => {
                keys.insert(EntityKey::Tenant(name.clone()));
            }
            ObjectKey::Agent(uri) => {
                keys.insert(EntityKey::Agent(uri.clone()));
            }
            ObjectKey::Grant(agent, path) => {
                keys.insert(EntityKey::Grant(agent.clone(), path.clone()));
                keys.extend(told_by(rib, agent));
            }
            ObjectKey::Override(agent, skill) => {
                keys.insert(EntityKey::Override(agent.clone(), skill.clone()));
                keys.extend(told_by(rib, agent));
            }
            ObjectKey::Router(name) => {
                keys.insert(EntityKey::Router(name.clone()));
            }
            ObjectKey::Link(a, b) => {
                keys.insert(EntityKey::Link(a.clone(), b.clone()));
            }
            ObjectKey::Permission(from, to, path) => {
                let key = EntityKey::Permission(tenant(*from), tenant(*to), path.clone());
                keys.insert(key);
            }
            ObjectKey::Group(name) => {
                keys.insert(EntityKey::Group(name.clone()));
            }
            ObjectKey::Attachment(label) => attachment(rib, *label, before, &mut keys),
            ObjectKey::Pending(generation) => {
                keys.insert(EntityKey::Pending(*generation));
            }
        }
    }
    keys
}

/// An agent's entity tells which of its skills are granted, and where they were put.
fn told_by(rib: &Rib, agent: &str) -> Option<EntityKey> {
    // Grants may stand before their agent.
    rib.agent(agent)
        .map(|agent| EntityKey::Agent(agent.uri.clone()))
}

/// An agent's entity tells its instances, a router's how many it has.
fn attachment(rib: &Rib, label: u32, before: Option<&Object>, keys: &mut BTreeSet<EntityKey>) {
    let number = Label::from_bits(label).agent_number();
    // One that is gone is among the changes itself; so is a router.
    if let Some(agent) = rib.agent_by_number(number) {
        keys.insert(EntityKey::Agent(agent.uri.clone()));
    }
    let now = rib.object(&ObjectKey::Attachment(label));
    for object in [before, now.as_ref()].into_iter().flatten() {
        if let Object::Attachment(record) = object
            && let Some(router) = rib.router_by_label(record.router())
        {
            keys.insert(EntityKey::Router(router.name.clone()));
        }
    }
}
