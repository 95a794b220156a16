//! The decision: what happens to one packet. No sockets, no clock.
//!
//! Decisions are counter-based: each is a hash of (seed, client, direction,
//! packet number, purpose). Changing a condition at run time therefore does
//! not shift the decisions of later packets, and two runs with one seed treat
//! the n-th packet alike even when other clients come and go.

use super::{Conditions, Direction};
use std::time::Duration;

/// IPv4 header without options plus UDP header (RFC 791, RFC 768).
const OVERHEAD_IPV4: usize = 28;
/// IPv6 header plus UDP header (RFC 8200, RFC 768).
const OVERHEAD_IPV6: usize = 48;

/// Why a packet did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Lost by chance.
    Chance,
    /// The path is cut.
    Cut,
    /// Larger than the MTU.
    TooBig,
    /// No room in the queue of the rate limit.
    QueueFull,
}

/// What happens to one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It vanishes.
    Lost(Loss),
    /// It arrives.
    Passed {
        /// When (on the caller's clock).
        due: Duration,
        /// When a second copy arrives, if it does.
        copy_due: Option<Duration>,
        /// It was held back so that later packets overtake it.
        reordered: bool,
    },
}

/// The wire all clients share in one direction: how long it stays busy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    free_at: Duration,
}

impl Wire {
    /// Time at which a packet of `ip_bytes` has left, or `None` when the queue before the wire is full.
    fn accept(&mut self, now: Duration, ip_bytes: usize, c: &Conditions) -> Option<Duration> {
        let Some(rate) = c.rate_bits_per_s.filter(|rate| *rate > 0) else {
            return Some(now);
        };
        let start = self.free_at.max(now);
        let waiting_bits = (start - now).as_secs_f64() * rate as f64;
        if waiting_bits / 8.0 + ip_bytes as f64 > c.rate_queue_bytes as f64 {
            return None;
        }
        self.free_at = start + Duration::from_secs_f64(ip_bytes as f64 * 8.0 / rate as f64);
        Some(self.free_at)
    }
}

/// One client's packets in one direction.
#[derive(Clone, Debug)]
pub struct Lane {
    key: u64,
    packets: u64,
    last_due: Duration,
    overhead: usize,
}

impl Lane {
    /// The lane of `client` (numbered from 0 in order of appearance).
    pub fn new(seed: u64, client: u64, direction: Direction, ipv6: bool) -> Lane {
        let key = mix(mix(seed) ^ (client << 1 | direction as u64));
        Lane {
            key,
            packets: 0,
            last_due: Duration::ZERO,
            overhead: if ipv6 { OVERHEAD_IPV6 } else { OVERHEAD_IPV4 },
        }
    }

    /// Judges the next packet, which carries `payload` bytes over UDP.
    ///
    /// `now` and the answer's times are on the caller's monotonic clock.
    pub fn judge(
        &mut self,
        now: Duration,
        payload: usize,
        c: &Conditions,
        wire: &mut Wire,
    ) -> Fate {
        let n = self.packets;
        self.packets += 1;
        let ip_bytes = payload + self.overhead;
        if c.cut {
            return Fate::Lost(Loss::Cut);
        }
        if c.mtu.is_some_and(|mtu| ip_bytes > mtu) {
            return Fate::Lost(Loss::TooBig);
        }
        if self.chance(n, 0) < c.loss {
            return Fate::Lost(Loss::Chance);
        }
        let Some(sent) = wire.accept(now, ip_bytes, c) else {
            return Fate::Lost(Loss::QueueFull);
        };
        let reordered = self.chance(n, 1) < c.reorder;
        let travel = c.delay + c.jitter.mul_f64(self.chance(n, 2));
        let due = if reordered {
            sent + travel + c.reorder_hold
        } else {
            self.last_due = self.last_due.max(sent + travel);
            self.last_due
        };
        let copy_due =
            (self.chance(n, 3) < c.duplicate).then(|| due + c.jitter.mul_f64(self.chance(n, 4)));
        Fate::Passed {
            due,
            copy_due,
            reordered,
        }
    }

    /// Uniform in 0.0..1.0, fixed for (lane, packet, purpose).
    fn chance(&self, packet: u64, purpose: u64) -> f64 {
        let bits = mix(self.key ^ mix(packet.wrapping_mul(8) + purpose));
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014), a bijection with good avalanche.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fates(seed: u64, count: u64, c: &Conditions) -> Vec<Fate> {
        let mut lane = Lane::new(seed, 0, Direction::Up, false);
        let mut wire = Wire::default();
        (0..count)
            .map(|n| lane.judge(MS * n as u32, 1000, c, &mut wire))
            .collect()
    }

    /// True when `hits` of `n` is within five standard deviations of `p`.
    fn within_bounds(hits: usize, n: usize, p: f64) -> bool {
        let sigma = (n as f64 * p * (1.0 - p)).sqrt();
        (hits as f64 - n as f64 * p).abs() <= 5.0 * sigma
    }

    #[test]
    fn loss_is_binomial_and_has_no_memory() {
        for p in [0.01, 0.05, 0.3] {
            let fates = fates(7, 50_000, &Conditions::loss(p));
            let lost: Vec<bool> = fates
                .iter()
                .map(|f| *f == Fate::Lost(Loss::Chance))
                .collect();
            let hits = lost.iter().filter(|l| **l).count();
            assert!(within_bounds(hits, lost.len(), p), "{hits} lost at {p}");
            let pairs = lost.windows(2).filter(|w| w[0] && w[1]).count();
            assert!(
                within_bounds(pairs, lost.len() - 1, p * p),
                "{pairs} pairs at {p}"
            );
        }
    }

    #[test]
    fn the_same_seed_decides_alike_and_another_does_not() {
        let c = Conditions::loss(0.2)
            .with_reorder(0.1)
            .with_duplicate(0.1)
            .with_jitter(MS * 5);
        assert_eq!(fates(1, 1000, &c), fates(1, 1000, &c));
        assert_ne!(fates(1, 1000, &c), fates(2, 1000, &c));
    }

    #[test]
    fn a_change_of_conditions_does_not_shift_later_decisions() {
        let lossy = Conditions::loss(0.2);
        let all = fates(3, 400, &lossy);
        let mut lane = Lane::new(3, 0, Direction::Up, false);
        let mut wire = Wire::default();
        for n in 0..400u64 {
            let c = if n < 100 {
                Conditions::default()
            } else {
                lossy
            };
            let fate = lane.judge(MS * n as u32, 1000, &c, &mut wire);
            if n >= 100 {
                assert_eq!(fate, all[n as usize], "packet {n}");
            }
        }
    }

    #[test]
    fn clients_and_directions_are_independent() {
        let c = Conditions::loss(0.5);
        let run = |client, direction| -> Vec<Fate> {
            let mut lane = Lane::new(9, client, direction, false);
            let mut wire = Wire::default();
            (0..200)
                .map(|_| lane.judge(MS, 10, &c, &mut wire))
                .collect()
        };
        assert_ne!(run(0, Direction::Up), run(0, Direction::Down));
        assert_ne!(run(0, Direction::Up), run(1, Direction::Up));
    }

    #[test]
    fn jitter_spreads_over_its_range_and_keeps_order() {
        let c = Conditions::default()
            .with_delay(MS * 20)
            .with_jitter(MS * 10);
        let mut lane = Lane::new(5, 0, Direction::Down, false);
        let mut wire = Wire::default();
        let (mut last, mut sum, mut low, mut high) = (Duration::ZERO, 0.0, f64::MAX, 0.0f64);
        for n in 0..10_000u32 {
            // One packet each second: no packet has to wait for the one before.
            let now = Duration::from_secs(n as u64);
            let Fate::Passed { due, .. } = lane.judge(now, 100, &c, &mut wire) else {
                panic!("lost");
            };
            let took = (due - now).as_secs_f64() * 1e3;
            (sum, low, high) = (sum + took, low.min(took), high.max(took));
            assert!(due >= last);
            last = due;
        }
        // Uniform on 20..30 ms: mean 25, sigma of the mean 10/sqrt(12)/100 = 0.029 ms.
        assert!(
            (sum / 10_000.0 - 25.0).abs() < 0.15,
            "mean {}",
            sum / 10_000.0
        );
        assert!((20.0..20.1).contains(&low) && (29.9..=30.0).contains(&high));
        // Back to back the order still holds.
        let mut dues = (0..1000).map(|n| {
            let now = Duration::from_secs(20_000) + Duration::from_micros(n * 10);
            match lane.judge(now, 100, &c, &mut wire) {
                Fate::Passed { due, .. } => due,
                Fate::Lost(_) => panic!("lost"),
            }
        });
        assert!(dues.by_ref().is_sorted());
    }

    #[test]
    fn reordering_holds_packets_back_with_its_probability() {
        let c = Conditions::default().with_reorder(0.1);
        let fates = fates(11, 20_000, &c);
        let held = fates
            .iter()
            .filter(|f| {
                matches!(
                    f,
                    Fate::Passed {
                        reordered: true,
                        ..
                    }
                )
            })
            .count();
        assert!(within_bounds(held, fates.len(), 0.1), "{held}");
        let overtaken = fates
            .windows(2)
            .filter(|w| match (w[0], w[1]) {
                (Fate::Passed { due: a, .. }, Fate::Passed { due: b, .. }) => a > b,
                _ => false,
            })
            .count();
        // A held packet (5 ms) is overtaken by the next (1 ms later) unless that one is held too.
        assert!(
            within_bounds(overtaken, fates.len(), 0.1 * 0.9),
            "{overtaken}"
        );
    }

    #[test]
    fn duplication_comes_with_its_probability() {
        let fates = fates(13, 20_000, &Conditions::default().with_duplicate(0.02));
        let twice = fates
            .iter()
            .filter(|f| {
                matches!(
                    f,
                    Fate::Passed {
                        copy_due: Some(_),
                        ..
                    }
                )
            })
            .count();
        assert!(within_bounds(twice, fates.len(), 0.02), "{twice}");
    }

    #[test]
    fn the_rate_paces_and_its_queue_is_bounded() {
        // 8 Mbit/s = 1 byte a microsecond; packets of 1,000 bytes with headers.
        let c = Conditions {
            rate_bits_per_s: Some(8_000_000),
            rate_queue_bytes: 10_000,
            ..Conditions::default()
        };
        let mut lane = Lane::new(1, 0, Direction::Up, false);
        let mut wire = Wire::default();
        let fates: Vec<Fate> = (0..12)
            .map(|_| lane.judge(Duration::ZERO, 1000 - OVERHEAD_IPV4, &c, &mut wire))
            .collect();
        for (n, fate) in fates.iter().take(10).enumerate() {
            let due = MS * (n as u32 + 1);
            assert!(
                matches!(fate, Fate::Passed { due: d, .. } if d.abs_diff(due) < Duration::from_micros(1)),
                "packet {n}: {fate:?}"
            );
        }
        assert_eq!(fates[10..], [Fate::Lost(Loss::QueueFull); 2]);
        // Once half has drained there is room again.
        assert!(matches!(
            lane.judge(MS * 5, 900, &c, &mut wire),
            Fate::Passed { .. }
        ));
    }

    #[test]
    fn the_mtu_counts_ip_and_udp_headers() {
        let c = Conditions::default().with_mtu(1400);
        let mut wire = Wire::default();
        for (ipv6, fits) in [(false, 1372), (true, 1352)] {
            let mut lane = Lane::new(1, 0, Direction::Up, ipv6);
            assert!(matches!(
                lane.judge(MS, fits, &c, &mut wire),
                Fate::Passed { .. }
            ));
            assert_eq!(
                lane.judge(MS, fits + 1, &c, &mut wire),
                Fate::Lost(Loss::TooBig)
            );
        }
    }

    #[test]
    fn a_cut_path_passes_nothing() {
        let c = Conditions {
            cut: true,
            ..Conditions::default()
        };
        assert!(
            fates(1, 100, &c)
                .iter()
                .all(|f| *f == Fate::Lost(Loss::Cut))
        );
    }
}
