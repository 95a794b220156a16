//! Stateless resets (RFC 9000 section 10.3): how a restarted endpoint tells its old peers at once that it knows them no more.
//!
//! The token of a connection id is an HMAC under a key that follows from the private key, so that the process after a restart
//! makes the same ones. QUIC honours them on the dialling side; the accepting side learns of a lost peer by its silence.

use quiche::ConnectionId;

/// A reset must be shorter than the packet that asks for it, or two endpoints could reset each other for ever; and at least
/// this long, to look like any packet (RFC 9000 section 10.3).
const RESET_LEN: usize = 43;

const TOKEN_LEN: usize = 16;

/// Makes reset tokens.
pub(crate) struct ResetTokens {
    key: [u8; 32],
}

impl ResetTokens {
    /// `secret` is the private key; it is not kept.
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self {
            key: hmac(secret, b"caplane stateless reset"),
        }
    }

    /// The token of a connection id of ours.
    pub(crate) fn token(&self, cid: &ConnectionId<'_>) -> u128 {
        let mac = hmac(&self.key, cid);
        let token = mac.first_chunk().copied().unwrap_or_default();
        u128::from_be_bytes(token)
    }

    /// The answer to a packet of `length` bytes to an unknown connection id of ours; `None` when it was too short to answer.
    pub(crate) fn answer(&self, cid: &ConnectionId<'_>, length: usize) -> Option<Vec<u8>> {
        if length <= RESET_LEN {
            return None;
        }
        let mut packet = vec![0; RESET_LEN];
        let (noise, token) = packet.split_at_mut(RESET_LEN - TOKEN_LEN);
        boring::rand::rand_bytes(noise).ok()?;
        // A short header: fixed bit set, form bit clear.
        noise[0] = noise[0] & 0x3f | 0x40;
        token.copy_from_slice(&self.token(cid).to_be_bytes());
        Some(packet)
    }
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    boring::hash::hmac_sha256(key, data)
        .expect("HMAC over memory fails only when memory is exhausted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_makes_the_same_token_and_answers_are_shorter_than_questions() {
        let (one, two) = (ResetTokens::new(b"key"), ResetTokens::new(b"key"));
        let cid = ConnectionId::from_ref(&[3; 16]);
        assert_eq!(one.token(&cid), two.token(&cid));
        assert_ne!(one.token(&cid), ResetTokens::new(b"other").token(&cid));
        assert!(one.answer(&cid, RESET_LEN).is_none());
        let packet = one.answer(&cid, 44).expect("an answer");
        assert_eq!(packet[0] & 0xc0, 0x40);
        assert!(packet.ends_with(&one.token(&cid).to_be_bytes()));
    }
}
