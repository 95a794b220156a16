//! What everybody may ask of the state, and how a generation becomes the one in force.

use std::sync::{Arc, MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use super::{CommitError, Committed, Held, History, State, Verdict};
use crate::feed::ChangeFeed;
use crate::knowledge::Knowledge;
use crate::rib::Rib;
use crate::store::{ElectionId, Epoch, Leader, Standing, StoreError};
use crate::tables::Tables;

impl State {
    /// The desired state, perhaps one group ahead of what is durable.
    pub fn rib(&self) -> RwLockReadGuard<'_, Rib> {
        // A poisoned lock means that the commit thread broke: the service is about to end.
        self.rib.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tables in force.
    pub fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The generation in force.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.committed.borrow().generation
    }

    /// Name of the store: the same for ever, unless the store is found to have gone back in time.
    #[must_use]
    pub fn store_id(&self) -> String {
        let name = self.store_id.read();
        name.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The taxonomy and its search.
    #[must_use]
    pub fn knowledge(&self) -> &Arc<Knowledge> {
        &self.knowledge
    }

    /// What made the last generations.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What the last generations changed.
    #[must_use]
    pub fn feed(&self) -> &ChangeFeed {
        &self.feed
    }

    /// Follows what this controller may do.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// The id this controller leads by; `None` = it follows.
    #[must_use]
    pub fn election(&self) -> Option<ElectionId> {
        match *self.standing.borrow() {
            Standing::Leading(id) => Some(id),
            Standing::Following(_) => None,
        }
    }

    /// Who leads instead of this controller; `None` = nobody that is known, or this one.
    #[must_use]
    pub fn leader(&self) -> Option<Arc<Leader>> {
        match &*self.standing.borrow() {
            Standing::Leading(_) => None,
            Standing::Following(leader) => leader.clone(),
        }
    }

    /// Ends when this controller does not lead by this id any more.
    pub async fn led_until(&self, id: ElectionId) {
        let mut standing = self.standing.subscribe();
        // An error means that the state is gone.
        let _ = standing
            .wait_for(|standing| *standing != Standing::Leading(id))
            .await;
    }

    /// Notices when the store says something new of who leads, or of what others committed.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<()> {
        self.store.news()
    }

    /// The store's engine: "redb", "etcd".
    #[must_use]
    pub fn engine(&self) -> &'static str {
        self.store.engine()
    }

    /// Follows what is durable.
    #[must_use]
    pub fn committed(&self) -> watch::Receiver<Committed> {
        self.committed.subscribe()
    }

    /// Answers a question to the desired state, and the generation it holds for, once what was
    /// seen is durable.
    ///
    /// # Errors
    /// What was seen was undone because the store failed: ask again.
    pub async fn read<T>(&self, question: impl FnOnce(&Rib) -> T) -> Result<(T, u64), CommitError> {
        let mut committed = self.committed.subscribe();
        // Before the RIB is looked at: a group undone after this is noticed below.
        let undone = committed.borrow_and_update().undone;
        let (answer, generation) = {
            let rib = self.rib();
            (question(&rib), rib.generation())
        };
        let seen = committed
            .wait_for(|now| now.generation >= generation || now.undone != undone)
            .await
            .map_err(|_| CommitError::Stopped)?;
        if seen.generation < generation {
            return Err(CommitError::Store("what was read was undone".into()));
        }
        Ok((answer, generation))
    }

    /// Reads an agent's card, off the async threads.
    ///
    /// # Errors
    /// The store failed.
    pub fn card(&self, number: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.card(number)
    }

    /// Makes what is durable the state in force; answers what routers are to be told at once.
    pub(super) fn publish(&self, held: Held) -> Vec<Verdict> {
        let Held {
            first,
            phases,
            verdicts,
            store_id,
            epoch,
            origins,
            told,
        } = held;
        if let Some(new) = store_id {
            let name = self.store_id.write();
            *name.unwrap_or_else(PoisonError::into_inner) = new;
        }
        if let Some(new) = epoch {
            *self.epoch() = new;
        }
        let last = first + (phases.len() as u64).saturating_sub(1);
        self.history.push(first, &phases, origins);
        self.feed.push(last, told);
        // Routers say what is live: not before it is known that it may be.
        self.committed
            .send_modify(|committed| committed.generation = last);
        self.offer(first, phases, verdicts)
    }

    pub(super) fn tables_mut(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn epoch(&self) -> MutexGuard<'_, Epoch> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rib_mut(&self) -> RwLockWriteGuard<'_, Rib> {
        self.rib.write().unwrap_or_else(PoisonError::into_inner)
    }
}
