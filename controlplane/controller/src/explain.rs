//! What would become of a message, and why: the question of northbound Explain, and its answer in words.
//!
//! The decisions themselves are `caplane-core`'s (`fabric.rs`). Refuses to know gRPC, and what routers hold beyond the
//! generation they reported. Who is bound to tenants is told of others' agents, groups and tenants what the source may
//! reach (`sight.rs`); whatever else there is, is not there for it.

mod fabric;
mod sight;

use caplane_core::fib::{Entry, EntryKey, PolicyEntry, Rate};
use caplane_core::forward::{Considered, Destination, Outcome, Verdict};
use caplane_core::{DropReason, Now};
use caplane_proto::v1;
use caplane_proto::v1::explain_request::{To, Without};
use caplane_wire::{Flags, HEADER_LEN, Header, HeaderRepr, Label, LabelKind, TrafficClass};

use crate::access::Scope;
use crate::change::{Fault, Refusal};
use crate::compile;
use crate::knowledge::Knowledge;
use crate::record::{AgentRecord, SHARED_TENANT};
use crate::rib::Rib;
use crate::tables::TableKey;
use fabric::{Asked, Fabric, Gone, Source, Visit};
use sight::Sight;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// It makes no sense, in itself or in this state.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// A fault of the controller.
    #[error("the tables cannot be explained: {0}; this is a fault of the controller")]
    Fault(String),
}

/// What Explain looks at.
pub struct Known<'a> {
    /// The desired state.
    pub rib: &'a Rib,
    /// The classes.
    pub knowledge: &'a Knowledge,
    /// The generation that a router said was live, 0 = none.
    pub live: &'a dyn Fn(Label) -> u64,
    /// What Resolve found for a text, best first; empty when there is none.
    pub resolved: Vec<v1::Candidate>,
    /// Whose things the answer may tell of, besides what the source may reach.
    pub scope: &'a Scope,
}

/// Answers a question.
///
/// # Errors
/// [`ExplainError`].
pub fn explain(
    known: &Known<'_>,
    request: &v1::ExplainRequest,
    now: Now,
) -> Result<v1::ExplainResponse, ExplainError> {
    let rib = known.rib;
    let sender = registered(rib, "source", &request.source)?;
    let mut assumed = Vec::new();
    let source = source(rib, sender, &request.router, &mut assumed)?;
    let asked = known.asked(request, sender)?;
    let gone = gone(rib, request, &source)?;
    let message = message(request, &source, asked)?;
    let trace = |gone, recompiled| {
        let mut fabric =
            Fabric::new(rib, &source, asked, gone, recompiled).map_err(ExplainError::Fault)?;
        let mut visits = fabric.walk(now, message).map_err(ExplainError::Fault)?;
        sight::narrow(known, asked, &mut visits);
        Ok::<_, ExplainError>(known.trace(&visits, sender))
    };
    let without = |recompiled| match gone {
        Gone::Nothing => Ok(None),
        gone => trace(gone, recompiled).map(Some),
    };
    Ok(v1::ExplainResponse {
        generation: rib.generation(),
        now: Some(trace(Gone::Nothing, false)?),
        while_gone: without(false)?,
        after: without(true)?,
        resolved: known.resolved.clone(),
        assumed,
    })
}

fn refuse(fault: Fault, field: &str, value: &str, reason: &str, remedy: &str) -> Refusal {
    Refusal::new(fault, field, value, reason, remedy)
}

fn registered<'a>(rib: &'a Rib, field: &str, uri: &str) -> Result<&'a AgentRecord, Refusal> {
    let known = rib.agent(uri).map(AsRef::as_ref);
    known.ok_or_else(|| unregistered(field, uri))
}

fn unregistered(field: &str, uri: &str) -> Refusal {
    let remedy = "look for it with `caplane agent list`";
    refuse(Fault::Missing, field, uri, "is not registered", remedy)
}

fn router(rib: &Rib, field: &str, name: &str) -> Result<Label, Refusal> {
    let known = rib.router(name).map(|router| router.label());
    known.ok_or_else(|| {
        let remedy = "look for it with `caplane router list`";
        refuse(
            Fault::Missing,
            field,
            name,
            "there is no such router",
            remedy,
        )
    })
}

/// The instance that sends: one that is attached where the message enters, else one in thought.
fn source(
    rib: &Rib,
    sender: &AgentRecord,
    at: &str,
    assumed: &mut Vec<String>,
) -> Result<Source, Refusal> {
    let at = match at {
        "" => None,
        name => Some(router(rib, "router", name)?),
    };
    let uri = sender.uri.clone();
    let mut attached = rib.instances(sender.number);
    if let Some(attachment) = attached.find(|a| at.is_none_or(|at| a.router() == at)) {
        let (instance, router) = (attachment.label(), attachment.router());
        return Ok(Source {
            uri,
            instance,
            router,
        });
    }
    let Some(router) = at else {
        let (reason, remedy) = ("is attached nowhere", "name the router it would attach to");
        return Err(refuse(Fault::State, "source", &uri, reason, remedy));
    };
    let mut numbers = 1..=Label::INSTANCE_MAX;
    let free = numbers.find_map(|number| {
        let label = sender.label().with_instance(number).ok()?;
        rib.attachment(label).is_none().then_some(label)
    });
    let Some(instance) = free else {
        let reason = "has 63 instances and none of them at this router";
        let remedy = "leave the router out";
        return Err(refuse(Fault::State, "source", &uri, reason, remedy));
    };
    assumed.push(format!(
        "no instance of {uri} is attached there: explained as if {instance} were"
    ));
    Ok(Source {
        uri,
        instance,
        router,
    })
}

fn gone(rib: &Rib, request: &v1::ExplainRequest, source: &Source) -> Result<Gone, Refusal> {
    match &request.without {
        None => Ok(Gone::Nothing),
        Some(Without::Link(link)) => {
            let (a, b) = (
                router(rib, "link.a", &link.a)?,
                router(rib, "link.b", &link.b)?,
            );
            let (first, second) = match link.a < link.b {
                true => (&link.a, &link.b),
                false => (&link.b, &link.a),
            };
            if rib.link(first, second).is_none() {
                let shown = format!("{} {}", link.a, link.b);
                let remedy = "look for it with `caplane link list`";
                let reason = "there is no such link";
                return Err(refuse(Fault::Missing, "link", &shown, reason, remedy));
            }
            Ok(Gone::Link(a, b))
        }
        Some(Without::GoneRouter(name)) => {
            let label = router(rib, "gone_router", name)?;
            if label == source.router {
                let reason = "is where the message enters";
                let remedy = "name another, or let the source attach elsewhere with `router`";
                return Err(refuse(Fault::Invalid, "gone_router", name, reason, remedy));
            }
            Ok(Gone::Router(label))
        }
    }
}

/// The message as the source would send it.
fn message(
    request: &v1::ExplainRequest,
    source: &Source,
    asked: Asked,
) -> Result<[u8; HEADER_LEN], Refusal> {
    let class = usize::try_from(request.traffic_class).unwrap_or(usize::MAX);
    if class >= TrafficClass::COUNT {
        return Err(Refusal::new(
            Fault::Invalid,
            "traffic_class",
            request.traffic_class,
            "is no traffic class",
            "use 0 to 15: twice the priority, and 1 more when it blocks",
        ));
    }
    let header = HeaderRepr {
        class: TrafficClass::from_index(class),
        flags: match request.no_affinity {
            true => Flags::NONE,
            false => Flags::AFFINITY,
        },
        label: asked.label,
        requested_label: asked.label,
        tenant: asked.tenant,
        source_label: source.instance,
        flow: request.flow,
        ..HeaderRepr::default()
    };
    Ok(header.to_bytes())
}

/// What is asked for.
impl Known<'_> {
    fn asked(&self, request: &v1::ExplainRequest, sender: &AgentRecord) -> Result<Asked, Refusal> {
        let rib = self.rib;
        let sight = Sight::of(self, &sender.uri)?;
        let tenant = match request.tenant.as_str() {
            "" => sender.tenant,
            name => match rib.tenant(name).filter(|tenant| sight.tenant(tenant)) {
                Some(tenant) => tenant.id,
                None => {
                    let remedy = "look for it with `caplane tenant list`";
                    let reason = "there is no such tenant";
                    return Err(refuse(Fault::Missing, "tenant", name, reason, remedy));
                }
            },
        };
        let of = |label| Asked { tenant, label };
        match &request.to {
            Some(To::Path(path)) => match self.knowledge.class(path) {
                Some(class) => Ok(of(class.label)),
                None => Err(refuse(
                    Fault::Missing,
                    "path",
                    path,
                    "the taxonomy has no such class",
                    "look for it with `caplane class find TEXT`",
                )),
            },
            Some(To::Agent(text)) => agent(rib, &sight, text).map(of),
            Some(To::Group(name)) => match rib.group(name).filter(|group| sight.group(group)) {
                Some(group) => Ok(of(group.label())),
                None => {
                    let remedy = "look for it with `caplane group list`";
                    let reason = "there is no such group";
                    Err(refuse(Fault::Missing, "group", name, reason, remedy))
                }
            },
            Some(To::Text(text)) => match self.resolved.first() {
                Some(best) => Ok(Asked {
                    tenant: best.tenant,
                    label: Label::from_bits(best.label),
                }),
                None => Err(refuse(
                    Fault::Missing,
                    "text",
                    text,
                    "names no class that the source may ask for",
                    "say it in other words, or name a class with `path`",
                )),
            },
            None => Err(refuse(
                Fault::Invalid,
                "to",
                "",
                "is not set",
                "set path, agent, text or group",
            )),
        }
    }
}

/// A label that nobody has can be asked for too, by who may know that.
fn agent(rib: &Rib, sight: &Sight<'_>, text: &str) -> Result<Label, Refusal> {
    let label = text.parse::<Label>().ok();
    let label = label.filter(|label| label.kind() == LabelKind::Agent);
    let known = match label {
        Some(label) => rib.agent_by_number(label.agent_number()),
        None => rib.agent(text),
    };
    match (label, known.filter(|agent| sight.agent(agent))) {
        (Some(label), known) if known.is_some() || !sight.is_bound() => Ok(label),
        (None, Some(agent)) => Ok(agent.label()),
        _ => Err(unregistered("agent", text)),
    }
}

/// Decisions in words.
impl Known<'_> {
    fn trace(&self, visits: &[Visit], sender: &AgentRecord) -> v1::Trace {
        let mut receivers = Vec::new();
        let (mut dropped, mut copied) = (None, false);
        for visit in visits {
            let copies = match &visit.explanation.outcome {
                Outcome::Unicast(copy) => std::slice::from_ref(copy),
                Outcome::Group { copies, .. } => {
                    copied = true;
                    &copies[..]
                }
                Outcome::Refused(reason) => {
                    dropped.get_or_insert((*reason, visit.router));
                    &[][..]
                }
            };
            for copy in copies {
                if let Destination::Instance(label) = copy.to {
                    receivers.push(self.receiver(label, visit.router));
                }
            }
        }
        let outcome = match dropped {
            _ if copied => "copied".to_owned(),
            Some((reason, at)) => format!("dropped: {} at {}", reason.name(), self.router_name(at)),
            None if receivers.is_empty() => "dropped: it goes in circles".to_owned(),
            None => "delivered".to_owned(),
        };
        v1::Trace {
            hops: visits.iter().map(|visit| self.hop(visit, sender)).collect(),
            outcome,
            receivers,
        }
    }

    fn receiver(&self, label: Label, router: Label) -> v1::Receiver {
        let agent = self.rib.agent_by_number(label.agent_number());
        let attachment = self.rib.attachment(label);
        v1::Receiver {
            agent_uri: agent.map_or_else(String::new, |agent| agent.uri.clone()),
            instance_name: attachment.map_or_else(String::new, |a| a.instance_name.clone()),
            label: label.bits(),
            router: self.router_name(router),
        }
    }

    fn hop(&self, visit: &Visit, sender: &AgentRecord) -> v1::Hop {
        let explanation = &visit.explanation;
        let live_generation = (self.live)(visit.router);
        let (label_out, next_hop, verdict) = match &explanation.outcome {
            Outcome::Unicast(copy) => {
                let out = Header::new_unchecked(&copy.header).label().bits();
                match copy.to {
                    Destination::Instance(_) => (out, None, "deliver"),
                    Destination::Router { next_hop, .. } => (out, Some(next_hop), "forward"),
                }
            }
            Outcome::Group { .. } => (0, None, "replicate"),
            Outcome::Refused(reason) => (0, None, DropReason::name(*reason)),
        };
        let others = visit.ways.iter().filter(|way| Some(way.router) != next_hop);
        let (policy, policer) = match visit.ingress {
            true => self.policy(sender),
            false => Default::default(),
        };
        v1::Hop {
            router: self.router_name(visit.router),
            live_generation,
            behind: live_generation < self.rib.generation(),
            label_in: visit.label_in.bits(),
            label_out,
            policy,
            policer,
            considered: explanation
                .considered
                .iter()
                .map(|one| self.considered(one))
                .collect(),
            considered_more: explanation.considered_more,
            next_hop: next_hop.map_or_else(String::new, |hop| self.router_name(hop)),
            alternates: others
                .map(|way| match way.alive {
                    true => self.router_name(way.router),
                    false => format!("{} (gone)", self.router_name(way.router)),
                })
                .collect(),
            verdict: verdict.to_owned(),
        }
    }

    fn considered(&self, one: &Considered) -> v1::Considered {
        let matched = match one.label.kind() {
            LabelKind::Class => self.knowledge.path(one.label),
            LabelKind::Agent => "agent",
            LabelKind::Group => "group",
            LabelKind::Router => "router",
        };
        v1::Considered {
            matched: matched.to_owned(),
            tenant: match one.label.kind() {
                LabelKind::Class => self.tenant_name(one.tenant),
                _ => String::new(),
            },
            member: match one.member.kind() {
                LabelKind::Router => self.router_name(one.member),
                _ => one.member.to_string(),
            },
            weight: one.weight,
            verdict: match one.verdict {
                Verdict::Chosen => "chosen",
                Verdict::Passed => "passed",
                Verdict::Dead => "dead",
                Verdict::Denied => "denied",
                Verdict::HopLimit => "hop_limit",
            }
            .to_owned(),
            router: self.router_name(one.router),
        }
    }

    /// The sender's policy group, and what limits it.
    fn policy(&self, sender: &AgentRecord) -> (String, String) {
        let key = TableKey::Shared(EntryKey::Policy(sender.policy()));
        let Some(Entry::Policy(policy)) = compile::entry(self.rib, &key) else {
            return Default::default();
        };
        let of = self.rib.policy_of(sender);
        let named = of.map_or_else(String::new, |policy| format!("{}, ", policy.name));
        let allowed: Vec<String> = policy
            .allow
            .iter()
            .map(|allow| match allow.label.is_none() {
                true => self.tenant_name(allow.tenant),
                false => {
                    let path = self.knowledge.path(allow.label);
                    format!("{path} of {}", self.tenant_name(allow.tenant))
                }
            })
            .collect();
        let text = format!(
            "{named}policy group {} of tenant {}: may reach {}; priority at most {}",
            policy.id,
            self.tenant_name(policy.tenant),
            match allowed.is_empty() {
                true => "nothing".to_owned(),
                false => allowed.join(", "),
            },
            policy.priority_max
        );
        let held_by = self.rib.policer_of(sender.tenant, of.map(AsRef::as_ref));
        let name = held_by.map_or_else(String::new, |policer| format!("{}: ", policer.name));
        (text, format!("{name}{}", self.policer(&policy)))
    }

    fn policer(&self, policy: &PolicyEntry) -> String {
        let mut text = match &policy.rate {
            Some(rate) => limit(rate),
            None => "the router's default".to_owned(),
        };
        for class in &policy.class_rates {
            let (path, tenant) = (
                self.knowledge.path(class.label),
                self.tenant_name(class.tenant),
            );
            text.push_str(&format!("; {path} of {tenant}: {}", limit(&class.rate)));
        }
        text
    }

    fn router_name(&self, label: Label) -> String {
        let router = self.rib.router_by_label(label);
        router.map_or_else(|| label.to_string(), |router| router.name.clone())
    }

    fn tenant_name(&self, id: u32) -> String {
        match self.rib.tenant_name(id) {
            Some(name) => name.to_owned(),
            None if id == 0 => SHARED_TENANT.to_owned(),
            None => format!("#{id}"),
        }
    }
}

/// What a rate limits, in words.
fn limit(rate: &Rate) -> String {
    let each = [
        (rate.messages_per_second, "messages/s"),
        (rate.bytes_per_second, "bytes/s"),
    ];
    let each = each.into_iter().filter(|(most, _)| *most > 0);
    let each: Vec<String> = each.map(|(most, unit)| format!("{most} {unit}")).collect();
    match each.is_empty() {
        true => "no limit".to_owned(),
        false => each.join(", "),
    }
}

#[cfg(test)]
mod tests;
