//! The one clock read of a tick, as the transport and the core each want it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use caplane_core::Now;

/// How often the wall clock is read again: a step of it reaches deadlines within a second.
const WALL_EVERY: Duration = Duration::from_secs(1);

/// Monotonic time since the worker started, and wall time that follows it.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    wall_read_at: Duration,
    wall_us: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            wall_read_at: Duration::ZERO,
            wall_us: wall_us(),
        }
    }

    /// Reads the clock: once a tick.
    pub(super) fn tick(&mut self) -> (Instant, Now) {
        let instant = Instant::now();
        let mono = instant.saturating_duration_since(self.start);
        if mono.saturating_sub(self.wall_read_at) >= WALL_EVERY {
            self.wall_read_at = mono;
            self.wall_us = wall_us();
        }
        let since_us = (mono - self.wall_read_at).as_micros() as u64;
        let now = Now {
            mono,
            unix_us: self.wall_us + since_us,
        };
        (instant, now)
    }
}

fn wall_us() -> u64 {
    // Before 1970 every deadline lies ahead: nothing is dropped for a broken clock.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}
