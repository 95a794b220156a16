//! Writes that wait to be confirmed, with what undoes them.

use prost::Message;

use super::{Object, ObjectKey, RecordError};

/// A Write that is rolled back unless it is confirmed, or what became of it.
#[derive(Clone, PartialEq, Message)]
pub struct PendingRecord {
    /// The generation that holds it; its name too.
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// Certificate URI of the caller.
    #[prost(string, tag = "2")]
    pub caller: String,
    /// When it is rolled back, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "3")]
    pub deadline_unix_ms: u64,
    /// What it changed, each object once; empty once it ended.
    #[prost(message, repeated, tag = "4")]
    pub undo: Vec<UndoRecord>,
    /// Cards as they were; empty once it ended.
    #[prost(message, repeated, tag = "5")]
    pub cards: Vec<UndoCard>,
    /// [`Outcome`] as a number.
    #[prost(uint32, tag = "6")]
    pub outcome: u32,
    /// The generation in which it ended; 0 = it waits.
    #[prost(uint64, tag = "7")]
    pub ended_generation: u64,
    /// Certificate URI of who ended it; empty = time did.
    #[prost(string, tag = "8")]
    pub ended_by: String,
    /// How many objects it changed.
    #[prost(uint32, tag = "9")]
    pub objects: u32,
}

/// One object of a [`PendingRecord`].
#[derive(Clone, PartialEq, Message)]
pub struct UndoRecord {
    /// [`ObjectKey::to_bytes`].
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// [`Object::to_bytes`] as it was; `None` = it was not there.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub before: Option<Vec<u8>>,
    /// Whether it was there afterwards.
    #[prost(bool, tag = "3")]
    pub left: bool,
    /// Of an agent: it has a lease, which the Write neither began nor shortened.
    #[prost(bool, tag = "4")]
    pub lease_kept: bool,
}

/// One card of a [`PendingRecord`].
#[derive(Clone, PartialEq, Message)]
pub struct UndoCard {
    /// Agent number.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// The card as it was.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub card: Option<Vec<u8>>,
}

/// What became of a [`PendingRecord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// Nothing yet.
    Waiting = 0,
    /// It holds for good.
    Confirmed = 1,
    /// Somebody had it rolled back.
    Cancelled = 2,
    /// It was rolled back when its time was over.
    Expired = 3,
}

impl UndoRecord {
    /// What was changed, and as what it was.
    ///
    /// # Errors
    /// What is stored is no object.
    pub fn parts(&self) -> Result<(ObjectKey, Option<Object>), RecordError> {
        let key = ObjectKey::from_bytes(&self.key)?;
        let before = match &self.before {
            Some(value) => Some(Object::from_bytes(key.tag(), value)?),
            None => None,
        };
        Ok((key, before))
    }
}

impl PendingRecord {
    /// What became of it.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.outcome {
            0 => Outcome::Waiting,
            1 => Outcome::Confirmed,
            2 => Outcome::Cancelled,
            _ => Outcome::Expired,
        }
    }
}
