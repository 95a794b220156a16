//! A new taxonomy: skills are classified again, paths are looked up again.
//!
//! Labels of unchanged classes stay, since a class's place in the tree is its label. A grant,
//! permission or override of a path that is gone is kept and means nothing until it returns.
//! What a Write that waits to be confirmed would come back to is migrated with the rest.

use std::sync::Arc;

use caplane_wire::Label;

use crate::card::AgentCard;
use crate::knowledge::Knowledge;
use crate::record::{
    ANY_CLASS, AgentRecord, ClassRateRecord, Object, PendingRecord, SelectorRecord,
};
use crate::rib::Rib;
use crate::store::{Store, StoreError};

/// Brings every record in line with the taxonomy.
///
/// # Errors
/// A card cannot be read from the store.
pub fn reclassify(
    rib: &mut Rib,
    knowledge: &Knowledge,
    store: &dyn Store,
) -> Result<(), StoreError> {
    let mut changed: Vec<Object> = Vec::new();
    let pathed = rib
        .grants_after("", "")
        .cloned()
        .map(Object::Grant)
        .chain(rib.overrides_after("", "").cloned().map(Object::Override))
        .chain(rib.permissions_after(None).cloned().map(Object::Permission))
        .chain(rib.policies_after("").cloned().map(Object::Policy))
        .chain(rib.policers_after("").cloned().map(Object::Policer));
    changed.extend(pathed.filter_map(|object| looked_up(knowledge, &object)));
    for agent in rib.agents_after("") {
        let card = store.card(agent.number)?;
        changed.extend(classified(knowledge, agent, card.as_deref()));
    }
    if let Some(waiting) = rib.waiting() {
        changed.push(coming_back(knowledge, waiting.record(), store)?);
    }
    for object in changed {
        rib.put(object);
    }
    Ok(())
}

/// An object that names a class, with the label that its path has now; `None` = it has that already.
fn looked_up(knowledge: &Knowledge, object: &Object) -> Option<Object> {
    let label = |path: &str| {
        let class = knowledge.taxonomy().class_by_path(path);
        class.map_or(0, |class| class.label.bits())
    };
    let again = |selector: &SelectorRecord| SelectorRecord {
        class: label(&selector.class_path),
        ..selector.clone()
    };
    let mut object = object.clone();
    let (known, now) = match &mut object {
        Object::Policy(policy) => {
            let allow: Vec<SelectorRecord> = policy.allow.iter().map(again).collect();
            let differs = policy.allow != allow;
            Arc::make_mut(policy).allow = allow;
            return differs.then_some(object);
        }
        Object::Policer(policer) => {
            let classes: Vec<ClassRateRecord> = policer
                .classes
                .iter()
                .map(|limit| ClassRateRecord {
                    class: again(&limit.class),
                    rate: limit.rate,
                })
                .collect();
            let differs = policer.classes != classes;
            Arc::make_mut(policer).classes = classes;
            return differs.then_some(object);
        }
        Object::Grant(grant) => {
            let now = match grant.class_path.as_str() {
                ANY_CLASS => Label::NONE.bits(),
                path => label(path),
            };
            (&mut grant.class, now)
        }
        Object::Override(told) => {
            let now = label(&told.class_path);
            (&mut told.class, now)
        }
        Object::Permission(permission) => {
            let now = label(&permission.class_path);
            (&mut permission.class, now)
        }
        _ => return None,
    };
    let differs = *known != now;
    *known = now;
    differs.then_some(object)
}

/// An agent with the classes of its card; `None` = it has them already, or there is no card to tell.
fn classified(knowledge: &Knowledge, agent: &AgentRecord, card: Option<&[u8]>) -> Option<Object> {
    // A stored card was read once; one that cannot be read now keeps its classes.
    let Ok(card) = AgentCard::parse(card?) else {
        tracing::warn!(event = "card_unreadable", agent = agent.uri);
        return None;
    };
    let now = AgentRecord {
        skills: knowledge.classify(&card.skills),
        tags: card.tags(),
        aic: card.aic.unwrap_or_default(),
        inactive: !card.active,
        version: card.version,
        endpoints: card.endpoints,
        ..agent.clone()
    };
    (now != *agent).then(|| Object::Agent(Arc::new(now)))
}

/// What a Write would come back to, as the taxonomy has it now.
fn coming_back(
    knowledge: &Knowledge,
    record: &PendingRecord,
    store: &dyn Store,
) -> Result<Object, StoreError> {
    let mut record = record.clone();
    for undo in &mut record.undo {
        // `Object::from_bytes` has read each of them.
        let Ok((_, Some(before))) = undo.parts() else {
            continue;
        };
        let now = match &before {
            Object::Agent(agent) => {
                let kept = record.cards.iter().find(|card| card.number == agent.number);
                let card = match kept {
                    Some(kept) => kept.card.clone(),
                    None => store.card(agent.number)?,
                };
                classified(knowledge, agent, card.as_deref())
            }
            other => looked_up(knowledge, other),
        };
        if let Some(now) = now {
            undo.before = Some(now.to_bytes());
        }
    }
    Ok(Object::Pending(Arc::new(record)))
}
