//! Agents as candidates: those that serve what was found, may be reached and satisfy the constraints, ranked.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use caplane_proto::v1;

use super::constraints::{Constraints, alike};
use super::{Asker, Found};
use crate::knowledge::Knowledge;
use crate::record::AgentRecord;
use crate::rib::Rib;

/// An agent that serves what was found.
struct Ranked<'a> {
    agent: &'a Arc<AgentRecord>,
    found: &'a Found,
    /// That of what was found, or half of it.
    score: f64,
    /// Segments of its place that are the asker's too.
    near: usize,
    /// Place of its tenant among those that are looked in.
    tenant: usize,
    instances: u32,
}

impl Ranked<'_> {
    /// Better ones first: by score, then nearer, cheaper, in a nearer tenant, older.
    fn order(&self, other: &Self) -> Ordering {
        let (a, b) = (self.agent, other.agent);
        other
            .score
            .total_cmp(&self.score)
            .then(other.near.cmp(&self.near))
            .then(a.cost.cmp(&b.cost))
            .then(self.tenant.cmp(&other.tenant))
            .then(a.number.cmp(&b.number))
    }
}

/// The best agents for the classes found, which come best first.
pub(super) fn serving(
    rib: &Rib,
    knowledge: &Knowledge,
    asker: &Asker<'_>,
    found: &[Found],
    constraints: &Constraints,
    limit: usize,
) -> Vec<v1::Candidate> {
    let tenants: Vec<u32> = asker.tenants(rib);
    let mut ranked: Vec<Ranked<'_>> = Vec::new();
    let mut seen: HashSet<u32> = HashSet::new();
    for (i, class) in found.iter().enumerate() {
        for (place, &tenant) in tenants.iter().enumerate() {
            if !constraints.tenant(rib, tenant) || !asker.class(tenant, class.label) {
                continue;
            }
            for agent in members(rib, asker, constraints, tenant, class) {
                // Found by a better class before, it stands there.
                if seen.insert(agent.number) {
                    ranked.push(rank(rib, asker, agent, class, place));
                }
            }
        }
        // Whoever else there is comes after as many as are asked for.
        let next = found.get(i + 1).map_or(0.0, |next| next.score);
        if ranked.iter().filter(|one| one.score > next).count() >= limit {
            break;
        }
    }
    ranked.sort_by(Ranked::order);
    ranked.truncate(limit);
    ranked
        .iter()
        .map(|one| {
            let provenance = format!(
                "{}; {}",
                one.found.provenance,
                how(rib, knowledge, one.agent, one.found)
            );
            v1::Candidate {
                score: one.score,
                matched_by: one.found.matched_by.to_owned(),
                members: one.instances,
                provenance,
                ..candidate(rib, asker, one.agent)
            }
        })
        .collect()
}

/// Those of a tenant that serve a class or anything below it; if none does, those that serve exactly the nearest class
/// above: as routers choose.
fn members<'a>(
    rib: &'a Rib,
    asker: &Asker<'_>,
    constraints: &Constraints,
    tenant: u32,
    class: &Found,
) -> Vec<&'a Arc<AgentRecord>> {
    let fit = |agent: &&Arc<AgentRecord>| constraints.agent(rib, agent) && asker.agent(rib, agent);
    let below: Vec<_> = rib.serving(tenant, class.label).filter(fit).collect();
    if !below.is_empty() {
        return below;
    }
    let above = class
        .label
        .ancestors()
        .filter(|above| asker.class(tenant, *above));
    above
        .map(|above| rib.serving_exactly(tenant, above).filter(fit).collect())
        .find(|generalists: &Vec<_>| !generalists.is_empty())
        .unwrap_or_default()
}

fn rank<'a>(
    rib: &Rib,
    asker: &Asker<'_>,
    agent: &'a Arc<AgentRecord>,
    found: &'a Found,
    tenant: usize,
) -> Ranked<'a> {
    let instances = rib.instances(agent.number).count() as u32;
    Ranked {
        agent,
        found,
        // As with classes: what works stands before what is better and does not.
        score: if instances > 0 {
            found.score
        } else {
            found.score / 2.0
        },
        near: alike(&agent.locality, asker.locality()),
        tenant,
        instances,
    }
}

/// By what an agent serves what was found, in words.
fn how(rib: &Rib, knowledge: &Knowledge, agent: &AgentRecord, found: &Found) -> String {
    let skill = agent.skills.iter().find_map(|skill| {
        let class = rib.skill_class(&agent.uri, skill)?;
        let serves = found.label.covers(class) && rib.covering_grant(&agent.uri, class).is_some();
        serves.then_some((skill, class))
    });
    match skill {
        Some((skill, class)) => {
            let told = rib.skill_override(&agent.uri, &skill.id);
            let why = match told {
                Some(_) => "put there by an operator",
                None => &skill.provenance,
            };
            format!(
                "serves {} by skill {:?}: {why}",
                knowledge.path(class),
                skill.id
            )
        }
        None => {
            let grants = rib.grants_of(&agent.uri);
            let paths: Vec<&str> = grants
                .filter(|grant| grant.class != 0 && !grant.out_of_service)
                .map(|grant| caplane_wire::Label::from_bits(grant.class))
                .filter(|class| found.label.covers(*class) || class.covers(found.label))
                .map(|class| knowledge.path(class))
                .collect();
            format!("serves {} by a grant alone", paths.join(", "))
        }
    }
}

/// The agent itself.
pub(super) fn itself(
    rib: &Rib,
    asker: &Asker<'_>,
    agent: Option<&Arc<AgentRecord>>,
    constraints: Option<&Constraints>,
    matched_by: &str,
) -> Vec<v1::Candidate> {
    let fits = |agent: &&Arc<AgentRecord>| {
        asker.agent(rib, agent)
            && constraints.is_none_or(|constraints| {
                constraints.tenant(rib, agent.tenant) && constraints.agent(rib, agent)
            })
    };
    let candidate = agent.filter(fits).map(|agent| v1::Candidate {
        score: 1.0,
        matched_by: matched_by.to_owned(),
        members: rib.instances(agent.number).count() as u32,
        provenance: format!("its {matched_by}"),
        ..candidate(rib, asker, agent)
    });
    candidate.into_iter().collect()
}

fn candidate(rib: &Rib, asker: &Asker<'_>, agent: &AgentRecord) -> v1::Candidate {
    v1::Candidate {
        label: agent.label().bits(),
        tenant: agent.tenant,
        name: agent.uri.clone(),
        caption: agent.name.clone(),
        endpoints: match asker.may_connect(rib) {
            true => agent.endpoints.clone(),
            false => Vec::new(),
        },
        locality: agent.locality.clone(),
        cost: agent.cost,
        version: agent.version.clone(),
        ..v1::Candidate::default()
    }
}
