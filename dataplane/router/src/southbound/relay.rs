//! Resolves that wait for the controller: bounded in number and in time.

use std::collections::BTreeMap;
use std::time::Duration;

use caplane_transport::PeerId;
use tokio::time::Instant;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// The worker that owns the connection.
    pub worker: u8,
    /// The instance.
    pub peer: PeerId,
    /// Its own number of the question.
    pub query_id: u64,
}

/// Questions under way, oldest first: ids rise and every question has the same time.
#[derive(Debug)]
pub(super) struct Relay {
    waiting: BTreeMap<u64, (Instant, Waiting)>,
    next_id: u64,
    outstanding_max: usize,
    timeout: Duration,
}

impl Relay {
    pub(super) fn new(outstanding_max: usize, timeout: Duration) -> Self {
        Self {
            waiting: BTreeMap::new(),
            next_id: 1,
            outstanding_max,
            timeout,
        }
    }

    /// Notes a question and gives its id; hands it back when too many wait.
    pub(super) fn ask(&mut self, waiting: Waiting, now: Instant) -> Result<u64, Waiting> {
        if self.waiting.len() >= self.outstanding_max {
            return Err(waiting);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.insert(id, (now + self.timeout, waiting));
        Ok(id)
    }

    /// Who waits for `id`; `None` when the answer came too late.
    pub(super) fn answered(&mut self, id: u64) -> Option<Waiting> {
        self.waiting.remove(&id).map(|(_, waiting)| waiting)
    }

    /// Questions whose time is over.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<Waiting> {
        let mut expired = Vec::new();
        while let Some(entry) = self.waiting.first_entry() {
            if entry.get().0 > now {
                break;
            }
            expired.push(entry.remove().1);
        }
        expired
    }

    /// All of them: the controller is gone.
    pub(super) fn fail_all(&mut self) -> Vec<Waiting> {
        let all = std::mem::take(&mut self.waiting);
        all.into_values().map(|(_, waiting)| waiting).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, (at, _))| *at)
    }
}
