//! Writes with an idempotency key: each is done once, however often it is sent.
//!
//! What is remembered is an object of the desired state, stored with the change itself: after a crash either both are
//! there or neither is. Refuses to know what the requests say.

use std::sync::Arc;

use super::{Fault, Refusal};
use crate::commit::Transaction;
use crate::record::{Object, RefusedUpdate, RequestRecord};

/// How long a Write is remembered: 24 hours, in milliseconds.
pub const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1_000;
/// Writes remembered for one caller; the oldest falls out.
pub const REQUESTS_OF_CALLER_MAX: usize = 10_000;
/// Writes remembered in all; the oldest falls out.
pub const REQUESTS_MAX: usize = 100_000;
/// Longest key (bytes).
pub const KEY_BYTES_MAX: usize = 64;
/// Ended ones forgotten with each one that is remembered: more than come, so that they get fewer.
const FORGOTTEN_MAX: usize = 8;

/// Names a Write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestName {
    /// Certificate URI of the caller.
    pub caller: String,
    /// The idempotency key it chose.
    pub key: String,
    /// SHA-256 of the request.
    pub digest: [u8; 32],
}

/// What is remembered of this Write, if it was done before.
///
/// # Errors
/// Another one was done with its key.
pub fn recall(
    tx: &Transaction<'_>,
    name: &RequestName,
) -> Result<Option<Arc<RequestRecord>>, Refusal> {
    let known = tx.rib.request(&name.caller, &name.key);
    let Some(known) = known.filter(|record| record.end_unix_ms > tx.now_unix_ms) else {
        return Ok(None);
    };
    if known.digest == name.digest {
        return Ok(Some(known.clone()));
    }
    Err(Refusal::new(
        Fault::Invalid,
        "idempotency_key",
        &name.key,
        format!(
            "is the key of another request, which generation {} holds",
            known.generation
        ),
        "give each request a key of its own",
    ))
}

/// Remembers a Write that holds, and forgets old ones.
pub fn remember(tx: &mut Transaction<'_>, name: RequestName, refused: Vec<RefusedUpdate>) {
    for _ in 0..FORGOTTEN_MAX {
        match tx.rib.oldest_request(None) {
            Some((end, key)) if end <= tx.now_unix_ms => tx.rib.remove(&key),
            _ => break,
        }
    }
    let full = [
        (tx.rib.request_count() >= REQUESTS_MAX, None),
        (
            tx.rib.request_count_of(&name.caller) >= REQUESTS_OF_CALLER_MAX,
            Some(name.caller.as_str()),
        ),
    ];
    for (full, of) in full {
        if full && let Some((_, key)) = tx.rib.oldest_request(of) {
            tx.rib.remove(&key);
        }
    }
    tx.rib.put(Object::Request(Arc::new(RequestRecord {
        caller: name.caller,
        key: name.key,
        digest: name.digest.to_vec(),
        generation: tx.generation,
        first_generation: tx.generation,
        end_unix_ms: tx.now_unix_ms + REMEMBERED_MS,
        refused,
    })));
}
