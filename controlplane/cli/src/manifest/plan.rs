//! From what is there to what should be: the least updates, in an order that holds at every step.
//!
//! Pure. What should not be is removed only when it is asked for, and only where the file has a say: of the kinds that
//! it has, and of agents, groups and permissions only in tenants that it names, of grants and overrides only of agents
//! that it names or that go with them.

use std::collections::{BTreeMap, BTreeSet};

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::read_request::Kind as ReadKind;
use caplane_proto::v1::update::Type;

use super::Manifest;

/// Kinds of a file, in the order in which they stand on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Noun {
    Tenant,
    Policer,
    Policy,
    Router,
    Link,
    Agent,
    Grant,
    Override,
    Permission,
    Group,
    Other,
}

/// Names an entity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(Noun, String, String, String);

/// One update, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What is done.
    pub action: Type,
    /// As it should be; of what goes, as it is.
    pub entity: Kind,
    /// Of what is modified, the fields that differ.
    pub fields: Vec<&'static str>,
}

impl Key {
    /// What kind it is, in words.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        match self.0 {
            Noun::Tenant => "tenant",
            Noun::Router => "router",
            Noun::Link => "link",
            Noun::Agent => "agent",
            Noun::Grant => "grant",
            Noun::Override => "override",
            Noun::Permission => "permission",
            Noun::Group => "group",
            Noun::Policy => "policy",
            Noun::Policer => "policer",
            Noun::Other => "entity",
        }
    }

    /// What names it.
    #[must_use]
    pub fn name(&self) -> String {
        let parts = [&self.1, &self.2, &self.3];
        let parts = parts.iter().filter(|part| !part.is_empty());
        parts
            .map(|part| part.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// What names an entity.
#[must_use]
pub fn key(entity: &Kind) -> Key {
    let none = String::new;
    match entity {
        Kind::Tenant(t) => Key(Noun::Tenant, t.name.clone(), none(), none()),
        Kind::Router(r) => Key(Noun::Router, r.name.clone(), none(), none()),
        Kind::Link(l) => Key(Noun::Link, l.a.clone(), l.b.clone(), none()),
        Kind::Agent(a) => Key(Noun::Agent, a.uri.clone(), none(), none()),
        Kind::Grant(g) => Key(
            Noun::Grant,
            g.agent_uri.clone(),
            g.class_path.clone(),
            none(),
        ),
        Kind::Override(o) => Key(
            Noun::Override,
            o.agent_uri.clone(),
            o.skill_id.clone(),
            none(),
        ),
        Kind::Permission(p) => Key(
            Noun::Permission,
            p.from.clone(),
            p.to.clone(),
            p.class_path.clone(),
        ),
        Kind::Group(g) => Key(Noun::Group, g.name.clone(), none(), none()),
        Kind::Policy(p) => Key(Noun::Policy, p.name.clone(), none(), none()),
        Kind::Policer(p) => Key(Noun::Policer, p.name.clone(), none(), none()),
        Kind::Class(_) | Kind::PendingCommit(_) => Key(Noun::Other, none(), none(), none()),
    }
}

impl Manifest {
    /// The kinds that must be read to plan it.
    #[must_use]
    pub fn kinds(&self) -> Vec<ReadKind> {
        let mut nouns: BTreeSet<Noun> = self.entities.iter().map(|e| key(e).0).collect();
        if nouns.contains(&Noun::Agent) {
            // They go with agents that go.
            nouns.extend([Noun::Grant, Noun::Override]);
        }
        let kinds = nouns.into_iter().filter_map(|noun| {
            Some(match noun {
                Noun::Tenant => ReadKind::Tenant,
                Noun::Router => ReadKind::Router,
                Noun::Link => ReadKind::Link,
                Noun::Agent => ReadKind::Agent,
                Noun::Grant => ReadKind::Grant,
                Noun::Override => ReadKind::SkillOverride,
                Noun::Permission => ReadKind::Permission,
                Noun::Group => ReadKind::Group,
                Noun::Policy => ReadKind::Policy,
                Noun::Policer => ReadKind::Policer,
                Noun::Other => return None,
            })
        });
        kinds.collect()
    }

    /// The updates that make it true where `there` is; with `prune` also what the file lacks goes.
    #[must_use]
    pub fn plan(&self, there: Vec<Kind>, prune: bool) -> Vec<Change> {
        let say = Say::of(self);
        let there: BTreeMap<Key, Kind> = there.into_iter().map(|e| (key(&e), e)).collect();
        let goes = |key: &Key, entity: &Kind| prune && say.may_remove(key, entity);
        let leaving: BTreeSet<&str> = there
            .iter()
            .filter(|(key, entity)| key.0 == Noun::Agent && goes(key, entity))
            .map(|(key, _)| key.1.as_str())
            .collect();
        // Grants and overrides of an agent go with it.
        let goes_along = |key: &Key| {
            matches!(key.0, Noun::Grant | Noun::Override) && leaving.contains(key.1.as_str())
        };
        let mut changes = Vec::new();
        for (key, entity) in there.iter().rev() {
            if goes(key, entity) && !goes_along(key) && !key.0.goes_last() {
                changes.push(removed(entity));
            }
        }
        // Tenants name policers, whose classes are of tenants: a tenant is told its policer once that is there.
        let mut held: Vec<Change> = Vec::new();
        let mut wanted: Vec<(Key, &Kind)> = self.entities.iter().map(|e| (key(e), e)).collect();
        wanted.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (key, entity) in wanted {
            if key.0 > Noun::Policer {
                changes.append(&mut held);
            }
            let now = there.get(&key).filter(|_| !goes_along(&key));
            let fields = match now {
                None => Vec::new(),
                Some(now) => match differing(now, entity) {
                    fields if fields.is_empty() => continue,
                    fields => fields,
                },
            };
            let action = if now.is_some() {
                Type::Modify
            } else {
                Type::Insert
            };
            let change = Change {
                action,
                entity: entity.clone(),
                fields,
            };
            match (action, entity) {
                (Type::Modify, Kind::Tenant(_)) => held.push(change),
                (Type::Insert, Kind::Tenant(tenant)) if !tenant.policer.is_empty() => {
                    changes.push(Change {
                        entity: without_policer(tenant),
                        ..change.clone()
                    });
                    held.push(Change {
                        action: Type::Modify,
                        fields: vec!["policer"],
                        ..change
                    });
                }
                _ => changes.push(change),
            }
        }
        changes.append(&mut held);
        // What others name goes last: they have left it by now.
        let leaving: Vec<(&Key, &Kind)> = there
            .iter()
            .rev()
            .filter(|(key, entity)| key.0.goes_last() && goes(key, entity))
            .collect();
        for (_, entity) in &leaving {
            if let Kind::Tenant(tenant) = entity
                && !tenant.policer.is_empty()
            {
                changes.push(Change {
                    action: Type::Modify,
                    entity: without_policer(tenant),
                    fields: vec!["policer"],
                });
            }
        }
        changes.extend(leaving.into_iter().map(|(_, entity)| removed(entity)));
        changes
    }
}

impl Noun {
    /// Others name it, so they leave it first.
    fn goes_last(self) -> bool {
        matches!(self, Self::Tenant | Self::Policer | Self::Policy)
    }
}

fn without_policer(tenant: &v1::Tenant) -> Kind {
    Kind::Tenant(v1::Tenant {
        policer: String::new(),
        ..tenant.clone()
    })
}

fn removed(entity: &Kind) -> Change {
    let entity = match entity {
        Kind::Agent(agent) => Kind::Agent(v1::Agent {
            uri: agent.uri.clone(),
            ..v1::Agent::default()
        }),
        other => other.clone(),
    };
    Change {
        action: Type::Delete,
        entity,
        fields: Vec::new(),
    }
}

/// Where a file has a say.
struct Say {
    has: BTreeSet<Key>,
    nouns: BTreeSet<Noun>,
    tenants: BTreeSet<String>,
    agents: BTreeSet<String>,
}

impl Say {
    fn of(manifest: &Manifest) -> Self {
        let has: BTreeSet<Key> = manifest.entities.iter().map(key).collect();
        let mut say = Self {
            nouns: has.iter().map(|key| key.0).collect(),
            has,
            tenants: BTreeSet::new(),
            agents: BTreeSet::new(),
        };
        for entity in &manifest.entities {
            match entity {
                Kind::Tenant(tenant) => say.tenants.insert(tenant.name.clone()),
                Kind::Agent(agent) => {
                    say.agents.insert(agent.uri.clone());
                    say.tenants.insert(agent.tenant.clone())
                }
                Kind::Group(group) => say.tenants.insert(group.tenant.clone()),
                Kind::Policy(policy) => say.tenants.insert(policy.tenant.clone()),
                Kind::Permission(permission) => say.tenants.insert(permission.from.clone()),
                Kind::Grant(grant) => say.agents.insert(grant.agent_uri.clone()),
                Kind::Override(told) => say.agents.insert(told.agent_uri.clone()),
                _ => false,
            };
        }
        say
    }

    fn may_remove(&self, key: &Key, entity: &Kind) -> bool {
        let in_reach = match entity {
            Kind::Tenant(tenant) => tenant.name != super::SHARED,
            Kind::Agent(agent) => self.tenants.contains(&agent.tenant),
            Kind::Group(group) => self.tenants.contains(&group.tenant),
            Kind::Policy(policy) => self.tenants.contains(&policy.tenant),
            Kind::Permission(permission) => self.tenants.contains(&permission.from),
            Kind::Grant(grant) => self.agents.contains(&grant.agent_uri),
            Kind::Override(told) => self.agents.contains(&told.agent_uri),
            Kind::Router(_) | Kind::Link(_) | Kind::Policer(_) => true,
            Kind::Class(_) | Kind::PendingCommit(_) => false,
        };
        in_reach && self.nouns.contains(&key.0) && !self.has.contains(key)
    }
}

/// Names of the fields in which they differ, of those that a Write assigns.
fn differing(now: &Kind, wanted: &Kind) -> Vec<&'static str> {
    let fields: Vec<(&str, bool)> = match (now, wanted) {
        (Kind::Router(now), Kind::Router(wanted)) => vec![("uri", now.uri == wanted.uri)],
        (Kind::Link(now), Kind::Link(wanted)) => vec![("cost", now.cost == wanted.cost)],
        (Kind::Agent(now), Kind::Agent(wanted)) => vec![
            ("tenant", now.tenant == wanted.tenant),
            ("card", now.card == wanted.card),
            ("weight", now.weight == wanted.weight),
            ("lease_seconds", now.lease_seconds == wanted.lease_seconds),
            ("priority_max", now.priority_max == wanted.priority_max),
            ("policy", now.policy == wanted.policy),
            ("locality", now.locality == wanted.locality),
            ("cost", now.cost == wanted.cost),
            (
                "out_of_service",
                now.out_of_service == wanted.out_of_service,
            ),
        ],
        (Kind::Grant(now), Kind::Grant(wanted)) => vec![
            ("weight", now.weight == wanted.weight),
            (
                "out_of_service",
                now.out_of_service == wanted.out_of_service,
            ),
        ],
        (Kind::Tenant(now), Kind::Tenant(wanted)) => vec![
            ("policer", now.policer == wanted.policer),
            ("direct", now.direct == wanted.direct),
        ],
        (Kind::Policy(now), Kind::Policy(wanted)) => vec![
            ("tenant", now.tenant == wanted.tenant),
            ("only", now.base() == wanted.base()),
            ("allow", now.allow == wanted.allow),
            ("priority_max", now.priority_max == wanted.priority_max),
            ("policer", now.policer == wanted.policer),
            ("direct", now.direct == wanted.direct),
        ],
        (Kind::Policer(now), Kind::Policer(wanted)) => vec![
            ("rate", now.rate == wanted.rate),
            ("classes", now.classes == wanted.classes),
        ],
        (Kind::Override(now), Kind::Override(wanted)) => {
            vec![("class", now.class_path == wanted.class_path)]
        }
        (Kind::Group(now), Kind::Group(wanted)) => vec![
            ("tenant", now.tenant == wanted.tenant),
            ("agents", now.agent_uris == wanted.agent_uris),
        ],
        // Others have nothing but their key.
        _ => Vec::new(),
    };
    let differ = fields.into_iter().filter(|(_, same)| !same);
    differ.map(|(name, _)| name).collect()
}
