//! Choice among weighted members: rendezvous hashing. Each member draws a cost from the hash of
//! (flow, member) and its weight; the least cost wins. A flow stays on its member as long as that lives;
//! without it exactly its flows move, each to the next in rank; shares follow the weights.
//!
//! Integers only, so that every machine and every run decides alike. Cost is linear in the members.
//! Refuses to know what a member is.

use crate::mix::mix_pair;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::mix64;

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
}
