//! When a receiver got nothing: what a stall looks like on a carrier that
//! loses nothing in one.
//!
//! It refuses to know why nothing came.

use std::time::{Duration, Instant};

/// Shorter silences are not kept: at 4,000 messages a second they lie between any two.
const KEPT_MIN: Duration = Duration::from_micros(250);
/// Silences a receiver keeps at most (16 bytes each): minutes of a slow run, hours of a fast one.
const KEPT_MAX: usize = 200_000;

/// The silences of one receiver, on the run's clock.
#[derive(Clone, Debug, Default)]
pub struct Silences {
    /// From and to (ns), in order of time.
    kept: Vec<(u64, u64)>,
    /// There were more than are kept.
    cut_short: bool,
}

impl Silences {
    /// Nothing came between the two (ns).
    pub fn note(&mut self, from_ns: u64, to_ns: u64) {
        if Duration::from_nanos(to_ns.saturating_sub(from_ns)) < KEPT_MIN {
            return;
        }
        if self.kept.len() < KEPT_MAX {
            self.kept.push((from_ns, to_ns));
        } else {
            self.cut_short = true;
        }
    }
}

/// The silences of all receivers within the measured window, in the time of the machine.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// When the run's clock began.
    epoch: Instant,
    /// First and last moment measured (ns of that clock).
    measured: (u64, u64),
    receivers: Vec<Silences>,
}

impl Timeline {
    /// Of silences on a clock that began at `epoch`, measured between two moments of it (ns).
    pub fn new(epoch: Instant, measured: (u64, u64), receivers: Vec<Silences>) -> Timeline {
        Timeline {
            epoch,
            measured,
            receivers,
        }
    }

    /// The longest silence of any receiver in this stretch, as far as it lies in it; zero when all were shorter than 0.25 ms. `None` when the stretch is not wholly within the measured window, or there were more silences than
    /// are kept.
    pub fn longest(&self, from: Instant, to: Instant) -> Option<Duration> {
        let at = |time: Instant| {
            let since = time.checked_duration_since(self.epoch)?;
            Some(since.as_nanos() as u64)
        };
        let (from, to) = (at(from)?, at(to)?);
        let whole = self.measured.0 <= from && from <= to && to <= self.measured.1;
        if !whole || self.receivers.iter().any(|receiver| receiver.cut_short) {
            return None;
        }
        let all = self.receivers.iter().flat_map(|receiver| &receiver.kept);
        let within = all.map(|(begun, ended)| (*ended).min(to).saturating_sub((*begun).max(from)));
        let longest = within.max();
        Some(Duration::from_nanos(longest.unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_longest_silence_of_a_stretch_is_that_of_any_receiver_as_far_as_it_lies_in_it() {
        let epoch = Instant::now();
        let at = |ms: u64| epoch + Duration::from_millis(ms);
        let (mut one, mut other) = (Silences::default(), Silences::default());
        one.note(110 * MS, 115 * MS);
        one.note(150 * MS, 150 * MS + 200_000);
        other.note(118 * MS, 125 * MS);
        let timeline = Timeline::new(epoch, (100 * MS, 200 * MS), vec![one, other]);
        let longest = |from, to| {
            let longest = timeline.longest(at(from), at(to));
            longest.map(|longest| longest.as_millis())
        };
        assert_eq!(longest(100, 200), Some(7));
        assert_eq!(longest(100, 116), Some(5));
        assert_eq!(longest(112, 113), Some(1));
        assert_eq!(longest(123, 160), Some(2));
        assert_eq!(longest(130, 160), Some(0));
        assert_eq!((longest(99, 160), longest(130, 201)), (None, None));
    }

    #[test]
    fn more_silences_than_are_kept_are_no_answer() {
        let mut many = Silences::default();
        for n in 0..=KEPT_MAX as u64 {
            many.note(n * MS, (n + 1) * MS);
        }
        let epoch = Instant::now();
        let timeline = Timeline::new(epoch, (0, u64::MAX), vec![many]);
        assert_eq!(timeline.longest(epoch, epoch), None);
    }
}
