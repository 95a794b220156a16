//! What packets suffer on one direction of a path.

use std::time::Duration;

/// Impairments of one direction. The default is a perfect path.
///
/// The knobs are independent: jitter alone never reorders (a packet waits for
/// its predecessor), reordering is a knob of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// Probability that a packet vanishes, 0.0..=1.0.
    pub loss: f64,
    /// Time every packet takes.
    pub delay: Duration,
    /// Added to `delay`: uniform in 0..=jitter.
    pub jitter: Duration,
    /// Probability that a packet is held back by `reorder_hold` so that later ones overtake it, 0.0..=1.0.
    pub reorder: f64,
    /// How long a reordered packet is held back.
    pub reorder_hold: Duration,
    /// Probability that a packet arrives twice, 0.0..=1.0.
    pub duplicate: f64,
    /// Bits a second of IP packets, shared by all clients; `None` = unlimited.
    pub rate_bits_per_s: Option<u64>,
    /// Bytes that may wait for the rate before packets are dropped.
    pub rate_queue_bytes: usize,
    /// Largest IP packet (as the MTU of a link, headers included); larger
    /// ones vanish silently. `None` = 65,535.
    pub mtu: Option<usize>,
    /// Nothing passes.
    pub cut: bool,
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions {
            loss: 0.0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: 0.0,
            // Longer than the wakeup granularity of the relay (1 ms) and than
            // a burst at usual rates, shorter than usual retransmission timers.
            reorder_hold: Duration::from_millis(5),
            duplicate: 0.0,
            rate_bits_per_s: None,
            // 100 ms at 100 Mbit/s: a home router's buffer.
            rate_queue_bytes: 1_250_000,
            mtu: None,
            cut: false,
        }
    }
}

impl Conditions {
    /// A path that loses packets with this probability (0.0..=1.0).
    pub fn loss(probability: f64) -> Conditions {
        Conditions {
            loss: probability,
            ..Conditions::default()
        }
    }

    /// Adds a one-way delay.
    pub fn with_delay(mut self, delay: Duration) -> Conditions {
        self.delay = delay;
        self
    }

    /// Adds jitter: uniform in 0..=jitter, on top of the delay.
    pub fn with_jitter(mut self, jitter: Duration) -> Conditions {
        self.jitter = jitter;
        self
    }

    /// Adds reordering with this probability (0.0..=1.0).
    pub fn with_reorder(mut self, probability: f64) -> Conditions {
        self.reorder = probability;
        self
    }

    /// Adds duplication with this probability (0.0..=1.0).
    pub fn with_duplicate(mut self, probability: f64) -> Conditions {
        self.duplicate = probability;
        self
    }

    /// Adds a rate in bits a second.
    pub fn with_rate(mut self, bits_per_s: u64) -> Conditions {
        self.rate_bits_per_s = Some(bits_per_s);
        self
    }

    /// Adds an MTU in bytes, IP header included.
    pub fn with_mtu(mut self, mtu: usize) -> Conditions {
        self.mtu = Some(mtu);
        self
    }
}
