//! How many denials are recorded: they share the log with what was done, and anybody with a certificate can be denied.
//!
//! Of each caller some at once and then a few, so that one that is denied all the time hides nobody else's; of all together
//! so few that a log of ordinary size lasts for days of nothing else. Time comes in as an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Of one caller at once.
pub(super) const CALLER_BURST: u32 = 20;
/// And then one in this time.
const CALLER_EVERY: Duration = Duration::from_secs(60);
/// Of all at once.
pub(super) const BURST: u32 = 100;
/// And then one in this time: 8,640 a day.
const EVERY: Duration = Duration::from_secs(10);
/// Callers remembered, some 150 bytes each; of more, who was denied longest ago begins anew.
const CALLERS_MAX: usize = 1_024;

/// What is due still.
#[derive(Debug)]
pub(super) struct Denials {
    all: Bucket,
    callers: HashMap<String, Bucket>,
}

/// So many at once, and one more in a while.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    burst: u32,
    every: Duration,
    /// Up to when what is left was counted.
    filled: Instant,
}

impl Bucket {
    fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self {
            left: burst,
            burst,
            every,
            filled: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        let more = passed.as_nanos() / self.every.as_nanos();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(more).min(self.burst);
        self.filled = match self.left == self.burst {
            true => self.filled.max(now),
            false => self.filled + self.every * more,
        };
    }
}

impl Denials {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            all: Bucket::new(BURST, EVERY, now),
            callers: HashMap::new(),
        }
    }

    /// Whether one more of this caller is recorded.
    pub(super) fn take(&mut self, who: &str, now: Instant) -> bool {
        if !self.callers.contains_key(who) {
            if self.callers.len() >= CALLERS_MAX {
                let oldest = self.callers.iter().min_by_key(|(_, bucket)| bucket.filled);
                let oldest = oldest.map(|(who, _)| who.clone());
                oldest.and_then(|who| self.callers.remove(&who));
            }
            let full = Bucket::new(CALLER_BURST, CALLER_EVERY, now);
            self.callers.insert(who.to_owned(), full);
        }
        let Some(caller) = self.callers.get_mut(who) else {
            return false;
        };
        caller.fill(now);
        self.all.fill(now);
        let due = caller.left > 0 && self.all.left > 0;
        if due {
            caller.left -= 1;
            self.all.left -= 1;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_always_denied_leaves_room_for_others() {
        let begin = Instant::now();
        let mut denials = Denials::new(begin);
        let taken = |denials: &mut Denials, who: &str, now, times| {
            (0..times).filter(|_| denials.take(who, now)).count()
        };
        assert_eq!(taken(&mut denials, "a", begin, 1_000), 20);
        assert_eq!(taken(&mut denials, "b", begin, 3), 3);
        // A minute on: one of `a`, and those of others that are due.
        let minute = begin + Duration::from_secs(60);
        assert_eq!(taken(&mut denials, "a", minute, 1_000), 1);
        assert_eq!(taken(&mut denials, "b", minute, 3), 3);
    }

    #[test]
    fn all_together_are_few_however_many_names_they_have() {
        let begin = Instant::now();
        let mut denials = Denials::new(begin);
        let mut recorded = 0;
        // A day of 10 denials a second, each by another of 10,000 names.
        for tick in 0..864_000_u64 {
            let now = begin + Duration::from_millis(100 * tick);
            recorded += usize::from(denials.take(&format!("n{}", tick % 10_000), now));
        }
        assert!((8_700..=8_740).contains(&recorded), "{recorded}");
        assert!(denials.callers.len() <= CALLERS_MAX);
    }
}
