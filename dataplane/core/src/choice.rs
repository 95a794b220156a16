//! Choice among weighted members: rendezvous hashing. Each member draws a cost from the hash of
//! (flow, member) and its weight; the least cost wins. A flow stays on its member as long as that lives;
//! without it exactly its flows move, each to the next in rank; shares follow the weights.
//!
//! Integers only, so that every machine and every run decides alike. Its cost is linear in the members: large sets
//! take [`Seats`] instead. Refuses to know what a member is.

use crate::mix::{mix_pair, mix64};

/// Fraction bits of a logarithm.
const FRACTION: u32 = 26;

/// `-log2` of 0.5 + i/512 in fixed point, for i in 0..=256: from 1.0 down to 0.0.
static LOG: [u32; 257] = log_table();

const fn log_table() -> [u32; 257] {
    let mut table = [0; 257];
    let mut i = 0;
    while i < 256 {
        // 1 + i/256 in [1, 2), 32 fraction bits; log2 by repeated squaring.
        let mut x: u128 = (1 << 32) + ((i as u128) << 24);
        let mut log = 0u32;
        let mut bit = 0;
        while bit < FRACTION {
            x = (x * x) >> 32;
            log <<= 1;
            if x >= 2 << 32 {
                x >>= 1;
                log |= 1;
            }
            bit += 1;
        }
        table[i] = (1 << FRACTION) - log;
        i += 1;
    }
    table
}

/// `-log2(hash / 2^64)` in fixed point, 0 to 64.
#[inline]
fn minus_log2(hash: u64) -> u64 {
    let hash = hash | 1;
    let zeros = hash.leading_zeros();
    let mantissa = hash << zeros;
    // 8 bits below the leading one choose the segment, 16 more interpolate within it.
    let at = (mantissa >> 55) as usize & 0xff;
    let within = mantissa >> 39 & 0xffff;
    let (high, low) = (u64::from(LOG[at]), u64::from(LOG[at + 1]));
    (u64::from(zeros) << FRACTION) + high - (((high - low) * within) >> 16)
}

/// Whom a flow prefers: a running least of cost / weight.
#[derive(Clone, Copy)]
struct Least {
    cost: u64,
    weight: u64,
}

/// The member of `members` that `key` prefers among those that are `alive`; its index. `name_and_weight`
/// gives what is hashed (it must be the same wherever the same choice is due) and the share.
#[inline]
pub(crate) fn rendezvous<T>(
    members: &[T],
    key: u64,
    name_and_weight: impl Fn(&T) -> (u32, u32),
    alive: impl Fn(&T) -> bool,
) -> Option<usize> {
    if let [one] = members {
        return alive(one).then_some(0);
    }
    // Of equal weights the highest hash has the least cost. Whether that one is alive is asked once, of it.
    if let Some(first) = members.first()
        && members
            .iter()
            .all(|member| name_and_weight(member).1 == name_and_weight(first).1)
    {
        let mut most = (0, 0);
        for (at, member) in members.iter().enumerate() {
            let hash = mix_pair(key, u64::from(name_and_weight(member).0));
            most = if hash > most.1 { (at, hash) } else { most };
        }
        if alive(&members[most.0]) {
            return Some(most.0);
        }
    }
    weighted_rendezvous(members, key, name_and_weight, alive)
}

fn weighted_rendezvous<T>(
    members: &[T],
    key: u64,
    name_and_weight: impl Fn(&T) -> (u32, u32),
    alive: impl Fn(&T) -> bool,
) -> Option<usize> {
    let mut best: Option<(usize, Least)> = None;
    for (at, member) in members.iter().enumerate() {
        if !alive(member) {
            continue;
        }
        let (name, weight) = name_and_weight(member);
        let cost = minus_log2(mix_pair(key, u64::from(name)));
        let weight = u64::from(weight);
        // cost / weight < best.cost / best.weight, without division. Costs are below 2^33.
        let better = match best {
            None => true,
            Some((_, least)) => {
                u128::from(cost) * u128::from(least.weight)
                    < u128::from(least.cost) * u128::from(weight)
            }
        };
        if better {
            best = Some((at, Least { cost, weight }));
        }
    }
    best.map(|(at, _)| at)
}

/// Two draws, by weight, then the one with the smaller `load`: for messages without affinity.
#[inline]
pub(crate) fn least_of_two<T>(
    members: &[T],
    key: u64,
    name_and_weight: impl Fn(&T) -> (u32, u32),
    alive: impl Fn(&T) -> bool,
    load: impl Fn(&T) -> u64,
) -> Option<usize> {
    let first = rendezvous(members, key, &name_and_weight, &alive)?;
    if members.len() == 1 {
        return Some(first);
    }
    let second = rendezvous(members, mix_pair(key, 1), &name_and_weight, &alive)?;
    let lighter = load(&members[second]) < load(&members[first]);
    Some(if lighter { second } else { first })
}

/// A large set in a form whose choice costs the same however many there are. Members sit in a table with
/// twice as many seats or more; a flow tries seats in an order of its own and takes the first member that its weight
/// lets through. So a member that leaves moves its own flows only, and one that comes takes its share from all.
#[derive(Default)]
pub(crate) struct Seats {
    /// A power of two. Weight 0 = free.
    seats: Vec<Seat>,
    used: usize,
    /// Farthest any member sits from where its name belongs.
    reach: usize,
    /// A power of two no weight exceeds.
    weight_max: u64,
}

#[derive(Clone, Copy, Default)]
struct Seat {
    name: u32,
    weight: u32,
    value: u32,
}

/// A try succeeds with a quarter of a chance or more, unless weights are very uneven: 64 tries fail once in 10^8.
const TRIES: u64 = 64;

impl Seats {
    /// Adds a member, or changes its weight (at least 1).
    pub fn put(&mut self, name: u32, weight: u32, value: u32) {
        if (self.used + 1) * 2 > self.seats.len() {
            self.grow();
        }
        self.weight_max = self.weight_max.max(u64::from(weight).next_power_of_two());
        if let Some(at) = self.find(name) {
            let seat = &mut self.seats[at];
            (seat.weight, seat.value) = (weight, value);
            return;
        }
        self.sit(Seat {
            name,
            weight,
            value,
        });
        self.used += 1;
    }

    pub fn remove(&mut self, name: u32) {
        if let Some(at) = self.find(name) {
            self.seats[at] = Seat::default();
            self.used -= 1;
        }
    }

    /// Leavers leave holes, so a member may sit behind one: as far from its home as any ever sat.
    fn find(&self, name: u32) -> Option<usize> {
        let mask = self.seats.len().checked_sub(1)?;
        let home = mix64(u64::from(name)) as usize & mask;
        let mut row = (home..=home + self.reach).map(|at| at & mask);
        row.find(|at| self.seats[*at].weight > 0 && self.seats[*at].name == name)
    }

    fn sit(&mut self, seat: Seat) {
        let mask = self.seats.len() - 1;
        let home = mix64(u64::from(seat.name)) as usize & mask;
        // Half of the seats are free: `put` sees to it.
        let free = (0..=mask).find(|far| self.seats[(home + far) & mask].weight == 0);
        if let Some(far) = free {
            self.seats[(home + far) & mask] = seat;
            self.reach = self.reach.max(far);
        }
    }

    fn grow(&mut self) {
        let len = (self.seats.len() * 2).max(64);
        let old = core::mem::replace(&mut self.seats, vec![Seat::default(); len]);
        self.reach = 0;
        for seat in old.into_iter().filter(|seat| seat.weight > 0) {
            self.sit(seat);
        }
    }

    /// The value of the member that `key` prefers; `None` after too many tries.
    #[inline]
    pub fn choose(&self, key: u64) -> Option<u32> {
        let mask = self.seats.len().checked_sub(1)?;
        for n in 0..TRIES {
            let hash = mix_pair(key, n);
            let seat = &self.seats[(hash >> 32) as usize & mask];
            if ((hash & 0xffff_ffff) * self.weight_max) >> 32 < u64::from(seat.weight) {
                return Some(seat.value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(members: &[(u32, u32)], key: u64, dead: Option<u32>) -> Option<u32> {
        let alive = |member: &(u32, u32)| Some(member.0) != dead;
        rendezvous(members, key, |m| *m, alive).map(|at| members[at].0)
    }

    #[test]
    fn logarithms_are_close() {
        for n in 0..200_000u64 {
            let hash = mix64(n) >> (n % 64);
            let exact = 64.0 - ((hash | 1) as f64).log2();
            let ours = minus_log2(hash) as f64 / f64::from(1 << FRACTION);
            assert!(
                (exact - ours).abs() < 1e-5 + exact * 1e-5,
                "{hash:#x}: {exact} {ours}"
            );
        }
        assert_eq!(minus_log2(u64::MAX) >> 12, 0);
    }

    #[test]
    fn shares_follow_weights() {
        let members = [(1, 100), (2, 300), (3, 50), (4, 550)];
        let mut counts = [0u32; 5];
        for flow in 0..100_000 {
            counts[pick(&members, mix64(flow), None).unwrap() as usize] += 1;
        }
        for (name, weight) in members {
            let (got, due) = (f64::from(counts[name as usize]), f64::from(weight) * 100.0);
            // Four standard deviations of a binomial share.
            let spread = 4.0 * (due * (1.0 - due / 100_000.0)).sqrt();
            assert!((got - due).abs() < spread, "{name}: {got}, due {due}");
        }
    }

    /// Costs are rounded: of two that differ in the last bits only, the order may be either, rarely enough.
    #[test]
    fn equal_weights_choose_as_weights_do() {
        let members: Vec<_> = (1..12).map(|n| (n * 7, 100)).collect();
        let mut differ = 0;
        for flow in 0..100_000 {
            let slow = weighted_rendezvous(&members, mix64(flow), |m| *m, |_| true);
            differ += u32::from(rendezvous(&members, mix64(flow), |m| *m, |_| true) != slow);
        }
        assert!(differ <= 2, "{differ}");
    }

    #[test]
    fn only_the_flows_of_a_dead_member_move() {
        let members: Vec<_> = (1..9).map(|n| (n, n * 10)).collect();
        for flow in 0..10_000 {
            let key = mix64(flow);
            let before = pick(&members, key, None);
            let after = pick(&members, key, Some(5));
            assert!(after != Some(5) && (before == after || before == Some(5)));
        }
        assert_eq!(pick(&[(5, 1)], 1, Some(5)), None);
        assert_eq!(pick(&[], 1, None), None);
    }

    #[test]
    fn order_of_members_does_not_matter() {
        let members: Vec<_> = (1..20).map(|n| (n, 100)).collect();
        let reversed: Vec<_> = members.iter().rev().copied().collect();
        for flow in 0..1_000 {
            assert_eq!(
                pick(&members, mix64(flow), None),
                pick(&reversed, mix64(flow), None)
            );
        }
    }

    #[test]
    fn of_two_the_lighter_is_taken() {
        let members = [(1, 1), (2, 1)];
        let load = |m: &(u32, u32)| if m.0 == 1 { 10 } else { 0 };
        let mut to_lighter = 0;
        for key in 0..1_000 {
            let at = least_of_two(&members, mix64(key), |m| *m, |_| true, load).unwrap();
            to_lighter += usize::from(at == 1);
        }
        // Both draws fall on the heavier one in a quarter of the cases.
        assert!((700..800).contains(&to_lighter), "{to_lighter}");
    }

    #[test]
    fn seats_share_by_weight_and_move_only_who_must() {
        let mut seats = Seats::default();
        for name in 0..1_000 {
            seats.put(name, 50 + name % 100, name);
        }
        let choices = |seats: &Seats| -> Vec<_> {
            (0..200_000)
                .map(|flow| seats.choose(mix64(flow)).unwrap())
                .collect()
        };
        let before = choices(&seats);
        // By weight, in ten bands of members.
        for band in 0..10 {
            let of_band = |name: u32| name % 100 / 10 == band;
            let got = before.iter().filter(|name| of_band(**name)).count() as f64;
            let weights = |band: Option<u32>| -> f64 {
                let names = (0..1_000).filter(|name| band.is_none_or(|b| name % 100 / 10 == b));
                names.map(|name| f64::from(50 + name % 100)).sum()
            };
            let due = 200_000.0 * weights(Some(band)) / weights(None);
            assert!(
                (got - due).abs() < 6.0 * due.sqrt(),
                "band {band}: {got}, due {due}"
            );
        }
        seats.remove(500);
        let after = choices(&seats);
        let moved = |a: &[u32], b: &[u32]| a.iter().zip(b).filter(|(a, b)| a != b).count();
        assert!(before.iter().zip(&after).all(|(a, b)| a == b || *a == 500));
        assert!(after.iter().all(|name| *name != 500));
        assert!(moved(&before, &after) > 100);
        seats.put(500, 50, 500);
        assert_eq!(choices(&seats), before);
        // A heavier member takes flows from all, a change of weight keeps the rest.
        seats.put(500, 100, 500);
        let heavier = choices(&seats);
        assert!(
            before
                .iter()
                .zip(&heavier)
                .all(|(a, b)| a == b || *b == 500)
        );
    }
}
