//! Address validation by Retry (RFC 9000 section 8.1.2): tokens that only we can make and only their address can use.
//!
//! A token is time (8 bytes), length and bytes of the original destination connection id, and an HMAC-SHA256 over these, the
//! address and the Retry packet's source connection id. Nothing is remembered per token.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quiche::ConnectionId;

/// How long a token may be used: a client answers a Retry within a round trip.
const VALID: Duration = Duration::from_secs(10);

const MAC_LEN: usize = 32;
const TIME_LEN: usize = 8;

/// Makes and checks tokens. The key is random and dies with the process.
pub(crate) struct RetryTokens {
    key: [u8; 32],
    start: Instant,
}

impl RetryTokens {
    pub(crate) fn new(start: Instant) -> Self {
        let mut key = [0; 32];
        boring::rand::rand_bytes(&mut key)
            .expect("BoringSSL's generator does not fail once seeded");
        Self { key, start }
    }

    /// A token for a client at `address` that first addressed `original` and is now to address `retry_source`.
    pub(crate) fn mint(
        &self,
        now: Instant,
        address: SocketAddr,
        original: &ConnectionId<'_>,
        retry_source: &ConnectionId<'_>,
    ) -> Vec<u8> {
        let mut token = Vec::with_capacity(TIME_LEN + 1 + original.len() + MAC_LEN);
        token.extend_from_slice(&self.millis(now).to_be_bytes());
        token.push(original.len() as u8);
        token.extend_from_slice(original);
        let mac = self.mac(&token, address, retry_source);
        token.extend_from_slice(&mac);
        token
    }

    /// The original destination connection id of a token that we made for `address` not long ago; `None` for any other.
    pub(crate) fn check(
        &self,
        now: Instant,
        address: SocketAddr,
        retry_source: &ConnectionId<'_>,
        token: &[u8],
    ) -> Option<ConnectionId<'static>> {
        let (claims, mac) = token.split_at_checked(token.len().checked_sub(MAC_LEN)?)?;
        if !boring::memcmp::eq(&self.mac(claims, address, retry_source), mac) {
            return None;
        }
        let (time, rest) = claims.split_first_chunk::<TIME_LEN>()?;
        let age = self.millis(now).checked_sub(u64::from_be_bytes(*time))?;
        let (length, original) = rest.split_first()?;
        if u128::from(age) > VALID.as_millis() || usize::from(*length) != original.len() {
            return None;
        }
        Some(ConnectionId::from_vec(original.to_vec()))
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64
    }

    fn mac(
        &self,
        claims: &[u8],
        address: SocketAddr,
        retry_source: &ConnectionId<'_>,
    ) -> [u8; MAC_LEN] {
        let mut input = Vec::with_capacity(128);
        input.extend_from_slice(claims);
        match address {
            SocketAddr::V4(v4) => input.extend_from_slice(&v4.ip().octets()),
            SocketAddr::V6(v6) => input.extend_from_slice(&v6.ip().octets()),
        }
        input.extend_from_slice(&address.port().to_be_bytes());
        input.extend_from_slice(retry_source);
        boring::hash::hmac_sha256(&self.key, &input)
            .expect("HMAC over memory fails only when memory is exhausted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_serves_its_address_id_and_time_only() {
        let start = Instant::now();
        let tokens = RetryTokens::new(start);
        let here: SocketAddr = "192.0.2.1:4433".parse().expect("an address");
        let there: SocketAddr = "192.0.2.2:4433".parse().expect("an address");
        let (original, source) = (
            ConnectionId::from_ref(&[1; 8]),
            ConnectionId::from_ref(&[2; 16]),
        );
        let token = tokens.mint(start, here, &original, &source);
        let soon = start + Duration::from_secs(1);
        assert_eq!(
            tokens.check(soon, here, &source, &token).as_deref(),
            Some(&[1; 8][..])
        );
        assert!(tokens.check(soon, there, &source, &token).is_none());
        assert!(tokens.check(soon, here, &original, &token).is_none());
        let late = start + VALID + Duration::from_secs(1);
        assert!(tokens.check(late, here, &source, &token).is_none());
        for at in 0..token.len() {
            let mut forged = token.clone();
            forged[at] ^= 1;
            assert!(tokens.check(soon, here, &source, &forged).is_none());
            assert!(tokens.check(soon, here, &source, &token[..at]).is_none());
        }
    }
}
