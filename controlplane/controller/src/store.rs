//! What survives a crash: one trait, so that engines can differ.
//!
//! A store keeps the objects of the desired state, the agents' cards, the
//! generation, and the log of changed table entries. One [`Batch`] is one
//! transaction: all of it is there after a crash, or none. A store also says who
//! may write to it: of several controllers one *leads*, by an [`ElectionId`] that
//! rises with every leader, and a batch of an earlier one never holds. Refuses to
//! know what the objects mean.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::record::{Object, ObjectKey, RecordError};
use crate::tables::{LogRow, TableKey};

use tokio::sync::watch;

mod log_row;
mod redb;

pub use redb::RedbStore;

/// Everything kept but the cards.
#[derive(Debug, Default)]
pub struct Stored {
    /// Names this store for ever: a router's held generation means something only together with it.
    pub store_id: String,
    /// The newest generation; 0 = nothing was ever committed.
    pub generation: u64,
    /// The newest generation in which a Write changed something.
    pub intent_generation: u64,
    /// The oldest generation that a difference can start from.
    pub floor: u64,
    /// What the entries were compiled by.
    pub epoch: Epoch,
    /// The desired state.
    pub objects: Vec<Object>,
    /// Rows after `floor`, generations rising.
    pub log: Vec<LogRow>,
}

/// What must be the same for the same state to compile to the same entries.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// [`crate::compile::COMPILER_VERSION`].
    pub compiler: u64,
    /// The taxonomy's version and content.
    pub taxonomy: String,
}

/// Tells leaders of a store apart: the later one has the higher id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ElectionId(pub u64);

/// A controller that leads, as others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its name.
    pub name: String,
    /// "host:port" for operators and orchestrators.
    pub northbound: String,
    /// "host:port" for routers.
    pub southbound: String,
}

/// What a controller may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It alone changes the store.
    Leading(ElectionId),
    /// It may look; somebody else leads, or nobody that is known.
    Following(Option<Arc<Leader>>),
}

/// What was committed after a generation.
#[derive(Debug)]
pub enum Followed {
    /// These, in order; none when that is the newest.
    Batches(Vec<Batch>),
    /// More than is remembered, or the store is another: everything as it is now.
    Reload(Box<Stored>),
}

/// One transaction.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    /// The newest generation it makes.
    pub generation: u64,
    /// The newest generation in which a Write changed something.
    pub intent_generation: u64,
    /// Objects set, or removed (`None`).
    pub objects: Vec<(ObjectKey, Option<Object>)>,
    /// Cards set, or removed (`None`), by agent number.
    pub cards: Vec<(u32, Option<Vec<u8>>)>,
    /// Generations it makes, rising, and the entries that each changes.
    pub changed: Vec<(u64, Vec<TableKey>)>,
    /// Log rows up to here are forgotten.
    pub floor: u64,
    /// Set when it changed.
    pub epoch: Option<Epoch>,
    /// Set when the store gets another name.
    pub store_id: Option<String>,
    /// Audit records added. A batch that has nothing else makes no generation: it names the newest.
    pub audit: Vec<AuditRow>,
    /// Audit records up to here are forgotten.
    pub audit_floor: u64,
}

/// An audit record, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number: from 1, rising by one.
    pub sequence: u64,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine failed.
    #[error("store {place}: cannot {operation}: {cause}")]
    Engine {
        /// The file, or the servers.
        place: String,
        /// What was tried.
        operation: &'static str,
        /// What the engine said.
        cause: String,
    },
    /// What is there cannot be read.
    #[error("store {place}: {cause}")]
    Content {
        /// The file, or the servers.
        place: String,
        /// The record and the cause.
        cause: String,
    },
    /// This controller does not lead, or no more.
    #[error("another controller leads")]
    Deposed,
    /// The engine did not say whether the batch holds, and may yet make it hold.
    #[error("store {place}: it is not known whether the change holds: {cause}")]
    Uncertain {
        /// The servers.
        place: String,
        /// What was heard last.
        cause: String,
    },
}

/// 128 bits that no other store has. Not a secret: std's hash seeds are random enough.
#[must_use]
pub fn new_store_id() -> String {
    let part = |salt: u64| {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(salt);
        hasher.write_u32(std::process::id());
        if let Ok(since) = SystemTime::now().duration_since(UNIX_EPOCH) {
            hasher.write_u128(since.as_nanos());
        }
        hasher.finish()
    };
    format!("{:016x}{:016x}", part(1), part(2))
}

impl StoreError {
    fn record(place: &str, error: RecordError) -> Self {
        Self::Content {
            place: place.to_owned(),
            cause: error.to_string(),
        }
    }
}

/// An engine. Calls block: the commit thread and blocking tasks make them, never a gRPC task.
pub trait Store: Send + Sync {
    /// Its name in answers: "redb", "etcd".
    fn engine(&self) -> &'static str;

    /// Reads everything but the cards.
    ///
    /// # Errors
    /// [`StoreError`].
    fn load(&self) -> Result<Stored, StoreError>;

    /// What was committed after `generation`, by anybody, up to now.
    ///
    /// # Errors
    /// [`StoreError::Engine`], [`StoreError::Content`].
    fn since(&self, generation: u64) -> Result<Followed, StoreError>;

    /// Makes a batch of the leader `id` durable: after `Ok` it survives SIGKILL and power loss. After
    /// [`StoreError::Uncertain`] it may hold or come to hold, and this controller leads no more; after any other error
    /// nothing of it is there.
    ///
    /// # Errors
    /// [`StoreError::Engine`], [`StoreError::Deposed`], [`StoreError::Uncertain`].
    fn commit(&self, id: ElectionId, batch: &Batch) -> Result<(), StoreError>;

    /// The card of an agent, by number.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    fn card(&self, number: u32) -> Result<Option<Vec<u8>>, StoreError>;

    /// Audit records from a number on, in order, at most so many.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    fn audit(&self, from: u64, count: usize) -> Result<Vec<AuditRow>, StoreError>;

    /// Numbers of the oldest and the newest audit record.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    fn audit_ends(&self) -> Result<Option<(u64, u64)>, StoreError>;
    /// What this controller may do, as far as the engine knows.
    fn standing(&self) -> Standing;

    /// Notices when the standing changed, or others may have committed.
    fn news(&self) -> watch::Receiver<()>;
}
