//! Deadlines of connections: a hierarchical timing wheel (Varghese and Lauck, 1987) in which a connection stands once at
//! most. To arm, to move and to come due cost the same however many there are, so idle peers cost nothing.
//!
//! Time goes in ticks of [`TICK_NS`]. A deadline stands at the lowest level on which it and the wheel's hand share all higher
//! digits (base 64); when the hand comes to a bucket above the lowest level, what is in it moves down. A deadline comes due
//! up to one tick late, never early.
//!
//! A deadline that moves later (every packet moves the loss and idle timers) is not moved here: when the entry comes up, the
//! owner asks the connection for its true deadline and arms it again.

use std::time::{Duration, Instant};

/// One tick: 131 us. QUIC's timers are no finer than a millisecond (RFC 9002 section 6.1.2).
const TICK_NS: u64 = 1 << 17;
/// Bits of a level's digit.
const DIGIT: u32 = 6;
/// Buckets of a level.
const BUCKETS: usize = 1 << DIGIT;
/// Levels: so many digits count the ticks of a thousand years.
const LEVELS: usize = 8;

/// No slot, no bucket.
const NONE: u32 = u32::MAX;

/// A connection's place in the list of its bucket.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u64,
    bucket: u32,
    before: u32,
    after: u32,
}

const UNARMED: Entry = Entry {
    at: 0,
    bucket: NONE,
    before: NONE,
    after: NONE,
};

#[derive(Debug)]
pub(crate) struct Timers {
    epoch: Instant,
    /// All that was due before this tick has been given out.
    hand: u64,
    /// The tick it is.
    now: u64,
    /// By slot.
    entries: Vec<Entry>,
    /// First slot of each bucket.
    buckets: [u32; BUCKETS * LEVELS],
    /// Which buckets of a level have any, a bit each.
    occupied: [u64; LEVELS],
}

impl Timers {
    pub(crate) fn new(epoch: Instant) -> Timers {
        Timers {
            epoch,
            hand: 0,
            now: 0,
            entries: Vec::new(),
            buckets: [NONE; BUCKETS * LEVELS],
            occupied: [0; LEVELS],
        }
    }

    /// Arms `slot` at `deadline`, unless it is armed as early already.
    pub(crate) fn arm(&mut self, slot: u32, deadline: Option<Instant>) {
        let Some(deadline) = deadline else {
            return;
        };
        let ns = deadline.saturating_duration_since(self.epoch).as_nanos() as u64;
        // Whoever comes due and arms in the past waits a tick.
        let at = ns.div_ceil(TICK_NS).max(self.now + 1);
        let index = slot as usize;
        if index >= self.entries.len() {
            self.entries.resize(index + 1, UNARMED);
        }
        let entry = self.entries[index];
        if entry.bucket != NONE {
            if entry.at <= at {
                return;
            }
            self.unlink(slot);
        }
        self.link(slot, at);
    }

    /// The next slot whose entry is due; it is armed no more.
    pub(crate) fn due(&mut self, now: Instant) -> Option<u32> {
        let now = now.saturating_duration_since(self.epoch).as_nanos() as u64 / TICK_NS;
        self.now = now.max(self.now);
        while let Some((bucket, tick)) = self.first().filter(|(_, tick)| *tick <= self.now) {
            self.hand = tick;
            let slot = self.buckets[bucket];
            if bucket < BUCKETS {
                self.unlink(slot);
                return Some(slot);
            }
            self.move_down(bucket);
        }
        self.hand = self.now;
        None
    }

    /// When the hand has something to do: an entry is due, or a bucket is to be moved down.
    pub(crate) fn next(&self) -> Option<Instant> {
        let (_, tick) = self.first()?;
        Some(self.epoch + Duration::from_nanos(tick * TICK_NS))
    }

    /// The first bucket with an entry, and the tick at which it begins.
    fn first(&self) -> Option<(usize, u64)> {
        let level = self.occupied.iter().position(|occupied| *occupied != 0)?;
        // All of a level's entries share the hand's higher digits and lie ahead of it, so no bucket comes round again.
        let digit = self.occupied[level].trailing_zeros();
        let shift = DIGIT * level as u32;
        let higher = self.hand >> (shift + DIGIT) << (shift + DIGIT);
        Some((
            level * BUCKETS + digit as usize,
            higher | u64::from(digit) << shift,
        ))
    }

    /// Gives each entry of a bucket that the hand has come to its place on a lower level.
    fn move_down(&mut self, bucket: usize) {
        let mut slot = std::mem::replace(&mut self.buckets[bucket], NONE);
        self.occupied[bucket / BUCKETS] &= !(1 << (bucket % BUCKETS));
        while slot != NONE {
            let Entry { at, after, .. } = self.entries[slot as usize];
            self.link(slot, at);
            slot = after;
        }
    }

    fn link(&mut self, slot: u32, at: u64) {
        let apart = (at ^ self.hand) | 1;
        let level = (63 - apart.leading_zeros()) / DIGIT;
        let digit = (at >> (DIGIT * level)) as usize % BUCKETS;
        let bucket = level as usize * BUCKETS + digit;
        let after = std::mem::replace(&mut self.buckets[bucket], slot);
        if let Some(after) = self.entries.get_mut(after as usize) {
            after.before = slot;
        }
        self.entries[slot as usize] = Entry {
            at,
            bucket: bucket as u32,
            before: NONE,
            after,
        };
        self.occupied[level as usize] |= 1 << digit;
    }

    fn unlink(&mut self, slot: u32) {
        let entry = std::mem::replace(&mut self.entries[slot as usize], UNARMED);
        if let Some(after) = self.entries.get_mut(entry.after as usize) {
            after.before = entry.before;
        }
        match self.entries.get_mut(entry.before as usize) {
            Some(before) => before.after = entry.after,
            None => {
                let bucket = entry.bucket as usize;
                self.buckets[bucket] = entry.after;
                if entry.after == NONE {
                    self.occupied[bucket / BUCKETS] &= !(1 << (bucket % BUCKETS));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_nanos(TICK_NS);

    #[test]
    fn a_later_deadline_leaves_the_entry_and_an_earlier_one_moves_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::new(start);
        timers.arm(7, Some(at(10)));
        timers.arm(7, Some(at(20)));
        timers.arm(7, None);
        assert_eq!(timers.due(at(9)), None);
        timers.arm(7, Some(at(9) + TICK * 2));
        assert_eq!(timers.due(at(10)), Some(7));
        assert_eq!(timers.due(at(30)), None, "it stands once");
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn whoever_arms_in_the_past_waits_a_tick() {
        let start = Instant::now();
        let now = start + Duration::from_secs(5);
        let mut timers = Timers::new(start);
        timers.arm(1, Some(start));
        assert_eq!(timers.due(now), Some(1));
        timers.arm(1, Some(start));
        assert_eq!(timers.due(now), None);
        assert_eq!(timers.due(now + TICK), Some(1));
    }

    #[test]
    fn a_far_deadline_is_reached_in_a_few_steps() {
        let start = Instant::now();
        let far = start + Duration::from_secs(300 * 86_400);
        let mut timers = Timers::new(start);
        timers.arm(0, Some(far));
        let mut steps = 0;
        loop {
            let now = timers.next().expect("armed");
            steps += 1;
            if timers.due(now).is_some() {
                assert!(far <= now && now < far + TICK);
                break;
            }
        }
        assert!(steps <= LEVELS, "{steps} steps");
    }

    proptest! {
        /// Against a sorted map: nothing is lost, early, or more than a tick late, whoever arms what when.
        #[test]
        fn all_come_due_in_their_tick(
            steps in prop::collection::vec((0u32..40, 0u64..40_000_000_000, 0u64..3_000_000_000), 1..200),
            coarse in any::<bool>(),
        ) {
            let start = Instant::now();
            let mut timers = Timers::new(start);
            let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
            let mut now = start;
            for (slot, delay, pass) in steps {
                // Most QUIC deadlines are near.
                let delay = Duration::from_nanos(if slot % 2 == 0 { delay } else { delay % 30_000_000 });
                let deadline = now + delay;
                timers.arm(slot, Some(deadline));
                let held = model.entry(slot).or_insert(deadline);
                *held = (*held).min(deadline);
                let end = now + Duration::from_nanos(if coarse { pass } else { pass % 20_000_000 });
                while let Some(next) = timers.next().filter(|next| !coarse && *next <= end) {
                    now = now.max(next);
                    while let Some(slot) = timers.due(now) {
                        let at = model.remove(&slot).expect("armed once");
                        prop_assert!(at <= now && now <= at + TICK * 2, "{:?} late", now.saturating_duration_since(at));
                    }
                }
                now = end;
                while let Some(slot) = timers.due(now) {
                    let at = model.remove(&slot).expect("armed once");
                    prop_assert!(at <= now);
                }
                for (slot, at) in &model {
                    prop_assert!(*at + TICK * 2 > now, "slot {slot} is overdue");
                }
                prop_assert_eq!(timers.next().is_some(), !model.is_empty());
            }
        }
    }
}
