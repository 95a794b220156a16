//! What others leave alone while a Write waits to be confirmed: what it changed, and what a rollback needs.

use super::{Start, end_it, is_reported, same};
use crate::change::{Fault, Refusal};
use crate::commit::Transaction;
use crate::record::{Object, ObjectKey};
use crate::rib::{Rib, Waiting};

/// Refuses a Write's change since `start` that a rollback of the Write that waits would undo, or could not be done with.
///
/// # Errors
/// [`Fault::State`], naming the object.
pub fn leave_alone(tx: &Transaction<'_>, start: Start) -> Result<(), Refusal> {
    let rib = &*tx.rib;
    let Some(waiting) = rib.waiting() else {
        return Ok(());
    };
    let cards = tx.cards.get(start.cards..).unwrap_or_default();
    for (key, before) in rib.written_since(start.mark) {
        let after = rib.object(key);
        // Who writes an agent writes its card too; who detaches one of its instances does not.
        let card = match before {
            Some(Object::Agent(agent)) => cards.iter().any(|(number, _)| *number == agent.number),
            _ => false,
        };
        if is_reported(key) || same(before, after.as_ref()) && !card {
            continue;
        }
        if waiting.touched(key) {
            return Err(in_the_way(waiting, key, "was changed by"));
        }
        match &after {
            Some(object) => {
                for on in stands_on(rib, object) {
                    if waiting.brought(&on) {
                        return Err(in_the_way(waiting, &on, "is there only through"));
                    }
                    // Routers and policers only need to be there. Others know a tenant or policy by its number, which
                    // is another one when it was made anew, and an agent by its tenant and skills.
                    let by_name = matches!(on, ObjectKey::Router(_) | ObjectKey::Policer(_));
                    if waiting.touched(&on) && !by_name {
                        return Err(in_the_way(waiting, &on, "was changed by"));
                    }
                }
                if let Some(uri) = identity_taken(waiting, object) {
                    return Err(in_the_way(
                        waiting,
                        &ObjectKey::Agent(uri),
                        "is an identity that comes back with",
                    ));
                }
            }
            None if waiting.needs(key, before) => {
                return Err(in_the_way(waiting, key, "would be needed to undo"));
            }
            None => {}
        }
    }
    Ok(())
}

/// What must be there for this object to be.
fn stands_on(rib: &Rib, object: &Object) -> Vec<ObjectKey> {
    let tenant = |id: u32| {
        let name = rib.tenant_name(id);
        name.map(|name| ObjectKey::Tenant(name.to_owned()))
    };
    let policer = |name: &str| (!name.is_empty()).then(|| ObjectKey::Policer(name.to_owned()));
    match object {
        Object::Agent(agent) => {
            let policy = rib.policy_of(agent).map(|policy| policy.name.clone());
            let policy = policy.map(ObjectKey::Policy);
            tenant(agent.tenant).into_iter().chain(policy).collect()
        }
        Object::Tenant(tenant) => policer(&tenant.policer).into_iter().collect(),
        Object::Policy(policy) => policy
            .tenants()
            .filter_map(tenant)
            .chain(policer(&policy.policer))
            .collect(),
        Object::Policer(policer) => policer.tenants().filter_map(tenant).collect(),
        Object::Group(group) => tenant(group.tenant)
            .into_iter()
            .chain(group.agents.iter().cloned().map(ObjectKey::Agent))
            .collect(),
        Object::Permission(permission) => [permission.from, permission.to]
            .into_iter()
            .filter_map(tenant)
            .collect(),
        Object::Link(link) => [&link.a, &link.b]
            .map(|name| ObjectKey::Router(name.clone()))
            .into(),
        Object::Override(told) => vec![ObjectKey::Agent(told.agent.clone())],
        _ => Vec::new(),
    }
}

/// The identity of this object, when another one's is to be it again.
fn identity_taken(waiting: &Waiting, object: &Object) -> Option<String> {
    let uri = match object {
        Object::Agent(agent) if waiting.needs_router_uri(&agent.uri) => &agent.uri,
        Object::Router(router)
            if waiting.needs_router_uri(&router.uri)
                || waiting.touched(&ObjectKey::Agent(router.uri.clone())) =>
        {
            &router.uri
        }
        _ => return None,
    };
    Some(uri.clone())
}

fn in_the_way(waiting: &Waiting, key: &ObjectKey, how: &str) -> Refusal {
    let record = waiting.record();
    let (field, value) = key.words();
    Refusal::new(
        Fault::State,
        field,
        value,
        format!(
            "{how} commit {} of {}, which waits to be confirmed",
            record.generation, record.caller
        ),
        end_it(record),
    )
}
