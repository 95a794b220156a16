//! Message bodies: A2A JSON-RPC requests, padded to a size. A body follows
//! from its number alone, so the receiver can check every byte.

use bytes::Bytes;

/// Smallest body made (bytes).
pub(super) const BODY_BYTES_MIN: usize = 64;
/// Largest body made (bytes): 1 MiB.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Largest body of a datagram (bytes): with the header, QUIC's and UDP's, within the least path MTU of 1,200.
pub(super) const DATAGRAM_BYTES_MAX: usize = 1_000;

/// Every body begins so, then comes its number.
const HEAD: &str = "{\"jsonrpc\":\"2.0\",\"id\":";

/// The request with number `id`, exactly `bytes` long (at least [`BODY_BYTES_MIN`]).
pub(super) fn request(id: u64, bytes: usize) -> Bytes {
    let text_before = format!(
        "{HEAD}{id},\"method\":\"message/send\",\"params\":{{\"message\":{{\"kind\":\"message\",\"role\":\"user\",\
         \"messageId\":\"m-{id}\",\"parts\":[{{\"kind\":\"text\",\"text\":\""
    );
    const AFTER: &str = "\"}]}}}";
    if bytes < text_before.len() + AFTER.len() {
        // Too short for a message: a request that needs none, and blanks, which JSON allows at the end.
        let mut body =
            format!("{HEAD}{id},\"method\":\"tasks/get\",\"params\":{{}}}}").into_bytes();
        body.resize(bytes.max(body.len()), b' ');
        return body.into();
    }
    let mut body = Vec::with_capacity(bytes);
    body.extend_from_slice(text_before.as_bytes());
    let mut random = Sequence::new(id);
    while body.len() < bytes - AFTER.len() {
        let word = random.next().to_le_bytes();
        let left = bytes - AFTER.len() - body.len();
        body.extend(word.iter().take(left).map(|byte| b'a' + byte % 26));
    }
    body.extend_from_slice(AFTER.as_bytes());
    body.into()
}

/// The number of a body; `None` when it does not begin as one of ours.
pub(super) fn number(body: &[u8]) -> Option<u64> {
    let rest = body.strip_prefix(HEAD.as_bytes())?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

/// Size of the body with number `id` (bytes): both ends of the range, then mostly small ones, one
/// in twelve up to a lane's limit, one in fifty beyond, in bulk.
pub(super) fn size(id: u64) -> usize {
    match id {
        0 => return BODY_BYTES_MIN,
        1 => return BODY_BYTES_MAX,
        _ => {}
    }
    let mut random = Sequence::new(!id);
    let (low, high) = match random.next() % 100 {
        0..90 => (BODY_BYTES_MIN, 4_096),
        90..98 => (4_096, 65_536),
        _ => (65_536, BODY_BYTES_MAX),
    };
    // Even over powers of two: as many of 64 to 128 bytes as of 128 to 256.
    let octaves = ((high / low) as f64).log2();
    let exponent = (random.next() % 65_536) as f64 / 65_536.0 * octaves;
    ((low as f64 * exponent.exp2()) as usize).clamp(BODY_BYTES_MIN, BODY_BYTES_MAX)
}

/// SplitMix64: repeatable, not secret.
struct Sequence(u64);

impl Sequence {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_of_the_size_asked_for_and_tell_their_number() {
        for (id, bytes) in [
            (0, 64),
            (9_999, 64),
            (7, 100),
            (7, 200),
            (8, 65_536),
            (1, BODY_BYTES_MAX),
        ] {
            let body = request(id, bytes);
            assert_eq!(body.len(), bytes);
            assert_eq!(number(&body), Some(id));
            let json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(json["jsonrpc"], "2.0");
            assert!(matches!(
                json["method"].as_str(),
                Some("message/send" | "tasks/get")
            ));
        }
        assert_ne!(request(5, 300)[170..], request(6, 300)[170..]);
        assert_eq!(number(b"{}"), None);
        assert_eq!(number(b"{\"jsonrpc\":\"2.0\",\"id\":x"), None);
    }

    #[test]
    fn sizes_reach_both_ends_and_stay_affordable() {
        let sizes: Vec<usize> = (0..10_000).map(size).collect();
        assert_eq!(sizes.iter().min(), Some(&BODY_BYTES_MIN));
        assert_eq!(sizes.iter().max(), Some(&BODY_BYTES_MAX));
        let bulk = sizes.iter().filter(|size| **size > 65_536).count();
        assert!((100..400).contains(&bulk), "{bulk}");
        let total: usize = sizes.iter().sum();
        assert!(total < 200 << 20, "{total}");
    }
}
