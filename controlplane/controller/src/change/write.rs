//! Applies northbound updates to the state. All of a batch or none: the commit thread undoes what a refused batch did.

use std::sync::Arc;

use caplane_proto::v1::ByeCode;

use super::attach::withdraw_attachments;
use super::confirm;
use super::{ACCEPTED_MAX, Action, AgentSpec, Checked, ClassRef, Fault, Refusal, Target, Update};
use crate::commit::Transaction;
use crate::record::{
    AgentRecord, CounterKind, GrantRecord, GroupRecord, LinkRecord, Object, ObjectKey,
    OverrideRecord, RouterRecord,
};
use crate::rib::{Exhausted, Rib};
use policy::{permission, policer, policy, tenant};

mod policy;

/// Grants of one identity: the table entry of an identity names them all.
pub const GRANTS_MAX: usize = 256;

/// What a faulty update does to its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atomicity {
    /// It refuses the batch.
    AllOrNone,
    /// Nothing: the others hold.
    ContinueOnError,
}

/// Says whether somebody may make an update, in the state it meets.
pub type May<'a> = &'a dyn Fn(&Rib, &Update) -> Result<(), Refusal>;

/// As [`batch_as`], for who may do everything.
///
/// # Errors
/// As [`batch_as`].
pub fn batch(
    tx: &mut Transaction<'_>,
    updates: &[Checked],
    atomicity: Atomicity,
) -> Result<Vec<Option<Refusal>>, Refusal> {
    batch_as(tx, updates, atomicity, &|_, _| Ok(()))
}

/// Applies a batch in order, and answers of each update why it was refused, if it was. Each is
/// judged as if those before it that are faulty were not there. `may` is asked before each.
///
/// # Errors
/// With [`Atomicity::AllOrNone`]: the first refusal, with the others in [`About::further`]. What
/// was done is still there: the caller undoes it.
///
/// [`About::further`]: super::About::further
pub fn batch_as(
    tx: &mut Transaction<'_>,
    updates: &[Checked],
    atomicity: Atomicity,
    may: May<'_>,
) -> Result<Vec<Option<Refusal>>, Refusal> {
    let start = tx.rib.mark();
    let refusals: Vec<Option<Refusal>> = updates
        .iter()
        .enumerate()
        .map(|(i, update)| match update {
            Ok(update) => {
                let outcome = tx.attempt(|tx| {
                    may(tx.rib, update)?;
                    let start = confirm::Start::of(tx);
                    one(tx, update)?;
                    confirm::leave_alone(tx, start)
                });
                outcome.err().map(|refusal| refusal.of_update(i))
            }
            Err(refusal) => Some(refusal.clone()),
        })
        .collect();
    if atomicity == Atomicity::AllOrNone {
        let mut faulty = refusals.iter().flatten();
        if let Some(first) = faulty.next() {
            let mut first = first.clone();
            first.about.further = faulty.cloned().collect();
            return Err(first);
        }
    }
    if tx.rib.changed_since(start) {
        tx.rib.set_intent_generation(tx.generation);
    }
    Ok(refusals)
}

/// Compare and set: refuses when a Write changed something after the generation that the caller knows.
///
/// # Errors
/// [`Fault::Conflict`].
pub fn compare(tx: &Transaction<'_>, expected: u64) -> Result<(), Refusal> {
    // What is durable and what is not yet: the group under way will be `tx.generation`.
    let (written, newest) = (tx.rib.intent_generation(), tx.generation - 1);
    let reason = if expected < written {
        format!("a Write changed something in generation {written}")
    } else if expected > newest {
        // A copy of an older store was put back: what the caller saw is gone.
        format!("the newest generation is {newest}")
    } else {
        return Ok(());
    };
    let remedy = "read again, and decide anew";
    let refusal = Refusal::new(
        Fault::Conflict,
        "expected_generation",
        expected,
        reason,
        remedy,
    );
    Err(refusal.accepting([format!("{written}..={}", newest.max(written))]))
}

fn one(tx: &mut Transaction<'_>, update: &Update) -> Result<(), Refusal> {
    let action = update.action;
    match &update.target {
        Target::Agent(spec) => agent(tx, action, spec).map_err(|r| r.within("agent")),
        Target::Grant {
            agent,
            class,
            weight,
            out_of_service,
        } => {
            let record = GrantRecord {
                agent: agent.clone(),
                class_path: class.path.clone(),
                class: class.label.bits(),
                weight: *weight,
                out_of_service: *out_of_service,
            };
            grant(tx, action, record).map_err(|r| r.within("grant"))
        }
        Target::Override {
            agent,
            skill,
            class,
        } => skill_override(tx, action, agent, skill, class).map_err(|r| r.within("override")),
        Target::Router { name, uri } => {
            router(tx, action, name, uri).map_err(|r| r.within("router"))
        }
        Target::Link { a, b, cost } => link(tx, action, a, b, *cost).map_err(|r| r.within("link")),
        Target::Tenant {
            name,
            policer,
            direct,
        } => tenant(tx, action, name, policer, *direct).map_err(|r| r.within("tenant")),
        Target::Permission { from, to, class } => {
            permission(tx, action, from, to, class).map_err(|r| r.within("permission"))
        }
        Target::Group {
            name,
            tenant,
            agents,
        } => group(tx, action, name, tenant, agents).map_err(|r| r.within("group")),
        Target::Policy(spec) => policy(tx, action, spec).map_err(|r| r.within("policy")),
        Target::Policer(spec) => policer(tx, action, spec).map_err(|r| r.within("policer")),
    }
}

/// INSERT wants nothing there, MODIFY and DELETE want something.
fn expect(
    action: Action,
    there: bool,
    field: &str,
    value: &str,
    read: &str,
) -> Result<(), Refusal> {
    match (action, there) {
        (Action::Insert, true) => Err(Refusal::new(
            Fault::Exists,
            field,
            value,
            "is there already",
            "use MODIFY to change it, or DELETE it first",
        )),
        (Action::Modify | Action::Delete, false) => Err(Refusal::new(
            Fault::Missing,
            field,
            value,
            "is not there",
            format!("use INSERT, or look what is there with `{read}`"),
        )),
        _ => Ok(()),
    }
}

fn full(field: &str, exhausted: Exhausted) -> Refusal {
    Refusal::new(
        Fault::Full,
        field,
        "",
        format!("all {} numbers of the kind are in use", exhausted.limit),
        "withdraw what is not needed",
    )
}

/// The first names of a list that may be long.
fn some_of(names: &[&str]) -> String {
    match names.get(..ACCEPTED_MAX) {
        Some(first) if names.len() > ACCEPTED_MAX => {
            format!(
                "{} and {} more",
                first.join(", "),
                names.len() - ACCEPTED_MAX
            )
        }
        _ => names.join(", "),
    }
}

fn tenant_id(rib: &Rib, field: &str, name: &str) -> Result<u32, Refusal> {
    rib.tenant(name).map(|tenant| tenant.id).ok_or_else(|| {
        Refusal::new(
            Fault::Missing,
            field,
            name,
            "there is no such tenant",
            "INSERT the tenant first; it may stand earlier in the same batch",
        )
        .accepting(rib.tenants_after("").map(|tenant| tenant.name.as_str()))
    })
}

fn agent(tx: &mut Transaction<'_>, action: Action, spec: &AgentSpec) -> Result<(), Refusal> {
    let there = tx.rib.agent(&spec.uri).cloned();
    expect(
        action,
        there.is_some(),
        "uri",
        &spec.uri,
        "caplane agent list",
    )?;
    if let (Action::Delete, Some(agent)) = (action, &there) {
        withdraw(tx, agent, "withdrawn by an operator");
        let keys: Vec<ObjectKey> = tx
            .rib
            .grants_of(&spec.uri)
            .map(|grant| ObjectKey::Grant(grant.agent.clone(), grant.class_path.clone()))
            .chain(
                tx.rib
                    .overrides_of(&spec.uri)
                    .map(|told| ObjectKey::Override(told.agent.clone(), told.skill.clone())),
            )
            .collect();
        for key in keys {
            tx.rib.remove(&key);
        }
        return Ok(());
    }
    if let Some(router) = tx.rib.router_by_uri(&spec.uri) {
        return Err(Refusal::new(
            Fault::State,
            "uri",
            &spec.uri,
            format!("is the identity of router \"{}\"", router.name),
            "give the agent an identity of its own",
        ));
    }
    let tenant = tenant_id(tx.rib, "tenant", &spec.tenant)?;
    let policy = policy::named(tx.rib, tenant, spec)?;
    let number = match &there {
        Some(agent) => agent.number,
        None => tx
            .rib
            .allocate(CounterKind::Agent)
            .map_err(|e| full("uri", e))?,
    };
    let card = (!spec.card.is_empty()).then(|| spec.card.clone());
    tx.cards.push((number, card));
    let record = AgentRecord {
        uri: spec.uri.clone(),
        number,
        tenant,
        weight: spec.weight,
        lease_seconds: spec.lease_seconds,
        priority_max: spec.priority_max,
        renewed_unix_ms: tx.now_unix_ms,
        name: spec.name.clone(),
        provider: spec.provider.clone(),
        skills: spec.skills.clone(),
        aic: spec.aic.clone(),
        inactive: spec.inactive,
        policy,
        out_of_service: spec.out_of_service,
        locality: spec.locality.clone(),
        cost: spec.cost,
        version: spec.version.clone(),
        endpoints: spec.endpoints.clone(),
        tags: spec.tags.clone(),
    };
    tx.rib.put(Object::Agent(Arc::new(record)));
    Ok(())
}

/// Takes a registration away: its attachments are told, its grants stay.
pub(super) fn withdraw(tx: &mut Transaction<'_>, agent: &AgentRecord, reason: &str) {
    withdraw_attachments(tx, agent.number, ByeCode::Withdrawn, reason);
    tx.cards.push((agent.number, None));
    tx.rib.remove(&ObjectKey::Agent(agent.uri.clone()));
}

fn grant(tx: &mut Transaction<'_>, action: Action, record: GrantRecord) -> Result<(), Refusal> {
    let agent = record.agent.as_str();
    let there = tx.rib.grant(agent, &record.class_path).is_some();
    let shown = format!("{agent} {}", record.class_path);
    expect(action, there, "class_path", &shown, "caplane grant list")?;
    if action == Action::Delete {
        tx.rib.remove(&Object::Grant(record).key());
        return Ok(());
    }
    let grants = tx.rib.grants_of(agent).count() + tx.rib.grants_set_aside(agent);
    if action == Action::Insert && grants >= GRANTS_MAX {
        return Err(Refusal::new(
            Fault::Full,
            "agent_uri",
            agent,
            format!("has {GRANTS_MAX} grants, the most an identity may have"),
            "grant a class above several of them",
        ));
    }
    tx.rib.put(Object::Grant(record));
    Ok(())
}

fn skill_override(
    tx: &mut Transaction<'_>,
    action: Action,
    agent: &str,
    skill: &str,
    class: &ClassRef,
) -> Result<(), Refusal> {
    let there = tx.rib.skill_override(agent, skill).is_some();
    expect(action, there, "skill_id", skill, "caplane override list")?;
    if action == Action::Delete {
        let key = ObjectKey::Override(agent.to_owned(), skill.to_owned());
        tx.rib.remove(&key);
        return Ok(());
    }
    let Some(record) = tx.rib.agent(agent) else {
        return Err(Refusal::new(
            Fault::Missing,
            "agent_uri",
            agent,
            "is not registered",
            "INSERT the agent first; it may stand earlier in the same batch",
        ));
    };
    if !record.skills.iter().any(|known| known.id == skill) {
        let ids: Vec<&str> = record.skills.iter().map(|s| s.id.as_str()).collect();
        return Err(Refusal::new(
            Fault::Missing,
            "skill_id",
            skill,
            "the agent's card has no such skill",
            format!("its skills are: {}", some_of(&ids)),
        )
        .accepting(ids));
    }
    tx.rib.put(Object::Override(OverrideRecord {
        agent: agent.to_owned(),
        skill: skill.to_owned(),
        class_path: class.path.clone(),
        class: class.label.bits(),
    }));
    Ok(())
}

fn router(tx: &mut Transaction<'_>, action: Action, name: &str, uri: &str) -> Result<(), Refusal> {
    let there = tx.rib.router(name).cloned();
    expect(action, there.is_some(), "name", name, "caplane router list")?;
    if let (Action::Delete, Some(router)) = (action, &there) {
        let links: Vec<&str> = tx.rib.neighbours_of(name).collect();
        if !links.is_empty() {
            return Err(Refusal::new(
                Fault::State,
                "name",
                name,
                format!("still has links to {}", some_of(&links)),
                "DELETE the links first; they may stand earlier in the same batch",
            ));
        }
        let label = router.label();
        super::attach::expire_router(tx, label);
        tx.rib.remove(&ObjectKey::Router(name.to_owned()));
        return Ok(());
    }
    let taken = tx
        .rib
        .router_by_uri(uri)
        .filter(|other| other.name != name)
        .map(|other| format!("router \"{}\"", other.name))
        .or_else(|| tx.rib.agent(uri).map(|_| "an agent".to_owned()));
    if let Some(owner) = taken {
        return Err(Refusal::new(
            Fault::Exists,
            "uri",
            uri,
            format!("is the identity of {owner}"),
            "give the router an identity of its own",
        ));
    }
    let record = match there {
        Some(router) => RouterRecord {
            uri: uri.to_owned(),
            ..router
        },
        None => RouterRecord {
            name: name.to_owned(),
            uri: uri.to_owned(),
            number: tx
                .rib
                .allocate(CounterKind::Router)
                .map_err(|e| full("name", e))?,
            address: String::new(),
            since_generation: tx.generation,
        },
    };
    tx.rib.put(Object::Router(record));
    Ok(())
}

fn link(
    tx: &mut Transaction<'_>,
    action: Action,
    a: &str,
    b: &str,
    cost: u32,
) -> Result<(), Refusal> {
    let there = tx.rib.link(a, b).is_some();
    expect(action, there, "a", &format!("{a} {b}"), "caplane link list")?;
    if action == Action::Delete {
        tx.rib.remove(&ObjectKey::Link(a.to_owned(), b.to_owned()));
        return Ok(());
    }
    for (field, name) in [("a", a), ("b", b)] {
        if tx.rib.router(name).is_none() {
            return Err(Refusal::new(
                Fault::Missing,
                field,
                name,
                "there is no such router",
                "INSERT the router first; it may stand earlier in the same batch",
            )
            .accepting(tx.rib.routers_after("").map(|router| router.name.as_str())));
        }
    }
    tx.rib.put(Object::Link(LinkRecord {
        a: a.to_owned(),
        b: b.to_owned(),
        cost,
    }));
    Ok(())
}

fn group(
    tx: &mut Transaction<'_>,
    action: Action,
    name: &str,
    tenant: &str,
    agents: &[String],
) -> Result<(), Refusal> {
    let there = tx.rib.group(name).map(|group| group.number);
    expect(action, there.is_some(), "name", name, "caplane group list")?;
    if action == Action::Delete {
        tx.rib.remove(&ObjectKey::Group(name.to_owned()));
        return Ok(());
    }
    let tenant_id = tenant_id(tx.rib, "tenant", tenant)?;
    for uri in agents {
        if let Some(agent) = tx.rib.agent(uri)
            && agent.tenant != tenant_id
        {
            return Err(Refusal::new(
                Fault::State,
                "agent_uris",
                uri,
                format!("is not an agent of tenant \"{tenant}\""),
                "a group has members of one tenant only",
            ));
        }
    }
    let number = match there {
        Some(number) => number,
        None => tx
            .rib
            .allocate(CounterKind::Group)
            .map_err(|e| full("name", e))?,
    };
    tx.rib.put(Object::Group(GroupRecord {
        name: name.to_owned(),
        tenant: tenant_id,
        number,
        agents: agents.to_vec(),
    }));
    Ok(())
}
