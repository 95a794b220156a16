//! Leading and following, as the commit thread does them.
//!
//! The store says who leads. Before this controller takes over it reads what others committed; from then on the store
//! refuses what others try, so what it knows stays the newest. Who follows applies the leader's batches one by one and
//! compiles them as the leader did: so it can take over without reading everything, and routers go on by differences.
//! What the store was not clear about is undone here and then followed like anybody's: it comes back if it holds.
//!
//! Refuses to know how leaders are elected.

use std::sync::{Arc, PoisonError};

use super::open::{Assembled, assemble};
use super::{CommitError, Held, State};
use crate::change::migrate;
use crate::compile;
use crate::compile::phases::Phase;
use crate::feed;
use crate::store::{Batch, ElectionId, Followed, Leader, Standing, StoreError, Stored};
use crate::tables::Tables;

/// Makes this controller what the store says it is, and a follower know what the store has.
pub(super) fn settle(state: &State) -> Result<Standing, CommitError> {
    let said = state.store.standing();
    let now = state.standing.borrow().clone();
    if said == now && matches!(now, Standing::Leading(_)) {
        return Ok(now);
    }
    let settled = match said {
        Standing::Leading(id) => {
            step_down(state, None);
            take_over(state, id)
        }
        Standing::Following(leader) => {
            step_down(state, leader);
            follow(state)
        }
    };
    if let Err(error) = settled {
        tracing::error!(event = "not_settled", %error);
        return Err(CommitError::Store(error.to_string()));
    }
    Ok(state.standing.borrow().clone())
}

/// Why a group does not hold, for those who asked for it.
pub(super) fn failed(state: &State, error: &StoreError) -> CommitError {
    match error {
        StoreError::Deposed => {
            step_down(state, None);
            CommitError::NotLeader(None)
        }
        StoreError::Uncertain { .. } => {
            step_down(state, None);
            CommitError::Uncertain
        }
        StoreError::Engine { .. } | StoreError::Content { .. } => {
            CommitError::Store(error.to_string())
        }
    }
}

fn step_down(state: &State, leader: Option<Arc<Leader>>) {
    let following = Standing::Following(leader);
    // Its routers leave; whoever leads next tells them.
    state.release(|_| true);
    state.standing.send_if_modified(|standing| {
        if *standing == following {
            return false;
        }
        if let Standing::Leading(id) = standing {
            tracing::warn!(event = "stepped_down", election_id = id.0);
        }
        *standing = following;
        true
    });
}

fn take_over(state: &State, id: ElectionId) -> Result<(), StoreError> {
    follow(state)?;
    reclassify(state, id)?;
    state.standing.send_replace(Standing::Leading(id));
    tracing::info!(
        event = "leading",
        election_id = id.0,
        generation = state.generation()
    );
    Ok(())
}

fn follow(state: &State) -> Result<(), StoreError> {
    match state.store.since(state.generation())? {
        Followed::Batches(batches) => {
            for batch in batches {
                if batch.epoch.is_some() && state.generation() > 0 {
                    // Every entry may be another.
                    reload(state, state.store.load()?);
                    return Ok(());
                }
                apply(state, batch);
            }
        }
        Followed::Reload(stored) => reload(state, *stored),
    }
    Ok(())
}

/// Applies what another controller committed.
fn apply(state: &State, batch: Batch) {
    let mut rib = state.rib_mut();
    let start = rib.mark();
    for (key, object) in batch.objects {
        match object {
            Some(object) => rib.put(object),
            None => rib.remove(&key),
        }
    }
    let touched = rib.take_touched();
    let changes = compile::changes(&rib, &touched, &state.tables());
    let told = feed::changed(&rib, start);
    rib.set_generation(batch.generation);
    rib.set_intent_generation(batch.intent_generation);
    rib.settle();
    drop(rib);
    // Whose routers have it already.
    state.publish(Held {
        first: batch.generation,
        phases: vec![Phase::whole(changes)],
        verdicts: Vec::new(),
        store_id: batch.store_id,
        epoch: batch.epoch,
        origins: Vec::new(),
        told,
    });
}

/// Forgets everything for what is stored.
fn reload(state: &State, stored: Stored) {
    let Assembled {
        rib,
        tables,
        store_id,
        epoch,
    } = assemble(stored, state.change_log_entries_max);
    let generation = tables.generation();
    *state.rib_mut() = rib;
    *state.tables_mut() = tables;
    let name = state.store_id.write();
    *name.unwrap_or_else(PoisonError::into_inner) = store_id;
    *state.epoch() = epoch;
    begin_anew(state, generation);
}

/// A generation that nobody knows the difference to.
fn begin_anew(state: &State, generation: u64) {
    state.restart_releases(generation);
    state.feed.restart(generation);
    state.committed.send_modify(|committed| {
        committed.generation = generation;
        committed.undone += 1;
    });
}

/// When the taxonomy (or the compiler) is another than the one the stored state was made with, skills are classified
/// again, paths are looked up again, and a new generation begins that routers take as a snapshot.
fn reclassify(state: &State, id: ElectionId) -> Result<(), StoreError> {
    let before = state.generation();
    let (was, now) = (state.epoch().clone(), state.knowledge.epoch().clone());
    if before == 0 || was == now {
        return Ok(());
    }
    let generation = before + 1;
    tracing::info!(
        event = "taxonomy_changed",
        generation,
        was = was.taxonomy,
        now = now.taxonomy,
        "classifying every skill again"
    );
    let mut rib = state.rib_mut();
    let start = rib.mark();
    let stored = migrate::reclassify(&mut rib, &state.knowledge, state.store.as_ref());
    let stored = stored.and_then(|()| {
        let batch = Batch {
            generation,
            intent_generation: rib.intent_generation(),
            objects: rib.changes(),
            floor: generation,
            epoch: Some(now.clone()),
            ..Batch::default()
        };
        state.store.commit(id, &batch)
    });
    if let Err(error) = stored {
        rib.rollback(start);
        rib.take_touched();
        return Err(error);
    }
    rib.settle();
    rib.take_touched();
    rib.set_generation(generation);
    let entries = compile::everything(&rib);
    let most = state.change_log_entries_max;
    drop(rib);
    *state.tables_mut() = Tables::new(generation, generation, Vec::new(), most, entries);
    *state.epoch() = now;
    begin_anew(state, generation);
    Ok(())
}

#[cfg(test)]
mod tests;
