//! Northbound updates, checked in themselves: everything that can be refused without the state.

use std::cell::Cell;

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::update::Type;
use caplane_wire::Label;

use super::{Fault, Refusal};
use crate::knowledge::Knowledge;
use crate::record::{ANY_CLASS, SkillRecord};
use fields::{card, invalid, name, optional_name, priority, tenant, uri, weight};

mod fields;
mod policy;

pub use fields::{LOCALITY_BYTES_MAX, NAME_BYTES_MAX, WEIGHT_DEFAULT, WEIGHT_MAX, locality};
pub use policy::{PolicerSpec, PolicySpec, Selector};

/// Updates of one batch.
pub const UPDATES_MAX: usize = 10_000;
/// Members of one group.
pub const GROUP_AGENTS_MAX: usize = 10_000;
/// Classes named to somebody who named one that is not there.
const NEAREST_MAX: usize = 5;
/// Searches for them in one batch: a search costs, and a batch may be wrong all over.
const SEARCHES_MAX: usize = 16;

/// What an update does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It must not be there.
    Insert,
    /// It must be there; full assignment.
    Modify,
    /// It must be there.
    Delete,
}

/// One update.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// What to do.
    pub action: Action,
    /// With what; for a deletion only its key fields mean anything.
    pub target: Target,
}

/// A class that the taxonomy has, or every class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassRef {
    /// Path; [`ANY_CLASS`] or empty where every class is meant.
    pub path: String,
    /// Label; [`Label::NONE`] where every class is meant.
    pub label: Label,
}

/// What an update is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// See [`AgentSpec`].
    Agent(AgentSpec),
    /// An identity may serve a class.
    Grant {
        /// Certificate URI.
        agent: String,
        /// The class.
        class: ClassRef,
        /// 0 = the agent's.
        weight: u32,
        /// It is not served now.
        out_of_service: bool,
    },
    /// A skill is put in a class.
    Override {
        /// Certificate URI.
        agent: String,
        /// Skill id.
        skill: String,
        /// The class.
        class: ClassRef,
    },
    /// A router.
    Router {
        /// Unique name.
        name: String,
        /// Certificate URI.
        uri: String,
    },
    /// A link; `a` sorts before `b`.
    Link {
        /// Router name.
        a: String,
        /// Router name.
        b: String,
        /// 1..=65535.
        cost: u32,
    },
    /// A tenant.
    Tenant {
        /// Unique name.
        name: String,
        /// Name of a policer; may be empty.
        policer: String,
        /// Its agents may connect directly.
        direct: bool,
    },
    /// A tenant may reach classes of another.
    Permission {
        /// Tenant name.
        from: String,
        /// Tenant name.
        to: String,
        /// The class; every class when its path is empty.
        class: ClassRef,
    },
    /// A multicast group.
    Group {
        /// Unique name.
        name: String,
        /// Tenant name.
        tenant: String,
        /// Members, sorted.
        agents: Vec<String>,
    },
    /// See [`PolicySpec`].
    Policy(PolicySpec),
    /// See [`PolicerSpec`].
    Policer(PolicerSpec),
}

impl Target {
    /// Its field of `Entity`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Agent(_) => "agent",
            Self::Grant { .. } => "grant",
            Self::Override { .. } => "override",
            Self::Router { .. } => "router",
            Self::Link { .. } => "link",
            Self::Tenant { .. } => "tenant",
            Self::Permission { .. } => "permission",
            Self::Group { .. } => "group",
            Self::Policy(_) => "policy",
            Self::Policer(_) => "policer",
        }
    }
}

/// An agent, as it is to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AgentSpec {
    /// Certificate URI.
    pub uri: String,
    /// The card as given; may be empty.
    pub card: Vec<u8>,
    /// Tenant name.
    pub tenant: String,
    /// 1..=65535.
    pub weight: u32,
    /// 0 = until withdrawn.
    pub lease_seconds: u32,
    /// 0..=7.
    pub priority_max: Option<u32>,
    /// The card's name.
    pub name: String,
    /// The card's provider.
    pub provider: String,
    /// The card's skills, classified.
    pub skills: Vec<SkillRecord>,
    /// The identity code in the card, upper-case; may be empty.
    pub aic: String,
    /// The card says that the agent serves nothing now.
    pub inactive: bool,
    /// Name of its policy; may be empty.
    pub policy: String,
    /// The operator says that it serves nothing now.
    pub out_of_service: bool,
    /// Where it runs, from large to small; may be empty.
    pub locality: String,
    /// What using it costs.
    pub cost: u32,
    /// The card's version.
    pub version: String,
    /// The card's addresses.
    pub endpoints: Vec<String>,
    /// The card's tags, in lower case, sorted.
    pub tags: Vec<String>,
}

/// An update, or why it can never be one: its field begins with `updates[i]`.
pub type Checked = Result<Update, Refusal>;

/// Checks a whole batch, each update for itself.
///
/// # Errors
/// It has no updates, or too many.
pub fn batch(knowledge: &Knowledge, updates: &[v1::Update]) -> Result<Vec<Checked>, Refusal> {
    if updates.is_empty() || updates.len() > UPDATES_MAX {
        return Err(Refusal::new(
            Fault::Invalid,
            "updates",
            updates.len(),
            format!("a batch has 1 to {UPDATES_MAX} updates"),
            "split it, or leave the call out",
        )
        .accepting([format!("1..={UPDATES_MAX}")]));
    }
    let searches = Cell::new(SEARCHES_MAX);
    let check = |(i, update): (usize, &v1::Update)| {
        one(knowledge, &searches, update).map_err(|refusal: Refusal| refusal.of_update(i))
    };
    Ok(updates.iter().enumerate().map(check).collect())
}

fn one(
    knowledge: &Knowledge,
    searches: &Cell<usize>,
    update: &v1::Update,
) -> Result<Update, Refusal> {
    let action = match update.r#type() {
        Type::Insert => Action::Insert,
        Type::Modify => Action::Modify,
        Type::Delete => Action::Delete,
        Type::Unspecified => {
            return Err(invalid(
                "type",
                update.r#type,
                "says nothing",
                "use INSERT, MODIFY or DELETE",
            )
            .accepting(["INSERT", "MODIFY", "DELETE"]));
        }
    };
    let body = update.entity.as_ref().and_then(|e| e.entity.as_ref());
    let Some(body) = body else {
        return Err(invalid(
            "entity",
            "",
            "is not set",
            format!("set one of {}", KINDS.join(", ")),
        )
        .accepting(KINDS));
    };
    let check = Check {
        knowledge,
        action,
        searches,
    };
    let (kind, target) = match body {
        Body::Agent(agent) => ("agent", check.agent(agent)),
        Body::Grant(grant) => ("grant", check.grant(grant)),
        Body::Router(router) => ("router", check.router(router)),
        Body::Link(link) => ("link", check.link(link)),
        Body::Tenant(tenant) => ("tenant", check.tenant(tenant)),
        Body::Permission(permission) => ("permission", check.permission(permission)),
        Body::Policy(policy) => ("policy", check.policy(policy)),
        Body::Policer(policer) => ("policer", check.policer(policer)),
        Body::Group(group) => ("group", check.group(group)),
        Body::Override(told) => ("override", check.skill_override(told)),
        Body::PendingCommit(pending) => (
            "pending_commit",
            Err(Refusal::new(
                Fault::State,
                "id",
                &pending.id,
                "what waits to be confirmed is read only here",
                "Write with `confirm`, and end it with Confirm",
            )),
        ),
        Body::Class(class) => (
            "class",
            Err(Refusal::new(
                Fault::State,
                "path",
                &class.path,
                "classes are read only here",
                "edit the taxonomy file and restart the controller",
            )),
        ),
    };
    let target = target.map_err(|refusal| refusal.within(kind))?;
    Ok(Update { action, target })
}

struct Check<'a> {
    knowledge: &'a Knowledge,
    action: Action,
    /// Searches that the batch may still make.
    searches: &'a Cell<usize>,
}

impl Check<'_> {
    fn deleting(&self) -> bool {
        self.action == Action::Delete
    }

    fn agent(&self, agent: &v1::Agent) -> Result<Target, Refusal> {
        let mut spec = AgentSpec {
            uri: uri("uri", &agent.uri)?,
            ..AgentSpec::default()
        };
        if self.deleting() {
            return Ok(Target::Agent(spec));
        }
        spec.tenant = tenant("tenant", &agent.tenant)?;
        spec.weight = weight("weight", agent.weight, WEIGHT_DEFAULT)?;
        spec.lease_seconds = agent.lease_seconds;
        spec.priority_max = priority("priority_max", agent.priority_max, "6")?;
        spec.policy = optional_name("policy", &agent.policy)?;
        spec.locality = locality("locality", &agent.locality)?;
        spec.cost = agent.cost;
        spec.out_of_service = agent.out_of_service;
        if !agent.card.is_empty() {
            let card = card(&agent.card)?;
            spec.skills = self.knowledge.classify(&card.skills);
            spec.tags = card.tags();
            spec.version = card.version;
            spec.endpoints = card.endpoints;
            spec.name = card.name;
            spec.provider = card.provider;
            spec.aic = card.aic.unwrap_or_default();
            spec.inactive = !card.active;
            spec.card.clone_from(&agent.card);
        }
        super::codes::check(self.knowledge.salts(), &spec)?;
        Ok(Target::Agent(spec))
    }

    fn grant(&self, grant: &v1::Grant) -> Result<Target, Refusal> {
        let class = if grant.class_path == ANY_CLASS {
            ClassRef {
                path: ANY_CLASS.into(),
                label: Label::NONE,
            }
        } else {
            self.class("class_path", &grant.class_path)?
        };
        Ok(Target::Grant {
            agent: uri("agent_uri", &grant.agent_uri)?,
            class,
            weight: if self.deleting() {
                0
            } else {
                weight("weight", grant.weight, 0)?
            },
            out_of_service: grant.out_of_service,
        })
    }

    fn skill_override(&self, told: &v1::SkillOverride) -> Result<Target, Refusal> {
        if told.skill_id.is_empty() || told.skill_id.len() > crate::card::NAME_BYTES_MAX {
            return Err(invalid(
                "skill_id",
                &told.skill_id,
                format!("must have 1 to {} bytes", crate::card::NAME_BYTES_MAX),
                "give the id as the agent's card has it",
            )
            .accepting([format!("1..={} bytes", crate::card::NAME_BYTES_MAX)]));
        }
        let class = if self.deleting() {
            every_class()
        } else {
            self.class("class_path", &told.class_path)?
        };
        Ok(Target::Override {
            agent: uri("agent_uri", &told.agent_uri)?,
            skill: told.skill_id.clone(),
            class,
        })
    }

    fn router(&self, router: &v1::Router) -> Result<Target, Refusal> {
        Ok(Target::Router {
            name: name("name", &router.name)?,
            uri: if self.deleting() {
                String::new()
            } else {
                uri("uri", &router.uri)?
            },
        })
    }

    fn link(&self, link: &v1::Link) -> Result<Target, Refusal> {
        let (a, b) = (name("a", &link.a)?, name("b", &link.b)?);
        if a == b {
            return Err(invalid(
                "b",
                &b,
                "is the same router as a",
                "a link joins two routers",
            ));
        }
        let (a, b) = if a < b { (a, b) } else { (b, a) };
        let cost = if self.deleting() {
            1
        } else {
            weight("cost", link.cost, 1)?
        };
        Ok(Target::Link { a, b, cost })
    }

    fn group(&self, group: &v1::Group) -> Result<Target, Refusal> {
        let name = name("name", &group.name)?;
        if self.deleting() {
            return Ok(Target::Group {
                name,
                tenant: String::new(),
                agents: Vec::new(),
            });
        }
        let tenant = tenant("tenant", &group.tenant)?;
        if group.agent_uris.len() > GROUP_AGENTS_MAX {
            return Err(Refusal::new(
                Fault::Full,
                "agent_uris",
                group.agent_uris.len(),
                format!("a group has at most {GROUP_AGENTS_MAX} members"),
                "make several groups",
            )
            .accepting([format!("0..={GROUP_AGENTS_MAX} members")]));
        }
        let mut agents = group
            .agent_uris
            .iter()
            .enumerate()
            .map(|(i, member)| uri(&format!("agent_uris[{i}]"), member))
            .collect::<Result<Vec<_>, _>>()?;
        agents.sort();
        agents.dedup();
        Ok(Target::Group {
            name,
            tenant,
            agents,
        })
    }

    /// A class by path or label text. A path that the taxonomy lost can still be deleted.
    fn class(&self, field: &str, text: &str) -> Result<ClassRef, Refusal> {
        if let Some(class) = self.knowledge.class(text) {
            return Ok(ClassRef {
                path: class.path.clone(),
                label: class.label,
            });
        }
        if self.deleting() && text.len() <= crate::taxonomy::PATH_BYTES_MAX {
            return Ok(ClassRef {
                path: text.to_owned(),
                label: Label::NONE,
            });
        }
        Err(invalid(
            field,
            text,
            "the taxonomy has no such class",
            "look for it with `caplane class find TEXT`, or list them with `caplane class list`",
        )
        .accepting(self.nearest(text)))
    }

    /// Classes that may have been meant, best first.
    fn nearest(&self, text: &str) -> Vec<String> {
        let left = self.searches.get();
        if left == 0 || text.len() > crate::taxonomy::PATH_BYTES_MAX {
            return Vec::new();
        }
        self.searches.set(left - 1);
        let words = text.replace(['/', '_'], " ");
        let found = self.knowledge.classifier().find(&words, NEAREST_MAX);
        found
            .iter()
            .map(|scored| self.knowledge.path(scored.label).to_owned())
            .collect()
    }
}

/// Entities that a Write takes, by their fields of `Entity`.
const KINDS: [&str; 10] = [
    "agent",
    "grant",
    "router",
    "link",
    "tenant",
    "permission",
    "group",
    "override",
    "policy",
    "policer",
];

fn every_class() -> ClassRef {
    ClassRef {
        path: String::new(),
        label: Label::NONE,
    }
}
