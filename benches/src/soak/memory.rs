//! Whether memory grows once it is warm.

use super::Fault;
use serde::Serialize;
use std::time::Duration;

/// Part of the time that counts as warm-up: pools fill, tables are copied for the first time.
const WARM_UP_PART: f64 = 0.3;
/// Part of the time that is looked at behind the warm-up, and again at the end.
const WINDOW_PART: f64 = 0.2;
/// What may be more at the end: the most that was ever in use at one moment still rises a little, slab by slab, with every
/// death that comes at a worse one. A byte a message would be a hundred times this in ten minutes.
const GROWTH_MAX_BYTES: u64 = 32 << 20;
/// The same, as a part of what was there after warm-up.
const GROWTH_MAX_PART: f64 = 0.1;

/// Samples of a process's resident memory.
#[derive(Clone, Debug)]
pub struct Memory {
    whole: Duration,
    samples: Vec<(Duration, u64)>,
}

/// What the samples say.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Growth {
    /// Median behind the warm-up (bytes).
    pub warm_bytes: u64,
    /// Median at the end (bytes).
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
        let median = |from: f64, to: f64| {
            let (from, to) = (self.whole.mul_f64(from), self.whole.mul_f64(to));
            let within = |at: &Duration| (from..=to).contains(at);
            let samples = self.samples.iter().filter(|(at, _)| within(at));
            let mut bytes: Vec<u64> = samples.map(|(_, bytes)| *bytes).collect();
            bytes.sort_unstable();
            bytes.get(bytes.len() / 2).copied().unwrap_or_default()
        };
        let warm_bytes = median(WARM_UP_PART, WARM_UP_PART + WINDOW_PART);
        let more = GROWTH_MAX_BYTES.max((warm_bytes as f64 * GROWTH_MAX_PART) as u64);
        Growth {
            warm_bytes,
            end_bytes: median(1.0 - WINDOW_PART, 1.0),
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

    fn growth(resident: impl Fn(u64) -> u64) -> Growth {
        let mut memory = Memory::new(Duration::from_secs(100));
        for second in 0..100 {
            memory.note(Duration::from_secs(second), resident(second));
        }
        memory.growth()
    }

    #[test]
    fn a_leak_is_told_from_warming_up() {
        let warms = growth(|second| second.min(25) * (4 << 20));
        assert_eq!((warms.warm_bytes, warms.end_bytes), (100 << 20, 100 << 20));
        assert_eq!(warms.bound_bytes, 132 << 20);
        assert!(warms.fault().is_none());
        let leaks = growth(|second| second << 20);
        assert!(leaks.fault().is_some());
        assert!(
            Memory::new(Duration::from_secs(1))
                .growth()
                .fault()
                .is_some()
        );
    }
}
