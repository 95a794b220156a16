//! How long to wait before trying a router again: exponential, jittered, bounded. Knows nothing of routers.

use std::time::Duration;

use super::random::Jitter;

/// Delays that double from `first` to `longest`, each shortened by up to half at random ("equal jitter"), so that the
/// agents of a router that restarted do not all come back in the same instant.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest: longest.max(first),
            failures: 0,
        }
    }

    /// The delay before the next attempt, after one more failure.
    pub(crate) fn next(&mut self, jitter: &mut Jitter) -> Duration {
        let whole = self
            .first
            .saturating_mul(1_u32 << self.failures.min(20))
            .min(self.longest);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(0.5 + jitter.fraction() / 2.0)
    }

    /// An attempt succeeded: the next failure starts from `first`.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_within_their_bounds_and_reset() {
        let mut jitter = Jitter::seeded(1);
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, longest);
        let mut whole = first;
        for _ in 0..50 {
            let delay = backoff.next(&mut jitter);
            assert!(delay >= whole / 2 && delay <= whole, "{delay:?} {whole:?}");
            whole = (whole * 2).min(longest);
        }
        backoff.reset();
        assert!(backoff.next(&mut jitter) <= first);
    }
}
