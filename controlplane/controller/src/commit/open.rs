//! From a store to a running state, also when the taxonomy or the compiler changed meanwhile.

use std::sync::{Arc, OnceLock, RwLock};

use tokio::sync::watch;

use super::{Committed, History, State, now_unix_ms};
use crate::change::migrate;
use crate::compile;
use crate::feed::ChangeFeed;
use crate::knowledge::Knowledge;
use crate::rib::Rib;
use crate::store::{Batch, Store, StoreError, Stored};
use crate::tables::Tables;

/// Why a state could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl State {
    /// Loads the desired state, compiles all tables and goes on at the stored generation.
    ///
    /// When the taxonomy (or the compiler) is another than the one the stored state was made
    /// with, skills are classified again, paths are looked up again, and a new generation begins
    /// that routers take as a snapshot.
    ///
    /// # Errors
    /// The store failed, or holds what cannot be read.
    pub fn open(
        store: Arc<dyn Store>,
        knowledge: Arc<Knowledge>,
        change_log_entries_max: usize,
    ) -> Result<Arc<Self>, OpenError> {
        let Stored {
            store_id,
            mut generation,
            intent_generation,
            mut floor,
            epoch,
            objects,
            mut log,
        } = store.load()?;
        let mut rib = Rib::from_objects(objects, generation);
        rib.set_intent_generation(intent_generation);
        if generation > 0 && epoch != *knowledge.epoch() {
            generation += 1;
            floor = generation;
            log.clear();
            tracing::info!(
                event = "taxonomy_changed",
                generation,
                was = epoch.taxonomy,
                now = knowledge.epoch().taxonomy,
                "classifying every skill again"
            );
            migrate::reclassify(&mut rib, &knowledge, store.as_ref())?;
            rib.set_generation(generation);
            store.commit(&Batch {
                generation,
                intent_generation,
                objects: rib.changes(),
                floor,
                epoch: Some(knowledge.epoch().clone()),
                ..Batch::default()
            })?;
            rib.settle();
            rib.take_touched();
        }
        let entries = compile::everything(&rib);
        tracing::info!(
            event = "state_open",
            store_id,
            generation,
            agents = rib.agent_count(),
            entries = entries.len(),
            unix_ms = now_unix_ms(),
        );
        let tables = Tables::new(generation, floor, log, change_log_entries_max, entries);
        Ok(Arc::new(Self {
            rib: RwLock::new(rib),
            tables: RwLock::new(tables),
            store,
            store_id: RwLock::new(store_id),
            knowledge,
            committed: watch::Sender::new(Committed {
                generation,
                undone: 0,
            }),
            history: History::default(),
            feed: ChangeFeed::starting_at(generation, now_unix_ms()),
            auditor: OnceLock::new(),
        }))
    }
}
