//! What made each of the last generations. In memory only: after a restart it begins anew.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::now_unix_ms;

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

    /// Generations rise: the one writer pushes them.
    pub(super) fn push(&self, generation: u64, mut origins: Vec<Origin>, entries: usize) {
        let origins_left_out = origins.len().saturating_sub(ORIGINS_MAX);
        origins.truncate(ORIGINS_MAX);
        let made = Arc::new(Made {
            generation,
            at: Instant::now(),
            unix_ms: now_unix_ms(),
            origins,
            origins_left_out,
            entries,
        });
        let mut rows = self.rows();
        if rows.len() == GENERATIONS_MAX {
            rows.pop_front();
        }
        rows.push_back(made);
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
            history.push(generation, (0..10).map(origin).collect(), 3);
        }
        assert!(history.of(10).is_none() && history.of(newest + 1).is_none());
        let made = history.of(11).expect("remembered");
        assert_eq!((made.generation, made.entries), (11, 3));
        assert_eq!(
            (made.origins.len(), made.origins_left_out),
            (ORIGINS_MAX, 2)
        );
        assert_eq!(made.origins[7], origin(7));
    }
}
