//! From a store to a state, whole. Nothing is written: whoever opens a store may not lead.

use std::sync::{Arc, Mutex, OnceLock, RwLock};

use tokio::sync::watch;

use super::release::Releases;
use super::{Committed, History, State, now_unix_ms};
use crate::compile;
use crate::feed::ChangeFeed;
use crate::knowledge::Knowledge;
use crate::rib::Rib;
use crate::store::{Epoch, Standing, Store, StoreError, Stored};
use crate::tables::Tables;

/// Why a state could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a store's content comes to.
pub(super) struct Assembled {
    pub(super) rib: Rib,
    pub(super) tables: Tables,
    pub(super) store_id: String,
    pub(super) epoch: Epoch,
}

/// Compiles all tables of what was stored.
pub(super) fn assemble(stored: Stored, change_log_entries_max: usize) -> Assembled {
    let Stored {
        store_id,
        generation,
        intent_generation,
        floor,
        epoch,
        objects,
        log,
    } = stored;
    let mut rib = Rib::from_objects(objects, generation);
    rib.set_intent_generation(intent_generation);
    let entries = compile::everything(&rib);
    tracing::info!(
        event = "state_open",
        store_id,
        generation,
        agents = rib.agent_count(),
        entries = entries.len(),
        unix_ms = now_unix_ms(),
    );
    Assembled {
        rib,
        tables: Tables::new(generation, floor, log, change_log_entries_max, entries),
        store_id,
        epoch,
    }
}

impl State {
    /// Loads the desired state and compiles all tables, at the stored generation. It follows until the commit thread
    /// finds that this controller leads.
    ///
    /// # Errors
    /// The store failed, or holds what cannot be read.
    pub fn open(
        store: Arc<dyn Store>,
        knowledge: Arc<Knowledge>,
        change_log_entries_max: usize,
    ) -> Result<Arc<Self>, OpenError> {
        let Assembled {
            rib,
            tables,
            store_id,
            epoch,
        } = assemble(store.load()?, change_log_entries_max);
        let generation = tables.generation();
        Ok(Arc::new(Self {
            rib: RwLock::new(rib),
            tables: RwLock::new(tables),
            store,
            store_id: RwLock::new(store_id),
            epoch: Mutex::new(epoch),
            change_log_entries_max,
            knowledge,
            standing: watch::Sender::new(Standing::Following(None)),
            committed: watch::Sender::new(Committed {
                generation,
                undone: 0,
            }),
            history: History::default(),
            feed: ChangeFeed::starting_at(generation, now_unix_ms()),
            auditor: OnceLock::new(),
            releases: Releases::new(generation),
        }))
    }
}
