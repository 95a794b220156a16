//! Policers: what an attached instance may send, in messages and bytes a second, in all and to single classes.
//! Token buckets in integers, filled by the time that calls bring. Neighbours are not policed: whom they speak for was,
//! at the ingress router. Refuses to know where the rates were configured.

use core::time::Duration;

use caplane_wire::{HEADER_LEN, Header, Label, LabelKind};

use super::Forwarder;
use super::peers::{Instance, PeerIdx};
use crate::Now;
use crate::fib::{ClassRate, Rate};
use crate::mix::MixMap;

/// Tokens count in millionths, so that a microsecond at one a second is one.
const ONE: i64 = 1_000_000;

/// A token bucket. One message may overdraw it, so that one larger than the burst passes too, and is paid for
/// afterwards: over time the rate holds.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// 0 = no limit.
    per_second: u64,
    full: i64,
    tokens: i64,
}

impl Bucket {
    fn new(per_second: u64, burst: Duration) -> Bucket {
        let burst_us = i64::try_from(burst.as_micros()).unwrap_or(i64::MAX);
        let rate = i64::try_from(per_second).unwrap_or(i64::MAX);
        // At least one whole token, or nothing would ever pass.
        let full = rate.saturating_mul(burst_us).max(ONE);
        Bucket {
            per_second,
            full,
            tokens: full,
        }
    }

    fn fill(&mut self, us: u64) {
        let more = us.saturating_mul(self.per_second);
        let more = i64::try_from(more).unwrap_or(i64::MAX);
        self.tokens = self.tokens.saturating_add(more).min(self.full);
    }

    fn has(&self, tokens: i64) -> bool {
        self.per_second == 0 || self.tokens >= tokens.min(self.full)
    }

    fn take(&mut self, tokens: i64) {
        if self.per_second != 0 {
            self.tokens = self.tokens.saturating_sub(tokens);
        }
    }

    fn give_back(&mut self, tokens: i64) {
        self.tokens = self.tokens.saturating_add(tokens).min(self.full);
    }
}

/// Tokens of so many bytes.
fn tokens(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(ONE)
}

/// Messages and bytes of one rate.
#[derive(Clone, Copy, Debug)]
struct Meter {
    messages: Bucket,
    bytes: Bucket,
    /// The buckets are filled up to here, in whole microseconds; `None` = not used yet.
    filled: Option<Duration>,
    /// The last call's time: messages of one tick come at one time.
    asked: Option<Duration>,
}

impl Meter {
    fn new(rate: Rate) -> Meter {
        Meter {
            messages: Bucket::new(rate.messages_per_second, rate.burst()),
            bytes: Bucket::new(rate.bytes_per_second, rate.burst()),
            filled: None,
            asked: None,
        }
    }

    #[inline]
    fn allows(&mut self, now: Now, bytes: i64) -> bool {
        if self.asked != Some(now.mono) {
            self.fill(now);
        }
        self.messages.has(ONE) && self.bytes.has(bytes)
    }

    fn fill(&mut self, now: Now) {
        self.asked = Some(now.mono);
        let then = *self.filled.get_or_insert(now.mono);
        let us = now.mono.saturating_sub(then).as_micros();
        let us = u64::try_from(us).unwrap_or(u64::MAX);
        if us > 0 {
            self.messages.fill(us);
            self.bytes.fill(us);
            // What is less than a microsecond stays for the next time.
            self.filled = Some(then + Duration::from_micros(us));
        }
    }

    #[inline]
    fn take(&mut self, bytes: i64) {
        self.messages.take(ONE);
        self.bytes.take(bytes);
    }
}

/// What holds one instance to its rates.
#[derive(Debug)]
pub(super) struct Policer {
    all: Option<(Rate, Meter)>,
    /// Rates of single classes.
    classes: Vec<(ClassRate, Meter)>,
    /// Where they stand, by tenant and label: a message looks for its own class and those above it, however many are
    /// limited.
    by_class: MixMap<u64, u32>,
}

fn class_key(tenant: u32, label: Label) -> u64 {
    u64::from(tenant) << 32 | u64::from(label.bits())
}

impl Policer {
    /// `None` = nothing is limited.
    pub fn new(all: Rate, classes: &[ClassRate]) -> Option<Box<Policer>> {
        let key = |limit: &ClassRate| class_key(limit.tenant, limit.label);
        let by_class = classes.iter().map(key).zip(0..).collect();
        let classes: Vec<_> = classes
            .iter()
            .map(|limit| (*limit, Meter::new(limit.rate)))
            .collect();
        let all = (!all.is_unlimited()).then(|| (all, Meter::new(all)));
        let limited = all.is_some() || !classes.is_empty();
        limited.then(|| {
            Box::new(Policer {
                all,
                classes,
                by_class,
            })
        })
    }

    /// Is it what `new` would make of these rates?
    fn is_of(&self, all: Rate, classes: &[ClassRate]) -> bool {
        let held = self.all.map_or(Rate::UNLIMITED, |(rate, _)| rate);
        let same = |limit: &ClassRate| {
            let at = self.by_class.get(&class_key(limit.tenant, limit.label));
            at.is_some_and(|at| self.classes[*at as usize].0 == *limit)
        };
        (held == all || held.is_unlimited() && all.is_unlimited())
            && self.classes.len() == classes.len()
            && classes.iter().all(same)
    }

    /// May a message go on? One that may is paid for: everywhere or nowhere.
    fn allows(&mut self, now: Now, head: &[u8; HEADER_LEN], bytes: u64) -> bool {
        let bytes = tokens(bytes);
        let mut meters = self.meters(head);
        let mut each = meters.iter_mut().flatten();
        if !each.all(|meter| meter.allows(now, bytes)) {
            return false;
        }
        meters
            .into_iter()
            .flatten()
            .for_each(|meter| meter.take(bytes));
        true
    }

    /// What was paid for did not go on: it comes again.
    fn give_back(&mut self, head: &[u8; HEADER_LEN], bytes: u64) {
        for meter in self.meters(head).into_iter().flatten() {
            meter.messages.give_back(ONE);
            meter.bytes.give_back(tokens(bytes));
        }
    }

    /// Of all that it sends, and of the most special limited class that covers the one asked for.
    #[inline]
    fn meters(&mut self, head: &[u8; HEADER_LEN]) -> [Option<&mut Meter>; 2] {
        let class = match self.classes.is_empty() {
            true => None,
            false => self.class_of(head),
        };
        let class = class.map(|at| &mut self.classes[at as usize]);
        let all = self.all.as_mut();
        [all.map(|(_, meter)| meter), class.map(|(_, meter)| meter)]
    }

    fn class_of(&self, head: &[u8; HEADER_LEN]) -> Option<u32> {
        let header = Header::new_unchecked(head);
        let (tenant, asked): (u32, Label) = (header.tenant(), header.requested_label());
        if asked.kind() != LabelKind::Class {
            return None;
        }
        let mut above = core::iter::once(asked).chain(asked.ancestors());
        above.find_map(|label| self.by_class.get(&class_key(tenant, label)).copied())
    }
}

impl Forwarder {
    /// May the message with this header go on, as far as its sender's rates are concerned?
    #[cold]
    pub(super) fn within_rate(
        &mut self,
        now: Now,
        from: PeerIdx,
        head: &[u8; HEADER_LEN],
        bytes: usize,
    ) -> bool {
        let policer = self.peers.get_mut(from).policer.as_deref_mut();
        policer.is_none_or(|policer| policer.allows(now, head, bytes as u64))
    }

    /// The message at the front of `data` was within its sender's rate, but waits: it will be asked about again.
    #[cold]
    pub(super) fn not_yet(&mut self, from: PeerIdx, data: &[u8], bytes: usize) {
        if let Some(policer) = self.peers.get_mut(from).policer.as_deref_mut()
            && let Some(head) = data.first_chunk::<HEADER_LEN>()
        {
            policer.give_back(head, bytes as u64);
        }
    }
}

/// The policer of an instance by the table: the one it has, where its rates did not change.
pub(super) fn renewed(
    held: Option<Box<Policer>>,
    instance: &Instance,
    default: Rate,
) -> Option<Box<Policer>> {
    let entry = instance.policy.as_deref().map(|policy| policy.entry());
    let all = entry.and_then(|entry| entry.rate).unwrap_or(default);
    let classes = entry.map_or(&[][..], |entry| &entry.class_rates);
    match held {
        Some(held) if held.is_of(all, classes) => Some(held),
        _ => Policer::new(all, classes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Now {
        Now {
            mono: Duration::from_micros(us),
            unix_us: 0,
        }
    }

    fn meter(messages: u64, bytes: u64) -> Meter {
        Meter::new(Rate {
            messages_per_second: messages,
            bytes_per_second: bytes,
            burst_ms: 10,
        })
    }

    fn passed(meter: &mut Meter, now: Now, bytes: u64, tries: usize) -> usize {
        let pass = |meter: &mut Meter| {
            let allowed = meter.allows(now, tokens(bytes));
            if allowed {
                meter.take(tokens(bytes));
            }
            allowed
        };
        (0..tries).filter(|_| pass(meter)).count()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut meter = meter(100_000, 0);
        assert_eq!(passed(&mut meter, at(5), 64, 5_000), 1_000);
        assert_eq!(passed(&mut meter, at(5), 64, 5_000), 0);
        assert_eq!(passed(&mut meter, at(1_005), 64, 5_000), 100);
        // A pause fills no more than the burst.
        assert_eq!(passed(&mut meter, at(60_000_000), 64, 5_000), 1_000);
    }

    #[test]
    fn fractions_of_a_microsecond_are_not_lost() {
        let mut meter = meter(1_000, 0);
        passed(&mut meter, at(0), 64, 100);
        let mut total = 0;
        for tick in 1..=1_500_000u64 {
            let now = Now {
                mono: Duration::from_nanos(tick * 700),
                unix_us: 0,
            };
            total += passed(&mut meter, now, 64, 3);
        }
        // 1.05 s.
        assert_eq!(total, 1_050);
    }

    #[test]
    fn bytes_count_and_a_message_above_the_burst_is_paid_for_afterwards() {
        // A burst of 10,000 bytes.
        let mut meter = meter(0, 1_000_000);
        assert_eq!(passed(&mut meter, at(0), 1_000, 100), 10);
        assert_eq!(passed(&mut meter, at(10_000), 25_000, 100), 1);
        assert_eq!(passed(&mut meter, at(20_000), 100, 100), 0);
        // 15,000 bytes are owed: 15 ms.
        assert_eq!(passed(&mut meter, at(25_000), 100, 100), 0);
        assert_eq!(passed(&mut meter, at(25_100), 100, 100), 1);
    }

    #[test]
    fn extreme_rates_do_not_overflow() {
        let mut meter = meter(Rate::MAX, Rate::MAX);
        // A burst of a billion bytes.
        assert_eq!(passed(&mut meter, at(1), 1 << 24, 1_000), 59);
        assert_eq!(passed(&mut meter, at(u64::MAX / 2_000), 1 << 24, 10), 10);
        let slow = Meter::new(Rate {
            messages_per_second: 1,
            bytes_per_second: 1,
            burst_ms: 0,
        });
        assert_eq!(passed(&mut { slow }, at(1), 1 << 24, 10), 1);
    }
}
