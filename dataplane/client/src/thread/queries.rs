//! Questions to the router that wait for an answer. They outlive a connection: asked again after reattaching.

use std::collections::HashMap;
use std::time::Duration;

use caplane_proto::v1::{Resolve, Resolved};
use tokio::sync::oneshot;

use crate::error::{CloseReason, ResolveError};

/// Who waits for an answer.
pub(crate) type Asker = oneshot::Sender<Result<Resolved, ResolveError>>;

struct Waiting {
    query: Resolve,
    asked: Duration,
    deadline: Duration,
    asker: Asker,
}

/// Most questions that wait: beyond, an application is asking in a loop.
const WAITING_MAX: usize = 1024;

#[derive(Default)]
pub(crate) struct Queries {
    waiting: HashMap<u64, Waiting>,
    last_id: u64,
}

impl Queries {
    /// Takes a question and answers how it is to be sent, when it is to be sent at all.
    pub(crate) fn ask(
        &mut self,
        now: Duration,
        mut query: Resolve,
        timeout: Duration,
        asker: Asker,
    ) -> Option<Resolve> {
        if self.waiting.len() >= WAITING_MAX {
            let _ = asker.send(Err(ResolveError::TooMany(WAITING_MAX)));
            return None;
        }
        self.last_id += 1;
        query.query_id = self.last_id;
        self.waiting.insert(
            self.last_id,
            Waiting {
                query: query.clone(),
                asked: now,
                deadline: now + timeout,
                asker,
            },
        );
        Some(query)
    }

    /// A router answered.
    pub(crate) fn answered(&mut self, answer: Resolved) {
        let Some(waiting) = self.waiting.remove(&answer.query_id) else {
            return; // given up meanwhile
        };
        let outcome = if answer.error.is_empty() {
            Ok(answer)
        } else {
            Err(ResolveError::Refused(answer.error))
        };
        let _ = waiting.asker.send(outcome);
    }

    /// A question that can never be sent.
    pub(crate) fn refuse(&mut self, id: u64, error: ResolveError) {
        if let Some(waiting) = self.waiting.remove(&id) {
            let _ = waiting.asker.send(Err(error));
        }
    }

    /// All that wait, to be asked again on a new connection.
    pub(crate) fn open(&self) -> Vec<Resolve> {
        self.waiting.values().map(|w| w.query.clone()).collect()
    }

    /// Gives up what has waited too long; answers when to look again.
    pub(crate) fn tick(&mut self, now: Duration) -> Option<Duration> {
        let late: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some(waiting) = self.waiting.remove(&id) {
                let waited = now.saturating_sub(waiting.asked);
                let _ = waiting.asker.send(Err(ResolveError::Timeout(waited)));
            }
        }
        self.waiting.values().map(|waiting| waiting.deadline).min()
    }

    pub(crate) fn close(&mut self, reason: &CloseReason) {
        for (_, waiting) in self.waiting.drain() {
            let _ = waiting
                .asker
                .send(Err(ResolveError::Closed(reason.clone())));
        }
    }
}
