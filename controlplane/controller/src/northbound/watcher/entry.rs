//! One changed entity: as it is now, or the key of what is gone.

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Body;

use crate::commit::State;
use crate::feed::EntityKey;
use crate::northbound::read::Row;
use crate::northbound::render::{View, entity};
use crate::store::StoreError;

/// A change, and the agent whose card it lacks.
pub(super) struct Told {
    pub(super) change: v1::WatchChange,
    pub(super) card_of: Option<u32>,
}

impl From<Row> for Told {
    fn from(row: Row) -> Self {
        Self {
            change: v1::WatchChange {
                entity: Some(row.entity),
                removed: false,
            },
            card_of: row.card_of,
        }
    }
}

impl Told {
    fn new(body: Body, removed: bool) -> Self {
        Self {
            change: v1::WatchChange {
                entity: Some(entity(body)),
                removed,
            },
            card_of: None,
        }
    }

    /// Adds the card. It may be newer than the rest: then the rest is told again.
    pub(super) fn fill(&mut self, state: &State) -> Result<(), StoreError> {
        if let Some(number) = self.card_of
            && let Some(v1::Entity {
                entity: Some(Body::Agent(agent)),
            }) = &mut self.change.entity
        {
            agent.card = state.card(number)?.unwrap_or_default();
        }
        Ok(())
    }
}

/// What is told of an entity that may have changed; `seen` = it was in scope before. `None` = it never was.
pub(super) fn told(view: &View<'_>, key: &EntityKey, seen: bool) -> Option<Told> {
    let card_of = match key {
        EntityKey::Agent(uri) => view.rib.agent(uri).map(|agent| agent.number),
        _ => None,
    };
    let body = match view.scope.sees(view.rib, key) {
        true => now(view, key),
        false => None,
    };
    match body {
        Some(body) => {
            let mut told = Told::new(body, false);
            if let Some(entity) = &mut told.change.entity {
                view.scope.trim(entity);
            }
            Some(Told { card_of, ..told })
        }
        None => seen.then(|| Told::new(gone(key), true)),
    }
}

fn now(view: &View<'_>, key: &EntityKey) -> Option<Body> {
    let rib = view.rib;
    Some(match key {
        EntityKey::Tenant(name) => Body::Tenant(View::tenant(rib.tenant(name)?)),
        EntityKey::Router(name) => Body::Router(view.router(rib.router(name)?)),
        EntityKey::Link(a, b) => Body::Link(View::link(rib.link(a, b)?)),
        EntityKey::Agent(uri) => Body::Agent(view.agent(rib.agent(uri)?)),
        EntityKey::Grant(agent, path) => Body::Grant(View::grant(rib.grant(agent, path)?)),
        EntityKey::Override(agent, skill) => {
            Body::Override(View::skill_override(rib.skill_override(agent, skill)?))
        }
        EntityKey::Permission(from, to, path) => {
            let (from, to) = (rib.tenant(from)?.id, rib.tenant(to)?.id);
            Body::Permission(view.permission(rib.permission(from, to, path)?))
        }
        EntityKey::Group(name) => Body::Group(view.group(rib.group(name)?)),
        EntityKey::Pending(generation) => {
            Body::PendingCommit(View::pending(rib.pending(*generation)?))
        }
        EntityKey::Policy(name) => Body::Policy(view.policy(rib.policy(name)?)),
        EntityKey::Policer(name) => Body::Policer(view.policer(rib.policer(name)?)),
    })
}

/// Its key fields.
fn gone(key: &EntityKey) -> Body {
    match key.clone() {
        EntityKey::Tenant(name) => Body::Tenant(v1::Tenant {
            name,
            ..v1::Tenant::default()
        }),
        EntityKey::Router(name) => Body::Router(v1::Router {
            name,
            ..v1::Router::default()
        }),
        EntityKey::Link(a, b) => Body::Link(v1::Link { a, b, cost: 0 }),
        EntityKey::Agent(uri) => Body::Agent(v1::Agent {
            uri,
            ..v1::Agent::default()
        }),
        EntityKey::Grant(agent_uri, class_path) => Body::Grant(v1::Grant {
            agent_uri,
            class_path,
            weight: 0,
            ..v1::Grant::default()
        }),
        EntityKey::Override(agent_uri, skill_id) => Body::Override(v1::SkillOverride {
            agent_uri,
            skill_id,
            class_path: String::new(),
        }),
        EntityKey::Permission(from, to, class_path) => Body::Permission(v1::Permission {
            from,
            to,
            class_path,
        }),
        EntityKey::Group(name) => Body::Group(v1::Group {
            name,
            ..v1::Group::default()
        }),
        EntityKey::Pending(generation) => Body::PendingCommit(v1::PendingCommit {
            id: generation.to_string(),
            ..v1::PendingCommit::default()
        }),
        EntityKey::Policy(name) => Body::Policy(v1::Policy {
            name,
            ..v1::Policy::default()
        }),
        EntityKey::Policer(name) => Body::Policer(v1::Policer {
            name,
            ..v1::Policer::default()
        }),
    }
}
