//! Who may do what: a role by name, and what each role may call, write and see.
//!
//! A caller's role is that of the most special rule of `controller.toml` that fits its URI; whom no rule fits may do
//! nothing, and a call or an entity that stands in no table here is nobody's. A rule may be bound to tenants: then
//! others' agents, grants, groups and permissions are not there for it. Refuses to know gRPC, certificates and sockets.

use std::sync::Arc;

use crate::audit::Note;
use crate::change::{Action, Fault, Refusal, Target, Update};
use crate::config::UriPattern;
use crate::rib::Rib;

mod scope;

#[cfg(test)]
mod tests;

pub use scope::Scope;

/// What a caller is trusted with; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Registers agents and says what they serve.
    Orchestrator,
    /// Runs the network: routers and links.
    Operator,
    /// Says who is apart from whom: tenants, what they may reach of each other and how much they may send. Reads who did what.
    Admin,
}

/// The words of `controller.toml`, in order of rank.
const ROLES: [(Role, &str); 4] = [
    (Role::Viewer, "viewer"),
    (Role::Orchestrator, "orchestrator"),
    (Role::Operator, "operator"),
    (Role::Admin, "admin"),
];

impl Role {
    /// As `controller.toml` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        ROLES[self as usize].1
    }

    /// By its word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let found = ROLES.iter().find(|(_, word)| *word == text);
        found.map(|(role, _)| *role)
    }

    /// Every word, for people who wrote another.
    #[must_use]
    pub fn words() -> [&'static str; 4] {
        ROLES.map(|(_, word)| word)
    }
}

/// The least role for a call, by its path; `None` = nobody may.
#[must_use]
pub fn least_caller(path: &str) -> Option<Role> {
    Some(match path {
        "/caplane.v1.Northbound/Read"
        | "/caplane.v1.Northbound/Watch"
        | "/caplane.v1.Northbound/Resolve"
        | "/caplane.v1.Northbound/Explain"
        | "/caplane.v1.Northbound/Rollout"
        | "/caplane.v1.Northbound/Status"
        | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Role::Viewer,
        "/caplane.v1.Northbound/ReadAudit" => Role::Admin,
        "/caplane.v1.Northbound/Write" | "/caplane.v1.Northbound/Confirm" => Role::Orchestrator,
        _ => return None,
    })
}

/// The least role that may write an entity of this kind.
#[must_use]
pub fn least_writer(target: &Target) -> Role {
    match target {
        Target::Agent(_)
        | Target::Grant { .. }
        | Target::Override { .. }
        | Target::Group { .. } => Role::Orchestrator,
        Target::Router { .. } | Target::Link { .. } => Role::Operator,
        Target::Tenant { .. }
        | Target::Permission { .. }
        | Target::Policy(_)
        | Target::Policer(_) => Role::Admin,
    }
}

/// One rule of `controller.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whom it fits.
    pub who: UriPattern,
    /// What they are.
    pub role: Role,
    /// Names of the tenants that they are bound to; `None` = every one.
    pub tenants: Option<Vec<String>>,
    /// Identities that they may register; `None` = any.
    pub agents: Option<Vec<UriPattern>>,
}

/// All rules.
#[derive(Debug, Clone)]
pub struct Access {
    /// The most special first.
    rules: Arc<[(Rule, Scope)]>,
}

/// A caller that may call something.
#[derive(Debug, Clone)]
pub struct Principal {
    /// URI of its certificate, or `unix:uid/<number>`.
    pub uri: Arc<str>,
    /// Where it called from.
    pub address: Arc<str>,
    /// Its role.
    pub role: Role,
    /// What it sees and changes.
    pub scope: Scope,
    rule: usize,
    access: Access,
}

impl Access {
    /// From rules in any order; of two that fit, the one for one name counts, else the longer.
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        let mut rules: Vec<(Rule, Scope)> = rules
            .iter()
            .map(|rule| (rule.clone(), Scope::of(rule.tenants.as_deref())))
            .collect();
        rules.sort_by_key(|(rule, _)| std::cmp::Reverse(rule.who.speciality()));
        Self {
            rules: rules.into(),
        }
    }

    /// Who the holder of this URI is; `None` = nobody that may call.
    #[must_use]
    pub fn principal(&self, uri: &Arc<str>, address: &Arc<str>) -> Option<Principal> {
        let place = self
            .rules
            .iter()
            .position(|(rule, _)| rule.who.matches(uri));
        let rule = place?;
        let (Rule { role, .. }, scope) = &self.rules[rule];
        Some(Principal {
            uri: uri.clone(),
            address: address.clone(),
            role: *role,
            scope: scope.clone(),
            rule,
            access: self.clone(),
        })
    }
}

fn denied(field: &str, value: &str, reason: String, remedy: &str) -> Refusal {
    Refusal::new(Fault::Denied, field, value, reason, remedy)
}

impl Principal {
    /// What the audit log says of something that it did.
    #[must_use]
    pub fn note(&self, call: &str, what: String) -> Note {
        Note {
            who: self.uri.to_string(),
            peer: self.address.to_string(),
            role: self.role.as_str(),
            call: call.to_owned(),
            what,
            ..Note::default()
        }
    }

    /// Refuses an update that it may not make, in this state.
    ///
    /// # Errors
    /// [`Fault::Denied`].
    pub fn may_write(&self, rib: &Rib, update: &Update) -> Result<(), Refusal> {
        let least = least_writer(&update.target);
        let kind = update.target.kind();
        if self.role < least {
            return Err(denied(
                kind,
                self.role.as_str(),
                format!("is your role; to write this needs {}", least.as_str()),
                "ask somebody with that role, or an administrator for it (`roles` in controller.toml)",
            ));
        }
        let checked = match &update.target {
            Target::Agent(spec) => {
                self.may_write_agent(rib, update.action, &spec.uri, &spec.tenant)
            }
            Target::Grant { agent, .. } | Target::Override { agent, .. } => {
                self.may_tell_of(rib, agent)
            }
            Target::Group { name, tenant, .. } => {
                let there = rib.group(name).map(|group| group.tenant);
                self.in_scope(rib, "name", name, there)
                    .and_then(|()| self.may_name(rib, update.action, tenant))
            }
            // Who may write these is bound to no tenant.
            Target::Router { .. }
            | Target::Link { .. }
            | Target::Tenant { .. }
            | Target::Permission { .. }
            | Target::Policy(_)
            | Target::Policer(_) => self.unbound(kind),
        };
        checked.map_err(|refusal| refusal.within(kind))
    }

    fn may_write_agent(
        &self,
        rib: &Rib,
        action: Action,
        uri: &str,
        tenant: &str,
    ) -> Result<(), Refusal> {
        let there = rib.agent(uri).map(|agent| agent.tenant);
        self.in_scope(rib, "uri", uri, there)?;
        let (rule, _) = &self.access.rules[self.rule];
        if let Some(patterns) = &rule.agents
            && !patterns.iter().any(|pattern| pattern.matches(uri))
        {
            let reason = "is not among the identities that you may register".to_owned();
            let remedy = "register one of those, or ask an administrator for it (`roles` in controller.toml)";
            let patterns = patterns.iter().map(ToString::to_string);
            return Err(denied("uri", uri, reason, remedy).accepting(patterns));
        }
        self.may_name(rib, action, tenant)
    }

    /// Grants and overrides are those of an agent, which says whose they are.
    fn may_tell_of(&self, rib: &Rib, agent: &str) -> Result<(), Refusal> {
        match rib.agent(agent) {
            Some(record) => self.in_scope(rib, "agent_uri", agent, Some(record.tenant)),
            None if !self.scope.is_bound() => Ok(()),
            None => Err(denied(
                "agent_uri",
                agent,
                "is not registered, so that it belongs to none of your tenants".to_owned(),
                "INSERT the agent first; it may stand earlier in the same batch",
            )),
        }
    }

    /// What is there already must be of one of its tenants.
    fn in_scope(
        &self,
        rib: &Rib,
        field: &str,
        value: &str,
        tenant: Option<u32>,
    ) -> Result<(), Refusal> {
        match tenant {
            Some(tenant) if !self.scope.has_number(rib, tenant) => Err(denied(
                field,
                value,
                "belongs to a tenant that is not yours".to_owned(),
                "choose another name, or ask somebody who is bound to no tenant",
            )),
            _ => Ok(()),
        }
    }

    /// What is to be there must be of one of its tenants.
    fn may_name(&self, rib: &Rib, action: Action, tenant: &str) -> Result<(), Refusal> {
        // Of a deletion only the key means anything.
        if action == Action::Delete || !self.scope.is_bound() {
            return Ok(());
        }
        if self.scope.has(tenant) {
            if rib.tenant(tenant).is_some() {
                return Ok(());
            }
            // Who looks for it elsewhere tells which there are, and those are not this caller's to know.
            let reason = "is yours, but nobody has made it yet";
            let remedy = "ask an administrator to INSERT the tenant";
            let refusal = Refusal::new(Fault::Missing, "tenant", tenant, reason, remedy);
            return Err(refusal.accepting(self.scope.names()));
        }
        let refusal = denied(
            "tenant",
            tenant,
            "is not one of your tenants".to_owned(),
            "name one of yours",
        );
        Err(refusal.accepting(self.scope.names()))
    }

    fn unbound(&self, kind: &str) -> Result<(), Refusal> {
        if !self.scope.is_bound() {
            return Ok(());
        }
        Err(denied(
            "role",
            self.role.as_str(),
            format!("is bound to tenants; a {kind} is everybody's"),
            "ask somebody who is bound to no tenant",
        ))
    }

    /// Refuses questions asked as an agent that is not its own, and in the same words as one that nobody knows; an empty
    /// `uri` asks as nobody, who sees everything.
    ///
    /// # Errors
    /// [`Fault::Denied`].
    pub fn may_ask_as(&self, rib: &Rib, field: &str, uri: &str) -> Result<(), Refusal> {
        if !self.scope.is_bound() {
            return Ok(());
        }
        if uri.is_empty() {
            let reason = "must be set: you see what agents of your tenants see".to_owned();
            return Err(denied(field, uri, reason, "ask as one of your agents"));
        }
        if self.scope.has_agent(rib, uri) {
            return Ok(());
        }
        let reason = "is no agent of your tenants".to_owned();
        Err(denied(field, uri, reason, "ask as one of your agents"))
    }

    /// Refuses to end or extend somebody else's commit, to those who run nothing.
    ///
    /// # Errors
    /// [`Fault::Denied`].
    pub fn may_end(&self, commit: u64, caller: &str) -> Result<(), Refusal> {
        if self.role >= Role::Operator || *self.uri == *caller {
            return Ok(());
        }
        Err(denied(
            "id",
            &commit.to_string(),
            "is somebody else's commit".to_owned(),
            "ask whoever wrote it, or an operator",
        ))
    }
}
