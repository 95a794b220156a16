//! Records as the entities that Write takes, with what the controller adds.

use caplane_proto::v1;
use caplane_proto::v1::agent::IdentityCheck as Check;
use caplane_proto::v1::entity::Entity as Body;
use caplane_wire::{Aic, Label};

use crate::access::Scope;
use crate::change::{Action, Target, Update};
use crate::knowledge::Knowledge;
use crate::record::{
    AgentRecord, GrantRecord, GroupRecord, LinkRecord, Outcome, OverrideRecord, PendingRecord,
    RouterRecord,
};
use crate::rib::Rib;
use crate::salts::{IdentityCheck, code_of};
use crate::southbound::{RouterStatus, Sessions};
use crate::taxonomy::Class;

mod policy;

/// Reasons of a refused generation that a router's entity has.
const REASONS_MAX: usize = 32;

/// What entities are made from.
pub(super) struct View<'a> {
    pub(super) rib: &'a Rib,
    pub(super) knowledge: &'a Knowledge,
    pub(super) sessions: &'a Sessions,
    /// Whose entities it shows.
    pub(super) scope: &'a Scope,
}

/// Why a router refused a generation, in words.
fn reasons(status: &RouterStatus) -> Vec<String> {
    let shown = status.rejected.iter().take(REASONS_MAX);
    let mut reasons: Vec<String> = shown
        .map(|refused| match &refused.key {
            Some(key) => format!("{key}: {}", refused.reason),
            None => refused.reason.clone(),
        })
        .collect();
    let more = status.rejected.len().saturating_sub(REASONS_MAX) + status.rejected_left_out;
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    reasons
}

pub(super) fn entity(body: Body) -> v1::Entity {
    v1::Entity { entity: Some(body) }
}

impl View<'_> {
    /// Whether what an update is about is in a tenant that the caller is not bound to.
    fn is_anothers(&self, target: &Target) -> bool {
        let (rib, scope) = (self.rib, self.scope);
        match target {
            Target::Agent(spec) => !scope.has_agent(rib, &spec.uri),
            Target::Grant { agent, .. } | Target::Override { agent, .. } => {
                !scope.has_agent(rib, agent)
            }
            Target::Group { name, .. } => rib
                .group(name)
                .is_some_and(|group| !scope.has_number(rib, group.tenant)),
            // Nobody who is bound writes these.
            Target::Router { .. }
            | Target::Link { .. }
            | Target::Tenant { .. }
            | Target::Permission { .. }
            | Target::Policy(_)
            | Target::Policer(_) => false,
        }
    }

    /// What became of an update: the entity as it is now (an agent without its card), or the key
    /// of what was deleted.
    pub(super) fn written(&self, update: &Update) -> v1::Entity {
        let rib = self.rib;
        // Of what is not the caller's any more (a repeated request is answered later) it hears the key that it gave.
        let deleted = update.action == Action::Delete || self.is_anothers(&update.target);
        let body = match &update.target {
            Target::Agent(spec) => Some(Body::Agent(match rib.agent(&spec.uri) {
                Some(agent) if !deleted => self.agent(agent),
                _ => v1::Agent {
                    uri: spec.uri.clone(),
                    ..v1::Agent::default()
                },
            })),
            Target::Grant { agent, class, .. } => {
                Some(Body::Grant(match rib.grant(agent, &class.path) {
                    Some(grant) if !deleted => Self::grant(grant),
                    _ => v1::Grant {
                        agent_uri: agent.clone(),
                        class_path: class.path.clone(),
                        weight: 0,
                        ..v1::Grant::default()
                    },
                }))
            }
            Target::Override { agent, skill, .. } => {
                Some(Body::Override(match rib.skill_override(agent, skill) {
                    Some(told) if !deleted => Self::skill_override(told),
                    _ => v1::SkillOverride {
                        agent_uri: agent.clone(),
                        skill_id: skill.clone(),
                        class_path: String::new(),
                    },
                }))
            }
            Target::Router { name, .. } => Some(Body::Router(match rib.router(name) {
                Some(router) if !deleted => self.router(router),
                _ => v1::Router {
                    name: name.clone(),
                    ..v1::Router::default()
                },
            })),
            Target::Link { a, b, cost } => Some(Body::Link(v1::Link {
                a: a.clone(),
                b: b.clone(),
                cost: if deleted { 0 } else { *cost },
            })),
            Target::Tenant { name, .. } => Some(Body::Tenant(match rib.tenant(name) {
                Some(tenant) if !deleted => Self::tenant(tenant),
                _ => v1::Tenant {
                    name: name.clone(),
                    ..v1::Tenant::default()
                },
            })),
            Target::Permission { from, to, class } => Some(Body::Permission(v1::Permission {
                from: from.clone(),
                to: to.clone(),
                class_path: class.path.clone(),
            })),
            Target::Group { name, .. } => Some(Body::Group(match rib.group(name) {
                Some(group) if !deleted => self.group(group),
                _ => v1::Group {
                    name: name.clone(),
                    ..v1::Group::default()
                },
            })),
            Target::Policy(spec) => Some(Body::Policy(match rib.policy(&spec.name) {
                Some(policy) if !deleted => self.policy(policy),
                _ => v1::Policy {
                    name: spec.name.clone(),
                    ..v1::Policy::default()
                },
            })),
            Target::Policer(spec) => Some(Body::Policer(match rib.policer(&spec.name) {
                Some(policer) if !deleted => self.policer(policer),
                _ => v1::Policer {
                    name: spec.name.clone(),
                    ..v1::Policer::default()
                },
            })),
        };
        v1::Entity { entity: body }
    }

    pub(super) fn pending(record: &PendingRecord) -> v1::PendingCommit {
        use v1::pending_commit::State;
        let state = match record.outcome() {
            Outcome::Waiting => State::Waiting,
            Outcome::Confirmed => State::Confirmed,
            Outcome::Cancelled => State::Cancelled,
            Outcome::Expired => State::Expired,
        };
        v1::PendingCommit {
            id: record.generation.to_string(),
            who: record.caller.clone(),
            deadline_unix_ms: i64::try_from(record.deadline_unix_ms).unwrap_or(i64::MAX),
            generation: record.generation,
            objects: record.objects,
            state: state.into(),
            ended_generation: record.ended_generation,
            ended_by: record.ended_by.clone(),
        }
    }

    pub(super) fn agent(&self, agent: &AgentRecord) -> v1::Agent {
        let rib = self.rib;
        v1::Agent {
            uri: agent.uri.clone(),
            card: Vec::new(),
            tenant: self.tenant_name(agent.tenant),
            weight: agent.weight,
            lease_seconds: agent.lease_seconds,
            priority_max: agent.priority_max,
            label: agent.label().bits(),
            name: agent.name.clone(),
            provider: agent.provider.clone(),
            skills: self.skills(agent),
            instances: rib
                .instances(agent.number)
                .map(|attachment| v1::InstanceStatus {
                    label: attachment.label,
                    instance_name: attachment.instance_name.clone(),
                    router: rib
                        .router_by_label(attachment.router())
                        .map_or_else(String::new, |router| router.name.clone()),
                })
                .collect(),
            lease_expires_unix_ms: rib
                .lease_end(agent)
                .map_or(0, |end| i64::try_from(end).unwrap_or(i64::MAX)),
            identity_check: self.identity_check(agent).into(),
            aic: agent.aic.clone(),
            inactive: agent.inactive,
            policy: rib
                .policy_of(agent)
                .map_or_else(String::new, |policy| policy.name.clone()),
            locality: agent.locality.clone(),
            cost: agent.cost,
            out_of_service: agent.out_of_service,
            version: agent.version.clone(),
            endpoints: agent.endpoints.clone(),
            tags: agent.tags.clone(),
        }
    }

    /// Of the code in its name, else of that in its capability specification.
    fn identity_check(&self, agent: &AgentRecord) -> Check {
        let code = code_of(&agent.uri).or_else(|| Aic::parse(&agent.aic).ok());
        match code.map(|code| self.knowledge.salts().check(code)) {
            None => Check::Unspecified,
            Some(IdentityCheck::NotChecked) => Check::NotChecked,
            Some(IdentityCheck::Passed) => Check::Passed,
            Some(IdentityCheck::Failed) => Check::Failed,
        }
    }

    fn skills(&self, agent: &AgentRecord) -> Vec<v1::Skill> {
        let rib = self.rib;
        agent
            .skills
            .iter()
            .map(|skill| {
                let class = rib.skill_class(&agent.uri, skill);
                let told = rib.skill_override(&agent.uri, &skill.id);
                let (matched_by, score, provenance) = match told {
                    Some(told) => (
                        "override".to_owned(),
                        1.0,
                        format!(
                            "put in {} by an operator; the classifier said: {}",
                            told.class_path, skill.provenance
                        ),
                    ),
                    None => (
                        skill.matched_by.clone(),
                        skill.score,
                        skill.provenance.clone(),
                    ),
                };
                v1::Skill {
                    id: skill.id.clone(),
                    name: skill.name.clone(),
                    class_path: class.map_or("", |c| self.knowledge.path(c)).to_owned(),
                    class_label: class.map_or(0, Label::bits),
                    matched_by,
                    score,
                    provenance,
                    granted: !agent.serves_nothing()
                        && class
                            .and_then(|class| rib.covering_grant(&agent.uri, class))
                            .is_some_and(|grant| !grant.out_of_service),
                }
            })
            .collect()
    }

    pub(super) fn grant(grant: &GrantRecord) -> v1::Grant {
        v1::Grant {
            agent_uri: grant.agent.clone(),
            class_path: grant.class_path.clone(),
            weight: grant.weight,
            out_of_service: grant.out_of_service,
        }
    }

    pub(super) fn skill_override(told: &OverrideRecord) -> v1::SkillOverride {
        v1::SkillOverride {
            agent_uri: told.agent.clone(),
            skill_id: told.skill.clone(),
            class_path: told.class_path.clone(),
        }
    }

    pub(super) fn router(&self, router: &RouterRecord) -> v1::Router {
        let label = router.label();
        let status = self.sessions.status(label);
        let rejected_reasons = reasons(&status);
        v1::Router {
            name: router.name.clone(),
            uri: router.uri.clone(),
            label: label.bits(),
            address: router.address.clone(),
            connected: status.connected,
            live_generation: status.live_generation,
            pushed_generation: status.pushed_generation,
            live_took_us: status.live_took_us,
            instances: self.rib.attached_at(label).len() as u32,
            software: status.software,
            rejected_generation: status.rejected_generation,
            rejected_reasons,
            live_unix_ms: i64::try_from(status.live_unix_ms).unwrap_or(i64::MAX),
        }
    }

    pub(super) fn link(link: &LinkRecord) -> v1::Link {
        v1::Link {
            a: link.a.clone(),
            b: link.b.clone(),
            cost: link.cost,
        }
    }

    pub(super) fn group(&self, group: &GroupRecord) -> v1::Group {
        v1::Group {
            name: group.name.clone(),
            tenant: self.tenant_name(group.tenant),
            agent_uris: group.agents.clone(),
            label: group.label().bits(),
        }
    }

    pub(super) fn class(&self, class: &Class) -> v1::Class {
        let count = self.rib.class_count(class.label);
        v1::Class {
            path: class.path.clone(),
            label: class.label.bits(),
            caption: class.caption.clone(),
            description: class.description.clone(),
            aliases: class.aliases.clone(),
            agents: count.agents,
            instances: count.instances,
        }
    }

    fn tenant_name(&self, id: u32) -> String {
        self.rib
            .tenant_name(id)
            .map_or_else(|| format!("#{id}"), str::to_owned)
    }
}
