//! Time as an argument. Refuses to read any clock.

use core::time::Duration;

/// The time of one tick, read once by the shell and passed to every call of that tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time since the process (or the simulation) started.
    pub mono: Duration,
    /// Wall clock in microseconds since the Unix epoch; only deadlines are compared with it.
    pub unix_us: u64,
}
