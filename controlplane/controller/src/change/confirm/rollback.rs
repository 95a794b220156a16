//! A Write is taken back: everything it changed is as it was, but for what is not somebody's word.

use std::collections::BTreeSet;
use std::sync::Arc;

use caplane_proto::v1::ByeCode;

use crate::change::attach::{expire_router, withdraw_attachments};
use crate::commit::Transaction;
use crate::record::{AgentRecord, Object, ObjectKey, PendingRecord, RouterRecord};

/// Puts everything back as it was before a Write.
pub(super) fn roll_back(tx: &mut Transaction<'_>, record: &PendingRecord) {
    // What it set aside is free for what comes back.
    tx.rib.remove(&ObjectKey::Pending(record.generation));
    let mut rows = Vec::new();
    let mut stays_away = BTreeSet::new();
    for undo in &record.undo {
        // `Object::from_bytes` has read each of them.
        let Ok((key, before)) = undo.parts() else {
            continue;
        };
        let now = tx.rib.object(&key);
        if let (true, None, Some(Object::Agent(agent))) = (undo.lease_kept, &now, &before) {
            // Its lease ended meanwhile, and would have without this Write. One that ended by a lease of this Write comes
            // back: when its own would have ended depends on who was attached meanwhile.
            stays_away.insert(agent.number);
            continue;
        }
        rows.push((key, before, now));
    }
    // Away with what holds a name, number or identity that something else is to have again: last kinds first.
    rows.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    for (key, before, now) in rows.iter().rev() {
        if let Some(now) = now
            && !keeps_place(before.as_ref(), now)
        {
            take_away(tx, key, now);
        }
    }
    for (_, before, now) in rows {
        if let Some(before) = before {
            let back = as_of_now(tx, before, now.as_ref());
            tx.rib.put(back);
        }
    }
    for undo in &record.cards {
        if !stays_away.contains(&undo.number) {
            tx.cards.push((undo.number, undo.card.clone()));
        }
    }
    tx.rib.set_intent_generation(tx.generation);
}

/// Whether an object can be put back in place, so that what is attached to it stays.
fn keeps_place(before: Option<&Object>, now: &Object) -> bool {
    match (before, now) {
        (Some(Object::Agent(before)), Object::Agent(now)) => before.number == now.number,
        (Some(Object::Router(before)), Object::Router(now)) => {
            before.number == now.number && before.uri == now.uri
        }
        _ => false,
    }
}

fn take_away(tx: &mut Transaction<'_>, key: &ObjectKey, now: &Object) {
    match now {
        Object::Agent(agent) => {
            let reason = "its registration was not confirmed";
            withdraw_attachments(tx, agent.number, ByeCode::Withdrawn, reason);
            tx.cards.push((agent.number, None));
        }
        Object::Router(router) => {
            expire_router(tx, router.label());
        }
        _ => {}
    }
    tx.rib.remove(key);
}

/// An object as it was, but for what is not somebody's word; `now` is what stood there when this began.
fn as_of_now(tx: &Transaction<'_>, before: Object, now: Option<&Object>) -> Object {
    match (before, now) {
        (Object::Agent(before), _) => {
            // One that comes back has all its time; one that was there all the while goes on with it.
            let stayed = tx.rib.agent(&before.uri);
            let renewed_unix_ms = stayed.map_or(tx.now_unix_ms, |now| {
                now.renewed_unix_ms.max(before.renewed_unix_ms)
            });
            Object::Agent(Arc::new(AgentRecord {
                renewed_unix_ms,
                ..before.as_ref().clone()
            }))
        }
        (Object::Router(before), Some(Object::Router(now))) if before.number == now.number => {
            Object::Router(RouterRecord {
                address: now.address.clone(),
                ..before
            })
        }
        (Object::Router(before), _) => Object::Router(RouterRecord {
            // Whatever table it held before was before it went.
            since_generation: tx.generation,
            ..before
        }),
        (before, _) => before,
    }
}
