//! The estimator of RFC 6298 over the time from hand-over to receipt, and the wait that follows from it. Knows nothing of what
//! is sent. Times include the receiver's queue, as they must: the receipt comes after delivery.

use std::time::Duration;

/// Smoothed round trip of one flow.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
}

/// Bounds of the resend timer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResendBounds {
    /// Before anything is known of a flow.
    pub(crate) initial: Duration,
    /// Never sooner. The fabric's lanes are reliable, so a resend repairs a queue drop or a lost router, not packet
    /// loss: being early costs more than being late.
    pub(crate) least: Duration,
    /// Never later, however often it failed.
    pub(crate) most: Duration,
}

impl Default for ResendBounds {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            least: Duration::from_millis(200),
            most: Duration::from_secs(10),
        }
    }
}

impl ResendBounds {
    /// Bounds for messages that take long to pass, because they are: there is no hurry to send one again.
    pub(crate) fn for_bulk(&self) -> Self {
        Self {
            initial: self.initial * 3,
            least: self.least * 5 / 2,
            most: self.most,
        }
    }
}

impl Rtt {
    /// One message was receipted after `sample`.
    pub(crate) fn sample(&mut self, sample: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.variation = sample / 2;
            }
            Some(smoothed) => {
                let error = smoothed.abs_diff(sample);
                self.variation = self.variation * 3 / 4 + error / 4;
                self.smoothed = Some(smoothed * 7 / 8 + sample / 8);
            }
        }
    }

    /// Time to wait for a receipt: the smoothed round trip and four times its variation, at least two round trips
    /// (WF-82), doubled for each of `timeouts` in a row.
    pub(crate) fn wait(&self, timeouts: u32, bounds: &ResendBounds) -> Duration {
        let base = match self.smoothed {
            None => bounds.initial,
            Some(smoothed) => (smoothed + self.variation * 4).max(smoothed * 2),
        };
        base.max(bounds.least)
            .saturating_mul(1_u32 << timeouts.min(16))
            .min(bounds.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settles_on_a_steady_round_trip_and_backs_off() {
        let bounds = ResendBounds::default();
        let mut rtt = Rtt::default();
        assert_eq!(rtt.wait(0, &bounds), bounds.initial);
        for _ in 0..200 {
            rtt.sample(Duration::from_millis(400));
        }
        let once = rtt.wait(0, &bounds);
        assert!(
            once >= Duration::from_millis(790) && once < Duration::from_millis(810),
            "{once:?}"
        );
        assert_eq!(rtt.wait(1, &bounds), once * 2);
        assert_eq!(rtt.wait(39, &bounds), bounds.most);
    }

    #[test]
    fn never_sooner_than_the_least() {
        let bounds = ResendBounds::default();
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_micros(50));
        assert_eq!(rtt.wait(0, &bounds), bounds.least);
    }
}
