//! Whose things a caller sees and changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Body;

use crate::feed::EntityKey;
use crate::rib::Rib;

/// The tenants that a caller is bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// `None` = every one.
    tenants: Option<Arc<[String]>>,
}

/// Bound to nothing.
pub static EVERYTHING: Scope = Scope { tenants: None };

impl Scope {
    /// Bound to these tenants; `None` = to nothing.
    #[must_use]
    pub fn of(tenants: Option<&[String]>) -> Self {
        Self {
            tenants: tenants.map(Into::into),
        }
    }

    /// Bound to nothing.
    #[must_use]
    pub fn everything() -> &'static Self {
        &EVERYTHING
    }

    /// Whether it is bound to tenants.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.tenants.is_some()
    }

    /// The tenants it is bound to; none when it is bound to nothing.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.tenants.as_deref().unwrap_or_default().to_vec()
    }

    /// Whether a tenant is in it, by name.
    #[must_use]
    pub fn has(&self, tenant: &str) -> bool {
        let Some(tenants) = &self.tenants else {
            return true;
        };
        tenants.iter().any(|name| name == tenant)
    }

    /// Whether a tenant is in it, by number.
    #[must_use]
    pub fn has_number(&self, rib: &Rib, tenant: u32) -> bool {
        !self.is_bound() || rib.tenant_name(tenant).is_some_and(|name| self.has(name))
    }

    /// Whether an identity is that of an agent in it.
    #[must_use]
    pub fn has_agent(&self, rib: &Rib, uri: &str) -> bool {
        !self.is_bound()
            || rib
                .agent(uri)
                .is_some_and(|agent| self.has_number(rib, agent.tenant))
    }

    /// Whether an entity that is there is in it. Routers, links and commits are everybody's; a permission is both
    /// tenants'. Policers may hold several tenants: who is bound to some sees none.
    #[must_use]
    pub fn sees(&self, rib: &Rib, key: &EntityKey) -> bool {
        if !self.is_bound() {
            return true;
        }
        match key {
            EntityKey::Router(_) | EntityKey::Link(..) | EntityKey::Pending(_) => true,
            EntityKey::Tenant(name) => self.has(name),
            EntityKey::Agent(uri) | EntityKey::Grant(uri, _) | EntityKey::Override(uri, _) => {
                self.has_agent(rib, uri)
            }
            EntityKey::Permission(from, to, _) => self.has(from) || self.has(to),
            EntityKey::Policer(_) => false,
            EntityKey::Policy(name) => rib
                .policy(name)
                .is_some_and(|policy| self.has_number(rib, policy.tenant)),
            EntityKey::Group(name) => rib
                .group(name)
                .is_some_and(|group| self.has_number(rib, group.tenant)),
        }
    }

    /// Whether an entity was in it that belonged to these tenants; to none = it is everybody's.
    #[must_use]
    pub fn saw(&self, key: &EntityKey, owners: &BTreeSet<String>) -> bool {
        let names_one = match key {
            EntityKey::Permission(from, to, _) => self.has(from) || self.has(to),
            _ => key.is_everybodys(),
        };
        !self.is_bound() || names_one || owners.iter().any(|tenant| self.has(tenant))
    }

    /// Takes out of an entity what it tells of others' things: a router's words name entries of everybody.
    pub fn trim(&self, entity: &mut v1::Entity) {
        if self.is_bound()
            && let Some(Body::Router(router)) = &mut entity.entity
        {
            router.rejected_reasons.clear();
        }
    }
}
