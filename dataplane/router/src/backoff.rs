//! Waiting longer after every failure, and never in step with others.

use std::time::Duration;

/// Doubling waits between a first and a longest, each spread over its upper half.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// A backoff whose jitter follows from `seed` alone.
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self {
            first,
            longest,
            failures: 0,
            // Xorshift stands still at zero.
            random: seed | 1,
        }
    }

    /// The wait before the next attempt: between half of and the whole of `first` x
    /// 2^failures, capped at `longest`.
    pub fn after_failure(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(20));
        let whole = doubled.min(self.longest);
        self.failures = self.failures.saturating_add(1);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let half_ns = (whole.as_nanos() / 2) as u64;
        Duration::from_nanos(half_ns + self.random % half_ns.max(1))
    }

    /// The next failure is a first one again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1_000), 7);
        for whole in [100, 200, 400, 800, 1_000, 1_000] {
            let wait = backoff.after_failure();
            assert!(
                wait >= ms(whole / 2) && wait <= ms(whole),
                "{wait:?} of {whole}"
            );
        }
        backoff.succeeded();
        assert!(backoff.after_failure() <= ms(100));
    }

    #[test]
    fn two_seeds_do_not_wait_in_step() {
        let new = |seed| Backoff::new(Duration::from_secs(1), Duration::from_secs(60), seed);
        let (mut a, mut b) = (new(1), new(2));
        assert!((0..8).any(|_| a.after_failure() != b.after_failure()));
    }
}
