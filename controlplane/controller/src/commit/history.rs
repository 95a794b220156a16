//! What made each of the last generations. In memory only: after a restart it begins anew.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use caplane_wire::Label;

use super::now_unix_ms;
use crate::compile::phases::{Phase, Step};

/// Generations remembered; the oldest falls out.
pub const GENERATIONS_MAX: usize = 4_096;

/// Origins remembered of one generation.
pub const ORIGINS_MAX: usize = 8;

/// One change of those that a generation is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// URI of who caused it; empty = the controller itself.
    pub who: String,
    /// In words.
    pub what: String,
}

/// A generation that became durable.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its number.
    pub generation: u64,
    /// When it was published, by the clock that never jumps.
    pub at: Instant,
    /// The same in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The first changes that it holds, at most 8.
    pub origins: Vec<Origin>,
    /// Further ones.
    pub origins_left_out: usize,
    /// Table entries it changed.
    pub entries: usize,
    /// Where it stands in its change.
    pub step: Step,
    /// The last generation of that.
    pub last: u64,
    /// Routers that were waited for in vain before it went.
    pub gave_up_on: Vec<Label>,
}

/// The last generations.
#[derive(Debug, Default)]
pub struct History {
    rows: Mutex<VecDeque<Arc<Made>>>,
}

impl History {
    fn rows(&self) -> MutexGuard<'_, VecDeque<Arc<Made>>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The generations of one change. They rise: the one writer pushes them.
    pub(super) fn push(&self, first: u64, phases: &[Phase], mut origins: Vec<Origin>) {
        let origins_left_out = origins.len().saturating_sub(ORIGINS_MAX);
        origins.truncate(ORIGINS_MAX);
        let (at, unix_ms) = (Instant::now(), now_unix_ms());
        let last = first + (phases.len() as u64).saturating_sub(1);
        let mut rows = self.rows();
        for (generation, phase) in (first..).zip(phases) {
            let made = Arc::new(Made {
                generation,
                at,
                unix_ms,
                origins: origins.clone(),
                origins_left_out,
                entries: phase.changes.len(),
                step: phase.step,
                last,
                gave_up_on: Vec::new(),
            });
            if rows.len() == GENERATIONS_MAX {
                rows.pop_front();
            }
            rows.push_back(made);
        }
    }

    /// Says who was waited for in vain before a generation went.
    pub fn gave_up(&self, generation: u64, routers: Vec<Label>) {
        let mut rows = self.rows();
        let place = rows.partition_point(|made| made.generation < generation);
        if let Some(made) = rows.get_mut(place)
            && made.generation == generation
        {
            Arc::make_mut(made).gave_up_on = routers;
        }
    }

    /// What is remembered of a generation.
    #[must_use]
    pub fn of(&self, generation: u64) -> Option<Arc<Made>> {
        let rows = self.rows();
        let place = rows.partition_point(|made| made.generation < generation);
        let made = rows.get(place)?;
        (made.generation == generation).then(|| made.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_generations_are_remembered_with_their_first_origins() {
        let history = History::default();
        let origin = |i: usize| Origin {
            who: String::new(),
            what: i.to_string(),
        };
        let newest = GENERATIONS_MAX as u64 + 10;
        for generation in 1..=newest {
            let phase = Phase::whole(Vec::new());
            history.push(generation, &[phase], (0..10).map(origin).collect());
        }
        assert!(history.of(10).is_none() && history.of(newest + 1).is_none());
        let made = history.of(11).expect("remembered");
        assert_eq!((made.generation, made.last), (11, 11));
        assert_eq!(
            (made.origins.len(), made.origins_left_out),
            (ORIGINS_MAX, 2)
        );
        assert_eq!(made.origins[7], origin(7));
    }
}
