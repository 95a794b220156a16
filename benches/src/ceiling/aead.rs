//! Encryption's share: one packet opened and sealed again by AES-128-GCM,
//! nothing else.

use super::{CeilingError, Cost, charged};
use boring::aead::{AeadCtx, Algorithm};
use std::time::{Duration, Instant};

/// A short QUIC header: flags, a connection id of 16 bytes, a packet number of 2.
const HEADER: [u8; 19] = [0x41; 19];
const TAG: usize = 16;
/// Packets between two looks at the clock.
const ROUND: u64 = 64;

/// Opens and seals packets of `packet` bytes for `time`.
///
/// # Errors
/// When BoringSSL refuses.
pub fn measure(packet: usize, time: Duration) -> Result<Cost, CeilingError> {
    let algorithm = Algorithm::aes_128_gcm();
    let mut from = AeadCtx::new_default_tag(&algorithm, &[1; 16])?;
    let mut to = AeadCtx::new_default_tag(&algorithm, &[2; 16])?;
    let payload = packet - HEADER.len() - TAG;
    let mut packets = vec![vec![0x5a; payload]; ROUND as usize];
    let mut tags = vec![[0u8; TAG]; ROUND as usize];
    let mut cpu = Duration::ZERO;
    let mut rounds = 0u64;
    let end = Instant::now() + time;
    while Instant::now() < end {
        for (n, (packet, tag)) in packets.iter_mut().zip(&mut tags).enumerate() {
            from.seal_in_place_mut(&nonce(rounds, n), packet, tag, &HEADER)?;
        }
        charged(&mut cpu, || {
            for (n, (packet, tag)) in packets.iter_mut().zip(&mut tags).enumerate() {
                let nonce = nonce(rounds, n);
                from.open_in_place_mut(&nonce, packet, tag, &HEADER)?;
                to.seal_in_place_mut(&nonce, packet, tag, &HEADER)?;
            }
            Ok::<(), boring::error::ErrorStack>(())
        })?;
        rounds += 1;
    }
    let count = rounds * ROUND;
    Ok(Cost::of(cpu, count, count * payload as u64))
}

fn nonce(round: u64, n: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&round.to_be_bytes());
    nonce[8..].copy_from_slice(&(n as u32).to_be_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_opened_and_sealed() {
        let cost = measure(1_350, Duration::from_millis(5)).expect("AES-128-GCM");
        assert!(cost.ns_per_packet > 10.0, "{cost:?}");
    }
}
