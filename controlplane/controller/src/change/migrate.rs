//! A new taxonomy: skills are classified again, paths are looked up again.
//!
//! Labels of unchanged classes stay, since a class's place in the tree is its label. A grant,
//! permission or override of a path that is gone is kept and means nothing until it returns.

use std::sync::Arc;

use caplane_wire::Label;

use crate::card::AgentCard;
use crate::knowledge::Knowledge;
use crate::record::{ANY_CLASS, AgentRecord, Object};
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
    let label = |path: &str| {
        knowledge
            .taxonomy()
            .class_by_path(path)
            .map_or(0, |class| class.label.bits())
    };
    let mut changed: Vec<Object> = Vec::new();
    for grant in rib.grants_after("", "") {
        let class = match grant.class_path.as_str() {
            ANY_CLASS => Label::NONE.bits(),
            path => label(path),
        };
        if class != grant.class {
            let mut grant = grant.clone();
            grant.class = class;
            changed.push(Object::Grant(grant));
        }
    }
    for told in rib.overrides_after("", "") {
        let class = label(&told.class_path);
        if class != told.class {
            let mut told = told.clone();
            told.class = class;
            changed.push(Object::Override(told));
        }
    }
    for permission in rib.permissions_after(None) {
        let class = label(&permission.class_path);
        if class != permission.class {
            let mut permission = permission.clone();
            permission.class = class;
            changed.push(Object::Permission(permission));
        }
    }
    for agent in rib.agents_after("") {
        let Some(bytes) = store.card(agent.number)? else {
            continue;
        };
        // A stored card was read once; one that cannot be read now keeps its classes.
        let Ok(card) = AgentCard::parse(&bytes) else {
            tracing::warn!(event = "card_unreadable", agent = agent.uri);
            continue;
        };
        let skills = knowledge.classify(&card.skills);
        let aic = card.aic.unwrap_or_default();
        let inactive = !card.active;
        if (&skills, &aic, inactive) != (&agent.skills, &agent.aic, agent.inactive) {
            changed.push(Object::Agent(Arc::new(AgentRecord {
                skills,
                aic,
                inactive,
                ..agent.as_ref().clone()
            })));
        }
    }
    for object in changed {
        rib.put(object);
    }
    Ok(())
}
