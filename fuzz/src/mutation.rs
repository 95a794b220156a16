//! Mutates inputs with a seeded generator: the fuzzer that needs nothing but this crate.
//!
//! No coverage guides it, so it leans on the corpus: every input is a few mutations away from a seed. The same seed
//! makes the same inputs. It refuses to know what the inputs mean.

/// A splitmix64 generator (Steele, Lea and Flood 2014): small, seeded, good enough for mutations.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator that begins at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound.max(1) as u64) as usize
    }
}

/// Longest input made, in bytes: past a lane's largest message, so that its limit is met.
pub const INPUT_BYTES_MAX: usize = 70_000;

/// Numbers at which readers tend to go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    47,
    48,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x1_0000,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
];

/// A new input: one of `corpus`, mutated one to eight times.
///
/// # Panics
/// When `corpus` is empty.
pub fn mutated(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 << random.below(4) {
        mutate(random, &mut input, corpus);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn mutate(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    if input.is_empty() {
        input.push(random.next_u64() as u8);
        return;
    }
    let at = random.below(input.len());
    let length = 1 + random.below((input.len() - at).min(32));
    match random.below(9) {
        0 => input[at] ^= 1 << random.below(8),
        1 => input[at] = random.next_u64() as u8,
        2 => input.truncate(at),
        3 => drop(input.drain(at..at + length)),
        4 => {
            let noise: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
            input.splice(at..at, noise);
        }
        5 => {
            let copy = input[at..at + length].to_vec();
            input.splice(at..at, copy);
        }
        6 => write_edge(random, &mut input[at..]),
        7 => input[at] = input[at].wrapping_add(if random.below(2) == 0 { 1 } else { 255 }),
        _ => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len());
            input.splice(at.., other[from..].iter().copied());
        }
    }
}

/// Overwrites 1, 2, 4 or 8 bytes with a number from [`EDGES`], in either byte order.
fn write_edge(random: &mut Random, place: &mut [u8]) {
    let width = (1_usize << random.below(4)).min(place.len());
    let edge = EDGES[random.below(EDGES.len())];
    let bytes = edge.to_be_bytes();
    let bytes = &bytes[bytes.len() - width..];
    if random.below(2) == 0 {
        place[..width].copy_from_slice(bytes);
    } else {
        place
            .iter_mut()
            .zip(bytes.iter().rev())
            .for_each(|(to, from)| *to = *from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        let corpus = [b"class:7.12.3".to_vec(), vec![], vec![0x10; 48]];
        let inputs = |seed| {
            let mut random = Random::new(seed);
            (0..500)
                .map(|_| mutated(&mut random, &corpus))
                .collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        assert!(inputs(3).iter().all(|input| input.len() <= INPUT_BYTES_MAX));
    }
}
