//! Whether memory grows once it is warm.

use super::Fault;
use serde::Serialize;
use std::time::Duration;

/// Part of the time that counts as warm-up: pools fill, tables are copied for the first time.
const WARM_UP_PART: f64 = 0.3;
/// Part of the time that is looked at behind the warm-up, and again at the end.
const WINDOW_PART: f64 = 0.2;
/// The router keeps freed memory for a minute and then gives all of it back at once, so what is resident is a saw. Only whole
/// minutes can be compared, by their highest, and the first is unlike all others.
const SAW: Duration = Duration::from_secs(60);
/// From this length on there are two whole minutes behind the first.
const LONG: Duration = Duration::from_secs(180);
/// What may be more at the end of a long run. Over three minutes the highest of a minute moved by 1 MiB on either driver. In ten
/// minutes 300 peers come between the two windows: when nothing of one were given back (44 KiB), that would be 13 MiB.
const GROWTH_MAX_LONG: u64 = 8 << 20;
/// The same of a short run: within the first minute kept memory only grows, by 14 MiB from the 20th to the 50th second, and by 24
/// once within 20 seconds. A slab lost in a hundred thousand messages is more.
const GROWTH_MAX_SHORT: u64 = 64 << 20;

/// Samples of a process's resident memory.
#[derive(Clone, Debug)]
pub struct Memory {
    whole: Duration,
    samples: Vec<(Duration, u64)>,
}

/// What the samples say.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Growth {
    /// Highest of the window behind the warm-up (bytes).
    pub warm_bytes: u64,
    /// Highest of the window at the end (bytes).
    pub end_bytes: u64,
    /// Largest of all (bytes).
    pub peak_bytes: u64,
    /// What the end may be at most (bytes).
    pub bound_bytes: u64,
}

impl Memory {
    /// Samples over so long a time.
    pub fn new(whole: Duration) -> Memory {
        Memory {
            whole,
            samples: Vec::new(),
        }
    }

    /// A sample of resident bytes, at a time since the start.
    pub fn note(&mut self, at: Duration, resident_bytes: u64) {
        self.samples.push((at, resident_bytes));
    }

    /// The end against what was there after warm-up.
    pub fn growth(&self) -> Growth {
        let part = |part| self.whole.mul_f64(part);
        let (warm_up, window, more) = if self.whole >= LONG {
            let (warm_up, window) = (part(WARM_UP_PART).max(SAW), part(WINDOW_PART).max(SAW));
            (warm_up, window, GROWTH_MAX_LONG)
        } else {
            (part(WARM_UP_PART), part(WINDOW_PART), GROWTH_MAX_SHORT)
        };
        let highest = |from: Duration, to: Duration| {
            let samples = self.samples.iter();
            let within = samples.filter(|(at, _)| (from..to).contains(at));
            within.map(|(_, bytes)| *bytes).max().unwrap_or_default()
        };
        let warm_bytes = highest(warm_up, warm_up + window);
        Growth {
            warm_bytes,
            end_bytes: highest(self.whole.saturating_sub(window), Duration::MAX),
            peak_bytes: self.samples.iter().map(|(_, b)| *b).max().unwrap_or(0),
            bound_bytes: warm_bytes + more,
        }
    }
}

impl Growth {
    /// The broken rule, if it is broken.
    pub fn fault(&self) -> Option<Fault> {
        if self.warm_bytes == 0 || self.end_bytes == 0 {
            return Some(Fault::new("memory", "too few samples to judge its growth"));
        }
        (self.end_bytes > self.bound_bytes).then(|| {
            Fault::new(
                "memory does not grow past warm-up",
                format!(
                    "{} bytes after warm-up, {} at the end, {} allowed",
                    self.warm_bytes, self.end_bytes, self.bound_bytes
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn growth(seconds: u64, resident: impl Fn(u64) -> u64) -> Growth {
        let mut memory = Memory::new(Duration::from_secs(seconds));
        for second in 0..seconds {
            memory.note(Duration::from_secs(second), resident(second));
        }
        memory.growth()
    }

    /// What was seen: it rises for a minute, falls back, and does so again; the first time it goes higher.
    fn saw(second: u64) -> u64 {
        let first = if second < 60 { 10 * MIB } else { 0 };
        100 * MIB + second % 60 * (MIB / 2) + first
    }

    #[test]
    fn a_saw_does_not_grow_and_a_leak_on_it_does() {
        for seconds in [180, 200, 600, 3_600] {
            let growth = growth(seconds, saw);
            assert!(growth.fault().is_none(), "{seconds} s: {growth:?}");
            assert_eq!(growth.warm_bytes, saw(119), "{seconds} s");
        }
        // A connection a second that is not given back, of 44 KiB; and a byte a message, at a million a second.
        let leaks = growth(600, |second| saw(second) + second * (44 << 10));
        assert!(leaks.fault().is_some(), "{leaks:?}");
        let leaks = growth(180, |second| saw(second) + second * MIB);
        assert!(leaks.fault().is_some(), "{leaks:?}");
    }

    #[test]
    fn a_short_run_may_warm_up() {
        let warms = growth(20, |second| second.min(10) * (4 << 20));
        assert!(warms.fault().is_none(), "{warms:?}");
        assert_eq!(warms.bound_bytes, warms.warm_bytes + 64 * MIB);
        assert!(growth(20, |second| second * (10 << 20)).fault().is_some());
        let none = Memory::new(Duration::from_secs(1)).growth();
        assert!(none.fault().is_some());
    }
}
