//! The most suitable class or agent for a path, an id or a text (R6).
//!
//! Whoever asks hears only of what its policy group may reach, first in its own
//! tenant, then in the shared one, then elsewhere. Text is matched to classes by
//! the classifier, before the state is looked at; what nobody serves now counts
//! half its score, so that a good answer that works stands before a better one
//! that does not. With constraints the answer is agents, those that satisfy them.
//!
//! Refuses to know gRPC sessions and messages: the answer is a hint, the policy
//! is enforced at the ingress router.

use caplane_core::fib::{Allow, Entry, EntryKey};
use caplane_proto::v1;
use caplane_proto::v1::resolve::Target;
use caplane_wire::{Label, LabelKind};

use crate::change::{Fault, Refusal};
use crate::classify::{FIND_MAX, MatchedBy};
use crate::commit::{CommitError, State};
use crate::compile;
use crate::knowledge::Knowledge;
use crate::record::AgentRecord;
use crate::rib::Rib;
use crate::tables::TableKey;
use constraints::Constraints;

mod agents;
mod constraints;

#[cfg(test)]
mod tests;

/// Candidates when the asker names no limit.
const LIMIT_DEFAULT: usize = 5;
/// Candidates at most.
const LIMIT_MAX: usize = 100;
/// Longest text searched for (bytes).
const TEXT_BYTES_MAX: usize = 4_096;

/// Why a query has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ResolveError {
    /// It makes no sense, in itself or in this state.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The state it was answered from is not durable.
    #[error(transparent)]
    NotCommitted(#[from] CommitError),
}

/// Answers a query in the administrative domain `domain`, and the generation that the answer holds for; `asker` is the
/// URI of an agent, empty for an operator. `may` says whether whoever asks may ask that, in the state of the answer.
///
/// # Errors
/// [`ResolveError`].
pub async fn resolve(
    state: &State,
    query: &v1::Resolve,
    asker: &str,
    domain: u32,
    may: impl Fn(&Rib) -> Result<(), Refusal>,
) -> Result<(Vec<v1::Candidate>, u64), ResolveError> {
    let question = Question::understand(state.knowledge(), query, domain)?;
    let (answer, generation) = state
        .read(|rib| {
            may(rib)?;
            question.answer(rib, state.knowledge(), asker)
        })
        .await?;
    Ok((answer?, generation))
}

/// What is asked for, as far as it is known without the state.
struct Question {
    what: What,
    constraints: Option<Constraints>,
    limit: usize,
}

enum What {
    /// An agent by its URI.
    Uri(String),
    /// An agent by its label.
    Agent(Label),
    /// A class that was named.
    Class(Found),
    /// Classes that a text may mean, best first.
    Text(Vec<Found>),
    /// No class is called that.
    Nothing,
}

/// One class found, before it is known who serves it.
struct Found {
    label: Label,
    score: f64,
    matched_by: &'static str,
    provenance: String,
}

/// Who asks.
pub(crate) enum Asker<'a> {
    /// Operators see everything.
    Operator,
    /// An agent, and what its policy group may reach.
    Agent {
        agent: &'a AgentRecord,
        allow: Vec<Allow>,
    },
}

impl Question {
    fn understand(
        knowledge: &Knowledge,
        query: &v1::Resolve,
        domain: u32,
    ) -> Result<Self, Refusal> {
        let limit = match query.limit as usize {
            0 => LIMIT_DEFAULT,
            limit => limit.min(LIMIT_MAX),
        };
        let given = query.constraints.as_ref();
        let constraints = given
            .map(|given| Constraints::check(given, domain))
            .transpose()?;
        let what = match &query.target {
            Some(Target::AgentId(uri)) => What::Uri(uri.clone()),
            Some(Target::Path(path)) => named(knowledge, bounded("path", path)?),
            Some(Target::Text(text)) => {
                // Constraints may leave out whoever serves the better ones.
                let classes = match &constraints {
                    Some(_) => FIND_MAX,
                    None => limit * 2,
                };
                What::Text(meant(knowledge, bounded("text", text)?, classes))
            }
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
        Ok(Self {
            what,
            constraints,
            limit,
        })
    }

    fn answer(
        &self,
        rib: &Rib,
        knowledge: &Knowledge,
        asker: &str,
    ) -> Result<Vec<v1::Candidate>, Refusal> {
        let asker = Asker::of(rib, asker)?;
        let limits = self.constraints.as_ref();
        let classes = match &self.what {
            What::Uri(uri) => {
                return Ok(agents::itself(rib, &asker, rib.agent(uri), limits, "id"));
            }
            What::Agent(label) => {
                let agent = rib.agent_by_number(label.agent_number());
                return Ok(agents::itself(rib, &asker, agent, limits, "label"));
            }
            What::Class(found) => std::slice::from_ref(found),
            What::Text(found) => found,
            What::Nothing => return Ok(Vec::new()),
        };
        let mut candidates = match (limits, &self.what) {
            (Some(limits), _) => {
                agents::serving(rib, knowledge, &asker, classes, limits, self.limit)
            }
            (None, What::Class(found)) => {
                let served = served(rib, knowledge, &asker, found);
                match served.is_empty() {
                    true => unserved(knowledge, &asker, found).into_iter().collect(),
                    false => served,
                }
            }
            (None, _) => by_text(rib, knowledge, &asker, classes),
        };
        candidates.truncate(self.limit);
        Ok(candidates)
    }
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

/// What a path or a label text names.
fn named(knowledge: &Knowledge, path: &str) -> What {
    let label: Option<Label> = path.parse().ok();
    if let Some(label) = label
        && label.kind() == LabelKind::Agent
    {
        return What::Agent(label);
    }
    let matched_by = if label.is_some() { "label" } else { "path" };
    match knowledge.class(path) {
        None => What::Nothing,
        Some(class) => What::Class(Found {
            label: class.label,
            score: 1.0,
            matched_by,
            provenance: format!("{path:?} is the {matched_by} of {}", class.path),
        }),
    }
}

fn meant(knowledge: &Knowledge, text: &str, classes: usize) -> Vec<Found> {
    let found = knowledge.classifier().find(text, classes).into_iter();
    let found = found.map(|scored| Found {
        label: scored.label,
        score: scored.score,
        matched_by: match scored.matched_by {
            MatchedBy::Exact => "path",
            MatchedBy::Alias => "alias",
            MatchedBy::Text | MatchedBy::Waiting => "text",
        },
        provenance: scored.provenance,
    });
    found.collect()
}

impl<'a> Asker<'a> {
    pub(crate) fn of(rib: &'a Rib, uri: &str) -> Result<Self, Refusal> {
        if uri.is_empty() {
            return Ok(Self::Operator);
        }
        let Some(agent) = rib.agent(uri) else {
            return Err(Refusal::new(
                Fault::Missing,
                "asker",
                uri,
                "is not registered",
                "register it with `caplane agent register`",
            ));
        };
        let key = TableKey::Shared(EntryKey::Policy(agent.policy()));
        let allow = match compile::entry(rib, &key) {
            Some(Entry::Policy(policy)) => policy.allow,
            _ => Vec::new(),
        };
        Ok(Self::Agent { agent, allow })
    }

    fn class(&self, tenant: u32, class: Label) -> bool {
        match self {
            Self::Operator => true,
            Self::Agent { allow, .. } => allow.iter().any(|allow| {
                allow.tenant == tenant && (allow.label.is_none() || allow.label.covers(class))
            }),
        }
    }

    /// By permission on the whole tenant, or on a class the agent serves.
    pub(crate) fn agent(&self, rib: &Rib, agent: &AgentRecord) -> bool {
        match self {
            Self::Operator => true,
            Self::Agent { .. } => {
                self.whole(agent.tenant)
                    || rib
                        .memberships(agent)
                        .iter()
                        .any(|member| self.class(agent.tenant, member.class))
            }
        }
    }

    /// Whether it may reach the whole of a tenant, its groups too.
    pub(crate) fn whole(&self, tenant: u32) -> bool {
        match self {
            Self::Operator => true,
            Self::Agent { allow, .. } => allow
                .iter()
                .any(|allow| allow.tenant == tenant && allow.label.is_none()),
        }
    }

    /// Tenants to look in, the nearest first.
    pub(crate) fn tenants(&self, rib: &Rib) -> Vec<u32> {
        match self {
            Self::Operator => rib.tenant_ids().collect(),
            Self::Agent { agent, allow } => {
                let mut tenants = vec![agent.tenant];
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

    /// Where it runs; empty when that is not known.
    fn locality(&self) -> &str {
        match self {
            Self::Operator => "",
            Self::Agent { agent, .. } => &agent.locality,
        }
    }

    /// Whether it is told where agents can be reached directly.
    fn may_connect(&self, rib: &Rib) -> bool {
        match self {
            Self::Operator => true,
            Self::Agent { agent, .. } => rib.may_connect(agent),
        }
    }
}

fn by_text(
    rib: &Rib,
    knowledge: &Knowledge,
    asker: &Asker<'_>,
    classes: &[Found],
) -> Vec<v1::Candidate> {
    let mut ranked: Vec<(f64, v1::Candidate)> = Vec::new();
    for found in classes {
        match served(rib, knowledge, asker, found).into_iter().next() {
            Some(candidate) => ranked.push((found.score, candidate)),
            None => {
                let unserved = unserved(knowledge, asker, found);
                ranked.extend(unserved.map(|candidate| (found.score / 2.0, candidate)));
            }
        }
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}

/// The class in every tenant where somebody would serve it, the nearest tenant first.
fn served(
    rib: &Rib,
    knowledge: &Knowledge,
    asker: &Asker<'_>,
    found: &Found,
) -> Vec<v1::Candidate> {
    asker
        .tenants(rib)
        .into_iter()
        .filter(|tenant| asker.class(*tenant, found.label))
        .filter_map(|tenant| {
            let members = members(rib, tenant, found.label);
            (members > 0).then(|| candidate(knowledge, tenant, found, members))
        })
        .collect()
}

/// Nobody serves it: the class in the asker's own tenant.
fn unserved(knowledge: &Knowledge, asker: &Asker<'_>, found: &Found) -> Option<v1::Candidate> {
    let tenant = match asker {
        Asker::Operator => 0,
        Asker::Agent { agent, .. } => agent.tenant,
    };
    asker
        .class(tenant, found.label)
        .then(|| candidate(knowledge, tenant, found, 0))
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

fn candidate(knowledge: &Knowledge, tenant: u32, found: &Found, members: u32) -> v1::Candidate {
    let class = knowledge.taxonomy().by_label(found.label);
    v1::Candidate {
        label: found.label.bits(),
        tenant,
        name: class.map_or_else(String::new, |class| class.path.clone()),
        caption: class.map_or_else(String::new, |class| class.caption.clone()),
        score: found.score,
        matched_by: found.matched_by.to_owned(),
        members,
        provenance: found.provenance.clone(),
        ..v1::Candidate::default()
    }
}
