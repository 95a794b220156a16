//! Generations held back: they are durable, and go to routers one after the other, each when those that it waits for
//! have the one before ([`crate::compile::phases`]). Who has what is for the [gate](crate::southbound::barrier) to know,
//! which must run for anything to be held back at all.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use caplane_proto::v1::{ByeCode, RefusedAttachment};
use caplane_wire::Label;
use tokio::sync::watch;

use super::State;
use crate::compile::phases::{Awaits, Phase};

/// Generations held back beyond which the commit thread waits: changes that come meanwhile are then made together, and
/// what routers have is never older than a few round trips to them.
const HELD_BACK_MAX: usize = 8;

/// What routers are told of their attachments: router, attachment.
pub type Verdict = (Label, RefusedAttachment);

/// A generation that goes to no router yet.
#[derive(Debug)]
pub struct HeldBack {
    /// Its number.
    pub generation: u64,
    /// The one before, which must be live where it is awaited.
    pub after: u64,
    /// Who is waited for.
    pub awaits: Awaits,
    /// When it became durable.
    pub since: Instant,
    /// What is told once it goes.
    verdicts: Vec<Verdict>,
}

/// All of them, in order.
#[derive(Debug)]
pub(super) struct Releases {
    held: Mutex<Queue>,
    room: Condvar,
    /// The newest generation that routers may have.
    released: watch::Sender<u64>,
    /// Counts what is held back.
    queued: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Somebody releases what is held back; else nothing is.
    gated: bool,
    rows: VecDeque<HeldBack>,
}

impl Releases {
    pub(super) fn new(generation: u64) -> Self {
        Self {
            held: Mutex::default(),
            room: Condvar::new(),
            released: watch::Sender::new(generation),
            queued: watch::Sender::new(0),
        }
    }

    fn held(&self) -> MutexGuard<'_, Queue> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn gated(&self) -> bool {
        self.held().gated
    }

    /// Waits, no longer than a moment, until less is held back.
    pub(super) fn wait_for_room(&self) {
        let full = |queue: &mut Queue| queue.rows.len() >= HELD_BACK_MAX;
        let limit = Duration::from_secs(1);
        let waited = self.room.wait_timeout_while(self.held(), limit, full);
        drop(waited);
    }
}

impl State {
    /// The newest generation that routers may have.
    #[must_use]
    pub fn released(&self) -> watch::Receiver<u64> {
        self.releases.released.subscribe()
    }

    /// Notices when a generation is held back.
    #[must_use]
    pub fn held_back(&self) -> watch::Receiver<u64> {
        self.releases.queued.subscribe()
    }

    /// From now on changes go in steps, and [`release`](Self::release) must be called; or not any more.
    pub fn gate(&self, on: bool) {
        self.releases.held().gated = on;
    }

    /// What the first generation held back waits for.
    #[must_use]
    pub fn waits_for(&self) -> Option<(u64, Awaits)> {
        let held = self.releases.held();
        let first = held.rows.front()?;
        Some((first.after, first.awaits.clone()))
    }

    /// Lets generations go, in order, as long as `met` says so. Answers what is to be told now.
    pub fn release(&self, mut met: impl FnMut(&HeldBack) -> bool) -> Vec<Verdict> {
        let mut queue = self.releases.held();
        let mut verdicts = Vec::new();
        let mut newest = None;
        while let Some(row) = queue.rows.pop_front_if(|row| met(row)) {
            newest = Some(row.generation);
            verdicts.extend(row.verdicts);
            // What comes next waits for what goes out now: its own time begins here.
            if let Some(next) = queue.rows.front_mut() {
                next.since = Instant::now();
            }
        }
        if let Some(generation) = newest {
            self.tables_mut().release(generation);
            self.releases.released.send_replace(generation);
            self.releases.room.notify_all();
        }
        drop(queue);
        // Who attached again meanwhile is another one under the same label.
        let rib = self.rib();
        verdicts.retain(|(router, told)| {
            let attached = rib.attachment(Label::from_bits(told.label));
            attached.is_none_or(|attached| attached.router() != *router)
        });
        verdicts
    }

    /// Nothing is held back of the tables as they are at this generation.
    pub(super) fn restart_releases(&self, generation: u64) {
        let mut queue = self.releases.held();
        queue.rows.clear();
        self.releases.released.send_replace(generation);
        self.releases.room.notify_all();
    }

    /// Makes what was stored the newest; answers the verdicts that are to be told at once.
    pub(super) fn offer(
        &self,
        first: u64,
        phases: Vec<Phase>,
        verdicts: Vec<Verdict>,
    ) -> Vec<Verdict> {
        let mut queue = self.releases.held();
        let mut rows = Vec::with_capacity(phases.len());
        let mut released = None;
        for (generation, phase) in (first..).zip(phases) {
            if queue.rows.is_empty() && (!queue.gated || phase.awaits == Awaits::Nobody) {
                released = Some(generation);
            } else {
                queue.rows.push_back(HeldBack {
                    generation,
                    after: generation - 1,
                    awaits: phase.awaits,
                    since: Instant::now(),
                    verdicts: Vec::new(),
                });
            }
            rows.push((generation, phase.changes));
        }
        self.tables_mut()
            .publish(rows, released.unwrap_or(first - 1));
        if let Some(generation) = released {
            self.releases.released.send_replace(generation);
        }
        let Some(last) = queue.rows.back_mut() else {
            return verdicts;
        };
        // An instance that moved is served elsewhere already.
        let (now, later) = verdicts
            .into_iter()
            .partition(|(_, told)| told.code() == ByeCode::Replaced);
        last.verdicts = later;
        self.releases.queued.send_modify(|count| *count += 1);
        now
    }
}
