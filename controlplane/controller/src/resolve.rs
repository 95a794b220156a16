//! The most suitable class or agent for a path, an id or a text (R6).
//!
//! Whoever asks hears only of what its policy group may reach, first in its own
//! tenant, then in the shared one, then elsewhere. Text is matched to classes by
//! the classifier; a class that nobody serves now counts half its score, so that
//! a good answer that works stands before a better one that does not.
//!
//! Refuses to know gRPC sessions and messages: the answer is a hint, the policy
//! is enforced at the ingress router.

use caplane_core::fib::{Allow, Entry, EntryKey};
use caplane_proto::v1;
use caplane_proto::v1::resolve::Target;
use caplane_wire::{Label, LabelKind};

use crate::change::{Fault, Refusal};
use crate::classify::MatchedBy;
use crate::commit::State;
use crate::record::AgentRecord;
use crate::rib::Rib;
use crate::tables::TableKey;

/// Candidates when the asker names no limit.
const LIMIT_DEFAULT: usize = 5;
/// Candidates at most.
const LIMIT_MAX: usize = 100;
/// Longest text searched for (bytes).
const TEXT_BYTES_MAX: usize = 4_096;

/// What an asker may reach.
enum Reach {
    /// Operators see everything.
    Everything,
    /// An agent: its tenant and its policy group's permissions.
    Group { tenant: u32, allow: Vec<Allow> },
}

/// One class found, before it is known who serves it.
struct Found {
    label: Label,
    score: f64,
    matched_by: &'static str,
}

/// Answers a query; `asker` is the URI of an agent, empty for an operator.
///
/// # Errors
/// An empty or overlong query, or an asker that is not registered.
pub fn resolve(
    state: &State,
    query: &v1::Resolve,
    asker: &str,
) -> Result<Vec<v1::Candidate>, Refusal> {
    let limit = match query.limit as usize {
        0 => LIMIT_DEFAULT,
        limit => limit.min(LIMIT_MAX),
    };
    let rib = state.rib();
    let reach = reach(state, &rib, asker)?;
    let mut candidates = match &query.target {
        Some(Target::AgentId(uri)) => agents(&reach, &rib, rib.agent(uri), "id"),
        Some(Target::Path(path)) => by_path(state, &rib, &reach, bounded("path", path)?),
        Some(Target::Text(text)) => by_text(state, &rib, &reach, bounded("text", text)?, limit),
        None => {
            return Err(Refusal::new(
                Fault::Invalid,
                "query.target",
                "",
                "is not set",
                "set path, agent_id or text",
            )
            .accepting(["path", "agent_id", "text"]));
        }
    };
    candidates.truncate(limit);
    Ok(candidates)
}

fn bounded<'a>(field: &str, text: &'a str) -> Result<&'a str, Refusal> {
    let text = text.trim();
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return Err(Refusal::new(
            Fault::Invalid,
            &format!("query.{field}"),
            text,
            format!("has {} bytes", text.len()),
            format!("give 1 to {TEXT_BYTES_MAX} bytes"),
        )
        .accepting([format!("1..={TEXT_BYTES_MAX} bytes")]));
    }
    Ok(text)
}

fn reach(state: &State, rib: &Rib, asker: &str) -> Result<Reach, Refusal> {
    if asker.is_empty() {
        return Ok(Reach::Everything);
    }
    let Some(agent) = rib.agent(asker) else {
        return Err(Refusal::new(
            Fault::Missing,
            "asker",
            asker,
            "is not registered",
            "register it with `caplane agent register`",
        ));
    };
    let key = TableKey::Shared(EntryKey::Policy(agent.policy()));
    let tables = state.tables();
    let allow = match tables.entry(&key).map(|row| row.entry.as_ref()) {
        Some(Entry::Policy(policy)) => policy.allow.clone(),
        // Registered in a group that is not stored yet: nothing is allowed until it is.
        _ => Vec::new(),
    };
    Ok(Reach::Group {
        tenant: agent.tenant,
        allow,
    })
}

impl Reach {
    fn class(&self, tenant: u32, class: Label) -> bool {
        match self {
            Self::Everything => true,
            Self::Group { allow, .. } => allow.iter().any(|allow| {
                allow.tenant == tenant && (allow.label.is_none() || allow.label.covers(class))
            }),
        }
    }

    /// By permission on the whole tenant, or on a class the agent serves.
    fn agent(&self, rib: &Rib, agent: &AgentRecord) -> bool {
        match self {
            Self::Everything => true,
            Self::Group { allow, .. } => {
                allow
                    .iter()
                    .any(|allow| allow.tenant == agent.tenant && allow.label.is_none())
                    || rib
                        .memberships(agent)
                        .iter()
                        .any(|member| self.class(agent.tenant, member.class))
            }
        }
    }

    /// Tenants to look in, the nearest first.
    fn tenants(&self, rib: &Rib) -> Vec<u32> {
        match self {
            Self::Everything => rib.tenant_ids().collect(),
            Self::Group { tenant, allow } => {
                let mut tenants = vec![*tenant];
                let mut others: Vec<u32> = allow.iter().map(|allow| allow.tenant).collect();
                others.sort_unstable();
                for other in others {
                    if !tenants.contains(&other) {
                        tenants.push(other);
                    }
                }
                tenants
            }
        }
    }
}

fn by_path(state: &State, rib: &Rib, reach: &Reach, path: &str) -> Vec<v1::Candidate> {
    let knowledge = state.knowledge();
    let label: Option<Label> = path.parse().ok();
    if let Some(label) = label
        && label.kind() == LabelKind::Agent
    {
        let agent = rib.agent_by_number(label.agent_number());
        return agents(reach, rib, agent, "label");
    }
    let matched_by = if label.is_some() { "label" } else { "path" };
    let Some(class) = knowledge.class(path) else {
        return Vec::new();
    };
    let found = Found {
        label: class.label,
        score: 1.0,
        matched_by,
    };
    let mut candidates = served(state, rib, reach, &found);
    if candidates.is_empty() {
        candidates.extend(unserved(state, reach, &found));
    }
    candidates
}

fn by_text(
    state: &State,
    rib: &Rib,
    reach: &Reach,
    text: &str,
    limit: usize,
) -> Vec<v1::Candidate> {
    let mut ranked: Vec<(f64, v1::Candidate)> = Vec::new();
    for scored in state.knowledge().classifier().find(text, limit * 2) {
        let found = Found {
            label: scored.label,
            score: scored.score,
            matched_by: match scored.matched_by {
                MatchedBy::Exact => "path",
                MatchedBy::Alias => "alias",
                MatchedBy::Text | MatchedBy::Waiting => "text",
            },
        };
        match served(state, rib, reach, &found).into_iter().next() {
            Some(candidate) => ranked.push((found.score, candidate)),
            None => {
                ranked.extend(unserved(state, reach, &found).map(|c| (found.score / 2.0, c)));
            }
        }
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}

/// The class in every tenant where somebody would serve it, the nearest tenant first.
fn served(state: &State, rib: &Rib, reach: &Reach, found: &Found) -> Vec<v1::Candidate> {
    reach
        .tenants(rib)
        .into_iter()
        .filter(|tenant| reach.class(*tenant, found.label))
        .filter_map(|tenant| {
            let members = members(rib, tenant, found.label);
            (members > 0).then(|| candidate(state, tenant, found, members))
        })
        .collect()
}

/// Nobody serves it: the class in the asker's own tenant.
fn unserved(state: &State, reach: &Reach, found: &Found) -> Option<v1::Candidate> {
    let tenant = match reach {
        Reach::Everything => 0,
        Reach::Group { tenant, .. } => *tenant,
    };
    reach
        .class(tenant, found.label)
        .then(|| candidate(state, tenant, found, 0))
}

/// Members as the routers would choose them: the class's subtree, else a class above's own.
fn members(rib: &Rib, tenant: u32, class: Label) -> u32 {
    if let Some(here) = rib.class_members(tenant, class) {
        return here.instances;
    }
    class
        .ancestors()
        .filter_map(|above| rib.class_members(tenant, above))
        .map(|above| above.own_instances)
        .find(|own| *own > 0)
        .unwrap_or(0)
}

fn candidate(state: &State, tenant: u32, found: &Found, members: u32) -> v1::Candidate {
    let class = state.knowledge().taxonomy().by_label(found.label);
    v1::Candidate {
        label: found.label.bits(),
        tenant,
        name: class.map_or_else(String::new, |class| class.path.clone()),
        caption: class.map_or_else(String::new, |class| class.caption.clone()),
        score: found.score,
        matched_by: found.matched_by.to_owned(),
        members,
    }
}

fn agents(
    reach: &Reach,
    rib: &Rib,
    agent: Option<&std::sync::Arc<AgentRecord>>,
    matched_by: &str,
) -> Vec<v1::Candidate> {
    agent
        .filter(|agent| reach.agent(rib, agent))
        .map(|agent| v1::Candidate {
            label: agent.label().bits(),
            tenant: agent.tenant,
            name: agent.uri.clone(),
            caption: agent.name.clone(),
            score: 1.0,
            matched_by: matched_by.to_owned(),
            members: rib.instances(agent.number).count() as u32,
        })
        .into_iter()
        .collect()
}
